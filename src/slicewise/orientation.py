"""How the axes of a volume become slices in the view of radiologists, and the exact way back. Nowhere else are axes turned.

=========  =============================  ===========================  ==========================
plane      slices run                     rows run                     columns run
=========  =============================  ===========================  ==========================
axial      from inferior to superior      from anterior to posterior   from the right to the left
coronal    from anterior to posterior     from superior to inferior    from the right to the left
sagittal   from the right to the left     from superior to inferior    from anterior to posterior
=========  =============================  ===========================  ==========================

Right and left are the patient's. An oblique volume goes to the nearest axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Orientation"]

# Of each plane: the axis of the body (0 right to left, 1 anterior to posterior, 2 inferior to superior in RAS+ order) that
# slices, rows and columns follow, and whether they run towards larger RAS+ coordinates (right, anterior, superior).
_PLANES = {
    "axial": ((2, True), (1, False), (0, False)),
    "coronal": ((1, False), (2, False), (0, False)),
    "sagittal": ((0, False), (2, False), (1, False)),
}
_PLANE_OF_AXIS = {axes[0][0]: plane for plane, axes in _PLANES.items()}
_THICK = 1.5


@dataclass(frozen=True, slots=True)
class Orientation:
    """A permutation and reversals of the three axes of a file's array."""

    plane: str
    """``axial``, ``coronal`` or ``sagittal``."""
    axes: tuple[int, int, int]
    """Which axis of the file becomes slices, rows and columns."""
    reversed: tuple[bool, bool, bool]
    """Which of slices, rows and columns then run backwards."""
    spacing_mm: tuple[float, float, float]
    """Between slices, rows and columns."""

    @classmethod
    def of(cls, affine: NDArray[np.float64], shape: tuple[int, int, int]) -> Orientation:
        """The view of a volume.

        The plane is the one it was acquired in, as far as its voxels tell: across an axis with a single voxel, or with a
        spacing at least 1.5 times that of both others; else axial. Which axis of the array that is does not matter: the same
        volume, stored in any of the 48 orders and directions of its axes, gives the same slices.

        Args:
            affine: ``(4, 4)``: from indices of the file's array to millimeters in RAS+ space; finite, of full rank.
            shape: Of the file's array.

        Raises:
            ValueError: The affine's axes cannot be told apart, such as where one is 10¹⁵ times as long as the others.
        """
        # A picture has no orientation, and need not wait for nibabel.
        from nibabel.affines import voxel_sizes
        from nibabel.orientations import io_orientation

        body = io_orientation(affine)
        if np.isnan(body).any():
            raise ValueError(f"axes that cannot be told apart: {affine[:3].tolist()}")
        file_axis = {int(axis): place for place, (axis, _) in enumerate(body)}
        spacing = voxel_sizes(affine)
        counts = tuple(shape[file_axis[axis]] for axis in range(3))
        spacings = tuple(float(spacing[file_axis[axis]]) for axis in range(3))
        plane = _PLANE_OF_AXIS[_slice_axis(counts, spacings)]
        axes = tuple(file_axis[axis] for axis, _ in _PLANES[plane])
        backwards = tuple(bool((body[file_axis[axis], 1] > 0) != rising) for axis, rising in _PLANES[plane])
        return cls(plane, axes, backwards, tuple(float(spacing[axis]) for axis in axes))  # type: ignore[arg-type]

    def to_slices(self, values: NDArray[Any]) -> NDArray[Any]:
        """An array of the file's shape as ``(D, H, W)``, a view of the same memory."""
        return values.transpose(self.axes)[self._directions]

    def to_file(self, slices: NDArray[Any]) -> NDArray[Any]:
        """``(D, H, W)`` on the grid of the file, the inverse of `to_slices`."""
        return slices[self._directions].transpose(tuple(int(place) for place in np.argsort(self.axes)))

    def affine(self, slices_shape: tuple[int, ...]) -> NDArray[np.float64]:
        """``(4, 4)``: from (slice, row, column) to indices of the file's array.

        Args:
            slices_shape: ``(D, H, W)``.
        """
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for place, (axis, backwards, count) in enumerate(zip(self.axes, self.reversed, slices_shape, strict=True)):
            matrix[axis, place] = -1 if backwards else 1
            matrix[axis, 3] = count - 1 if backwards else 0
        return matrix

    @property
    def _directions(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if backwards else slice(None) for backwards in self.reversed)


def _slice_axis(counts: tuple[int, ...], spacing_mm: tuple[float, ...]) -> int:
    """Number of the body's axis that slices follow."""
    if counts.count(1) == 1:
        return counts.index(1)
    thickest = max(range(3), key=spacing_mm.__getitem__)
    others = max(spacing for axis, spacing in enumerate(spacing_mm) if axis != thickest)
    return thickest if spacing_mm[thickest] >= _THICK * others * (1 - 1e-6) else 2
