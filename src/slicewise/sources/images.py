"""Pictures to gray, by an explicit table of color modes.

========================  ===========================================================================
mode of the file          what becomes of it
========================  ===========================================================================
1                         0 and 255
L                         as it is
I;16, I;16L, I;16B, I, F  as it is, in full depth (nothing is cut to 8 bits)
LA, La                    composited on black: what is transparent is air
RGB                       the one channel where all three are equal, else luma (ITU-R BT.601)
RGBA, RGBa, PA            composited on black, then as RGB
P                         colors are looked up first: an index is not a brightness; then as RGBA
CMYK, YCbCr, LAB, HSV     converted to RGB, then as RGB
anything else             refused
========================  ===========================================================================

The orientation that a camera or converter noted (EXIF) is applied. A file with several pictures, such as a TIFF stack, is
refused; a second one of another size is a thumbnail, and passed over.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from slicewise.errors import LabelError, UnreadableFileError

__all__ = [
    "PICTURE_ENDINGS",
    "Gray",
    "Mask",
    "is_picture_name",
    "read_channels",
    "read_mask",
    "read_mask_of",
    "read_picture",
    "share_of_color",
    "to_gray",
]

PICTURE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"})
"""Endings, in lower case, of the files that are looked for in folders."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
_PIXEL_LIMIT = 64_000_000
_MASK_WHITE, _MASK_MIDDLE = 255, 127
_TINT, _FAINT_TINT = 48, 8
_FAINT_SHARE = 0.1
_GRAY = frozenset({"L", "I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_COLOR = frozenset({"RGB", "CMYK", "YCbCr", "LAB", "HSV"})
_TRANSPARENT = frozenset({"LA", "La", "RGBA", "RGBa", "P", "PA"})


def is_picture_name(file: Path) -> bool:
    """The name looks like a picture's: a known ending in any case, and not hidden (``._scan.png``, ``.DS_Store``)."""
    return file.suffix.lower() in PICTURE_ENDINGS and not file.name.startswith(".")


class Gray(NamedTuple):
    """A picture without its color."""

    image: NDArray[np.float32]
    """``(H, W)``, finite, in the file's own range."""
    color_share: float
    """Share of the pixels that had a color, in [0, 1]."""


class Mask(NamedTuple):
    """A mask picture after its threshold."""

    mask: NDArray[np.bool_]
    """``(H, W)``, True on tumor."""
    soft_share: float
    """Share of the pixels that are not zero and lie between a tenth and nine tenths of white, in [0, 1]."""


def read_picture(file: Path) -> Gray:
    """Read a picture as gray.

    Args:
        file: PNG, JPEG, TIFF, BMP, GIF or WebP; its bytes decide, not its ending.

    Raises:
        UnreadableFileError: The file is missing, broken, no picture, of an unknown mode, larger than 64 million pixels, or
            holds several pictures or values that are not finite.
    """
    channels = read_channels(file)
    return Gray(to_gray(channels), share_of_color(channels))


def read_channels(file: Path) -> NDArray[np.float32]:
    """Read a picture with its channels, for layouts that keep one MR sequence in each.

    Returns:
        ``(H, W)`` or ``(H, W, 3)`` float32, finite; transparency composited on black.

    Raises:
        UnreadableFileError: As `read_picture`.
    """
    try:
        # Pillow warns of files that are large or odd but readable; what is too large is refused here by the header.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > _PIXEL_LIMIT:
                    raise UnreadableFileError(
                        f"Expected a picture of at most {_PIXEL_LIMIT // 10**6} million pixels, {file} declares "
                        f"{width} × {height}. Crop or shrink it.",
                        file=file,
                    )
                if _holds_several(image):
                    raise UnreadableFileError(
                        f"Expected one picture, {file} holds several of {width} × {height}. Save each in a file of its own, "
                        "or all as a NIfTI volume.",
                        "several-pictures",
                        file,
                    )
                pixels = _decode(ImageOps.exif_transpose(image), file)
    except UnreadableFileError:
        raise
    except FileNotFoundError:
        raise UnreadableFileError(f"Expected a picture, found nothing at {file}. Check the path.", file=file) from None
    except Exception as error:  # a decoder fed with damaged bytes, or damaged EXIF, fails in more ways than can be listed
        raise UnreadableFileError(
            f"Expected a readable picture ({', '.join(_FORMATS)}), could not decode {file}: {_short(error)}. "
            "Replace or remove the file.",
            file=file,
        ) from None
    if not np.isfinite(pixels).all():
        raise UnreadableFileError(
            f"Expected finite intensities, {file} holds NaN or infinity. Replace or remove the file.", "non-finite", file
        )
    return pixels


def read_mask(file: Path) -> Mask:
    """Read a mask picture of two values, 0 and 255 (softened by JPEG or smoothing: cut at the middle) or 0 and 1.

    Raises:
        UnreadableFileError: As `read_picture`.
        LabelError: The picture has other values, such as the integers of several classes.
    """
    pixels = read_picture(file).image
    brightest = float(pixels.max())
    if brightest in (0.0, 1.0):
        return Mask(pixels > 0, 0.0)
    if not _MASK_MIDDLE < brightest <= _MASK_WHITE:
        raise LabelError(
            f"Expected a mask of 0 and {_MASK_WHITE}, or of 0 and 1, the brightest pixel of {file} is {brightest:g}. "
            "Convert its labels to tumor and background.",
            "mask-values",
            file,
        )
    soft = np.count_nonzero((pixels > 0.1 * _MASK_WHITE) & (pixels < 0.9 * _MASK_WHITE))
    return Mask(pixels > _MASK_MIDDLE, soft / np.count_nonzero(pixels))


def read_mask_of(file: Path, mask_file: Path, shape: tuple[int, ...]) -> Mask:
    """Read the mask that a layout wants beside a picture.

    Args:
        file: The picture.
        mask_file: Its mask.
        shape: Rows and columns of the picture.

    Raises:
        UnreadableFileError: As `read_picture`.
        LabelError: The mask is missing, or of another size; or as of `read_mask`.
    """
    if not mask_file.is_file():
        raise LabelError(
            f"Expected a mask for {file}, {mask_file} is missing. Add it or remove {file.name}.", "missing-mask", file
        )
    read = read_mask(mask_file)
    if read.mask.shape != shape:
        raise LabelError(
            f"Expected a mask of {shape[0]} × {shape[1]} pixels for {file}, {mask_file.name} has "
            f"{read.mask.shape[0]} × {read.mask.shape[1]}. Check that they belong together.",
            "mask-size",
            mask_file,
        )
    return read


def _holds_several(image: Image.Image) -> bool:
    size = image.size
    try:
        image.seek(1)
    except EOFError:
        return False
    second = image.size
    image.seek(0)
    return second == size


def _decode(image: Image.Image, file: Path) -> NDArray[np.float32]:
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in _GRAY:
        return np.asarray(image, dtype=np.float32)
    if image.mode in _TRANSPARENT:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, (0, 0, 0, 255)), layers)
    elif image.mode not in _COLOR:
        raise UnreadableFileError(
            f"Expected a gray or color picture, {file} has color mode {image.mode}. Save it as PNG.", file=file
        )
    return np.asarray(image.convert("RGB"), dtype=np.float32)


def share_of_color(pixels: NDArray[np.float32]) -> float:
    """Share of the pixels of ``(H, W)`` or ``(H, W, 3)``, in 0..255, that have a color, in [0, 1].

    Compression alone leaves gray pictures a slight tint; annotations and color maps are far from gray. Where a tenth of the
    pixels or more have a slight one, it is no compression: each channel may hold an MR sequence of its own.
    """
    if pixels.ndim == 2:
        return 0.0
    red, green, blue = (pixels[..., channel] for channel in range(3))
    tint = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    strong, all_tints = float((tint > _TINT).mean()), float((tint > _FAINT_TINT).mean())
    return strong if all_tints - strong < _FAINT_SHARE else all_tints


def to_gray(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(H, W)`` or ``(H, W, 3)`` to ``(H, W)``: the one channel where all are equal, else luma."""
    if pixels.ndim == 2:
        return pixels
    red, green, blue = (pixels[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red)
    return (0.299 * red + 0.587 * green + 0.114 * blue).astype(np.float32)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
