"""A mask taken apart into lesions, each measured as radiologists measure them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from slicewise.errors import InputError

__all__ = ["Lesion", "check_smallest", "find_lesions", "remove_small"]

# Voxels that share a face, an edge or a corner are of one lesion: 26 neighbors, or 8 in a lone slice.
_NEIGHBORS = np.ones((3, 3, 3), dtype=np.bool_)
_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Lesion:
    """One connected part of a mask. Slices, rows and columns are counted from 0, in the view of `slicewise.orientation`.

    The diameters are those of the response criteria for glioma, bidimensional (RANO, Wen et al. 2010,
    https://doi.org/10.1200/JCO.2009.26.3541): the longest diameter in any one slice, and the longest one perpendicular to
    it in that slice. Of slices that tie, and of diameters that tie within one, the widest counts. They are those of the
    convex hull: a dent does not shorten them.

    A pixel is the rectangle it covers, as for the area, so that diameters run from corner to corner: a lone pixel's is its
    diagonal. Between the centers of the same pixels they would be one to one and a half pixels shorter.
    """

    voxels: int
    """Number of voxels, or of pixels in a lone slice."""
    volume_ml: float | None
    """None for a lone slice, and where the spacing is not known."""
    area_mm2: float | None
    """None for a volume, and where the spacing is not known."""
    longest_mm: float | None
    """The longest diameter in a slice; None where the spacing is not known."""
    perpendicular_mm: float | None
    """The longest diameter perpendicular to it; None where the spacing is not known."""
    slices: tuple[int, int]
    """The first and the last."""
    center: tuple[float, float, float]
    """Mean position: slice, row, column."""
    center_mm: tuple[float, float, float] | None
    """The same in RAS+ space; None where no affine is known."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def find_lesions(
    masks: NDArray[np.bool_],
    spacing_mm: tuple[float, float] | None,
    slice_spacing_mm: float | None,
    slice_affine: NDArray[np.float64] | None = None,
) -> tuple[Lesion, ...]:
    """The connected parts of a mask, the largest first.

    Args:
        masks: ``(D, H, W)`` bool; D is 1 for a lone slice.
        spacing_mm: Between rows and between columns, where known.
        slice_spacing_mm: Between slices, where known.
        slice_affine: ``(4, 4)``: from (slice, row, column) to millimeters in RAS+ space, where known.

    >>> masks = np.zeros((1, 8, 8), bool)
    >>> masks[0, 2:5, 1:5] = True
    >>> (lesion,) = find_lesions(masks, (1.0, 1.0), None)
    >>> lesion.area_mm2, lesion.longest_mm
    (12.0, 5.0)
    """
    labels, count = ndimage.label(masks, _NEIGHBORS)
    lesions = [
        _measure(labels[box] == number, box, masks.shape, spacing_mm, slice_spacing_mm, slice_affine)
        for number, box in enumerate(ndimage.find_objects(labels, count), start=1)
    ]
    return tuple(sorted(lesions, key=lambda lesion: -lesion.voxels))  # stable: equals stay in the order of the slices


def remove_small(
    masks: NDArray[np.bool_],
    smallest_mm3: float,
    spacing_mm: tuple[float, float] | None,
    slice_spacing_mm: float | None,
) -> NDArray[np.bool_]:
    """A mask without its connected parts below a volume.

    Args:
        masks: ``(D, H, W)`` bool.
        smallest_mm3: A part of this volume stays.
        spacing_mm: Between rows and between columns.
        slice_spacing_mm: Between slices; of a lone slice, its thickness.

    Returns:
        ``(D, H, W)`` bool, a new array.

    Raises:
        InputError: As of `check_smallest`.
    """
    distances_mm = check_smallest(smallest_mm3, spacing_mm, slice_spacing_mm)
    labels, _ = ndimage.label(masks, _NEIGHBORS)
    volumes = np.bincount(labels.ravel()) * math.prod(distances_mm)
    # Rounding must not take a part that is exactly as large as asked.
    keeps = volumes >= smallest_mm3 * (1 - _TIE)
    keeps[0] = False
    return keeps[labels]


def check_smallest(
    smallest_mm3: float, spacing_mm: tuple[float, float] | None, slice_spacing_mm: float | None
) -> tuple[float, float, float]:
    """The distances between rows, columns and slices, by which volumes can be compared with the smallest.

    Args:
        smallest_mm3: As of `remove_small`.
        spacing_mm: As of `remove_small`.
        slice_spacing_mm: As of `remove_small`.

    Raises:
        InputError: A spacing is not known, or the volume is negative or not finite.
    """
    if not (math.isfinite(smallest_mm3) and smallest_mm3 >= 0):
        raise InputError(f"Expected a smallest volume of 0 mm³ or more, got {smallest_mm3}.")
    if spacing_mm is None or slice_spacing_mm is None:
        missing = "pixels" if spacing_mm is None else "slices"
        raise InputError(
            f"Expected a known spacing to remove lesions below {smallest_mm3:g} mm³, the input does not say that of its "
            f"{missing}. Give a NIfTI or DICOM file, or keep lesions of every size."
        )
    return *spacing_mm, slice_spacing_mm


def _measure(
    part: NDArray[np.bool_],
    box: tuple[slice, slice, slice],
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float] | None,
    slice_spacing_mm: float | None,
    slice_affine: NDArray[np.float64] | None,
) -> Lesion:
    """A lesion from its own part of the mask, cut to its box."""
    voxels = int(np.count_nonzero(part))
    area_mm2 = volume_ml = longest_mm = perpendicular_mm = None
    if spacing_mm is not None:
        pixels_mm2 = voxels * spacing_mm[0] * spacing_mm[1]
        if shape[0] == 1:
            area_mm2 = pixels_mm2
        elif slice_spacing_mm is not None:
            volume_ml = pixels_mm2 * slice_spacing_mm / 1000
        longest_mm, perpendicular_mm = _widest([_diameters(mask, spacing_mm) for mask in part if mask.any()])
    center = np.argwhere(part).mean(axis=0) + [axis.start for axis in box]
    center_mm = None if slice_affine is None else (slice_affine @ [*center, 1])[:3]
    return Lesion(
        voxels=voxels,
        volume_ml=volume_ml,
        area_mm2=area_mm2,
        longest_mm=longest_mm,
        perpendicular_mm=perpendicular_mm,
        slices=(box[0].start, box[0].stop - 1),
        center=_triple(center),
        center_mm=None if center_mm is None else _triple(center_mm),
    )


def _diameters(mask: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> tuple[float, float]:
    """The longest diameter of the pixels' hull (its maximum Feret diameter), and the longest one perpendicular to it.

    Args:
        mask: ``(H, W)`` bool, not empty.
        spacing_mm: Between rows and between columns.
    """
    corners = _hull(mask) * spacing_mm
    steps = corners - corners[:, None]
    lengths = np.hypot(steps[..., 0], steps[..., 1])
    longest = lengths.max()
    # A rectangle has two longest diameters, a disk many: all are tried, so that a mirrored mask gives the same.
    pairs = np.argwhere(np.triu(lengths >= longest * (1 - _TIE)))
    widest = max(_perpendicular(corners, first, second) for first, second in pairs)
    return float(longest), min(widest, float(longest))  # of a disk they may be equal but for rounding


def _hull(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``(N, 2)``: the corners of pixels that span the convex hull, in order around it."""
    rows = np.flatnonzero(mask.any(axis=1))
    left, right = mask[rows].argmax(axis=1), mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    corners = np.column_stack((np.concatenate((rows, rows + 1) * 2), np.concatenate((left, left, right, right))))
    return corners[ConvexHull(corners).vertices]


def _perpendicular(corners: NDArray[np.floating], first: int, second: int) -> float:
    """The longest chord of a convex polygon across its diameter from corner ``first`` to corner ``second``.

    The chord's length is linear between two corners' positions along the diameter: the longest passes through a corner.
    """
    around = np.roll(corners - corners[first], -first, axis=0)
    direction = corners[second] - corners[first]
    direction = direction / np.hypot(*direction)
    along, across = around @ direction, around @ [-direction[1], direction[0]]
    turn = (second - first) % len(corners)
    # No corner lies beyond the ends of a longest diameter: along both sides of it the positions only grow.
    back = np.r_[0, len(corners) - 1 : turn - 1 : -1]
    one = np.interp(along, along[: turn + 1], across[: turn + 1])
    other = np.interp(along, along[back], across[back])
    return float(np.abs(one - other).max())


def _widest(diameters: list[tuple[float, float]]) -> tuple[float, float]:
    """The longest pair; of those that tie, the one with the longest perpendicular."""
    longest = max(length for length, _ in diameters)
    return longest, max(width for length, width in diameters if length >= longest * (1 - _TIE))


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
