import os

import numpy as np
import pytest
from PIL import Image

from slicewise.config import SourceConfig
from slicewise.errors import InputError, UnreadableFileError
from slicewise.records import MaskState
from slicewise.sources import find_studies as find_all
from slicewise.sources import read_study
from slicewise.sources.labelled_folders import find_studies


def fill(root, names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(file, format="PNG")


def find(root):
    return find_studies("yes_no", SourceConfig(layout="labelled_folders", path=root))


def test_every_picture_is_its_own_patient_whatever_its_ending(tmp_path):
    fill(tmp_path, ["yes/Y1.jpg", "yes/Y1.PNG", "yes/Y10.JPEG", "yes/Y2.bmp", "no/1.gif"])
    (tmp_path / "yes" / ".DS_Store").write_bytes(b"")
    (tmp_path / "yes" / "Thumbs.db").write_bytes(b"")
    studies = find(tmp_path)
    assert [study.study_id for study in studies] == ["no/1.gif", "yes/Y1.PNG", "yes/Y1.jpg", "yes/Y2.bmp", "yes/Y10.JPEG"]
    assert len({study.patient_id for study in studies}) == 5


def test_yes_knows_no_mask_and_no_knows_an_empty_one(tmp_path):
    fill(tmp_path, ["Yes/a.png", "no_tumor/b.png"])
    slices = {study.study_id: next(iter(read_study(study))) for study in find(tmp_path)}
    yes, no = slices["Yes/a.png"], slices["no_tumor/b.png"]
    assert (yes.label, yes.mask_state, yes.mask) == (True, MaskState.UNKNOWN, None)
    assert (no.label, no.mask_state, no.mask.any()) == (False, MaskState.EMPTY, False)


@pytest.mark.parametrize(
    ("tumor", "healthy"), [("Brain Tumor", "Healthy"), ("tumor", "no tumor"), ("TUMOUR", "Normal"), ("yes", "No-Tumor")]
)
def test_folders_are_called_as_people_call_them(tmp_path, tumor, healthy):
    fill(tmp_path, [f"{tumor}/a.png", f"{healthy}/b.png", "segmented/c.png"])
    labels = {study.study_id: dict(study.options)["label"] for study in find(tmp_path)}
    assert labels == {f"{tumor}/a.png": True, f"{healthy}/b.png": False}


def test_a_name_that_is_no_text_is_refused_with_its_bytes(tmp_path):
    fill(tmp_path, ["yes/a.png", "no/b.png"])
    try:
        (tmp_path / "yes" / os.fsdecode(b"sc\xe4n.png")).write_bytes((tmp_path / "yes" / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system refuses such a name itself")
    with pytest.raises(InputError, match=r"UTF-8.*sc\\xe4n"):
        find_all("yes_no", SourceConfig(layout="labelled_folders", path=tmp_path))


@pytest.mark.parametrize("missing", ["yes", "no"])
def test_a_missing_class_is_named(tmp_path, missing):
    fill(tmp_path, [f"{'no' if missing == 'yes' else 'yes'}/a.png"])
    with pytest.raises(InputError, match=f"folder '{missing}'"):
        find(tmp_path)


def test_a_broken_picture_comes_as_its_error(tmp_path):
    fill(tmp_path, ["yes/a.png", "no/b.png"])
    (tmp_path / "yes" / "a.png").write_bytes(b"broken")
    items = [item for study in find(tmp_path) for item in read_study(study)]
    assert [isinstance(item, UnreadableFileError) for item in items] == [False, True]


def test_real_set_has_its_published_counts(shared_data):
    labels = [dict(study.options)["label"] for study in find(shared_data / "brain_tumor_dataset")]
    assert (labels.count(True), labels.count(False)) == (155, 98)
