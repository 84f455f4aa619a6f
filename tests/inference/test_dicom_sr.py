import io
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes
from test_dicom_seg import (
    CREATED,
    SHAPE,
    SPACING,
    complaints,
    make_enhanced,
    make_mask,
    make_result,
    make_series,
    pixels,
    written,
)

from slicewise.errors import InputError
from slicewise.inference.dicom_seg import make_segmentation
from slicewise.inference.dicom_sr import CONCERN, DECISION, SLICES_WITH_TUMOR, make_report
from slicewise.records import Concern
from slicewise.sources.dicom import read_dicom

PRESENT, ABSENT, UNDETERMINED = codes.SCT.Present, codes.SCT.Absent, codes.SCT.Undetermined


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return make_series(tmp_path_factory.mktemp("series"), "oblique")


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    return make_series(tmp_path_factory.mktemp("lone"), count=1)


def read(report):
    return hd.sr.srread(io.BytesIO(written(report)))


def measured(group):
    """Values by name, derivation and unit."""
    return {
        (one.name.meaning, one.derivation and one.derivation.meaning, one.unit.value): one.value
        for one in group.get_measurements()
    }


def texts(group, name):
    return [item.value for item in group[0].ContentSequence if item.ValueType == "TEXT" and item.name == name]


def answer(report):
    (group,) = read(report).content.get_image_measurement_groups()
    return group


def test_what_was_measured_is_found_back(scan):
    mask = make_mask(1)
    result = make_result(scan, mask, uncertainties=np.full(SHAPE[0], 0.03125))
    segmentation = make_segmentation(result, CREATED)
    report = make_report(result, segmentation, CREATED)
    assert measured(answer(report)) == {
        ("Probability", None, "1"): 0.91,
        ("Threshold Value", None, "1"): 0.4375,
        ("Probability", "Standard Deviation", "1"): 0.03125,
    }
    (group,) = read(report).content.get_volumetric_roi_measurement_groups(
        tracking_uid=segmentation.SegmentSequence[0].TrackingUID
    )
    assert measured(group) == {
        ("Slices with tumor", None, "{slices}"): mask.any(axis=(1, 2)).sum(),
        ("Volume", None, "cm3"): pytest.approx(mask.sum() * np.prod(SPACING) / 1000),
    }
    assert (group.finding_type, group.finding_category) == (codes.SCT.Neoplasm, codes.SCT.MorphologicallyAbnormalStructure)
    assert [site.value for site in group.finding_sites] == [codes.SCT.Brain]
    reference = group.referenced_segment
    assert reference.referenced_sop_instance_uid == segmentation.SOPInstanceUID
    assert reference.source_series_for_segmentation.value == dcmread(scan.files[0]).SeriesInstanceUID


def test_a_lone_slice_has_an_area(lone, tmp_path):
    mask = np.ones((1, *SHAPE[1:]), bool)
    result = make_result(lone, mask)
    segmentation = make_segmentation(result, CREATED)
    report = make_report(result, segmentation, CREATED)
    (group,) = read(report).content.get_planar_roi_measurement_groups()
    assert measured(group) == {
        ("Slices with tumor", None, "{slices}"): 1,
        ("Area", None, "mm2"): pytest.approx(mask.sum() * SPACING[1] * SPACING[2]),
    }
    assert group.referenced_segmentation_frame.referenced_sop_instance_uid == segmentation.SOPInstanceUID
    assert complaints(report, tmp_path / "sr.dcm") == []


@pytest.mark.parametrize(
    ("changes", "decision", "presence"),
    [
        ({}, "no tumor", ABSENT),
        ({"abstained": True}, "abstained", UNDETERMINED),
        ({"is_tumor": np.arange(SHAPE[0]) == 2}, "tumor, not localized", PRESENT),
        ({"is_tumor": np.arange(SHAPE[0]) == 2, "masks": np.ones(SHAPE, bool)}, "tumor", PRESENT),
    ],
)
@pytest.mark.parametrize("has_segmentation", [True, False])
def test_the_decision_is_a_code_and_a_text(scan, tmp_path, changes, decision, presence, has_segmentation):
    result = make_result(scan, np.zeros(SHAPE, bool), **changes)
    report = make_report(result, make_segmentation(result, CREATED) if has_segmentation else None, CREATED)
    (evaluation,) = answer(report).get_qualitative_evaluations()
    assert (evaluation.name, evaluation.value) == (codes.SCT.Neoplasm, presence)
    assert texts(answer(report), DECISION) == [decision]
    has_region = has_segmentation and decision == "tumor"
    assert len(read(report).content.get_volumetric_roi_measurement_groups()) == has_region
    assert complaints(report, tmp_path / "sr.dcm") == []


def test_without_a_segmentation_the_extent_stands_with_the_answer(scan):
    result = make_result(scan, make_mask(2))
    values = measured(answer(make_report(result, None, CREATED)))
    assert values["Volume", None, "cm3"] == pytest.approx(result.volume_ml)
    assert values[SLICES_WITH_TUMOR.meaning, None, "{slices}"] == make_mask(2).any(axis=(1, 2)).sum()


def test_where_the_spacing_is_not_known_there_is_no_volume(scan):
    result = make_result(replace(scan, slice_spacing_mm=None), make_mask(2))
    report = make_report(result, make_segmentation(result, CREATED), CREATED)
    (group,) = read(report).content.get_volumetric_roi_measurement_groups()
    assert [one.name for one in group.get_measurements()] == [SLICES_WITH_TUMOR]


def test_concerns_are_told_in_full(scan, tmp_path):
    concerns = (Concern("uneven-slices", "Expected equal distances, 3 × larger.", 3.0), Concern("inverted", "Bright air."))
    report = make_report(make_result(scan, make_mask(3), concerns=concerns), None, CREATED)
    expected = ["uneven-slices: Expected equal distances, 3 × larger.", "inverted: Bright air."]
    assert texts(answer(report), CONCERN) == expected
    assert complaints(report, tmp_path / "sr.dcm") == []


def test_it_says_that_it_is_research_and_unverified(scan):
    report = read(make_report(make_result(scan, make_mask(4)), None, CREATED))
    assert (report.VerificationFlag, report.CompletionFlag, report.PreliminaryFlag) == (
        "UNVERIFIED",
        "COMPLETE",
        "PRELIMINARY",
    )
    (comment,) = texts(answer(report), codes.DCM.Comment)
    assert "research software, not a medical device" in comment
    assert "not a medical device" in report.SeriesDescription


def test_the_observer_is_the_model(scan):
    result = make_result(scan, make_mask(4))
    reports = [make_report(one, None, CREATED) for one in (result, replace(result, model_id="ba9876543210"))]
    observers = [
        context.observer_identifying_attributes
        for report in reports
        for context in read(report).content.get_observer_contexts(codes.DCM.Device)
    ]
    assert [observer.serial_number for observer in observers] == ["0123456789ab", "ba9876543210"]
    assert observers[0].name == "slicewise"
    assert observers[0].uid != observers[1].uid


def test_images_and_segmentation_are_its_evidence(scan):
    result = make_result(scan, make_mask(5))
    segmentation = make_segmentation(result, CREATED)
    report = read(make_report(result, segmentation, CREATED))
    images = [dcmread(file).SOPInstanceUID for file in scan.files]
    assert [instance for _, _, instance, _ in report.get_evidence()] == [*images, segmentation.SOPInstanceUID]
    assert [image.referenced_sop_instance_uid for image in answer(report).source_images] == images
    assert report.StudyInstanceUID == segmentation.StudyInstanceUID
    assert str(report.PatientName) == "Müller^Änne"


@pytest.mark.parametrize(("modality", "procedure"), [("MR", "25056-3"), ("CT", "363679005"), ("unknown", "363679005")])
def test_the_procedure_is_as_exact_as_the_header(scan, modality, procedure):
    report = make_report(make_result(replace(scan, modality=modality), make_mask(5)), None, CREATED)
    (item,) = (item for item in report.ContentSequence if item.name == codes.DCM.ProcedureReported)
    assert item.value.value == procedure


def test_the_same_answer_is_the_same_object(scan):
    result = make_result(scan, make_mask(6))
    segmentation = make_segmentation(result, CREATED)
    report = make_report(result, segmentation, CREATED)
    assert written(report) == written(make_report(result, segmentation, CREATED))
    other = make_report(replace(result, threshold=0.5), segmentation, CREATED)
    assert other.SOPInstanceUID != report.SOPInstanceUID
    assert other.SeriesInstanceUID == report.SeriesInstanceUID != segmentation.SeriesInstanceUID


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 0, 4, 1, 2)])
def test_a_multi_frame_file(tmp_path, order):
    result = make_result(make_enhanced(tmp_path, order), make_mask(7))
    report = make_report(result, make_segmentation(result, CREATED), CREATED)
    assert len(read(report).content.get_volumetric_roi_measurement_groups()) == 1
    assert complaints(report, tmp_path / "sr.dcm") == []


def test_what_is_no_dicom_is_refused(scan):
    with pytest.raises(InputError, match="Expected a scan of DICOM files"):
        make_report(make_result(replace(scan, kind="picture"), make_mask(1)), None)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_real_series(shared_data, tmp_path):
    """Its own headers break the standard: an age without its unit, numbers of more than 16 characters."""
    (real,) = read_dicom(sorted((shared_data / "dicom" / "healthy_t1").glob("*.dcm")), "series")
    mask = np.zeros(real.grid_shape, bool)
    mask[10:20, 100:150, 80:120] = np.random.default_rng(0).random((10, 50, 40)) < 0.5
    result = make_result(real, mask)
    segmentation = make_segmentation(result, CREATED)
    report = make_report(result, segmentation, CREATED)
    assert np.array_equal(pixels(segmentation, real), mask)
    (group,) = read(report).content.get_volumetric_roi_measurement_groups()
    assert measured(group)["Volume", None, "cm3"] == pytest.approx(result.volume_ml)
    assert complaints(segmentation, tmp_path / "seg.dcm") == []
    assert complaints(report, tmp_path / "sr.dcm") == []
