"""Pixels of DICOM files: each transfer syntax by one decoder, from an explicit table.

A compressed frame says its own size. That is read from its bytes and compared with the header's before a decoder may
allocate it; the same bytes are then decoded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom import uid as uids
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import as_pixel_options

from slicewise.errors import UnreadableFileError
from slicewise.sources.dicom_header import read_dataset
from slicewise.sources.images import share_of_color, to_gray

__all__ = ["decode_frames"]


class _Codec(NamedTuple):
    plugin: str
    """Of pydicom. On damaged bytes GDCM has crashed and pyjpegls does not come back: neither is used."""
    package: str
    """What to install where it is missing."""


_NATIVE = _Codec("", "")
_JPEG = _Codec("pylibjpeg", "slicewise[jpeg]")
_JPEG_2000 = _Codec("pylibjpeg", "pylibjpeg-openjpeg")
_CODECS: dict[str, _Codec] = {
    uids.ImplicitVRLittleEndian: _NATIVE,
    uids.ExplicitVRLittleEndian: _NATIVE,
    uids.ExplicitVRBigEndian: _NATIVE,
    uids.RLELossless: _Codec("pydicom", "pydicom"),
    uids.JPEGBaseline8Bit: _Codec("pillow", "pillow"),
    uids.JPEGExtended12Bit: _JPEG,
    uids.JPEGLossless: _JPEG,
    uids.JPEGLosslessSV1: _JPEG,
    uids.JPEGLSLossless: _JPEG,
    uids.JPEGLSNearLossless: _JPEG,
    uids.JPEG2000Lossless: _JPEG_2000,
    uids.JPEG2000: _JPEG_2000,
    uids.HTJ2KLossless: _JPEG_2000,
    uids.HTJ2KLosslessRPCL: _JPEG_2000,
    uids.HTJ2K: _JPEG_2000,
}

_WHITE = 255


class _Stored(NamedTuple):
    number: int
    """Of the frame in its file."""
    values: NDArray[Any]
    """``(rows, columns)``, before slope and intercept; luma in [0, 255] of colors."""
    color_share: float
    """Share of the pixels that have a color, in [0, 1]."""


def decode_frames(file: Path, numbers: Collection[int], shape: tuple[int, int]) -> Iterator[_Stored]:
    """Decode some frames of a file, as stored: before slope and intercept.

    Args:
        file: A DICOM file.
        numbers: Which frames, from 0; they come in rising order.
        shape: Rows and columns that its header declares.

    Raises:
        UnreadableFileError: The file holds no pixels, fewer frames, frames of another size, or colors that are not known;
            its transfer syntax is not known, or needs a package that is not installed. Call within `guarded`.
    """
    dataset = read_dataset(file)
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableFileError(f"Expected pixels, {file} holds none. Copy it again or remove it.", "no-pixels", file)
    found = 0
    for number, pixels, photometric in _decode(file, dataset, numbers, shape):
        if pixels.shape[:2] != shape:
            raise _other_size(file, shape, pixels.shape[:2])
        yield _Stored(number, *_to_brightness(file, dataset, pixels, photometric))
        found += 1
    if found < len(numbers):
        raise UnreadableFileError(f"Expected {len(numbers)} frames in {file}, found {found}. Copy it again.", file=file)


def _decode(
    file: Path, dataset: Dataset, numbers: Collection[int], shape: tuple[int, int]
) -> Iterator[tuple[int, NDArray[Any], str]]:
    """Of each frame its number, its pixels, and what their channels mean."""
    syntax, decoder, plugin = _choose_decoder(file, dataset)
    if not plugin:
        for number in sorted(numbers):
            pixels, described = decoder.as_array(dataset, index=number)
            yield number, pixels, str(described["photometric_interpretation"])
        return
    options = as_pixel_options(dataset, number_of_frames=1, pixel_keyword="PixelData", pixel_vr="OB")
    offsets = options.pop("extended_offsets", None)
    count = int(dataset.get("NumberOfFrames") or 1)
    frames = generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets)
    for number, frame in zip(range(max(numbers) + 1), frames, strict=False):
        if number in numbers:
            _check_frame(file, frame, syntax, shape, options)
            # Frame by frame, so that what is decoded is what was checked, wherever the file's offsets point.
            alone = encapsulate([frame], has_bot=False)
            pixels, described = decoder.as_array(alone, decoding_plugin=plugin, **options)
            yield number, pixels, str(described["photometric_interpretation"])


def _choose_decoder(file: Path, dataset: Dataset) -> tuple[str, Decoder, str]:
    """Transfer syntax, decoder, and the name of its plugin; no name where nothing is compressed."""
    # A file without a preamble says nothing of its syntax; pydicom then guessed.
    guessed = uids.ImplicitVRLittleEndian if dataset.original_encoding[0] else uids.ExplicitVRLittleEndian
    syntax = uids.UID(dataset.file_meta.get("TransferSyntaxUID") or guessed)
    codec = _CODECS.get(syntax)
    if codec is None:
        raise UnreadableFileError(
            f"Expected a transfer syntax of images, {file} has another, such as a video's. Convert it to Explicit VR Little "
            "Endian.",
            file=file,
        )
    decoder = get_decoder(syntax)
    if codec.plugin and codec.plugin not in decoder.available_plugins:
        raise UnreadableFileError(
            f"Expected a decoder for {syntax.name}, which {file} is compressed with, none is installed. Run: "
            f'pip install "{codec.package}"',
            file=file,
        )
    return syntax, decoder, codec.plugin


def _check_frame(file: Path, frame: bytes, syntax: str, shape: tuple[int, int], options: dict[str, Any]) -> None:
    """Refuse compressed bytes that would grow to more than the header declares."""
    declared = (*shape, int(options["samples_per_pixel"]))
    if syntax == uids.RLELossless:
        # RLE names no size; it grows at most 64 fold, and what is far longer than its pixels is no RLE.
        found = declared if len(frame) <= np.prod(declared, dtype=np.int64) * options["bits_allocated"] / 4 + 1024 else None
    else:
        found = _size_in_jpeg_2000(frame) if _CODECS[syntax] is _JPEG_2000 else _size_in_jpeg(frame)
    if found is None:
        raise UnreadableFileError(
            f"Expected pixels that are compressed as the header of {file} says, found other bytes. Copy it again.", file=file
        )
    if found != declared:
        raise _other_size(file, declared, found)


def _size_in_jpeg_2000(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and channels of a codestream, from its SIZ segment (ISO/IEC 15444-1, A.5.1)."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        return None
    width, height, left, top = (int.from_bytes(frame[place : place + 4], "big") for place in (8, 12, 16, 20))
    return height - top, width - left, int.from_bytes(frame[40:42], "big")


def _size_in_jpeg(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and channels of a JPEG or JPEG-LS, from its frame header (ITU-T T.81, B.2.2)."""
    place = 2
    while place + 10 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = (int.from_bytes(frame[start : start + 2], "big") for start in (place + 5, place + 7))
            return rows, columns, frame[place + 9]
        place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return None


def _other_size(file: Path, declared: tuple[int, ...], found: tuple[int, ...]) -> UnreadableFileError:
    said, come = (" × ".join(map(str, size)) for size in (declared, found))
    return UnreadableFileError(
        f"Expected frames of {said} pixels, as the header of {file} says, its pixels are {come}. Copy it again.",
        file=file,
    )


def _to_brightness(file: Path, dataset: Dataset, pixels: NDArray[Any], photometric: str) -> tuple[NDArray[Any], float]:
    """Values, and the share of the pixels that have a color."""
    if photometric in ("MONOCHROME1", "MONOCHROME2") and pixels.ndim == 2:
        return pixels, 0.0
    if photometric == "PALETTE COLOR" and pixels.ndim == 2:
        colors = _look_up(dataset, pixels)
    elif photometric == "RGB" and pixels.ndim == 3:
        colors = pixels * np.float32(_WHITE / (2 ** int(dataset.BitsStored) - 1))
    else:
        raise UnreadableFileError(
            f"Expected pixels that are gray, RGB, YBR_FULL or of a palette, {file} has others. Convert it to gray.",
            file=file,
        )
    return to_gray(colors), share_of_color(colors)


def _look_up(dataset: Dataset, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """``(rows, columns, 3)`` in [0, 255].

    pydicom's own look-up cuts indices to the depth of the colors. Segmented tables, which could grow without bound, have no
    such elements: they raise KeyError.
    """
    order = "<" if dataset.original_encoding[1] else ">"
    channels = []
    for color in ("Red", "Green", "Blue"):
        count, first, depth = (int(part) for part in dataset[f"{color}PaletteColorLookupTableDescriptor"].value)
        content = dataset[f"{color}PaletteColorLookupTableData"].value
        count = count or 2**16
        table = np.frombuffer(content, f"{order}u2" if len(content) >= 2 * count else "u1")[:count]
        places = np.clip(pixels.astype(np.int64) - first, 0, count - 1)
        channels.append(table[places] * np.float32(_WHITE / (2**depth - 1)))
    return np.stack(channels, axis=2)
