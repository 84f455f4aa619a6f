"""NIfTI volumes to slices in the orientation in which radiologists look at them. Nowhere else are axes turned.

Whatever the order and direction of its axes, a volume is brought to LPS+ (x to the patient's left, y to posterior, z
to superior) and handed on as ``(D, H, W)``: slice ``[k]`` is axial, its rows run from anterior to posterior, its columns
from the patient's right to left.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.imageglobals import LoggingOutputSuppressor
from numpy.typing import NDArray

from slicewise.errors import UnreadableFileError

__all__ = ["Volume", "read_volume"]

_VOXEL_LIMIT = 512**3


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One scan in LPS+ order."""

    voxels: NDArray[np.float32]
    """``(D, H, W)``, finite."""
    affine: NDArray[np.float64]
    """``(4, 4)``: from (x, y, z) indices in LPS+ order to millimeters in NIfTI's RAS+ space."""
    spacing_mm: tuple[float, float, float]
    """Between slices, rows and columns."""


def read_volume(file: Path) -> Volume:
    """Read ``.nii`` or ``.nii.gz``.

    Raises:
        UnreadableFileError: The file is missing, truncated or no NIfTI; it is not three-dimensional, has no voxels, more
            than 512³ of them, voxels that are colors or complex, a spacing of 0, or an affine or voxels that are not finite.
    """
    try:
        # nibabel warns of odd headers, and logs what it repairs in them; what matters of them is checked below.
        with warnings.catch_warnings(), LoggingOutputSuppressor():
            warnings.simplefilter("ignore")
            image = nib.load(file)
            shape = _checked_shape(file, image.shape)
            if image.get_data_dtype().kind not in "iuf":
                raise UnreadableFileError(
                    f"Expected voxels that are real numbers, {file} holds {image.get_data_dtype()}. Convert it to gray.",
                    file=file,
                )
            if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-12:
                raise UnreadableFileError(
                    f"Expected a finite affine with a spacing above 0, {file} has {image.affine[:3].tolist()}. "
                    "Repair its header.",
                    "non-finite",
                    file,
                )
            image = nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float32).reshape(shape), image.affine)
            to_lps = nib.orientations.ornt_transform(
                nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt("LPS")
            )
            turned = image.as_reoriented(to_lps)
    except UnreadableFileError:
        raise
    except FileNotFoundError:
        raise UnreadableFileError(f"Expected a NIfTI file, found nothing at {file}. Check the path.", file=file) from None
    except Exception as error:  # a parser fed with damaged bytes fails in more ways than can be listed
        reason = " ".join(str(error).split())[:200]
        raise UnreadableFileError(
            f"Expected a readable NIfTI file, could not decode {file}: {reason}. Copy it again.", file=file
        ) from None
    voxels = np.ascontiguousarray(np.asarray(turned.dataobj).transpose(2, 1, 0))
    if not np.isfinite(voxels).all():
        raise UnreadableFileError(
            f"Expected finite voxels, {file} holds NaN or infinity. Repair or remove it.", "non-finite", file
        )
    columns, rows, slices = (float(value) for value in voxel_sizes(turned.affine))
    return Volume(voxels, turned.affine, (slices, rows, columns))


def _checked_shape(file: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The three dimensions, read from the header before anything is inflated."""
    three = tuple(int(size) for size in shape[:3])
    if len(three) != 3 or any(size != 1 for size in shape[3:]):
        raise UnreadableFileError(
            f"Expected a volume of three dimensions, {file} has shape {tuple(shape)}. Split it first.", file=file
        )
    count = int(np.prod(three, dtype=np.int64))
    if count == 0 or count > _VOXEL_LIMIT:
        raise UnreadableFileError(
            f"Expected 1 to {_VOXEL_LIMIT:,} voxels, {file} declares {tuple(shape)}. Replace or remove it.",
            "unreadable-file" if count else "no-pixels",
            file,
        )
    return three
