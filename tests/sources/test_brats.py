import re

import nibabel as nib
import numpy as np
import pytest

from slicewise.config import SourceConfig
from slicewise.errors import InputError, LabelError, UnreadableFileError
from slicewise.records import MaskState
from slicewise.sources import read_study
from slicewise.sources.brats import find_studies

SHAPE = (6, 6, 4)


def write(root, study, suffixes, labels=None, separator="_", ending=".nii.gz", seg_shape=SHAPE, seg_affine=None):
    """A study whose first slice holds no brain, with ``labels`` at one voxel each in its last slice."""
    folder = root / study
    folder.mkdir(parents=True)
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    image[:, :, 0] = 0
    for suffix in suffixes:
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"{study}{separator}{suffix}{ending}")
    if labels is not None:
        seg = np.zeros(seg_shape, np.uint8)
        seg[: len(labels), 2, seg_shape[2] - 1] = labels
        affine = np.eye(4) if seg_affine is None else seg_affine
        nib.save(nib.Nifti1Image(seg, affine), folder / f"{study}{separator}seg{ending}")


def studies_in(root, **settings):
    return find_studies("brats", SourceConfig(layout="brats", path=root, **settings))


def read(root, **settings):
    return [item for study in studies_in(root, **settings) for item in read_study(study)]


@pytest.mark.parametrize(
    ("study", "suffixes", "separator", "labels"),
    [
        ("BraTS20_Training_001", ["flair", "t1", "t1ce", "t2"], "_", [1, 2, 4]),
        ("BraTS2021_00006", ["flair", "t1", "t1ce", "t2"], "_", [1, 2, 4]),
        ("BraTS-GLI-00001-000", ["t2f", "t1n", "t1c", "t2w"], "-", [1, 2, 3]),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_namings_of_every_year(tmp_path, study, suffixes, separator, labels, ending):
    write(tmp_path, study, suffixes, labels, separator, ending)
    slices = read(tmp_path)
    assert {item.sequence for item in slices} == {"t1", "t1ce", "t2", "flair"}
    flair = [item for item in slices if item.sequence == "flair"]
    assert [item.slice_index for item in flair] == [1, 2, 3], "the slice outside the brain is left out"
    assert [item.mask_state for item in flair] == [MaskState.EMPTY, MaskState.EMPTY, MaskState.PRESENT]
    assert [item.label for item in flair] == [False, False, True]
    assert flair[2].mask.sum() == 3
    assert flair[2].spacing_mm == (1.0, 1.0)


def test_the_mask_lies_where_the_labels_are(tmp_path):
    write(tmp_path, "BraTS2021_00001", ["flair"], [1])
    mask = read(tmp_path)[-1].mask
    # Voxel (0, 2) counts from the patient's left and back; the picture from right and front.
    assert np.argwhere(mask).tolist() == [[SHAPE[1] - 1 - 2, SHAPE[0] - 1 - 0]]


def test_the_resection_cavity_of_2024_is_no_tumor(tmp_path):
    write(tmp_path, "BraTS-GLI-00001-100", ["t2f"], [3, 4], "-")
    assert read(tmp_path, year=2024)[-1].mask.sum() == 1


@pytest.mark.parametrize(("study", "separator", "label"), [("BraTS2021_00001", "_", 3), ("BraTS-GLI-00001-000", "-", 4)])
def test_an_unknown_label_is_refused_and_the_edition_suggested(tmp_path, study, separator, label):
    write(tmp_path, study, ["flair" if separator == "_" else "t2f"], [label], separator)
    (error,) = read(tmp_path)
    assert isinstance(error, LabelError)
    assert error.problem == "impossible-label"
    assert re.search(rf"found {label} in .*sources\.brats\.year", str(error))


def test_without_seg_nothing_is_known(tmp_path):
    write(tmp_path, "BraTS-GLI-00001-000", ["t2f"], None, "-")
    assert {(item.label, item.mask_state, item.mask is None) for item in read(tmp_path)} == {(None, MaskState.UNKNOWN, True)}


def test_time_points_of_a_patient_stay_together(tmp_path):
    for study in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"):
        write(tmp_path, study, ["t2f"], None, "-")
    assert [study.patient_id for study in studies_in(tmp_path)] == ["BraTS-GLI-00001"] * 2 + ["BraTS-GLI-00002"]


def test_a_missing_sequence_is_named(tmp_path):
    write(tmp_path, "BraTS20_Training_017", ["t1", "t2", "flair"])
    with pytest.raises(InputError, match=r"BraTS20_Training_017, found 3: t1ce is missing"):
        studies_in(tmp_path, sequences=("t1", "t1ce", "t2", "flair"))


def test_two_files_of_one_sequence_are_refused_by_name(tmp_path):
    write(tmp_path, "BraTS2021_1", ["flair"])
    (tmp_path / "BraTS2021_1" / "BraTS2021_2_flair.nii.gz").write_bytes(b"of another study")
    with pytest.raises(InputError, match=r"BraTS2021_1_flair\.nii\.gz and BraTS2021_2_flair\.nii\.gz"):
        studies_in(tmp_path)


def test_one_study_may_be_named_itself(tmp_path):
    write(tmp_path, "BraTS2021_00001", ["flair"], [1])
    assert [study.study_id for study in studies_in(tmp_path / "BraTS2021_00001")] == ["BraTS2021_00001"]


def test_a_mask_of_another_grid_is_refused(tmp_path):
    moved = np.eye(4)
    moved[0, 3] = 7
    write(tmp_path / "shape", "BraTS2021_00001", ["flair"], [1], seg_shape=(6, 6, 5))
    write(tmp_path / "affine", "BraTS2021_00001", ["flair"], [1], seg_affine=moved)
    for folder, problem, word in (("shape", "mask-size", "shape"), ("affine", "mask-grid", "affines")):
        (error,) = read(tmp_path / folder)
        assert isinstance(error, LabelError)
        assert error.problem == problem
        assert word in str(error)


def test_a_truncated_volume_comes_as_its_error(tmp_path):
    write(tmp_path, "BraTS2021_00001", ["flair", "t1"], [1])
    file = tmp_path / "BraTS2021_00001" / "BraTS2021_00001_flair.nii.gz"
    file.write_bytes(file.read_bytes()[:60])
    items = read(tmp_path)
    assert isinstance(items[-1], UnreadableFileError)
    assert "flair" in str(items[-1])


def test_an_unreadable_sequence_does_not_take_the_others_along(tmp_path):
    write(tmp_path, "BraTS2021_00001", ["t1", "t1ce", "flair"], [1])
    (tmp_path / "BraTS2021_00001" / "BraTS2021_00001_t1ce.nii.gz").write_bytes(b"no volume")
    items = read(tmp_path)
    (error,) = [item for item in items if isinstance(item, UnreadableFileError)]
    assert "t1ce" in str(error)
    assert {item.sequence for item in items if item is not error} == {"t1", "flair"}


def test_what_macos_leaves_behind_is_passed_over(tmp_path):
    write(tmp_path, "BraTS2021_00001", ["flair"], [1])
    (tmp_path / "BraTS2021_00001" / "._BraTS2021_00001_flair.nii.gz").write_bytes(b"\0\5\x16\7")
    (tmp_path / "._BraTS2021_00001").mkdir()
    (tmp_path / "._BraTS2021_00001" / "._BraTS2021_00001_flair.nii.gz").write_bytes(b"\0\5\x16\7")
    assert {item.sequence for item in read(tmp_path)} == {"flair"}


def test_a_study_named_by_a_dot_has_its_folders_name(tmp_path, monkeypatch):
    write(tmp_path, "BraTS2021_00001", ["flair"], [1])
    monkeypatch.chdir(tmp_path / "BraTS2021_00001")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (".", "~/BraTS2021_00001"):
        (study,) = studies_in(path)
        assert (study.study_id, study.patient_id) == ("BraTS2021_00001", "BraTS2021_00001")


def test_real_case_agrees_with_plain_counts(shared_data):
    folder = shared_data / "brats" / "BraTS2021_00006"
    seg = np.asarray(nib.load(folder / "BraTS2021_00006_seg.nii.gz").dataobj)
    slices = read(folder, sequences=("flair",))
    assert sum(int(item.mask.sum()) for item in slices) == np.count_nonzero(seg)
    assert sum(item.label for item in slices) == np.count_nonzero(seg.any(axis=(0, 1)))
    assert slices[0].image.shape == (240, 240)
