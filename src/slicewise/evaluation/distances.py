"""How far two outlines lie apart: in mm where the spacing is known, else in pixels, and never both in one mean."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "Distances", "measure_distances"]

TOLERANCE = 2.0
"""Distance up to which an outline counts as right in the surface Dice, in mm or px."""


class Distances(NamedTuple):
    """Of a predicted mask from the reference."""

    hausdorff95: float
    """95th percentile of the distances, the larger of both directions; NaN where a mask is empty."""
    surface_dice: float
    """Share of both outlines within `TOLERANCE` of the other, in [0, 1] (Nikolov et al. 2021,
    https://doi.org/10.2196/26151); 0 where one mask is empty, NaN where both are."""
    distance_unit: str
    """``mm`` or ``px``."""


def measure_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float] | None
) -> Distances:
    """Compare outlines, in two or three dimensions.

    Args:
        prediction: ``(H, W)`` or ``(D, H, W)`` bool.
        reference: Alike.
        spacing_mm: Distance between neighbors along each axis; None where one is not known.

    >>> square = np.zeros((16, 16), bool)
    >>> square[4:8, 4:8] = True
    >>> measure_distances(np.roll(square, 3, axis=1), square, (1.0, 0.5))
    Distances(hausdorff95=1.5, surface_dice=1.0, distance_unit='mm')
    """
    unit = "px" if spacing_mm is None else "mm"
    if not (prediction.any() and reference.any()):
        return Distances(math.nan, 0.0 if prediction.any() or reference.any() else math.nan, unit)
    pair = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, reference)]
    spacing = [1.0] * prediction.ndim if spacing_mm is None else [float(distance) for distance in spacing_mm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries beneath, about types
        hausdorff95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
        surface_dice = compute_surface_dice(*pair, [TOLERANCE], include_background=True, spacing=spacing)
    return Distances(float(hausdorff95), float(surface_dice), unit)
