"""Grad-CAM scored, not admired: does the heat lie on the tumor, and is it the model's own?

Two baselines stand beside every score. A bump in the middle of the brain shows what a map scores that has seen no tumor:
tumors are large and seldom at the rim. The same network with shuffled weights shows what of the map is the picture's and the
architecture's alone: a map that survives the shuffling does not explain the model (Adebayo et al. 2018,
https://arxiv.org/abs/1810.03292).

Heat is scored as `slicewise.explanation.gradcam.explain` returns it. Nothing cuts it to a mask first, which would make the
score one of the mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import spearmanr

from slicewise.data.store import SliceStore
from slicewise.errors import CheckpointError
from slicewise.explanation.gradcam import explain
from slicewise.inference.predictor import Predictor
from slicewise.model.network import MultiTaskNetwork
from slicewise.records import MaskState

__all__ = [
    "EXPLANATION_COLUMNS",
    "HeatScores",
    "center_heat",
    "randomized",
    "score_explanations",
    "score_heat",
    "similarity",
]

_MAPS = ("cam", "center", "randomized")
_SCORES = ("pointing", "mass_in_mask", "iou")

EXPLANATION_COLUMNS = {
    "slice_id": "string",
    "row": "int64",
    **{f"{name}_{score}": "float64" for name in _MAPS for score in _SCORES},
    "randomized_similarity": "float64",
}
"""Columns of `score_explanations` and their pandas types."""

_SEED = 0
_BLOCKS = 64
_FOREGROUND_SHARE = 0.1  # of the range, as in data/preprocess.py


class HeatScores(NamedTuple):
    """How well one heat map found one tumor; all NaN where the mask is empty, all 0 where the map is."""

    pointing: float
    """1 where the hottest pixel is tumor, else 0; where several are the hottest, the share of them that is."""
    mass_in_mask: float
    """Share of all heat that lies on tumor, in [0, 1]."""
    iou_at_area: float
    """Intersection over union of the tumor and the hottest pixels, as many as the tumor has, in [0, 1]."""


def score_heat(heat: NDArray[np.float32], reference: NDArray[np.bool_]) -> HeatScores:
    """Score a heat map by the reference mask, which it has never seen.

    ``pointing`` is the pointing game (Zhang et al. 2018, https://doi.org/10.1007/s11263-017-1059-x) without its tolerance.
    ``iou_at_area`` needs no threshold, which the map's scale would decide. Where equally hot pixels are too many for the
    tumor's area, each counts by the same fraction, as it would on average if they were drawn by lot: neither the order of
    pixels nor a turned picture changes the score. A pixel without heat is never among the hottest; a map that shows less
    than the area has fewer of them, and one that shows nothing has found nothing.

    Args:
        heat: ``(H, W)``, 0 or more.
        reference: ``(H, W)``, True where there is tumor.

    >>> mask = np.array([[True, True, False, False]])
    >>> score_heat(np.array([[0.5, 1.0, 0.5, 0.0]], np.float32), mask)
    HeatScores(pointing=1.0, mass_in_mask=0.75, iou_at_area=0.6)
    """
    area = int(np.count_nonzero(reference))
    if not area:
        return HeatScores(math.nan, math.nan, math.nan)
    peak = heat.max()
    if not peak > 0:
        return HeatScores(0.0, 0.0, 0.0)
    inside = heat[reference]
    mass = float(inside.sum(dtype=np.float64) / heat.sum(dtype=np.float64))
    return HeatScores(float(np.mean(reference[heat == peak])), mass, _iou_at_area(heat, inside, area))


def center_heat(pixels: NDArray[np.float16]) -> NDArray[np.float32]:
    """The map of somebody who knows where the brain is and nothing else: a Gaussian about its center.

    Args:
        pixels: ``(256, 256)``, preprocessed.

    Returns:
        ``(256, 256)`` in [0, 1], 1 at the pixel nearest to the centroid of what is brighter than air, holes filled; as wide,
        in rows and in columns, as the brain: its standard deviations are those of the brain's pixels.
    """
    gray = pixels.astype(np.float32)
    low, high = gray.min(), gray.max()
    brain = ndimage.binary_fill_holes(gray > low + _FOREGROUND_SHARE * (high - low))
    if not brain.any():  # a blank slice: the middle of the picture
        brain = np.ones_like(brain)
    row, column = (_bump(brain.sum(axis=axis), size) for axis, size in ((1, gray.shape[0]), (0, gray.shape[1])))
    heat = np.outer(row, column)
    return (heat / heat.max()).astype(np.float32)


def randomized(network: MultiTaskNetwork, seed: int) -> MultiTaskNetwork:
    """A copy that has learned nothing: in every tensor of weights, the weights change places.

    Fresh initial weights would not do. A predictor's network has its BatchNorm folded into the convolutions, and without
    it the default initialization shrinks the features from level to level. Shuffled layers keep their scale, their signs and
    their heavy tails; which weight stands where, all that training has to say, is lost.

    Args:
        network: Folded, as `slicewise.inference.predictor.Predictor` holds it; not changed.
        seed: The same seed, the same weights; torch's global generator is not touched.
    """
    copy = deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in copy.parameters():
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view(weight.shape))
    return copy


def similarity(heat: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Spearman's rank correlation of two heat maps, of the means of 64×64 blocks.

    Args:
        heat: ``(H, W)``, sides divisible by 64.
        other: Alike.

    Returns:
        In [-1, 1]; NaN where one of them is the same everywhere.
    """
    means = [_block_means(one) for one in (heat, other)]
    if any(np.ptp(one) == 0 for one in means):
        return math.nan
    return float(spearmanr(*means).statistic)


def score_explanations(
    predictor: Predictor,
    store: SliceStore,
    cases: pd.DataFrame,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Score Grad-CAM and both baselines on every slice with an outlined tumor, called by the model or not.

    All slices are shown to one and the same randomized network.

    Args:
        predictor: A model that classifies.
        store: The slices.
        cases: Of one model; needs ``row``, ``slice_id`` and ``mask_state``.
        progress: Called with the number done and the total.

    Returns:
        One row a slice in the order of the cases, see `EXPLANATION_COLUMNS`.

    Raises:
        CheckpointError: The model does not classify: there is no answer to explain.
    """
    if "classification" not in predictor.description.tasks:
        raise CheckpointError(
            f"Expected a model that classifies, {predictor.description.name} does not: its classification head was never "
            "trained, and has no evidence to show. Explain the joint model."
        )
    outlined = cases[(cases["mask_state"] == MaskState.PRESENT).to_numpy(bool)]
    shuffled = randomized(predictor.network, _SEED)
    rows: list[dict[str, object]] = []
    for slice_id, row in zip(outlined["slice_id"], outlined["row"].astype(int), strict=True):
        pixels: NDArray[np.float16] = np.asarray(store.images[row])
        reference = store.masks([row])[0]
        cam, chance = explain(predictor.network, pixels), explain(shuffled, pixels)
        entry: dict[str, object] = {"slice_id": slice_id, "row": row, "randomized_similarity": similarity(cam, chance)}
        for name, heat in zip(_MAPS, (cam, center_heat(pixels), chance), strict=True):
            scores = score_heat(heat, reference)
            entry |= {f"{name}_{score}": value for score, value in zip(_SCORES, scores, strict=True)}
        rows.append(entry)
        progress(len(rows), len(outlined))
    return pd.DataFrame(rows, columns=list(EXPLANATION_COLUMNS)).astype(EXPLANATION_COLUMNS)


def _iou_at_area(heat: NDArray[np.float32], inside: NDArray[np.float32], area: int) -> float:
    """As `score_heat` describes; ``inside`` is the heat of the tumor's pixels."""
    cut = np.partition(heat, heat.size - area, axis=None)[heat.size - area]
    hotter, tied = np.count_nonzero(heat > cut), np.count_nonzero(heat == cut)
    share = (area - hotter) / tied if cut > 0 else 0.0
    chosen = hotter + share * tied
    shared = np.count_nonzero(inside > cut) + share * np.count_nonzero(inside == cut)
    return float(shared / (chosen + area - shared))


def _bump(counts: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """A Gaussian of the mean and standard deviation of places ``0 … size - 1`` that are there ``counts`` times."""
    places = np.arange(size)
    mean = np.average(places, weights=counts)
    variance = np.average((places - mean) ** 2, weights=counts)
    return np.exp(-((places - mean) ** 2) / (2 * max(variance, 1.0)))  # a brain of one pixel has a width, too


def _block_means(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = (side // _BLOCKS for side in heat.shape)
    return heat.reshape(_BLOCKS, rows, _BLOCKS, columns).mean(axis=(1, 3)).ravel()
