"""NIfTI volumes to slices."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor

from slicewise.errors import UnreadableFileError
from slicewise.orientation import Orientation
from slicewise.records import Concern, Scan
from slicewise.sources.names import name_of
from slicewise.sources.nifti_start import parse_start, read_start

__all__ = ["read_volume"]

_VOXEL_LIMIT = 512**3
_EXTENSION_LIMIT = 16 * 2**20
_NOT_PLACED = (
    "Expected a volume that says how it lies in the body, the codes of both its transforms are 0: right may be left, and "
    "first last. Convert it again from its DICOM files."
)
_DEFLATE_LIMIT = 1032
"""No deflate stream holds more than this times its own size (https://zlib.net/zlib_tech.html)."""


def read_volume(file: Path) -> Scan:
    """Read ``.nii`` or ``.nii.gz``.

    Raises:
        UnreadableFileError: The file is missing, truncated or no NIfTI; it is not three-dimensional, has no voxels, more
            than 512³ of them, voxels that are colors or complex, a spacing of 0, or an affine or voxels that are not finite.
    """
    try:
        # nibabel warns of odd headers, and logs what it repairs in them; what matters of them is checked below.
        with warnings.catch_warnings(), LoggingOutputSuppressor():
            warnings.simplefilter("ignore")
            _check_start(file)
            image = nib.load(file, mmap=False)  # a file that shrinks while it is mapped kills the process
            shape = _checked_shape(file, image.shape)
            _check_header(file, image)
            affine = np.asarray(image.affine, dtype=np.float64)
            orientation = Orientation.of(affine, shape)
            voxels = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except UnreadableFileError:
        raise
    except FileNotFoundError:
        raise UnreadableFileError(f"Expected a NIfTI file, found nothing at {file}. Check the path.", file=file) from None
    except Exception as error:  # a parser fed with damaged bytes fails in more ways than can be listed
        reason = " ".join(str(error).split())[:200]
        raise UnreadableFileError(
            f"Expected a readable NIfTI file, could not decode {file}: {reason}. Copy it again.", file=file
        ) from None
    if not np.isfinite(voxels).all():
        raise UnreadableFileError(
            f"Expected finite voxels, {file} holds NaN or infinity. Repair or remove it.", "non-finite", file
        )
    slices = np.ascontiguousarray(orientation.to_slices(voxels))
    is_placed = bool(image.header["qform_code"] or image.header["sform_code"])
    return Scan(
        slices,
        kind="nifti",
        name=name_of(file),
        files=(file,),
        # nibabel turns what does not say how it lies as if it were axial; which side is right remains a guess.
        plane=orientation.plane if is_placed else "unknown",
        spacing_mm=orientation.spacing_mm[1:],
        slice_spacing_mm=orientation.spacing_mm[0],
        orientation=orientation,
        grid_shape=tuple(int(size) for size in image.shape),
        affine=affine,
        concerns=() if is_placed else (Concern("no-geometry", _NOT_PLACED),),
    )


def _check_start(file: Path) -> None:
    """Where the voxels begin; nibabel would read whatever is declared to lie before them."""
    start = parse_start(read_start(file))
    if start is not None and not 0 <= start.voxels_at <= _EXTENSION_LIMIT:
        raise UnreadableFileError(
            f"Expected voxels within {_EXTENSION_LIMIT:,} bytes of the start, {file} declares them at "
            f"{start.voxels_at:.0f}. Save it again without extensions.",
            file=file,
        )


def _checked_shape(file: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
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
    return three[0], three[1], three[2]


def _check_header(file: Path, image: nib.Nifti1Image) -> None:
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        raise UnreadableFileError(
            f"Expected voxels that are real numbers, {file} holds {kind}. Convert it to gray.", file=file
        )
    declared, held = int(np.prod(image.shape, dtype=np.int64)) * kind.itemsize, file.stat().st_size
    if declared > held * _DEFLATE_LIMIT:
        raise UnreadableFileError(
            f"Expected {declared:,} bytes of voxels in {file}, as its header says; its {held:,} bytes cannot hold them. "
            "Copy it again.",
            file=file,
        )
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-12:
        raise UnreadableFileError(
            f"Expected a finite affine with a spacing above 0, {file} has {image.affine[:3].tolist()}. Repair its header.",
            "non-finite",
            file,
        )
