import re

import numpy as np
import pytest
from PIL import Image

from slicewise.config import SourceConfig
from slicewise.errors import InputError, LabelError
from slicewise.records import MaskState
from slicewise.sources import read_study
from slicewise.sources.brisc import find_studies


def write(root, split="train", name="brisc2025_train_00001_gl_ax_t1", mask=((0, 127, 128, 255),)):
    images, masks = (root / "segmentation_task" / split / kind for kind in ("images", "masks"))
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((1, 4), np.uint8)).save(images / f"{name}.jpg")
    if mask is not None:
        Image.fromarray(np.array(mask, np.uint8)).save(masks / f"{name}.png")


def find(root):
    return find_studies("brisc", SourceConfig(layout="brisc", path=root))


def test_a_tumor_slice_with_its_soft_mask(tmp_path):
    write(tmp_path, name="brisc2025_train_00001_gl_co_t1")
    (study,) = find(tmp_path)
    (item,) = read_study(study)
    assert item.mask.tolist() == [[False, False, True, True]]
    assert (item.mask_state, item.label, item.plane, item.sequence) == (MaskState.PRESENT, True, "coronal", "t1ce")


def test_no_tumor_is_an_empty_mask(tmp_path):
    folder = tmp_path / "classification_task" / "train" / "no_tumor"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "brisc2025_train_02478_no_sa_t1.jpg")
    (item,) = read_study(find(tmp_path)[0])
    assert (item.mask_state, item.label, item.plane, item.mask.any()) == (MaskState.EMPTY, False, "sagittal", False)


def test_groups_are_patients_and_the_published_split_is_kept(tmp_path):
    names = ["brisc2025_train_00001_gl_ax_t1", "brisc2025_train_00002_gl_ax_t1", "brisc2025_train_00003_gl_ax_t1"]
    for name in names[:2]:
        write(tmp_path, name=name)
    write(tmp_path, "val", names[2])
    rows = [f"{name}.jpg,glioma,ax,{group}" for name, group in zip(names, (7, 7, 8), strict=True)]
    (tmp_path / "groups.csv").write_text("\n".join(["image,class,plane,dup_group", *rows]))
    assert [(study.patient_id, study.published_split) for study in find(tmp_path)] == [
        ("glioma-7", "train"),
        ("glioma-7", "train"),
        ("glioma-8", "val"),
    ]


def test_slices_that_follow_each_other_in_the_older_set_are_one_patient(tmp_path):
    """Numbers 4, 5, 6 are one patient; 8 is another; 9 lies on the other published side; a copy is its original's."""
    table = {"a": (1, 4, "train"), "b": (2, 6, "train"), "c": (3, 5, "train"), "d": (4, 8, "train"), "e": (5, 9, "val")}
    table |= {
        "copy of a": (1, "", "train"),
        "alone": (6, "", "train"),
        "f": (7, 20, "train"),
        "copy of d": (4, "", "train"),
    }
    for name, (_, _, split) in table.items():
        write(tmp_path, split, name)
    rows = [f"{name}.jpg,glioma,ax,{group},{index},{split}" for name, (group, index, split) in table.items()]
    (tmp_path / "groups.csv").write_text("\n".join(["image,class,plane,dup_group,figshare_index,split", *rows]))
    patients = {study.study_id: study.patient_id for study in find(tmp_path)}
    together = [{name for name in patients if patients[name] == patient} for patient in sorted(set(patients.values()))]
    assert sorted(map(sorted, together)) == [["a", "b", "c", "copy of a"], ["alone"], ["copy of d", "d"], ["e"], ["f"]]


@pytest.mark.parametrize(
    ("mask", "problem", "message"),
    [
        (None, "missing-mask", "missing"),
        (((0, 0, 0, 0),), "label-mask-conflict", "is empty"),
        (((255, 255),), "mask-size", r"1 × 4 .* 1 × 2"),
    ],
)
def test_contradicting_masks_are_refused(tmp_path, mask, problem, message):
    write(tmp_path, mask=mask)
    (error,) = read_study(find(tmp_path)[0])
    assert isinstance(error, LabelError)
    assert error.problem == problem
    assert re.search(message, str(error))


def test_another_layout_is_refused(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match="segmentation_task"):
        find(tmp_path)


def test_real_set_has_its_published_counts(shared_data):
    studies = find(shared_data / "brisc2025")
    tumor = [study for study in studies if len(study.files) == 2]
    assert sum(study.published_split == "train" for study in tumor) == 2155
    assert sum(study.published_split == "val" for study in tumor) == 257
    assert len(studies) - len(tumor) == 300
