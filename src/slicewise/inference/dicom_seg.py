"""The mask of a DICOM series as a DICOM Segmentation (PS3.3, A.51), on the grid of its images."""

from __future__ import annotations

import datetime
import hashlib

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes

from slicewise import __version__
from slicewise.inference.dicom_source import EQUIPMENT, NOTICE, built_from, derive_uid, place_frames, read_headers, stamp
from slicewise.inference.result import Result

__all__ = ["make_segmentation"]

_SERIES_NUMBER = 9001
_ORANGE = (230, 159, 0)  # as in the overlay


def make_segmentation(result: Result, created: datetime.datetime | None = None) -> Dataset:
    """The mask as a binary segmentation with one segment, "Tumor".

    Frames without a pixel of the mask are left out, as usual; if all are, the object holds every frame, empty. Its content
    description then tells why: "no tumor", "abstained" or "tumor, not localized". Patient and study are those of the images.
    The UIDs follow from images, model, threshold and mask: the same answer is the same object, and its bytes are
    equal where ``created`` is.

    Args:
        result: Of a scan of kind ``dicom``.
        created: Local time that the object tells as its creation; by default now.

    Raises:
        InputError: The scan is not of DICOM images that say where they lie, or its files are gone or have changed.
    """
    headers = read_headers(result.scan)
    mask = result.mask
    created = created or datetime.datetime.now()
    identity = (
        *(str(header.SOPInstanceUID) for header in headers),
        result.model_id,
        __version__,
        repr(float(result.threshold)),
        result.decision,
        _digest(mask),
    )
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Tumor",
        # CID 7150 and 7151. Whether it is primary, or which kind, the model does not tell.
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name="slicewise",
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
            parameters={"model": result.model_id, "threshold": f"{result.threshold:.6g}"},
        ),
        tracking_id="slicewise tumor",
        tracking_uid=derive_uid("tumor", *identity),
        anatomic_regions=[codes.SCT.Brain],
        display_color=CIELabColor.from_rgb(*_ORANGE),
    )
    with built_from(result.scan):
        segmentation = Segmentation(
            source_images=headers,
            pixel_array=mask[place_frames(headers, result.scan)],
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[segment],
            series_instance_uid=derive_uid("segmentations", headers[0].SeriesInstanceUID, result.model_id, __version__),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=derive_uid("segmentation", *identity),
            instance_number=1,
            **EQUIPMENT,
            device_serial_number=result.model_id,
            series_description=f"Tumor, {NOTICE}",
            content_label="TUMOR",
            content_description=f"{result.decision}; {NOTICE}",
            content_date=created.date(),
            content_time=created.time(),
            omit_empty_frames=bool(mask.any()),
        )
        stamp(segmentation, created)
        # highdicom draws this one.
        organization = derive_uid("dimensions", *identity)
        segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
        for index in segmentation.DimensionIndexSequence:
            index.DimensionOrganizationUID = organization
    return segmentation


def _digest(mask: NDArray[np.bool_]) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
