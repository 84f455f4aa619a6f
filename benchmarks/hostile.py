"""Damaged files of each format through the decoder: what is read, what is refused, and whether anything crashes or hangs.

python benchmarks/hostile.py [--files 5000] [--json FILE]

Files are made in memory of generated images, each in several kinds (depths, compressions, byte orders), and damaged by one
to three mutations; every run makes the same ones. Two decoders work at once. A crash is a child that ended by itself, of a
signal or of an error that no reader foresaw; a hang takes more than ten seconds.
"""

from __future__ import annotations

import argparse
import gzip
import io
import re
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from machine import Figure, run_benchmark
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from slicewise.errors import FileError
from slicewise.inference.decoding import Decoder
from slicewise.records import Scan

FILES, DECODERS, SIDE_PX = 5000, 2, 48
HANG_S = 10.0
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000, 0x7FC00000)
PARTS = re.compile(
    rb"IHDR|PLTE|IDAT|IEND|\xff[\xc0-\xfe]|PK\x01\x02|PK\x03\x04|PK\x05\x06|VP8[ LX]|ALPH|\xfe\xff\x00\xe0|,\0\0\0\0"
)
"""Where a part of a file begins, in the formats that have parts."""


class Tally(NamedTuple):
    """What became of the files of one format."""

    outcomes: Counter[str]
    """Files by ``decoded``, ``refused``, ``crash`` and ``hang``."""
    memory_mb: float
    """The most that a child ever held."""


def picture(kind: str = "uint8") -> NDArray[np.generic]:
    """A head, as bright as the type allows."""
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    head = (rows - 24) ** 2 / 20**2 + (columns - 24) ** 2 / 16**2 < 1
    wave = 0.5 + 0.2 * np.sin(rows / 3) * np.cos(columns / 4) + 0.05 * np.random.default_rng(0).normal(size=head.shape)
    white = np.iinfo(kind).max if np.dtype(kind).kind in "iu" else 1.0
    return (head * wave.clip(0, 1) * white).astype(kind)


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def pictures() -> dict[str, list[bytes]]:
    """Valid pictures by format."""
    gray, deep, real = (Image.fromarray(picture(kind)) for kind in ("uint8", "uint16", "float32"))
    color, palette, exif = gray.convert("RGB"), gray.convert("P"), Image.Exif()
    exif[0x0112] = 6
    with_thumbnail = {"save_all": True, "append_images": [gray.reduce(4)]}
    clear = gray.convert("LA")
    return {
        "png": [
            *(encoded(image, "PNG") for image in (gray, deep, color, palette, clear, gray.convert("1"))),
            encoded(gray, "PNG", exif=exif),
        ],
        "jpeg": [
            encoded(gray, "JPEG", exif=exif),
            *(encoded(color, "JPEG", progressive=progressive) for progressive in (False, True)),
            encoded(gray.convert("CMYK"), "JPEG"),
        ],
        "tiff": [
            *(encoded(image, "TIFF") for image in (gray, deep, real, color, palette, gray.convert("CMYK"))),
            *(encoded(gray, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
            encoded(gray.convert("1"), "TIFF", compression="group4"),
            encoded(gray, "TIFF", **with_thumbnail),
        ],
        "bmp": [encoded(image, "BMP") for image in (gray, color, palette, gray.convert("1"), gray.convert("RGBA"))],
        "gif": [encoded(palette, "GIF"), encoded(palette, "GIF", interlace=0)],
        "webp": [
            encoded(image, "WEBP", lossless=lossless) for image in (color, clear.convert("RGBA")) for lossless in (0, 1)
        ],
    }


def volumes() -> list[bytes]:
    """Valid NIfTI-1 and NIfTI-2 files, of both byte orders, with and without scaling and extension."""
    voxels = np.stack([picture("int16")] * 4, axis=2)
    made = []
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        for dtype in ("int16", "float32", "float64", "uint8"):
            image = kind(voxels.astype(dtype), np.diag([-1.0, 1.0, 2.0, 1.0]))
            if dtype == "int16":
                image.header.set_slope_inter(2.0, 1.0)
            if dtype == "float32":
                image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"made up"))
            made.append(image.to_bytes())
    swapped = nib.Nifti1Image(voxels, np.eye(4), nib.Nifti1Header(endianness=">"))
    return [*made, swapped.to_bytes()]


def series() -> list[bytes]:
    """Valid DICOM files: one slice each, a multi-frame, in several transfer syntaxes."""
    gray, deep = picture("uint8"), picture("uint16") >> 4
    implicit = dicom(deep, ImplicitVRLittleEndian)
    return [
        implicit,
        dicom(deep, ExplicitVRLittleEndian),
        dicom(deep, ExplicitVRBigEndian),
        dicom(np.stack([deep, deep]), ExplicitVRLittleEndian),
        dicom(np.stack([gray] * 3, axis=-1), ExplicitVRLittleEndian),
        implicit[implicit.index(b"\x08\0\x16\0") :],  # without preamble and file meta information
        dicom(gray, JPEGBaseline8Bit, encapsulate([encoded(Image.fromarray(gray), "JPEG")])),
        *(compressed(deep, syntax) for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless)),
    ]


def dicom(pixels: NDArray[np.generic], syntax: UID, encapsulated: bytes | None = None) -> bytes:
    """An MR slice (or several) of nobody."""
    stream = io.BytesIO()
    described(pixels, syntax, encapsulated).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def compressed(pixels: NDArray[np.generic], syntax: UID) -> bytes:
    data = described(pixels, ExplicitVRLittleEndian, None)
    data.compress(syntax, generate_instance_uid=False)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def described(pixels: NDArray[np.generic], syntax: UID, encapsulated: bytes | None) -> Dataset:
    is_color, data = pixels.shape[-1] == 3, Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = MRImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    data.SeriesInstanceUID, data.InstanceNumber, data.Modality = UID("1.2.3"), 1, "MR"
    data.Rows, data.Columns = pixels.shape[:2] if is_color else pixels.shape[-2:]
    if pixels.ndim == 3 and not is_color:
        data.NumberOfFrames = len(pixels)
    data.SamplesPerPixel = 3 if is_color else 1
    if is_color:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = "RGB" if is_color else "MONOCHROME2"
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = 8 if pixels.dtype.itemsize == 1 else 12
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelSpacing, data.SliceThickness, data.SpacingBetweenSlices = [1.0, 1.0], 5.0, 6.0
    data.ImagePositionPatient, data.ImageOrientationPatient = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    data.RescaleSlope, data.RescaleIntercept = 1.0, 0.0
    if encapsulated is None:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        encapsulated = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data.add_new("PixelData", "OB" if pixels.dtype.itemsize == 1 else "OW", encapsulated)
    data["PixelData"].is_undefined_length = syntax.is_compressed
    return data


def archives(*contents: bytes) -> list[bytes]:
    """Valid zips, stored and deflated."""
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            for number, content in enumerate(contents):
                archive.writestr(f"scans/{number}.bin", content)
        made.append(stream.getvalue())
    return made


@cache
def valid_files() -> dict[str, list[bytes]]:
    """Valid files by format."""
    made = pictures()
    nifti, slices = volumes(), series()
    return made | {
        "nifti": nifti,
        "nifti.gz": [gzip.compress(content, mtime=0) for content in nifti[::2]],
        "dicom": slices,
        "zip": [*archives(made["png"][0], nifti[0], slices[1]), *archives(made["jpeg"][0])],
    }


def flip_bits(content: bytearray, other: bytes, random: np.random.Generator) -> None:
    for place in random.integers(0, len(content), random.integers(1, 9)):
        content[place] ^= 1 << int(random.integers(8))


def overwrite_run(content: bytearray, other: bytes, random: np.random.Generator) -> None:
    start, length = int(random.integers(len(content))), int(random.integers(1, 33))
    content[start : start + length] = random.bytes(len(content[start : start + length]))


def truncate(content: bytearray, other: bytes, random: np.random.Generator) -> None:
    del content[1 + int(random.integers(len(content))) :]


def insert(content: bytearray, other: bytes, random: np.random.Generator) -> None:
    place = int(random.integers(len(content)))
    content[place:place] = random.bytes(int(random.integers(1, 65)))


def set_extreme(content: bytearray, other: bytes, random: np.random.Generator) -> None:
    """A field of 1, 2 or 4 bytes, most often of the header, gets a number at the edge of its range."""
    size, reach = int(2 ** random.integers(3)), min(len(content), 512) if random.random() < 0.8 else len(content)
    place = int(random.integers(max(1, reach - size)))
    number = int(random.choice(EXTREMES)) % 256**size
    content[place : place + size] = number.to_bytes(size, "little" if random.random() < 0.5 else "big")


def duplicate_part(content: bytearray, other: bytes, random: np.random.Generator) -> None:
    """A chunk, segment or block is there twice, or in another place; where a format has none, any run of bytes."""
    starts = [match.start() for match in PARTS.finditer(content)]
    if len(starts) < 2:
        starts = sorted(int(place) for place in random.integers(0, len(content), 2))
    first = int(random.integers(len(starts) - 1))
    part = content[starts[first] : starts[first + 1]]
    place = starts[int(random.integers(len(starts)))]
    content[place:place] = part


def splice(content: bytearray, other: bytes, random: np.random.Generator) -> None:
    """The beginning of one file with the end of another."""
    content[1 + int(random.integers(len(content))) :] = other[int(random.integers(len(other))) :]


MUTATIONS: tuple[Callable[[bytearray, bytes, np.random.Generator], None], ...] = (
    *(flip_bits, overwrite_run, truncate, insert, set_extreme, duplicate_part, splice),
)


def damaged_files(name: str, count: int) -> Iterator[bytes]:
    """Damaged files of one format; the same for every call.

    Of a gzipped file half are damaged before they are compressed, of a PNG half get their checksums right again: else little
    but those would be tested.
    """
    random = np.random.default_rng([len(name), *name.encode()])
    files = valid_files()[name]
    plain = [gzip.decompress(content) for content in files] if name == "nifti.gz" else files
    for _ in range(count):
        inner = random.random() < 0.5
        pool = plain if inner else files
        content, other = bytearray(pool[random.integers(len(pool))]), pool[random.integers(len(pool))]
        for _ in range(int(random.integers(1, 4))):
            MUTATIONS[random.integers(len(MUTATIONS))](content, other, random)
        if inner and name == "nifti.gz":
            content = bytearray(gzip.compress(content, 1, mtime=0))
        yield with_checksums(content) if inner and name == "png" else bytes(content)


def with_checksums(content: bytearray) -> bytes:
    """PNG with the checksum that each chunk should have."""
    place = 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(content)


def tally(name: str, count: int) -> Tally:
    """Decode damaged files of one format."""
    outcomes: Counter[str] = Counter()
    memory_mb = 0.0
    with tempfile.TemporaryDirectory() as folder, Decoder() as decoder:
        file = Path(folder) / f"file.{name}"
        for number, content in enumerate(damaged_files(name, count)):
            file.write_bytes(content)
            found = decoder.read(file, timeout_s=HANG_S)
            memory_mb = max(memory_mb, peak_memory_mb(decoder.pid))
            outcome = outcome_of(found)
            outcomes[outcome] += 1
            if outcome in ("crash", "hang"):
                print(f"{name} {number}: {found[0]}", file=sys.stderr)
    return Tally(outcomes, memory_mb)


def outcome_of(found: list[Scan | FileError]) -> str:
    problems = [item.problem for item in found if isinstance(item, FileError)]
    if "decoder-timeout" in problems:
        return "hang"
    if "decoder-crash" in problems:
        return "crash"
    return "decoded" if len(problems) < len(found) else "refused"


def peak_memory_mb(process: int | None) -> float:
    """The most memory that a process has held; a child that has just begun says little, and one that is gone nothing."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def measure_hostile(files_per_format: int) -> dict[str, Figure]:
    """Damage and decode so many files of each format."""
    names = list(valid_files())
    started = time.perf_counter()
    with ThreadPoolExecutor(DECODERS) as pool:
        tallies = dict(zip(names, pool.map(lambda name: tally(name, files_per_format), names), strict=True))
    duration_s = time.perf_counter() - started
    outcomes = sum((one.outcomes for one in tallies.values()), Counter())
    n = len(names) * files_per_format
    figures = {
        "mutated_files": Figure(n, "", n),
        "crashes": Figure(outcomes["crash"], "", n),
        "hangs": Figure(outcomes["hang"], "", n),
        "decoder_peak_memory": Figure(max(one.memory_mb for one in tallies.values()), "MB", n),
        "decoding_rate": Figure(n / duration_s, "files/s", n),
    }
    for name, one in tallies.items():
        figures |= {f"{name}_{what}": Figure(one.outcomes[what], "", files_per_format) for what in ("decoded", "refused")}
    return figures


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=int, default=FILES, help="damaged files of each format")


if __name__ == "__main__":
    run_benchmark(__doc__, lambda arguments: measure_hostile(arguments.files), add_options)
