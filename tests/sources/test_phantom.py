"""The generated cohort: published layouts, same bytes from the same seed, and no label in anything but the lesion."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from slicewise.config import PhantomConfig
from slicewise.errors import InputError
from slicewise.sources import phantom
from slicewise.sources.phantom import _PICTURE, _STUDY, _plan, _scan, _Task, _write_picture, generate_phantom
from slicewise.sources.phantom_anatomy import load_template

CONFIG = PhantomConfig(patients=3, pictures=4, slices=4, sequences=("t1", "flair"))
SEED = 5


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    generate_phantom(CONFIG, SEED, folder, workers=1)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def voxels(file: Path) -> np.ndarray:
    return np.asarray(nib.load(file).dataobj)


def task(has_tumor: bool, kind: int = _PICTURE, index: int = 0, folder: Path = Path()) -> _Task:
    return _Task(kind, index, has_tumor, CONFIG, SEED, folder)


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(cohort, tmp_path):
    generate_phantom(CONFIG, SEED, tmp_path / "again", workers=2)
    assert contents(tmp_path / "again") == contents(cohort)


def test_another_seed_gives_another_head():
    first, second = (_scan(dataclasses.replace(task(False), seed=seed), np.array([20.0]), ("flair",)) for seed in (1, 2))
    assert not np.array_equal(first[0]["flair"], second[0]["flair"])


def test_studies_are_named_and_shaped_as_in_brats(cohort):
    folders = sorted((cohort / "studies").iterdir())
    assert [folder.name for folder in folders] == ["BraTS2021_90000", "BraTS2021_90001", "BraTS2021_90002"]
    for folder in folders:
        assert {file.name for file in folder.iterdir()} == {
            f"{folder.name}_{part}.nii.gz" for part in ("t1", "flair", "seg")
        }
        for file in folder.iterdir():
            image = nib.load(file)
            assert image.shape == (240, 240, 4)
            assert image.header.get_zooms() == (1.0, 1.0, 35.0)
            assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
            assert np.array_equal(image.get_qform(), image.get_sform())


def test_two_studies_in_three_have_a_tumor_and_the_others_an_all_zero_seg(cohort):
    segs = [voxels(file) for file in (cohort / "studies").rglob("*_seg.nii.gz")]
    assert sorted(bool(seg.any()) for seg in segs) == [False, True, True]
    for seg in segs:
        assert set(np.unique(seg)) <= {0, 1, 2, 4}


@pytest.mark.parametrize(("count", "tumors"), [(1, 1), (3, 2), (36, 24)])
def test_plan_deals_the_tumors_out(count, tumors):
    tasks = list(_plan(PhantomConfig(patients=count, pictures=10), SEED, Path()))
    assert sum(one.has_tumor for one in tasks if one.kind == _STUDY) == tumors
    assert sum(one.has_tumor for one in tasks if one.kind == _PICTURE) == 5


def test_affine_puts_the_anatomy_where_the_template_has_it(cohort):
    template = load_template()
    for file in (cohort / "studies").rglob("*_t1.nii.gz"):
        image = nib.load(file)
        world = nib.affines.apply_affine(image.affine, np.indices(image.shape).transpose(1, 2, 3, 0))
        places = (world - template.origin_mm).transpose(3, 0, 1, 2)
        expected = ndimage.map_coordinates(template.brain, places, order=0) > 0
        found = voxels(file) > 0

        def dice(other: np.ndarray, expected: np.ndarray = expected) -> float:
            return 2 * (other & expected).sum() / (other.sum() + expected.sum())

        assert dice(found) > 0.85
        assert dice(found) > dice(found[:, ::-1]) + 0.02
        assert dice(found) > dice(found[:, :, ::-1]) + 0.02


def test_pictures_can_be_read_and_half_show_a_tumor(cohort):
    for answer in ("yes", "no"):
        files = list((cohort / "pictures" / answer).iterdir())
        assert len(files) == 2
        for file in files:
            with Image.open(file) as picture:
                picture.load()
                assert picture.mode in ("L", "RGB")
                assert picture.format == ("PNG" if file.suffix == ".png" else "JPEG")
                assert 180 <= min(picture.size) <= max(picture.size) <= 630
                assert np.asarray(picture.convert("L")).std() > 10


def test_name_size_mode_and_ending_of_a_picture_do_not_depend_on_the_label(tmp_path):
    (tmp_path / "pictures" / "yes").mkdir(parents=True)
    (tmp_path / "pictures" / "no").mkdir()
    for index in range(3):
        for has_tumor in (True, False):
            _write_picture(task(has_tumor, index=index, folder=tmp_path))
    pairs = [sorted((tmp_path / "pictures" / answer).iterdir()) for answer in ("yes", "no")]
    for yes, no in zip(*pairs, strict=True):
        assert yes.name == no.name
        with Image.open(yes) as one, Image.open(no) as other:
            assert (one.size, one.mode, one.format) == (other.size, other.mode, other.format)
        assert yes.read_bytes() != no.read_bytes()


@pytest.mark.parametrize("index", range(6))
def test_a_tumor_changes_nothing_far_from_it_and_lies_in_the_brain(index):
    level = np.array([15.0])
    with_tumor, labels = _scan(task(True, index=index), level, ("flair",))
    without, no_labels = _scan(task(False, index=index), level, ("flair",))
    distance_mm = ndimage.distance_transform_edt(labels[..., 0] == 0)
    farthest_push_mm = 2 * 20 + 8
    changed = (with_tumor["flair"] != without["flair"])[..., 0]
    assert changed.any()
    assert not changed[distance_mm > farthest_push_mm].any()
    assert (without["flair"][labels > 0] > 0).all()
    assert np.array_equal(with_tumor["flair"] > 0, without["flair"] > 0)
    assert not no_labels.any()
    assert (labels > 0).sum() >= 80


def test_a_sequence_is_the_same_whichever_others_are_made(cohort, tmp_path):
    generate_phantom(CONFIG.model_copy(update={"sequences": ("flair",), "pictures": 1}), SEED, tmp_path / "one", workers=1)
    for file in (tmp_path / "one" / "studies").rglob("*.nii.gz"):
        assert file.read_bytes() == (cohort / file.relative_to(tmp_path / "one")).read_bytes()


def test_gzip_header_carries_neither_time_nor_name(cohort):
    for file in cohort.rglob("*.nii.gz"):
        header = file.read_bytes()[:10]
        assert header[3] == 0
        assert header[4:8] == bytes(4)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch, interruption):
    done = []

    def stop_at_the_third(one: _Task) -> None:
        done.append(one)
        (one.folder / "studies" / f"{one.index}.nii.gz").write_bytes(b"half")
        if len(done) == 3:
            raise interruption

    monkeypatch.setattr(phantom, "_generate", stop_at_the_third)
    with pytest.raises(interruption):
        generate_phantom(CONFIG, SEED, tmp_path / "phantom", workers=1)
    assert len(done) == 3
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="Expected a new folder"):
        generate_phantom(CONFIG, SEED, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
