import io
import random
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.pixels.decoders.base import Decoder
from pydicom.pixels.encoders.base import get_encoder

from slicewise.errors import UnreadableFileError
from slicewise.records import Scan
from slicewise.sources.dicom import is_dicom, read_dicom
from slicewise.sources.nifti import read_volume
from slicewise.sources.scans import read_scans

SHAPE = (4, 5, 6)
SPACING = (1.5, 1.25)
GAP = 4.0
ORIGIN = np.array([-30.0, 20.0, 10.0])
SECRET = "SECRET^NAME"


def turned(degrees, axis):
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.eye(3)
    one, other = (place for place in range(3) if place != axis)
    turn[one, one], turn[one, other], turn[other, one], turn[other, other] = cos, -sin, sin, cos
    return turn


# Where column indices and row indices grow, in DICOM's LPS.
DIRECTIONS = {
    "axial": np.array([[1.0, 0, 0], [0, 1, 0]]),
    "axial feet first": np.array([[1.0, 0, 0], [0, -1, 0]]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, -1]]),
    "sagittal": np.array([[0, 1.0, 0], [0, 0, -1]]),
    "oblique": np.array([[1.0, 0, 0], [0, 1, 0]]) @ turned(20, 0).T @ turned(-12, 2).T,
}


def make_voxels(dtype=np.uint16, shape=SHAPE):
    """Every voxel has its own value, so that every axis can be told."""
    return (np.arange(np.prod(shape)).reshape(shape) * 2 + 3).astype(dtype)


def make_dataset(pixels, series="1.2.3", instance=1, **values):
    """One image as a scanner writes it; a value of None leaves the element out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.MRImageStorage, f"{series}.{instance}"
    dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.InstanceNumber = series, 7, instance
    dataset.Modality, dataset.PatientName, dataset.SeriesDescription = "MR", SECRET, SECRET
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    content = np.ascontiguousarray(pixels).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return change(dataset, **values)


def lifted(height):
    return ORIGIN + np.array([0, 0, height])


def change(dataset, **values):
    for keyword, value in values.items():
        if value is None:
            if keyword in dataset:
                del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def place(dataset, position, directions=DIRECTIONS["axial"], spacing=SPACING):
    dataset.ImagePositionPatient = [f"{value:.8g}" for value in position]
    dataset.ImageOrientationPatient = [f"{value:.10g}" for value in directions.ravel()]
    dataset.PixelSpacing = list(spacing)
    return dataset


def make_series(voxels=None, directions=DIRECTIONS["axial"], **values):
    voxels = make_voxels() if voxels is None else voxels
    normal = np.cross(*directions)
    return [
        place(make_dataset(pixels, instance=number + 1, **values), ORIGIN + number * GAP * normal, directions)
        for number, pixels in enumerate(voxels)
    ]


def make_enhanced(voxels, order=None, echoes=None, **values):
    """A multi-frame file: what all frames share, and of each its place and slope."""
    dataset = make_dataset(voxels[0], SOPClassUID=uid.EnhancedMRImageStorage, NumberOfFrames=len(voxels), **values)
    dataset.PixelData = voxels.tobytes()
    measures, turn, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), 2
    turn.ImageOrientationPatient = list(DIRECTIONS["axial"].ravel())
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, height in enumerate(order or range(len(voxels))):
        position, slope, echo, frame = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = list(lifted(GAP * height))
        slope.RescaleSlope, slope.RescaleIntercept = number + 1, -number
        echo.EffectiveEchoTime = float(echoes[number] if echoes else 1)
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [slope]
        frame.MREchoSequence = [echo]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    return dataset


def save(folder, dataset, name="image.dcm"):
    folder.mkdir(exist_ok=True, parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder / name


def save_all(folder, datasets):
    """In an order of names that has nothing to do with the order of slices."""
    numbers = list(range(len(datasets)))
    random.Random(3).shuffle(numbers)
    return [save(folder, dataset, f"{number:03}") for number, dataset in zip(numbers, datasets, strict=True)]


def read_one(folder, *datasets, **options):
    (scan,) = read_dicom(save_all(folder, datasets), "case", **options)
    assert isinstance(scan, Scan), scan
    return scan


def refusal(folder, *datasets):
    (error,) = read_dicom(save_all(folder, datasets), "case")
    assert isinstance(error, UnreadableFileError)
    assert str(folder) in str(error)
    assert error.file.parent == folder
    return str(error).replace(str(folder), "")  # pytest names the folder after the test


# ---- where slices lie ----


@pytest.mark.parametrize("name", list(DIRECTIONS))
def test_a_series_gives_what_the_same_volume_gives_as_nifti(tmp_path, name):
    voxels, directions = make_voxels(), DIRECTIONS[name]
    files = save_all(tmp_path, make_series(voxels, directions))
    (scan,) = read_dicom(random.Random(1).sample(files, len(files)), "case")
    affine = np.eye(4)
    lps = np.column_stack([np.cross(*directions) * GAP, directions[1] * SPACING[0], directions[0] * SPACING[1], ORIGIN])
    affine[:3] = lps * [[-1], [-1], [1]]
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "volume.nii")
    nifti = read_volume(tmp_path / "volume.nii")
    assert np.array_equal(scan.slices, nifti.slices)
    assert np.allclose(scan.slice_affine, nifti.slice_affine, atol=1e-4)
    assert scan.plane == nifti.plane == name.split()[0].replace("oblique", "axial")
    assert np.allclose(scan.spacing_mm, nifti.spacing_mm)
    assert scan.slice_spacing_mm == pytest.approx(nifti.slice_spacing_mm)
    assert np.array_equal(scan.to_grid(scan.slices), voxels)
    assert scan.files == tuple(files)
    assert (scan.grid_shape, scan.kind, scan.name, scan.modality, scan.concerns) == (SHAPE, "dicom", "case", "MR", ())


@pytest.mark.parametrize("name", list(DIRECTIONS))
def test_every_voxel_is_where_the_standard_says(tmp_path, name):
    """Equation C.7.6.2.1-1 of PS3.3, voxel by voxel, from the value that names the voxel."""
    voxels, directions = make_voxels(), DIRECTIONS[name]
    datasets = make_series(voxels, directions)
    scan = read_one(tmp_path, *datasets)
    for index in np.ndindex(scan.slices.shape):
        frame, row, column = np.argwhere(voxels == scan.slices[index])[0]
        along_columns, along_rows = np.array(datasets[frame].ImageOrientationPatient).reshape(2, 3)
        first = np.array(datasets[frame].ImagePositionPatient)
        left, posterior, superior = first + along_rows * SPACING[0] * row + along_columns * SPACING[1] * column
        assert np.allclose((scan.slice_affine @ [*index, 1])[:3], [-left, -posterior, superior], atol=1e-5)


GROWS = {
    "axial": {"superior": (0, True), "anterior": (1, False), "left": (2, True)},
    "coronal": {"anterior": (0, False), "superior": (1, False), "left": (2, True)},
    "sagittal": {"left": (0, True), "superior": (1, False), "anterior": (2, False)},
}
TOWARDS = {"left": (1, 0, 0), "anterior": (0, -1, 0), "superior": (0, 0, 1)}


@pytest.mark.parametrize("name", [name for name in DIRECTIONS if name != "oblique"])
@pytest.mark.parametrize("towards", list(TOWARDS))
def test_a_slice_looks_as_radiologists_expect(tmp_path, name, towards):
    """Where the patient's left, front and top are bright, the picture is bright on its right, top, and last or top."""
    datasets = make_series(directions=DIRECTIONS[name])
    row, column = np.mgrid[: SHAPE[1], : SHAPE[2]][..., None]
    for dataset in datasets:
        along_columns, along_rows = DIRECTIONS[name]
        places = np.array(dataset.ImagePositionPatient) + row * SPACING[0] * along_rows + column * SPACING[1] * along_columns
        dataset.PixelData = (100 + places @ TOWARDS[towards]).astype(np.uint16).tobytes()
    axis, grows = GROWS[name.split()[0]][towards]
    slices = read_one(tmp_path, *datasets).slices
    assert (slices.take(-1, axis).mean() > slices.take(0, axis).mean()) == grows


def test_real_mri(shared_data):
    """48 of the slices of a T1 scan at 7 T; every figure below was read off the headers and bytes by hand."""
    files = sorted((shared_data / "dicom" / "healthy_t1").iterdir())
    (scan,) = read_dicom(files[::-1], "healthy_t1")
    assert scan.slices.shape == scan.grid_shape == (48, 384, 274)
    assert (scan.plane, scan.modality, scan.name, scan.concerns) == ("axial", "MR", "healthy_t1", ())
    assert scan.spacing_mm == pytest.approx((0.666667, 0.699988), abs=1e-6)
    assert scan.slice_spacing_mm == pytest.approx(0.666667, abs=1e-6)
    assert scan.files == tuple(files)
    # Rows run to posterior and columns to the left already: nothing is turned.
    for number in (0, 31):
        stored = np.frombuffer(files[number].read_bytes()[-384 * 274 * 2 :], "<i2").reshape(384, 274)
        assert np.array_equal(scan.slices[number], stored)
    assert np.allclose((scan.slice_affine @ [0, 0, 0, 1])[:3], [95.379857, 145.619825, -31.509881], atol=1e-5)
    assert np.allclose((scan.slice_affine @ [47, 0, 0, 1])[:3], [96.479397, 141.579914, -0.457538], atol=1e-4)


def test_an_isotropic_sagittal_series_is_seen_axially_and_goes_back(tmp_path):
    voxels = make_voxels()
    datasets = make_series(voxels, DIRECTIONS["sagittal"])
    for dataset in datasets:
        dataset.PixelSpacing = [GAP, GAP]
    scan = read_one(tmp_path, *datasets)
    assert scan.plane == "axial"
    assert scan.slices.shape == (5, 6, 4)
    assert np.array_equal(scan.to_grid(scan.slices), voxels)


def test_directions_that_are_cut_to_few_digits_leave_the_spacing_alone(tmp_path):
    datasets = make_series()
    for dataset in datasets:
        dataset.ImageOrientationPatient = [1.003, 0, 0, 0, 0.998, 0]
    assert read_one(tmp_path, *datasets).spacing_mm == pytest.approx(SPACING, abs=1e-9)


def test_a_lone_slice_knows_its_plane_but_no_distance(tmp_path):
    scan = read_one(tmp_path, make_series(directions=DIRECTIONS["coronal"])[0])
    assert (scan.plane, scan.slices.shape, scan.slice_spacing_mm) == ("coronal", (1, 5, 6), None)
    assert scan.spacing_mm == SPACING
    assert np.allclose((scan.slice_affine @ [0, 0, 0, 1])[:3], ORIGIN * [-1, -1, 1])


# ---- series, volumes and gaps ----


def test_two_series_of_one_folder_are_told_apart(tmp_path):
    first, second = make_series(series="1.2.9"), make_series(make_voxels() + 500, series="1.2.10")
    for dataset in second:
        dataset.SeriesNumber = 3
    scans = read_dicom(save_all(tmp_path, first + second), "case")
    assert [scan.name for scan in scans] == ["case_1", "case_2"]
    assert scans[0].slices.min() > 500 > scans[1].slices.max()


@pytest.mark.parametrize("content", [b"", bytes(500), b"text"], ids=["empty", "zeros", "text"])
@pytest.mark.parametrize("name", ["IM0004.dcm", "IM0004.IMA"])
def test_a_slice_that_was_copied_badly_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (alone,) = read_scans(tmp_path)
    save_all(tmp_path, make_series())
    scan, error = read_scans(tmp_path)
    assert isinstance(scan, Scan)
    for refused in (alone, error):
        assert isinstance(refused, UnreadableFileError)
        assert str(tmp_path / name) in str(refused)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID"])
@pytest.mark.parametrize("series", [None, "1.2.9"])
def test_two_people_are_never_one_volume(tmp_path, keyword, series):
    """Careless anonymizers take away the series' UID, or give everybody the same."""
    datasets = make_series() + make_series(make_voxels() + 500)
    for number, dataset in enumerate(datasets):
        is_second = number >= SHAPE[0]
        setattr(dataset, keyword, "1.2" if is_second else "1.1")
        if series is None:
            del dataset.SeriesInstanceUID
        else:
            dataset.SeriesInstanceUID = series
        if is_second:  # between the slices of the first
            dataset.ImagePositionPatient = [*dataset.ImagePositionPatient[:2], dataset.ImagePositionPatient[2] + 1.5]
    scans = read_dicom(save_all(tmp_path, datasets), "case")
    assert [scan.slices.shape for scan in scans] == [SHAPE, SHAPE]
    assert scans[0].slices.max() < 500 < scans[1].slices.min()
    assert scans[0].slice_spacing_mm == scans[1].slice_spacing_mm


def test_a_localizer_is_one_scan_a_plane(tmp_path):
    datasets = [dataset for name in ("axial", "coronal", "sagittal") for dataset in make_series(directions=DIRECTIONS[name])]
    for number, dataset in enumerate(datasets):
        dataset.InstanceNumber = number
    scans = read_dicom(save_all(tmp_path, datasets), "case")
    assert [scan.plane for scan in scans] == ["axial", "coronal", "sagittal"]
    assert all(scan.slices.shape == SHAPE for scan in scans)


def test_directions_that_differ_by_rounding_stay_together(tmp_path):
    datasets = make_series()
    datasets[2].ImageOrientationPatient = [0.99999, 0.0004, 0, -0.0004, 0.99999, 0]
    assert read_one(tmp_path, *datasets).slices.shape == SHAPE


@pytest.mark.parametrize("keyword", ["EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier", "DiffusionBValue"])
def test_volumes_of_one_series_are_told_apart_by_a_tag(tmp_path, keyword):
    datasets = make_series() + make_series(make_voxels() + 500)
    for number, dataset in enumerate(datasets):
        dataset.InstanceNumber = number + 1
        setattr(dataset, keyword, 1 + number // SHAPE[0])
    scans = read_dicom(save_all(tmp_path, datasets), "case")
    assert [scan.slices.shape for scan in scans] == [SHAPE, SHAPE]
    assert scans[0].slices.max() < 500 < scans[1].slices.min()


def test_a_tag_that_differs_from_slice_to_slice_tells_no_volumes_apart(tmp_path):
    datasets = make_series() + make_series(make_voxels() + 500)
    for number, dataset in enumerate(datasets):
        dataset.EchoNumbers, dataset.FlipAngle = number, 1 + number // SHAPE[0]
    assert [scan.slices.shape for scan in read_dicom(save_all(tmp_path, datasets), "case")] == [SHAPE, SHAPE]


def test_echoes_of_magnitude_and_phase_are_told_apart_by_two_tags(tmp_path):
    datasets = []
    for echo in (1, 2):
        for kind in ("M", "P"):
            voxels = make_voxels() + 100 * len(datasets)
            datasets += make_series(voxels, EchoTime=echo, ImageType=["ORIGINAL", "PRIMARY", kind])
    assert len(read_dicom(save_all(tmp_path, datasets), "case")) == 4


def test_a_copy_of_a_slice_is_refused(tmp_path):
    datasets = make_series()
    assert "lies where another slice" in refusal(tmp_path, *datasets, datasets[1])


def test_slices_beside_each_other_are_refused(tmp_path):
    datasets = make_series()
    place(datasets[2], lifted(2 * GAP) + 20 * DIRECTIONS["axial"][0])
    assert "20.0 mm beside" in refusal(tmp_path, *datasets)


def test_a_missing_slice_is_a_concern(tmp_path):
    datasets = make_series(make_voxels(shape=(7, 5, 6)))
    scan = read_one(tmp_path, *datasets[:2], *datasets[3:])
    (concern,) = scan.concerns
    assert (concern.rule, concern.value) == ("uneven-slices", pytest.approx(2.0))
    assert scan.slice_spacing_mm == pytest.approx(GAP)


def test_distances_within_rounding_are_no_concern(tmp_path):
    datasets = make_series()
    place(datasets[2], lifted(2 * GAP + 0.1))
    assert read_one(tmp_path, *datasets).concerns == ()


# ---- what does not say where it lies ----


def test_a_picture_without_a_place(tmp_path):
    scan = read_one(tmp_path, make_dataset(make_voxels()[0], SOPClassUID=uid.SecondaryCaptureImageStorage, Modality="OT"))
    assert scan.grid_shape == (1, 5, 6)
    assert (scan.orientation, scan.affine, scan.spacing_mm, scan.slice_spacing_mm) == (None, None, None, None)
    assert (scan.plane, scan.modality, scan.concerns) == ("unknown", "OT", ())
    assert np.array_equal(scan.to_grid(scan.slices), make_voxels()[:1])


def test_slices_without_a_place_stand_in_the_order_of_their_numbers(tmp_path):
    voxels = make_voxels()
    datasets = [
        make_dataset(voxels[number], instance=number * 9, PixelSpacing=[2, 3], SpacingBetweenSlices=4) for number in range(4)
    ]
    scan = read_one(tmp_path, *datasets)
    assert np.array_equal(scan.slices, voxels)
    assert [concern.rule for concern in scan.concerns] == ["no-geometry"]
    assert (scan.spacing_mm, scan.slice_spacing_mm) == ((2.0, 3.0), None)


def test_frames_without_places_stay_as_they_are_stored(tmp_path):
    voxels = make_voxels()
    dataset = make_dataset(voxels[0], NumberOfFrames=4, SpacingBetweenSlices=2.5, PixelSpacing=[2, 3])
    dataset.PixelData = voxels.tobytes()
    place(dataset, ORIGIN, spacing=(2, 3))  # one place for four frames is none
    scan = read_one(tmp_path, dataset)
    assert np.array_equal(scan.slices, voxels)
    assert (scan.orientation, scan.slice_spacing_mm, len(scan.files)) == (None, 2.5, 1)
    assert [concern.rule for concern in scan.concerns] == ["no-geometry"]


# ---- multi-frame files ----


def test_an_enhanced_file_gives_its_frames_in_the_order_of_their_places(tmp_path):
    voxels, order = make_voxels(), [2, 0, 3, 1]
    scan = read_one(tmp_path, make_enhanced(voxels, order))
    assert scan.plane == "axial"
    scaled = np.array([voxels[number] * (number + 1.0) - number for number in range(4)])
    assert np.array_equal(scan.slices, scaled[np.argsort(order)])
    assert np.array_equal(scan.to_grid(scan.slices), scan.slices)
    assert (scan.grid_shape, len(scan.files), scan.slice_spacing_mm, scan.concerns) == (SHAPE, 1, pytest.approx(GAP), ())
    assert np.allclose((scan.slice_affine @ [1, 0, 0, 1])[:3], lifted(GAP) * [-1, -1, 1])


def test_an_enhanced_file_of_two_echoes_is_two_scans(tmp_path):
    dataset = make_enhanced(make_voxels(), order=[0, 0, 1, 1], echoes=[10, 20, 10, 20])
    scans = read_dicom([save(tmp_path, dataset)], "case")
    assert [scan.slices.shape for scan in scans] == [(2, 5, 6)] * 2
    assert [float(scan.slices[1, 0, 0]) for scan in scans] == [123 * 3 - 2, 183 * 4 - 3]


def test_multi_frame_files_of_one_series_are_volumes_of_their_own(tmp_path):
    datasets = [make_enhanced(make_voxels(), instance=1), make_enhanced(make_voxels() + 500, instance=2)]
    scans = read_dicom(save_all(tmp_path, datasets), "case")
    assert [(scan.name, scan.slices.shape, len(scan.files)) for scan in scans] == [
        ("case_1", SHAPE, 1),
        ("case_2", SHAPE, 1),
    ]


def test_a_frame_without_a_description_is_refused(tmp_path):
    dataset = make_enhanced(make_voxels())
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:-1]
    assert "each of 4 frames" in refusal(tmp_path, dataset)


# ---- intensities ----


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
def test_stored_values_and_their_slope(tmp_path, dtype):
    voxels = make_voxels(dtype) - dtype(0 if np.dtype(dtype).kind == "u" else 90)
    scan = read_one(tmp_path, *make_series(voxels, RescaleSlope=0.5, RescaleIntercept=-3))
    assert scan.slices.dtype == np.float32
    assert np.array_equal(scan.slices, voxels * 0.5 - 3)


def test_twelve_signed_bits_in_sixteen(tmp_path):
    voxels = make_voxels(np.int16) - np.int16(120)
    datasets = make_series((voxels & 0x0FFF).astype(np.uint16), BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert np.array_equal(read_one(tmp_path, *datasets).slices, voxels)


def test_slopes_may_differ_between_slices(tmp_path):
    datasets = make_series(np.full(SHAPE, 10, np.uint16))
    for number, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept = number + 1, 0
    assert read_one(tmp_path, *datasets).slices[:, 0, 0].tolist() == [10, 20, 30, 40]


def test_monochrome1_is_turned_so_that_bright_is_bright(tmp_path):
    voxels = make_voxels()
    scan = read_one(tmp_path, *make_series(voxels, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(scan.slices, voxels.max() + voxels.min() - voxels.astype(float))


def test_colors_become_brightness_with_their_share(tmp_path):
    pixels = np.full((4, 6, 3), 90, np.uint8)
    pixels[0] = 200, 40, 100
    scan = read_one(tmp_path, make_dataset(pixels, RescaleSlope=5, RescaleIntercept=5))
    assert scan.color_share == pytest.approx(0.25)
    assert np.allclose(scan.slices[0, 0], 0.299 * 200 + 0.587 * 40 + 0.114 * 100)
    assert np.allclose(scan.slices[0, 1:], 90)


def test_deep_gray_stored_as_color_has_no_color(tmp_path):
    scan = read_one(tmp_path, make_dataset(np.repeat(make_voxels()[0][..., None] * 300, 3, axis=2)))
    assert scan.color_share == 0
    assert np.allclose(scan.slices[0], make_voxels()[0] * (300 * 255 / 65535), rtol=1e-5)


@pytest.mark.parametrize("depth", [8, 16])
def test_an_index_of_a_palette_is_not_a_brightness(tmp_path, depth):
    indices = np.array([[10, 11, 12, 300]] * 2, np.uint16)
    table = np.array([255, 0, 128], np.uint8 if depth == 8 else np.uint16) * (1 if depth == 8 else 257)
    dataset = make_dataset(indices, PhotometricInterpretation="PALETTE COLOR")
    for color in ("Red", "Green", "Blue"):
        setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [len(table), 10, depth])
        setattr(dataset, f"{color}PaletteColorLookupTableData", table.tobytes() + b"\0" * (table.nbytes % 2))
    assert np.allclose(read_one(tmp_path, dataset).slices[0, 0], [255, 0, 128, 128], atol=0.01)


# ---- transfer syntaxes ----

LOSSLESS = [uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless]


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, *LOSSLESS])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_lossless_syntaxes_give_the_stored_values(tmp_path, syntax, dtype):
    if syntax.is_encapsulated and not get_encoder(syntax).is_available:
        pytest.skip(f"needs an encoder for {syntax.name}")
    voxels = make_voxels(dtype, (2, 32, 32))
    datasets = make_series(voxels)
    for dataset in datasets:
        if syntax.is_encapsulated:
            dataset.compress(syntax, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(read_one(tmp_path, *datasets).slices, voxels)


def test_compressed_frames_of_one_file(tmp_path):
    voxels = make_voxels()
    dataset = make_enhanced(voxels, order=[3, 2, 1, 0])
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    scaled = np.array([voxels[number] * (number + 1.0) - number for number in range(4)])
    assert np.array_equal(read_one(tmp_path, dataset).slices, scaled[::-1])


def make_jpeg(pixels, said_shape):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    dataset = make_dataset(np.zeros(said_shape, np.uint8))
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def test_jpeg_of_colors_is_read_as_pillow_reads_it(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8], pixels[8:] = (220, 30, 60), (80, 80, 80)
    dataset = make_jpeg(pixels, (16, 16, 3))
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    scan = read_one(tmp_path, dataset)
    assert scan.color_share == 0.5
    assert np.allclose(scan.slices[0, :8], pixels[0, 0] @ [0.299, 0.587, 0.114], atol=2)
    assert np.allclose(scan.slices[0, 8:], 80, atol=2)


def test_jpeg_of_twelve_bits_agrees_with_pydicom():
    pytest.importorskip("libjpeg", reason="needs slicewise[jpeg]")
    file = get_testdata_file("JPGExtended.dcm", download=False)
    (scan,) = read_dicom([Path(file)], "case")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(scan.slices[0], pixel_array(file))


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    dataset = make_jpeg(make_voxels(np.uint8)[0], (5, 6))
    dataset.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    monkeypatch.setattr(Decoder, "available_plugins", property(lambda decoder: ()))
    assert 'pip install "slicewise[jpeg]"' in refusal(tmp_path, dataset)


@pytest.mark.parametrize("syntax", [uid.MPEG2MPML, uid.UID("1.2.840.10008.1.2.4.94")])
def test_a_syntax_that_is_not_of_images_is_refused(tmp_path, syntax):
    dataset = make_jpeg(make_voxels(np.uint8)[0], (5, 6))
    dataset.file_meta.TransferSyntaxUID = syntax
    assert "transfer syntax" in refusal(tmp_path, dataset)


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path):
    dataset = make_series()[0]
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    assert "deflated" in refusal(tmp_path, dataset)


# ---- refusals ----


def raw(dataset, keyword, value):
    """Plant text that pydicom would not write."""
    tag, content = dataset[keyword].tag, "\\".join(value if isinstance(value, list) else [value]).encode()
    content += b" " * (len(content) % 2)
    dataset._dict[tag] = RawDataElement(tag, dataset[keyword].VR, len(content), content, 0, False, True)


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("RescaleSlope", "nan", "RescaleSlope"),
        ("RescaleSlope", "inf", "RescaleSlope"),
        ("RescaleSlope", "0", "RescaleSlope other than 0"),
        ("RescaleSlope", "1e300", "finite intensities"),
        ("RescaleSlope", SECRET, "could not decode"),
        ("RescaleIntercept", "-inf", "RescaleIntercept"),
        ("PixelSpacing", ["0", "1"], "PixelSpacing above 0"),
        ("PixelSpacing", ["1", "-1"], "PixelSpacing above 0"),
        ("PixelSpacing", ["1", "nan"], "PixelSpacing"),
        ("PixelSpacing", ["1"], "2 finite numbers"),
        ("SliceThickness", "inf", "SliceThickness"),
        ("SpacingBetweenSlices", "-4", "SpacingBetweenSlices"),
        ("ImagePositionPatient", ["0", "nan", "0"], "ImagePositionPatient"),
        ("ImagePositionPatient", ["0", "0", "1e308"], "."),
        ("ImageOrientationPatient", ["1", "0", "0", "0", "0", "0"], "unit vectors"),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"], "right angles"),
        ("ImageOrientationPatient", ["1", "0", "0", "0", "nan", "0"], "ImageOrientationPatient"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, keyword, value, message):
    datasets = make_series(RescaleSlope=1, RescaleIntercept=0, SliceThickness=3, SpacingBetweenSlices=4)
    raw(datasets[1], keyword, value)
    said = refusal(tmp_path, *datasets)
    assert message in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Rows": 0}, "declares 1 frames of 0 × 6"),
        ({"Columns": None}, "declares 1 frames of 5 × 0"),
        ({"NumberOfFrames": "0"}, "declares 0 frames"),
        ({"Rows": 65535, "Columns": 65535}, "64 million pixels"),
        ({"NumberOfFrames": "70000"}, "65,536 frames"),
        ({"Rows": 5000, "Columns": 5000, "NumberOfFrames": "50"}, "134,217,728 voxels"),
        ({"Rows": 7}, "could not decode"),
        ({"PixelData": None}, "holds none"),
        ({"BitsAllocated": 12}, "could not decode"),
        ({"PhotometricInterpretation": "HSV"}, "gray, RGB"),
        ({"PhotometricInterpretation": "RGB"}, "gray, RGB"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"BurnedInAnnotation": "YES"}, "burned into"),
    ],
)
def test_impossible_pixels_are_refused(tmp_path, values, message):
    assert message in refusal(tmp_path, make_dataset(make_voxels()[0], **values))


def test_burned_in_text_can_be_allowed(tmp_path):
    assert read_one(tmp_path, *make_series(BurnedInAnnotation="YES"), allow_burned_in=True).slices.shape == SHAPE


def test_compressed_bytes_that_declare_another_size_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Decoder, "as_array", lambda *_, **__: pytest.fail("was decoded"))
    bomb = make_jpeg(np.zeros((400, 300), np.uint8), (5, 6))
    assert "400 × 300" in refusal(tmp_path / "jpeg", bomb)
    # Rows and columns exchanged: as many pixels, another picture.
    assert "6 × 5" in refusal(tmp_path / "turned", make_jpeg(np.zeros((6, 5), np.uint8), (5, 6)))
    codestream = bytes.fromhex("ff4fff51002900000000ea600000ea6000000000000000000000ea600000ea6000000000000000000001070101")
    bomb.file_meta.TransferSyntaxUID = uid.JPEG2000
    bomb.PixelData = encapsulate([codestream])
    assert "60000 × 60000" in refusal(tmp_path / "jpeg_2000", bomb)
    bomb.file_meta.TransferSyntaxUID = uid.RLELossless
    bomb.PixelData = encapsulate([b"\0" * 9000])
    assert "other bytes" in refusal(tmp_path / "rle", bomb)


def test_fewer_compressed_frames_than_declared_are_refused(tmp_path):
    dataset = make_enhanced(make_voxels())
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    whole = make_enhanced(make_voxels(shape=(5, 5, 6)))
    whole.file_meta.TransferSyntaxUID, whole.PixelData = uid.RLELossless, dataset.PixelData
    whole["PixelData"].is_undefined_length = True
    assert "Expected" in refusal(tmp_path, whole)


# ---- what is no image ----


def make_object(kind, **values):
    dataset = make_dataset(make_voxels()[0], series="1.9", SOPClassUID=kind, **values)
    return dataset if kind == uid.SegmentationStorage else change(dataset, PixelData=None, Rows=None, Columns=None)


OTHERS = {
    "report": uid.BasicTextSRStorage,
    "presentation": uid.GrayscaleSoftcopyPresentationStateStorage,
    "segmentation": uid.SegmentationStorage,
    "directory": uid.MediaStorageDirectoryStorage,
    "private": uid.UID("1.3.12.2.1107.5.9.1"),
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_an_object_without_an_image_is_passed_over_beside_images_and_an_error_alone(tmp_path, name):
    other = save(tmp_path, make_object(OTHERS[name]), "zzz")
    (error,) = read_dicom([other], "case")
    assert isinstance(error, UnreadableFileError)
    assert "zzz" in str(error)
    (scan,) = read_dicom([other, *save_all(tmp_path, make_series())], "case")
    assert (scan.name, scan.slices.shape) == ("case", SHAPE)


def test_no_path_of_a_directory_is_followed(tmp_path):
    save(tmp_path, make_series()[0], "IMAGE")
    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", "IMAGE"
    directory = change(make_object(uid.MediaStorageDirectoryStorage), DirectoryRecordSequence=[record])
    (error,) = read_dicom([save(tmp_path, directory, "DICOMDIR")], "case")
    assert isinstance(error, UnreadableFileError)


def test_an_image_that_lost_its_pixels_is_never_passed_over(tmp_path):
    files = save_all(tmp_path, make_series())
    whole = save(tmp_path, make_series(series="1.5")[0], "cut")
    content = whole.read_bytes()
    for keep in range(132, len(content), 7):
        whole.write_bytes(content[:keep])
        results = read_dicom([*files, whole], "case")
        assert {type(result) for result in results} == {Scan, UnreadableFileError}, keep


def test_a_bad_file_refuses_its_series_and_no_other(tmp_path):
    bad = make_series(series="1.2.5", RescaleSlope=1)
    raw(bad[3], "RescaleSlope", "nan")
    results = read_dicom(save_all(tmp_path, make_series(series="1.2.4") + bad), "case")
    assert isinstance(results[0], Scan)
    assert results[0].name == "case_1"
    assert "RescaleSlope" in str(results[1])
    assert len(results) == 2


# ---- bytes ----


def test_dicom_is_known_by_its_bytes(tmp_path):
    file = save(tmp_path, make_series()[0], "picture.png")
    assert is_dicom(file)
    for implicit in (False, True):
        bare, dataset = tmp_path / "bare", make_series()[0]
        del dataset.file_meta
        dataset.save_as(bare, implicit_vr=implicit, little_endian=True)
        assert is_dicom(bare)
        (scan,) = read_dicom([bare], "case")
        assert np.array_equal(scan.slices[0], make_voxels()[0])
    for content in (b"", b"DICM", b"\x08\x00", bytes(200), b"\x89PNG" * 50, b"\x08\x00\x05\x00XX\xff\xff" + bytes(200)):
        (tmp_path / "other.dcm").write_bytes(content)
        assert not is_dicom(tmp_path / "other.dcm")
    assert not is_dicom(tmp_path)
    assert not is_dicom(tmp_path / "missing")


def test_what_is_no_dicom_or_missing_is_an_error_beside_the_scans(tmp_path):
    files = save_all(tmp_path, make_series())
    (tmp_path / "text").write_text("none")
    results = read_dicom([*files, tmp_path / "text", tmp_path / "missing"], "case")
    assert [type(result) for result in results] == [Scan, UnreadableFileError, UnreadableFileError]
    assert "found nothing at" in str(results[1])
    assert "is none" in str(results[2])
    assert read_dicom([], "case") == []


def make_samples():
    compressed, jpeg_2000 = make_series()[0], make_series(make_voxels(shape=(1, 32, 32)))[0]
    compressed.compress(uid.RLELossless, generate_instance_uid=False)
    jpeg_2000.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    return {
        "plain": make_series(RescaleSlope=2, RescaleIntercept=1)[0],
        "enhanced": make_enhanced(make_voxels()),
        "rle": compressed,
        "jpeg_2000": jpeg_2000,
    }


def check_outcome(results, file):
    for result in results:
        if isinstance(result, Scan):
            assert np.isfinite(result.slices).all()
            assert result.affine is None or np.isfinite(result.affine).all()
            assert result.to_grid(result.slices).shape == result.grid_shape
        else:
            assert type(result) is UnreadableFileError
            assert str(file) in str(result)
        assert "SECRET" not in f"{result!r} {result}"


@pytest.mark.parametrize(("name", "examples"), [("plain", 200), ("enhanced", 100), ("rle", 60), ("jpeg_2000", 60)])
def test_damaged_bytes_are_read_or_refused_and_nothing_else(tmp_path, capfd, caplog, name, examples):
    content = save(tmp_path, make_samples()[name]).read_bytes()

    @settings(deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.integers(128, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def damage(changes):
        damaged = bytearray(content)
        for place_, value in changes:
            damaged[place_] = value
        file = tmp_path / "damaged"
        file.write_bytes(damaged)
        check_outcome(read_dicom([file], "case"), file)

    damage()
    assert capfd.readouterr().err == ""
    assert caplog.text == ""


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_truncated_bytes_are_read_or_refused_and_nothing_else(tmp_path, share):
    content = save(tmp_path, make_enhanced(make_voxels())).read_bytes()
    file = tmp_path / "cut"
    file.write_bytes(content[: int(share * (len(content) - 1))])
    results = read_dicom([file], "case")
    check_outcome(results, file)
    assert not any(isinstance(result, Scan) for result in results)


def test_no_header_text_reaches_anything_that_is_shown(tmp_path, capfd, caplog):
    """Names, descriptions and even codes hold a patient's name; a missing slice and a bad file call for words."""
    values = {"StudyDescription": SECRET, "ProtocolName": SECRET, "PatientID": SECRET, "StationName": SECRET}
    datasets = make_series(make_voxels(shape=(6, 5, 6)), **values)
    for dataset in datasets:
        raw(dataset, "Modality", "SECRETNAME")
    bad = make_series(series="1.8", **values)
    raw(bad[0], "InstanceNumber", SECRET)
    odd = change(make_dataset(make_voxels()[0], series="1.7"), PhotometricInterpretation="SECRET")
    files = save_all(tmp_path, [*datasets[:2], *datasets[3:], *bad, odd])
    caplog.clear()
    results = read_dicom(files, "case")
    assert {type(result) for result in results} == {Scan, UnreadableFileError}
    (scan,) = (result for result in results if isinstance(result, Scan))
    assert (scan.modality, scan.concerns[0].rule) == ("OT", "uneven-slices")
    shown = [repr(result) + str(result) for result in results] + [repr(scan.concerns), scan.name, scan.modality]
    assert not any("SECRET" in text for text in shown)
    assert "SECRET" not in caplog.text + "".join(capfd.readouterr())


def test_the_planted_name_is_really_there(tmp_path):
    """Else the test above would prove nothing."""
    assert str(dcmread(save(tmp_path, make_series()[0])).PatientName) == SECRET
