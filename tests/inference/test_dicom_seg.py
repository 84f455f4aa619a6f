import datetime
import io
import logging
import shutil
import subprocess
import sys
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from slicewise.errors import InputError
from slicewise.inference.dicom_seg import make_segmentation
from slicewise.inference.dicom_source import write_dicom
from slicewise.inference.result import Result
from slicewise.orientation import Orientation
from slicewise.records import Scan

CREATED = datetime.datetime(2024, 5, 6, 7, 8, 9)
SHAPE = (5, 7, 6)
SPACING = (3.0, 0.8, 0.9)
# Where column indices and row indices grow, in LPS; slices go along their normal, or against it.
TURN = np.deg2rad(20)
DIRECTIONS = {
    "axial": ((1, 0, 0), (0, 1, 0), 1),
    "axial, from above": ((1, 0, 0), (0, 1, 0), -1),
    "axial, mirrored": ((-1, 0, 0), (0, 1, 0), 1),
    "coronal": ((1, 0, 0), (0, 0, -1), 1),
    "sagittal": ((0, 1, 0), (0, 0, -1), -1),
    "oblique": ((np.cos(TURN), np.sin(TURN), 0), (-np.sin(TURN), np.cos(TURN), 0), 1),
}


def make_header(sop_class=MRImageStorage):
    """One patient, study and series, without geometry."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID, header.SOPInstanceUID = sop_class, generate_uid(entropy_srcs=["image"])
    header.StudyInstanceUID, header.SeriesInstanceUID = (generate_uid(entropy_srcs=[level]) for level in ("study", "series"))
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = "Müller^Änne", "42", "19700101", "F"
    header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20240101", "120000", "1", "A1"
    header.Modality, header.Manufacturer, header.SeriesNumber, header.InstanceNumber = "MR", "test", 3, 1
    header.Rows, header.Columns, header.BitsAllocated, header.SamplesPerPixel = *SHAPE[1:], 16, 1
    header.PhotometricInterpretation = "MONOCHROME2"
    return header


def positions(name, count):
    """``(count, 3)``, LPS."""
    along_columns, along_rows, sign = DIRECTIONS[name]
    return (
        np.array([-50.0, -60.0, 20.0]) + np.outer(np.arange(count), np.cross(along_columns, along_rows)) * sign * SPACING[0]
    )


def numbers(values):
    return [f"{value:.10g}" for value in np.ravel(values)]


def save(header, file):
    file.parent.mkdir(exist_ok=True)
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.save_as(file, enforce_file_format=True)
    return file


def make_series(folder, name="axial", count=SHAPE[0], change=lambda header: None):
    """Files of single slices in the order of the grid."""
    files = []
    for number, position in enumerate(positions(name, count)):
        header = make_header()
        header.SOPInstanceUID, header.InstanceNumber = generate_uid(entropy_srcs=["image", str(number)]), number + 1
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        header.ImagePositionPatient = numbers(position)
        header.ImageOrientationPatient = numbers(DIRECTIONS[name][:2])
        header.PixelSpacing, header.SliceThickness = numbers(SPACING[1:]), "2.5"
        change(header)
        files.append(save(header, folder / f"{number}.dcm"))
    return make_scan(files, name, count)


def item(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def make_enhanced(folder, order=range(SHAPE[0]), shares=True, name="axial"):
    """One multi-frame file; ``order`` says which frame of the grid each of its frames is."""
    header = make_header(EnhancedMRImageStorage)
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    header.NumberOfFrames = len(order)
    geometry = {
        "PixelMeasuresSequence": [item(PixelSpacing=numbers(SPACING[1:]), SliceThickness="2.5", SpacingBetweenSlices="9")],
        "PlaneOrientationSequence": [item(ImageOrientationPatient=numbers(DIRECTIONS[name][:2]))],
    }
    places = positions(name, SHAPE[0])
    header.SharedFunctionalGroupsSequence = [item(**geometry) if shares else Dataset()]
    header.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=numbers(places[place]))],
            FrameContentSequence=[item(StackID="1")],
            **({} if shares else geometry),
        )
        for place in order
    ]
    return make_scan([save(header, folder / "enhanced.dcm")], name, SHAPE[0])


def make_scan(files, name, count):
    along_columns, along_rows, sign = DIRECTIONS[name]
    normal = np.cross(along_columns, along_rows) * sign
    affine = np.eye(4)
    affine[:3, :3] = np.stack([normal, along_rows, along_columns], axis=1) * SPACING
    affine[:3, 3] = positions(name, 1)[0]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    shape = (count, *SHAPE[1:])
    orientation = Orientation.of(affine, shape)
    return Scan(
        slices=orientation.to_slices(np.zeros(shape, np.float32)),
        kind="dicom",
        name="series",
        files=tuple(files),
        plane=orientation.plane,
        modality="MR",
        spacing_mm=orientation.spacing_mm[1:],
        slice_spacing_mm=orientation.spacing_mm[0] if count > 1 else None,
        orientation=orientation,
        grid_shape=shape,
        affine=affine,
    )


def make_result(scan, mask, **changes):
    """The answer with this mask, ``(frames, rows, columns)``."""
    masks = scan.orientation.to_slices(mask)
    is_tumor = masks.any(axis=(1, 2))
    probabilities = np.where(is_tumor, 0.91, 0.12)
    result = Result(
        scan, probabilities, probabilities, is_tumor, masks, threshold=0.4375, model_id="0123456789ab", engine="openvino"
    )
    return replace(result, **changes)


def make_mask(seed, shape=SHAPE):
    """Random, with some frames empty."""
    random = np.random.default_rng(seed)
    mask = random.random(shape) < random.random()
    mask[random.random(shape[0]) < 0.4] = False
    return mask


def written(dataset):
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def pixels(segmentation, scan):
    """``(frames, rows, columns)``, as highdicom reads them for the images of the scan."""
    read = hd.seg.segread(io.BytesIO(written(segmentation)))
    uids = [dcmread(file).SOPInstanceUID for file in scan.files]
    if len(uids) == 1 and scan.grid_shape[0] > 1:
        numbers = range(1, scan.grid_shape[0] + 1)
        found = read.get_pixels_by_source_frame(uids[0], numbers, assert_missing_frames_are_empty=True)
    else:
        found = read.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    return found[..., 0].astype(bool)


def complaints(dataset, file):
    """The errors that dciodvfy finds in the object as a file."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs the command dciodvfy of dicom3tools, which is not here")
    write_dicom(dataset, file)
    run = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    return {name: make_series(folder / name, name) for name in DIRECTIONS}


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(DIRECTIONS)), st.integers(0, 2**32 - 1))
def test_the_mask_comes_back_pixel_for_pixel_at_its_place(scans, name, seed):
    scan, mask = scans[name], make_mask(seed)
    segmentation = make_segmentation(make_result(scan, mask), CREATED)
    assert np.array_equal(pixels(segmentation, scan), mask)
    assert segmentation.NumberOfFrames == (mask.any(axis=(1, 2)).sum() or SHAPE[0])
    volume = hd.seg.segread(io.BytesIO(written(segmentation))).get_volume(
        combine_segments=True, allow_missing_positions=True
    )
    found = np.argwhere(volume.array) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    expected = np.argwhere(mask) @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    assert len(found) == len(expected)
    in_order = [points[np.lexsort(points.round(3).T)] for points in (found * (-1, -1, 1), expected)]
    assert np.allclose(*in_order, atol=1e-6)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 0, 4, 1, 2)])
def test_frames_of_a_multi_frame_file_may_stand_in_any_order(tmp_path, order, shares):
    scan, mask = make_enhanced(tmp_path, order, shares), make_mask(1)
    segmentation = make_segmentation(make_result(scan, mask), CREATED)
    assert np.array_equal(pixels(segmentation, scan), mask[list(order)])
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == SPACING[0], "as the positions say, not the header"
    assert complaints(segmentation, tmp_path / "seg.dcm") == []


def test_one_volume_of_several_in_a_file_is_refused(tmp_path):
    scan = make_enhanced(tmp_path, (0, 0, 1, 1, 2, 2, 3, 3, 4, 4))
    with pytest.raises(InputError, match="one of several in its file"):
        make_segmentation(make_result(scan, make_mask(1)))


@pytest.mark.parametrize(
    ("changes", "description"),
    [
        ({}, "no tumor"),
        ({"abstained": True}, "abstained"),
        ({"is_tumor": np.array([True] + [False] * 4)}, "tumor, not localized"),
    ],
)
def test_an_empty_mask_is_whole_and_says_why_it_is_empty(scans, tmp_path, changes, description):
    scan, mask = scans["axial"], np.zeros(SHAPE, bool)
    segmentation = make_segmentation(make_result(scan, mask, **changes), CREATED)
    assert segmentation.NumberOfFrames == SHAPE[0]
    assert not pixels(segmentation, scan).any()
    assert segmentation.ContentDescription == f"{description}; research software, not a medical device"
    assert complaints(segmentation, tmp_path / "seg.dcm") == []


def test_a_lone_slice(tmp_path):
    scan = make_series(tmp_path / "series", count=1)
    mask = make_mask(3, (1, *SHAPE[1:])) | True
    segmentation = make_segmentation(make_result(scan, mask), CREATED)
    assert np.array_equal(pixels(segmentation, scan), mask)
    assert complaints(segmentation, tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("name", ["axial", "sagittal", "oblique"])
def test_dciodvfy_finds_no_error(scans, tmp_path, name):
    assert complaints(make_segmentation(make_result(scans[name], make_mask(4))), tmp_path / "seg.dcm") == []


def test_the_segment_says_what_it_is_and_what_made_it(scans):
    segmentation = make_segmentation(make_result(scans["axial"], make_mask(5)), CREATED)
    read = hd.seg.segread(io.BytesIO(written(segmentation)))
    (segment,) = (read.get_segment_description(number) for number in read.segment_numbers)
    assert (segment.segment_label, segment.algorithm_type.value) == ("Tumor", "AUTOMATIC")
    assert segment.segmented_property_category == hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")
    assert segment.segmented_property_type == hd.sr.CodedConcept("108369006", "SCT", "Neoplasm")
    assert segment.anatomic_regions == [hd.sr.CodedConcept("12738006", "SCT", "Brain")]
    algorithm = segment.algorithm_identification
    assert (algorithm.name, algorithm.family.meaning) == ("slicewise", "Artificial Intelligence")
    assert algorithm.parameters == {"model": "0123456789ab", "threshold": "0.4375"}
    assert segment.tracking_id
    assert segment.tracking_uid


def test_the_same_answer_is_the_same_object(scans):
    result = make_result(scans["axial"], make_mask(6))
    segmentation = make_segmentation(result, CREATED)
    assert written(segmentation) == written(make_segmentation(result, CREATED))
    later = make_segmentation(result, CREATED.replace(year=2025))
    assert (later.SOPInstanceUID, str(later.ContentDate)) == (segmentation.SOPInstanceUID, "20250506")
    other_mask = make_segmentation(make_result(scans["axial"], make_mask(7)), CREATED)
    other_model = make_segmentation(replace(result, model_id="ba9876543210"), CREATED)
    assert len({one.SOPInstanceUID for one in (segmentation, other_mask, other_model)}) == 3
    assert segmentation.SeriesInstanceUID == other_mask.SeriesInstanceUID != other_model.SeriesInstanceUID


def test_patient_and_study_are_those_of_the_images(scans):
    segmentation = dcmread(io.BytesIO(written(make_segmentation(make_result(scans["axial"], make_mask(8))))))
    source = make_header()
    for keyword in ("PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert segmentation[keyword].value == source[keyword].value
    assert str(segmentation.PatientName) == "Müller^Änne"
    assert segmentation.SpecificCharacterSet == "ISO_IR 192"
    assert segmentation.FrameOfReferenceUID == generate_uid(entropy_srcs=["frame"])


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_broken_values_are_left_out_and_identity_is_kept(tmp_path, caplog):
    def spoil(header):
        header.PatientAge, header.PatientSex, header.PatientName = "42", "X", "Doe"
        header.AccessionNumber = "longer than sixteen"
        header.SpacingBetweenSlices = "12"
        header.ImageOrientationPatient = numbers(np.array(DIRECTIONS["axial"][:2]) + header.InstanceNumber * 1e-6)
        header.add_new(0x00090010, "LO", "private")
        for keyword in ("StudyID", "StudyTime", "PatientBirthDate", "SliceThickness"):
            del header[keyword]

    scan, mask = make_series(tmp_path / "series", change=spoil), make_mask(9)
    caplog.set_level(logging.DEBUG)
    segmentation = make_segmentation(make_result(scan, mask), CREATED)
    assert "Doe" not in caplog.text
    assert "PatientAge" not in segmentation
    assert (segmentation.PatientSex, segmentation.StudyID) == (None, None)
    assert segmentation.AccessionNumber == "longer than sixteen"
    assert np.array_equal(pixels(segmentation, scan), mask)
    errors = complaints(segmentation, tmp_path / "seg.dcm")
    assert all("Accession" in error or "Value Representations" in error for error in errors)


def test_a_file_without_preamble_is_read(tmp_path):
    scan, mask = make_series(tmp_path), make_mask(10)
    for file in scan.files:
        file.write_bytes(file.read_bytes()[132:])
    segmentation = make_segmentation(make_result(scan, mask), CREATED)
    assert segmentation.NumberOfFrames == mask.any(axis=(1, 2)).sum()


def test_what_is_no_dicom_is_refused(scans):
    scan = replace(scans["axial"], kind="nifti")
    with pytest.raises(InputError, match="Expected a scan of DICOM files, series was read from the kind nifti"):
        make_segmentation(make_result(scan, make_mask(1)))


@pytest.mark.parametrize(
    "keyword", ["FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_images_that_do_not_say_where_they_lie_are_refused(tmp_path, keyword):
    scan = make_series(tmp_path, change=lambda header: delattr(header, keyword))
    with pytest.raises(InputError, match=f"where they lie.*missing: {keyword}"):
        make_segmentation(make_result(scan, make_mask(1)))


def test_a_secondary_capture_is_refused(tmp_path, scans):
    scan = replace(scans["axial"], files=(save(make_header(SecondaryCaptureImageStorage), tmp_path / "capture.dcm"),))
    with pytest.raises(InputError, match="secondary captures"):
        make_segmentation(make_result(scan, make_mask(1)))


@pytest.mark.parametrize(("keyword", "value"), [("SOPClassUID", "1.2.3"), ("StudyInstanceUID", "1.2.3")])
def test_what_highdicom_refuses_is_an_error_without_the_header_text(tmp_path, keyword, value):
    """A private kind of image; slices of two studies."""
    scan = make_series(
        tmp_path, change=lambda header: setattr(header, keyword, value) if header.InstanceNumber == 1 else None
    )
    with pytest.raises(InputError, match="refused by highdicom") as error:
        make_segmentation(make_result(scan, make_mask(1)))
    assert value not in str(error.value)


def test_files_that_are_gone_broken_or_changed_are_refused(tmp_path):
    scan = make_series(tmp_path)
    result = make_result(scan, make_mask(1))
    changed = dcmread(scan.files[2])
    changed.Rows += 1
    changed.save_as(scan.files[2])
    with pytest.raises(InputError, match="have changed"):
        make_segmentation(result)
    scan.files[2].write_bytes(b"no DICOM at all")
    with pytest.raises(InputError):
        make_segmentation(result)
    scan.files[2].unlink()
    with pytest.raises(InputError, match=r"2\.dcm, it cannot be read"):
        make_segmentation(result)


def test_a_file_is_written_whole(scans, tmp_path):
    segmentation = make_segmentation(make_result(scans["axial"], make_mask(11)), CREATED)
    write_dicom(segmentation, tmp_path / "new" / "seg.dcm")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["seg.dcm"]
    assert (tmp_path / "new" / "seg.dcm").read_bytes() == written(segmentation)


def test_torch_is_not_loaded():
    code = "import sys, slicewise.inference.dicom_seg, slicewise.inference.dicom_sr; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
