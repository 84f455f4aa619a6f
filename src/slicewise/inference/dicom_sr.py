"""The answer for a DICOM series as a structured report (DICOM PS3.16, TID 1500), for readers beside the images.

The report is a Comprehensive 3D SR, as the profile AI Results of IHE Radiology asks for. Where DICOM and SNOMED CT have no
code, the codes are of our own scheme, which the report declares.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from slicewise import __version__
from slicewise.inference.dicom_source import EQUIPMENT, NOTICE, built_from, derive_uid, read_headers, stamp
from slicewise.inference.result import Result

__all__ = ["CONCERN", "DECISION", "SLICES_WITH_TUMOR", "make_report"]

_SCHEME = "99SLICEWISE"  # PS3.16, 8.2: what begins with 99 is private
DECISION = Code("decision", _SCHEME, "Decision")
"""Name of the text that says the answer in the words of `Result.decision`."""
CONCERN = Code("concern", _SCHEME, "Concern about the input")
"""Name of a text with the rule and the message of one of the concerns."""
SLICES_WITH_TUMOR = Code("tumor-slices", _SCHEME, "Slices with tumor")
"""Name of the number of slices in which the mask has a pixel."""
_SLICES = Code("{slices}", "UCUM", "slices")

_SERIES_NUMBER = 9002
# CID 240.
_PRESENCE = {
    "tumor": codes.SCT.Present,
    "tumor, not localized": codes.SCT.Present,
    "no tumor": codes.SCT.Absent,
    "abstained": codes.SCT.Undetermined,
}


def make_report(result: Result, segmentation: Dataset | None, created: datetime.datetime | None = None) -> Dataset:
    """What the model answers: decision, probability and threshold, concerns, and the extent of the mask.

    The extent is that of the segment of ``segmentation``, as a volume in cm³, or as an area in mm² if the series has one
    image; without a segmentation it stands with the answer. The document is complete, preliminary and unverified. The UIDs
    follow from what it says: the same answer is the same object, and its bytes are equal where ``created`` is.

    Args:
        result: Of a scan of kind ``dicom``.
        segmentation: From `make_segmentation` of the same result.
        created: Local time that the object tells as its creation; by default now.

    Raises:
        InputError: The scan is not of DICOM images that say where they lie, or its files are gone or have changed.
    """
    headers = read_headers(result.scan)
    created = created or datetime.datetime.now()
    region = [] if segmentation is None or not result.masks.any() else [_region(result, segmentation, headers)]
    # CID 100 has no MRI of the brain; the finding sites say it.
    is_mr = result.scan.modality == "MR"
    content = sr.MeasurementReport(
        observation_context=_observer(result),
        procedure_reported=codes.cid100.MRIUnspecifiedBodyRegion if is_mr else codes.cid100.ImagingProcedure,
        imaging_measurements=[_answer(result, headers, extent=not region), *region],
    )
    with built_from(result.scan):
        report = sr.Comprehensive3DSR(
            evidence=[*headers, *([segmentation] if segmentation is not None else [])],
            content=content,
            series_instance_uid=derive_uid("reports", headers[0].SeriesInstanceUID, result.model_id, __version__),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=derive_uid("report", hashlib.sha256(content[0].to_json().encode()).hexdigest()),
            instance_number=1,
            **EQUIPMENT,
            device_serial_number=result.model_id,
            series_description=f"Report, {NOTICE}",
            content_date=created.date(),
            content_time=created.time(),
            is_complete=True,
            coding_schemes=[CodingSchemeIdentificationItem(_SCHEME, name="slicewise", responsible_organization="slicewise")],
        )
    stamp(report, created)
    return report


def _observer(result: Result) -> sr.ObservationContext:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derive_uid("slicewise", __version__, result.model_id),
        name="slicewise",
        manufacturer_name=EQUIPMENT["manufacturer"],
        model_name=EQUIPMENT["manufacturer_model_name"],
        serial_number=result.model_id,
    )
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device))


_Region: TypeAlias = (
    sr.PlanarROIMeasurementsAndQualitativeEvaluations | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
)


def _answer(result: Result, headers: Sequence[Dataset], extent: bool) -> sr.MeasurementsAndQualitativeEvaluations:
    """The group on the images as a whole."""
    uncertainty = result.uncertainty
    measurements = [
        sr.Measurement(codes.DCM.Probability, result.probability, codes.UCUM.NoUnits),
        sr.Measurement(codes.DCM.ThresholdValue, result.threshold, codes.UCUM.NoUnits),
    ]
    if uncertainty is not None:
        measurements.append(
            sr.Measurement(codes.DCM.Probability, uncertainty, codes.UCUM.NoUnits, derivation=codes.SCT.StandardDeviation)
        )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=derive_uid("answer", *(str(header.SOPInstanceUID) for header in headers), result.model_id, __version__),
            identifier="slicewise answer",
        ),
        algorithm_id=_algorithm(result),
        finding_sites=[sr.FindingSite(codes.SCT.Brain)],
        measurements=measurements + (_extent(result) if extent and result.masks.any() else []),
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.SCT.Neoplasm, _PRESENCE[result.decision])],
    )
    texts = [
        (DECISION, result.decision),
        *((CONCERN, f"{concern.rule}: {concern.message}") for concern in result.concerns),
        (codes.DCM.Comment, f"Computed by {NOTICE}, and verified by no one."),
    ]
    # TID 1501 is extensible; highdicom has no argument for texts. The images come last, where they hide nothing.
    group[0].ContentSequence.extend(
        sr.TextContentItem(name, text, sr.RelationshipTypeValues.CONTAINS) for name, text in texts
    )
    group[0].ContentSequence.extend(
        sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID) for header in headers
    )
    return group


def _region(result: Result, segmentation: Dataset, headers: Sequence[Dataset]) -> _Region:
    """The group on the mask."""
    segment = segmentation.SegmentSequence[0]
    shared: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
        "finding_category": codes.SCT.MorphologicallyAbnormalStructure,
        "finding_type": codes.SCT.Neoplasm,
        "algorithm_id": _algorithm(result),
        "finding_sites": [sr.FindingSite(codes.SCT.Brain)],
        "measurements": _extent(result),
    }
    # highdicom's from_segmentation looks for the segment's number in each frame, where its Segmentation does not put it.
    reference: dict[str, Any] = {
        "sop_class_uid": segmentation.SOPClassUID,
        "sop_instance_uid": segmentation.SOPInstanceUID,
        "segment_number": segment.SegmentNumber,
    }
    if result.scan.grid_shape[0] == 1:
        image = sr.SourceImageForSegmentation(headers[0].SOPClassUID, headers[0].SOPInstanceUID)
        frame = sr.ReferencedSegmentationFrame(**reference, frame_number=1, source_image=image)
        # A frame's number excludes a segment's (PS3.3, C.18.4); highdicom writes both.
        del frame[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=frame, **shared)
    series = sr.SourceSeriesForSegmentation(headers[0].SeriesInstanceUID)
    volume = sr.ReferencedSegment(**reference, source_series=series)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=volume, **shared)


def _extent(result: Result) -> list[sr.Measurement]:
    """Volume or area, where known, and number of slices."""
    slices = int(np.count_nonzero(result.masks.any(axis=(1, 2))))
    measurements = [sr.Measurement(SLICES_WITH_TUMOR, slices, _SLICES)]
    if result.volume_ml is not None:
        measurements.append(sr.Measurement(codes.SCT.Volume, result.volume_ml, codes.UCUM.CubicCentimeter))
    if result.area_mm2 is not None:
        measurements.append(sr.Measurement(codes.SCT.Area, result.area_mm2, codes.UCUM.SquareMillimeter))
    return measurements


def _algorithm(result: Result) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name="slicewise",
        version=__version__,
        parameters=[f"model {result.model_id}"],
    )
