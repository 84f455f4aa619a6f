"""Three planes through a voxel of a volume, each in the view of radiologists."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cut", "cut_volume"]


class Cut(NamedTuple):
    """One plane through a volume, in the view of radiologists."""

    plane: str
    """``axial``, ``coronal``, ``sagittal``; "across rows" or "across columns" where the volume's plane is not known."""
    values: NDArray[np.uint16]
    """``(H, W)``."""
    mask: NDArray[np.bool_]
    """``(H, W)``."""
    spacing_mm: tuple[float, float] | None
    """Between rows and between columns; None: not known."""
    cross: tuple[int, int]
    """Row and column in which the other two planes lie."""


class _View(NamedTuple):
    """How a cut is turned to be seen as its plane is."""

    plane: str
    is_turned: bool
    """Rows and columns are exchanged."""
    is_flipped: bool
    """The last row comes first."""


# Through a row, a volume has its slices and columns left; through a column, its slices and rows. What of these runs
# downwards, and in which direction, follows from the table of `slicewise.orientation`.
_VIEWS = {
    "axial": (_View("coronal", False, True), _View("sagittal", False, True)),
    "coronal": (_View("axial", False, False), _View("sagittal", True, False)),
    "sagittal": (_View("axial", True, False), _View("coronal", True, False)),
}
_UNKNOWN = (_View("across rows", False, False), _View("across columns", False, False))


def cut_volume(
    values: NDArray[np.uint16],
    mask: NDArray[np.bool_],
    spacing_mm: NDArray[np.float64],
    plane: str,
    index: tuple[int, int, int],
) -> tuple[Cut, Cut, Cut]:
    """The three planes through a voxel.

    Args:
        values: ``(D, H, W)``, its axes as `slicewise.orientation` has them.
        mask: ``(D, H, W)``.
        spacing_mm: ``(3,)``: between slices, rows and columns; NaN where not known.
        plane: Of the slices.
        index: Slice, row and column.

    Returns:
        The slice, the plane through its row, and the plane through its column.
    """
    number, row, column = index
    row_view, column_view = _VIEWS.get(plane, _UNKNOWN)
    between_slices, between_rows, between_columns = (float(value) for value in spacing_mm)
    slice_view = _View(plane, False, False)
    return (
        _see(values[number], mask[number], (between_rows, between_columns), (row, column), slice_view),
        _see(values[:, row], mask[:, row], (between_slices, between_columns), (number, column), row_view),
        _see(values[:, :, column], mask[:, :, column], (between_slices, between_rows), (number, row), column_view),
    )


def _see(
    values: NDArray[np.uint16],
    mask: NDArray[np.bool_],
    spacing_mm: tuple[float, float],
    cross: tuple[int, int],
    view: _View,
) -> Cut:
    if view.is_turned:
        values, mask, spacing_mm, cross = values.T, mask.T, spacing_mm[::-1], cross[::-1]
    if view.is_flipped:
        values, mask, cross = values[::-1], mask[::-1], (len(values) - 1 - cross[0], cross[1])
    return Cut(view.plane, values, mask, spacing_mm if np.isfinite(spacing_mm).all() else None, cross)
