"""Headers of DICOM files: what is an image, and what its frames say of themselves. Impossible numbers are refused here."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from slicewise.errors import UnreadableFileError
from slicewise.sources.dicom_geometry import MARKS, Frame

__all__ = ["guarded", "is_dicom", "is_image", "read_dataset", "read_frames", "read_header", "series_of"]

_PIXEL_LIMIT = 64_000_000
_FRAME_LIMIT = 2**16
_UNIT_TOLERANCE = 5e-3
_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "libjpeg")

# With which element a file without a preamble begins, and the kind of value an explicit one names.
_FIRST = {
    0x0000: b"UL",
    0x0001: b"UL",
    0x0005: b"CS",
    0x0008: b"CS",
    0x0012: b"DA",
    0x0013: b"TM",
    0x0014: b"UI",
    0x0016: b"UI",
}
_FIRST_LENGTH_LIMIT = 256

# A code outside the standard could be anything, a name too: it becomes OT, "other".
_MODALITIES = frozenset(
    (
        *("CR", "CT", "DG", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM", "OP", "OPT", "OT", "PT", "PX"),
        *("RF", "RG", "RTDOSE", "RTIMAGE", "SC", "SM", "TG", "US", "XA", "XC"),
    )
)

# Where a multi-frame file says it; any other file says it at the top.
_MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "StackID": "FrameContentSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "FrameType": "MRImageFrameTypeSequence",
}
_KEYWORDS = (
    *("SOPClassUID", "InstanceNumber", "Modality", "ImageType", "BurnedInAnnotation"),
    *("SeriesNumber", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"),
    *("Rows", "Columns", "NumberOfFrames", "PhotometricInterpretation", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *_MACROS,
    *MARKS,
)


def is_dicom(file: Path) -> bool:
    """The bytes look like DICOM's: ``DICM`` at byte 128, or a first element of group 0008. The ending does not matter."""
    if not file.is_file():  # to open a pipe could take forever
        return False
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or _starts_with_element(start)


@contextmanager
def guarded(file: Path) -> Iterator[None]:
    """Refuse whatever goes wrong within, and keep it quiet: what pydicom raises, warns of and logs can quote a header.

    Raises:
        UnreadableFileError: As raised within, or in place of any other exception.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnreadableFileError:
        raise
    except Exception as error:  # a parser fed with damaged bytes fails in more ways than can be listed
        raise UnreadableFileError(
            f"Expected a readable DICOM file, could not decode {file} ({type(error).__name__}). Copy it again or remove it.",
            file=file,
        ) from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_dataset(file: Path, **options: Any) -> Dataset:
    """`pydicom.dcmread`, forced only on a file without a preamble."""
    with file.open("rb") as stream:
        has_preamble = stream.read(132)[128:] == b"DICM"
    return dcmread(file, force=not has_preamble, **options)


def read_header(file: Path) -> Dataset:
    """What is used of a header, without the pixels. Call within `guarded`, as all below.

    Raises:
        UnreadableFileError: The file is missing, no DICOM, or deflated.
    """
    if not file.exists():
        raise UnreadableFileError(f"Expected a DICOM file, found nothing at {file}. Check the path.", file=file)
    if not is_dicom(file):
        raise UnreadableFileError(f"Expected a DICOM file, {file} is none. Remove it.", file=file)
    # pydicom would inflate it at once, however large that makes it, before it looks at a tag.
    if _is_deflated(file):
        raise UnreadableFileError(
            f"Expected a header that is not compressed, {file} is deflated. Convert it to Explicit VR Little Endian.",
            file=file,
        )
    return read_dataset(file, stop_before_pixels=True, specific_tags=list(_KEYWORDS))


def series_of(header: Dataset) -> tuple[int, str, str, str]:
    """SeriesNumber and UID, study and patient, for grouping and order; 0 and nothing where the file does not say.

    The series alone should do, but careless anonymizers take its UID away, or give the same one to everybody.
    """
    uid, study, patient = (str(header.get(name) or "") for name in ("SeriesInstanceUID", "StudyInstanceUID", "PatientID"))
    return int(header.get("SeriesNumber") or 0), uid, study, patient


def is_image(header: Dataset) -> bool:
    """False for what holds no image or derived labels: a directory, a report, a presentation state, a segmentation."""
    said = header.file_meta.get("MediaStorageSOPClassUID")
    if said == MediaStorageDirectoryStorage:
        return False
    if said != header.get("SOPClassUID") or not said:  # a damaged image, perhaps, which must not be passed over
        return True
    # A private kind has no name of its own.
    return "Image Storage" in said.name if said.name != said else "Rows" in header


def read_frames(file: Path, header: Dataset, *, allow_burned_in: bool) -> Iterator[Frame]:
    """The frames of an image, as they are stored.

    Raises:
        UnreadableFileError: It declares no pixels or too many, burned-in text that is not allowed, a mosaic, a table of
            intensities, another number of descriptions than frames, or an impossible spacing, position, direction, slope.
    """
    shape, count = _checked_shape(file, header)
    _check_content(file, header, allow_burned_in)
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
    own = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    if own and len(own) != count:
        raise UnreadableFileError(
            f"Expected a description of each of {count} frames in {file}, found {len(own)}. Export it again.", file=file
        )
    for number in range(count):
        groups = (*own[number : number + 1], *shared)
        # One position for many frames does not say where each of them lies.
        yield _read_frame(_Header(file, header, groups), number, shape, count, has_places=count == 1 or bool(own))


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file says of one frame."""

    file: Path
    top: Dataset
    groups: tuple[Dataset, ...]
    """Functional groups, the frame's own before those shared by all."""

    def value(self, keyword: str) -> Any:
        """Of the element; None where the file does not say."""
        for group in self.groups if keyword in _MACROS else ():
            macro = group.get(_MACROS[keyword])
            if macro and keyword in macro[0]:
                return macro[0].get(keyword)
        return self.top.get(keyword)

    def numbers(self, keyword: str, count: int) -> NDArray[np.float64] | None:
        """``(count,)``, finite; None where the file does not say."""
        value = self.value(keyword)
        if value is None or value == "":
            return None
        numbers = np.asarray(value, dtype=np.float64).reshape(-1)
        if numbers.size != count or not np.isfinite(numbers).all():
            raise self.refusal(f"a finite {keyword}" if count == 1 else f"{count} finite numbers for {keyword}")
        return numbers

    def length(self, keyword: str) -> float | None:
        """Millimeters above 0; a length of 0 says nothing."""
        numbers = self.numbers(keyword, 1)
        if numbers is None or numbers[0] == 0:
            return None
        if numbers[0] < 0:
            raise self.refusal(f"a {keyword} of at least 0")
        return float(numbers[0])

    def refusal(self, expected: str) -> UnreadableFileError:
        """Of an impossible number, which is not quoted."""
        return UnreadableFileError(
            f"Expected {expected}, the header of {self.file} has something else. Repair or remove it.",
            "non-finite",
            self.file,
        )


def _starts_with_element(start: bytes) -> bool:
    group, element = int.from_bytes(start[:2], "little"), int.from_bytes(start[2:4], "little")
    if len(start) < 132 or group != 0x0008 or element not in _FIRST:
        return False
    length = int.from_bytes(start[6:8] if start[4:6] == _FIRST[element] else start[4:8], "little")
    return length <= _FIRST_LENGTH_LIMIT and length % 2 == 0


def _is_deflated(file: Path) -> bool:
    try:
        syntax = read_file_meta_info(file).get("TransferSyntaxUID")
    except InvalidDicomError:  # no preamble, so nothing that could name a syntax
        return False
    return syntax == DeflatedExplicitVRLittleEndian


def _checked_shape(file: Path, header: Dataset) -> tuple[tuple[int, int], int]:
    """Rows and columns, and the number of frames."""
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    said = header.get("NumberOfFrames")
    count = 1 if said is None or said == "" else int(said)
    if rows < 1 or columns < 1 or count < 1:
        raise UnreadableFileError(
            f"Expected pixels, {file} declares {count} frames of {rows} × {columns}. Copy it again or remove it.",
            "no-pixels",
            file,
        )
    if rows * columns > _PIXEL_LIMIT or count > _FRAME_LIMIT:
        raise UnreadableFileError(
            f"Expected at most {_FRAME_LIMIT:,} frames of at most {_PIXEL_LIMIT // 10**6} million pixels, {file} declares "
            f"{count:,} of {rows} × {columns}. Crop or divide it.",
            file=file,
        )
    return (rows, columns), count


def _check_content(file: Path, header: Dataset, allow_burned_in: bool) -> None:
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES" and not allow_burned_in:
        raise UnreadableFileError(
            f"Expected pixels that identify no one, the header of {file} says that text is burned into them "
            "(BurnedInAnnotation). Blacken the text, or allow it.",
            "burned-in-annotation",
            file,
        )
    if "MOSAIC" in str(header.get("ImageType") or ""):
        raise UnreadableFileError(
            f"Expected one slice in a frame, {file} holds a mosaic of many. Convert the series to NIfTI (dcm2niix).",
            file=file,
        )
    if header.get("ModalityLUTSequence"):
        raise UnreadableFileError(
            f"Expected intensities by slope and intercept, {file} has a table (ModalityLUTSequence). Convert it.", file=file
        )


def _read_frame(header: _Header, number: int, shape: tuple[int, int], count: int, *, has_places: bool) -> Frame:
    slope, intercept = header.numbers("RescaleSlope", 1), header.numbers("RescaleIntercept", 1)
    if slope is not None and slope[0] == 0:
        raise header.refusal("a RescaleSlope other than 0")
    spacing = header.numbers("PixelSpacing", 2)
    if spacing is not None and spacing.min() <= 0:
        raise header.refusal("a PixelSpacing above 0")
    position, directions = header.numbers("ImagePositionPatient", 3), _directions(header)
    is_placed = has_places and position is not None and directions is not None and spacing is not None
    code, photometric = str(header.value("Modality") or ""), str(header.value("PhotometricInterpretation") or "")
    modality = (code if code in _MODALITIES else "OT") if code else "unknown"
    is_gray = photometric.startswith("MONOCHROME")  # slope and intercept are not meant for colors
    return Frame(
        file=header.file,
        number=number,
        instance=int(header.value("InstanceNumber") or 0),
        shape=shape,
        kind=(modality, photometric, str(header.file) if count > 1 else ""),
        marks=tuple(str(header.value(keyword)) for keyword in MARKS),
        modality=modality,
        is_inverted=photometric == "MONOCHROME1",
        slope=float(slope[0]) if is_gray and slope is not None else 1.0,
        intercept=float(intercept[0]) if is_gray and intercept is not None else 0.0,
        spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        gap_mm=header.length("SpacingBetweenSlices"),
        thickness_mm=header.length("SliceThickness"),
        position=position if is_placed else None,
        directions=directions if is_placed else None,
    )


def _directions(header: _Header) -> NDArray[np.float64] | None:
    numbers = header.numbers("ImageOrientationPatient", 6)
    if numbers is None:
        return None
    directions = numbers.reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    if np.abs(lengths - 1).max() > _UNIT_TOLERANCE or abs(directions[0] @ directions[1]) > _UNIT_TOLERANCE:
        raise header.refusal("an ImageOrientationPatient of two unit vectors at right angles")
    return directions / lengths
