"""What the DICOM objects made of a result share: the headers they come from, their identity, and how they are written."""

from __future__ import annotations

import datetime
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import DS, DT, validate_value

from slicewise import __version__
from slicewise.errors import InputError
from slicewise.files import write_atomically
from slicewise.records import Scan

__all__ = ["EQUIPMENT", "NOTICE", "built_from", "derive_uid", "place_frames", "read_headers", "stamp", "write_dicom"]

NOTICE = "research software, not a medical device"
"""What each object says of itself."""

EQUIPMENT: dict[str, Any] = {
    "manufacturer": "slicewise",
    "manufacturer_model_name": "slicewise",
    "software_versions": __version__,
}
"""What made the objects."""

# Both libraries log the values that they find odd, names of patients among them.
for _library in ("pydicom", "highdicom"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)

_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_GEOMETRY = ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
_SHARED_GROUPS = ("PixelMeasuresSequence", "PlaneOrientationSequence")
_FRAME_GROUPS = (*_SHARED_GROUPS, "PlanePositionSequence")
# Of type 2 in an image: there, if empty; files lack them all the same.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
# What archives file by: a value that is too long is still the right one.
_KEPT_AS_THEY_ARE = {*_IDENTITY, "PatientID", "PatientName", "StudyID", "AccessionNumber"}


def read_headers(scan: Scan) -> list[Dataset]:
    """The headers of a scan's files, in their order and without pixels, fit to be passed on.

    Values that break their own representation are left out (DICOM PS3.5, 6.2), numbers written with at most 16 characters,
    text is in UTF-8.

    Raises:
        InputError: The scan is not of DICOM files, or they are gone, have changed, or do not say where they lie.
    """
    if scan.kind != "dicom":
        raise InputError(
            f"Expected a scan of DICOM files, {scan.name} was read from the kind {scan.kind}. A DICOM object refers to the "
            "images it describes; write the mask in the format of the input instead."
        )
    with built_from(scan):
        headers = [_read_header(file) for file in scan.files]
        missing = sorted({keyword for header in headers for keyword in _missing(header)})
        if missing or scan.affine is None:
            raise InputError(
                f"Expected images that say where they lie in the patient, those of {scan.name} do not, such as secondary "
                f"captures (missing: {', '.join(missing) or 'a common grid'}). Take the series that the scanner sent."
            )
        frames = sum(_frame_count(header) for header in headers)
        if len(headers) == 1 and frames > scan.grid_shape[0]:
            raise InputError(
                f"Expected a multi-frame file of one volume, {scan.name} is one of several in its file. Export each as a "
                "series of its own."
            )
        if {(frames, header.Rows, header.Columns) for header in headers} != {scan.grid_shape}:
            raise InputError(f"Expected the files of {scan.name} as they were predicted, they have changed. Predict again.")
        for header in headers:
            _settle(header, headers[0], float(np.linalg.norm(scan.affine[:3, 0])), frames)
    return headers


def place_frames(headers: Sequence[Dataset], scan: Scan) -> NDArray[np.intp]:
    """Which frame of the grid each frame of the files is: files stand in its order, the frames of one file need not.

    Args:
        headers: From `read_headers` of this scan.
    """
    if len(headers) > 1 or scan.affine is None or scan.grid_shape[0] == 1:
        return np.arange(scan.grid_shape[0])
    frames = headers[0].PerFrameFunctionalGroupsSequence
    positions = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], dtype=float)
    # Along the grid's first axis, in RAS+.
    return np.argsort(np.argsort(positions * (-1, -1, 1) @ scan.affine[:3, 0], kind="stable"))


@contextmanager
def built_from(scan: Scan) -> Iterator[None]:
    """Keep header values out of warnings, and name the scan where pydicom or highdicom refuse its headers.

    Raises:
        InputError: They do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"Expected headers that a DICOM object can be built on, those of {scan.name} are refused by highdicom "
                f"({type(error).__name__}). Take the series that the scanner sent."
            ) from None  # it can quote a header


def derive_uid(*sources: str) -> UID:
    """A UID that follows from what it names: sent twice, an object is the same object."""
    return generate_uid(entropy_srcs=["\n".join(sources)])


def stamp(dataset: Any, created: datetime.datetime) -> None:
    """Put the time of creation where highdicom puts that of the call."""
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = created.date(), created.time()
    dataset.ContributingEquipmentSequence[-1].ContributionDateTime = DT(created)


def write_dicom(dataset: Dataset, file: Path) -> None:
    """Write a DICOM object as a file, whole or not at all."""
    write_atomically(file, lambda part: dataset.save_as(part, enforce_file_format=True))


def _read_header(file: Path) -> Dataset:
    try:
        header = dcmread(file, force=True, stop_before_pixels=True)  # a file without a preamble is a DICOM file, too
        groups = [*header.get("SharedFunctionalGroupsSequence", []), *header.get("PerFrameFunctionalGroupsSequence", [])]
        for group in groups:  # most of the time would go into groups that nobody reads
            for tag in group.keys() - {group[keyword].tag for keyword in _FRAME_GROUPS if keyword in group}:
                del group[tag]
        _tidy(header)
    except OSError as error:
        raise InputError(
            f"Expected a DICOM file at {file}, it cannot be read ({error.strerror}). Check the path."
        ) from error
    except Exception as error:  # a parser fed with damaged bytes fails in more ways than can be listed
        raise InputError(
            f"Expected a DICOM file at {file}, it cannot be read ({type(error).__name__}). Copy it again."
        ) from None
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = None
    header.SpecificCharacterSet = "ISO_IR 192"
    return header


def _tidy(dataset: Dataset) -> None:
    """Decode every element, and delete those that are private or break their own representation."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            keep = not tag.is_private and (element.keyword in _KEPT_AS_THEY_ARE or _is_valid(element))
        except Exception:  # as many ways as above; what cannot be decoded cannot be passed on
            keep = False
        if not keep:
            del dataset[tag]


def _is_valid(element: DataElement) -> bool:
    if element.VR == "SQ":
        for item in element.value:
            _tidy(item)
        return True
    values = list(element.value) if element.VM > 1 else [element.value]
    if element.VR == "DS":
        values = [value if value in ("", None) else DS(value, auto_format=True) for value in values]
        element.value = values if element.VM > 1 else values[0]
        return True
    for value in values:
        validate_value(element.VR, str(value) if element.VR == "IS" else value, RAISE)
    return True


def _frame_count(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _missing(header: Dataset) -> list[str]:
    """Keywords of what an object refers to, or takes over, and the header lacks."""
    missing = [keyword for keyword in _IDENTITY if not header.get(keyword)]
    frames = header.get("PerFrameFunctionalGroupsSequence", [])
    if not frames and _frame_count(header) == 1:
        return missing + [keyword for keyword in _GEOMETRY if not header.get(keyword)]
    if len(frames) != _frame_count(header):
        return [*missing, "PerFrameFunctionalGroupsSequence"]
    shared = [*header.get("SharedFunctionalGroupsSequence", []), Dataset()][0]
    return missing + [
        keyword for keyword in _FRAME_GROUPS if not all(frame.get(keyword) or shared.get(keyword) for frame in frames)
    ]


def _settle(header: Dataset, first: Dataset, distance_mm: float, frames: int) -> None:
    """Put the geometry where highdicom looks for it.

    The reader has held the slices to one orientation and one spacing; highdicom compares them to the last digit. The
    distance between slices is the one of their positions, which highdicom computes; headers know others, such as the gap.
    A thickness that the header lacks is the distance, for highdicom reads no segmentation without.
    """
    measures = header
    if "PerFrameFunctionalGroupsSequence" in header:
        shared = header.SharedFunctionalGroupsSequence[0]
        for frame in header.PerFrameFunctionalGroupsSequence:
            for keyword in _SHARED_GROUPS:
                if keyword not in shared:
                    setattr(shared, keyword, frame[keyword].value)
            if "PlanePositionSequence" not in frame:
                frame.PlanePositionSequence = shared.PlanePositionSequence
        measures = shared.PixelMeasuresSequence[0]
    else:
        header.ImageOrientationPatient = first.ImageOrientationPatient
    if not measures.get("SliceThickness"):
        measures.SliceThickness = DS(distance_mm, auto_format=True)
    if frames > 1 and "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices
