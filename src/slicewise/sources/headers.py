"""What a file says of itself, apart from its pixels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
from nibabel.imageglobals import LoggingOutputSuppressor
from PIL import Image

from slicewise.files import sha256_of

__all__ = ["Header", "read_header"]

_EXIF_ORIENTATION = 0x0112
_BITS = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16}


class Header(NamedTuple):
    """Facts that tell files of one origin from files of another."""

    file_bytes: int
    """Size on disk."""
    file_sha256: str
    """Of all bytes."""
    file_format: str
    """``PNG``, ``JPEG``, ``TIFF``, ``BMP``, ``GIF``, ``WEBP`` or ``NIfTI``."""
    color_mode: str
    """Pillow's mode (``L``, ``RGB``, ``P`` …) or the voxels' type (``int16`` …)."""
    bit_depth: int
    """Bits of one value."""
    orientation: str
    """Axes of a volume (``RAS``, ``LPS`` …), or the turn that a camera noted for its picture (``EXIF 6``); else empty."""


def read_header(file: Path) -> Header:
    """Read a file that was decoded before.

    Raises:
        OSError: The file has gone, or is neither a picture nor a volume.
    """
    checksum = sha256_of(file)
    size = file.stat().st_size
    is_volume = file.name.lower().endswith((".nii", ".nii.gz"))
    return Header(size, checksum, *(_of_volume(file) if is_volume else _of_picture(file)))


def _of_picture(file: Path) -> tuple[str, str, int, str]:
    with warnings.catch_warnings(), Image.open(file) as image:
        warnings.simplefilter("ignore")
        # A PNG without EXIF before its pixels would be decoded, in search of EXIF behind them.
        has_exif = image.format != "PNG" or "exif" in image.info
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) if has_exif else 1
        return str(image.format), image.mode, _BITS.get(image.mode, 8), "" if turned == 1 else f"EXIF {turned}"


def _of_volume(file: Path) -> tuple[str, str, int, str]:
    with warnings.catch_warnings(), LoggingOutputSuppressor():
        warnings.simplefilter("ignore")
        image = nib.load(file)
        kind = image.get_data_dtype()
        return "NIfTI", str(kind), 8 * kind.itemsize, "".join(nib.orientations.aff2axcodes(image.affine))
