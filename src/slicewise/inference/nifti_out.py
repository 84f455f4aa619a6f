"""The mask of a volume as NIfTI, on the input's own grid."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor

from slicewise.errors import InputError
from slicewise.files import write_atomically
from slicewise.inference.result import Result
from slicewise.records import Scan

__all__ = ["make_nifti", "write_nifti"]

# What a header says of where its voxels are. Nothing else is taken from the input: its texts may name a patient.
_PLACE_FIELDS = (
    "pixdim",
    "xyzt_units",
    "qform_code",
    "sform_code",
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
_SCANNER, _ALIGNED = 1, 2
"""NIfTI's codes for a scanner's coordinates, and for those of another file."""


def make_nifti(result: Result) -> nib.Nifti1Image:
    """The mask, 1 on tumor, with the shape and place of the input.

    Of a NIfTI file, shape (a single fourth axis too), affine, codes of qform and sform, and units are its own. Of DICOM, the
    axes stay (frames, rows, columns), and the affine maps them. NIfTI's usual order is columns, rows, slices; but so the
    mask's array fits the input's, and a viewer, which follows the affine, shows both alike.

    Raises:
        InputError: The input does not say where it lies, as a picture never does.
    """
    scan = result.scan
    if scan.affine is None:
        raise InputError(
            f"Expected a volume that says where it lies, to write its mask as NIfTI; {scan.name} does not. "
            "Write a PNG instead."
        )
    mask = result.mask.astype(np.uint8)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(mask.shape)
    source = _source_header(scan)
    if source is not None:
        for name in _PLACE_FIELDS:
            header[name] = source[name]
    else:
        header.set_xyzt_units("mm")
        code = _SCANNER if scan.kind == "dicom" else _ALIGNED
        header.set_sform(scan.affine, code)
        header.set_qform(scan.affine, code)
        if not np.allclose(header.get_qform(), scan.affine, atol=1e-3):
            header.set_qform(None, 0)  # it cannot say a shear
    return nib.Nifti1Image(mask, header.get_best_affine(), header)


def write_nifti(image: nib.Nifti1Image, file: Path) -> None:
    """Write ``.nii``, or ``.nii.gz`` by the name; the same image gives the same bytes."""
    content = image.to_bytes()
    if file.suffix.lower() == ".gz":
        packed = io.BytesIO()
        # By itself, gzip would note the time and the file's name.
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as stream:
            stream.write(content)
        content = packed.getvalue()
    write_atomically(file, content)


def _source_header(scan: Scan) -> nib.Nifti1Header | None:
    """The header of the file the scan came from; None where it is no NIfTI, not there any more, or another by now."""
    if scan.kind != "nifti" or scan.affine is None or len(scan.files) != 1:
        return None
    try:
        with warnings.catch_warnings(), LoggingOutputSuppressor():
            warnings.simplefilter("ignore")  # as in sources/nifti.py, where the same header was checked
            image = nib.load(scan.files[0])
    except Exception:  # a parser fed with damaged bytes fails in more ways than can be listed
        return None
    is_same = image.shape == scan.grid_shape and np.array_equal(image.affine, scan.affine)
    return image.header if is_same and isinstance(image, nib.Nifti1Image) else None
