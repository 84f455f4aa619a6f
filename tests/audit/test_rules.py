"""Every rule finds its planted defect, and a clean set breaks none."""

import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from slicewise.audit.audit import audit
from slicewise.audit.findings import RULES, Finding, Severity
from slicewise.audit.survey import survey_sources
from slicewise.config import SourceConfig

from .conftest import MAKERS, audit_of, draw_head, save, survey_of

PICTURES, LGG, BRATS = "labelled_folders", "lgg", "brats"


def rewrite(file, change, mode=None):
    pixels = change(np.asarray(Image.open(file)).copy())
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file)


def rewrite_volume(file, change, affine=None):
    volume = nib.load(file)
    voxels = change(np.asarray(volume.dataobj).copy())
    nib.save(nib.Nifti1Image(voxels, volume.affine if affine is None else affine), file)


def truncate(folder):
    file = folder / "yes" / "3.png"
    file.write_bytes(file.read_bytes()[:200])


def plant_nan(folder):
    rewrite_volume(
        folder / "BraTS2021_00003/BraTS2021_00003_flair.nii.gz", lambda voxels: np.where(voxels > 150, np.nan, voxels)
    )


def empty_volume(folder):
    file = folder / "BraTS2021_00003/BraTS2021_00003_flair.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((64, 64, 0), np.float32), np.eye(4)), file)


def blacken(folder):
    save(folder / "no" / "5.png", np.full((96, 96), 3, np.uint8))


def encircle(folder):
    def draw(gray):
        pixels = np.stack([gray] * 3, axis=2)
        pixels[40:60, 40:60] = (255, 0, 0)
        return pixels

    rewrite(folder / "yes" / "2.png", draw)


def color(folder):
    rewrite(folder / "yes" / "2.png", lambda gray: np.stack([gray] * 3, axis=2))


def deepen(folder):
    rewrite(folder / "yes" / "2.png", lambda gray: gray.astype(np.uint16) * 200)


def turn(folder):
    volume = nib.load(file := folder / "BraTS2021_00003/BraTS2021_00003_flair.nii.gz")
    flipped = nib.as_closest_canonical(volume).slicer[::-1]
    nib.save(nib.Nifti1Image(np.asarray(flipped.dataobj), flipped.affine), file)
    mask = nib.load(file := folder / "BraTS2021_00003/BraTS2021_00003_seg.nii.gz")
    flipped = nib.as_closest_canonical(mask).slicer[::-1]
    nib.save(nib.Nifti1Image(np.asarray(flipped.dataobj), flipped.affine), file)


def shrink(folder):
    for part in ("flair", "seg"):
        file = folder / f"BraTS2021_00003/BraTS2021_00003_{part}.nii.gz"
        rewrite_volume(file, lambda voxels: voxels, affine=np.diag([0.1, 0.1, 5, 1]))


def seg(folder):
    return folder / "BraTS2021_00003/BraTS2021_00003_seg.nii.gz"


def mask(folder, number=2):
    return folder / f"TCGA_03/TCGA_03_{number}_mask.tif"


def contradict(folder):
    """A BRISC-like pair whose mask is empty although its class says tumor."""
    random = np.random.default_rng(5)
    for number in range(4):
        image, outline = draw_head(random, tumor=True)
        name = f"brisc2025_train_{number:05}_gl_ax_t1"
        save(folder / f"segmentation_task/train/images/{name}.jpg", image)
        save(folder / f"segmentation_task/train/masks/{name}.png", (outline & (number > 0)).astype(np.uint8) * 255)


def plant_speck(pixels):
    pixels[70, 70] = 255
    return pixels


def blur(pixels):
    values = np.linspace(60, 190, pixels.size).round().astype(np.uint8)
    return np.where(np.arange(pixels.size).reshape(pixels.shape) % 7 < 3, values.reshape(pixels.shape), pixels)


def copy_pixels(folder):
    Image.open(folder / "yes/4.png").save(folder / "yes/copy.png", compress_level=9)


def reencode(folder):
    Image.open(folder / "yes/4.png").resize((120, 120)).save(folder / "yes/copy.jpg", quality=85)


def frame_free(folder):
    for file in (folder / "no").iterdir():
        rewrite(file, lambda gray: np.pad(gray[4:-4, 4:-4], 4, constant_values=180))


def widen_tumor(folder):
    for file in (folder / "yes").iterdir():
        rewrite(file, lambda gray: np.pad(gray, ((0, 0), (12, 12))))


def empty_masks(folder):
    for file in folder.rglob("*_mask.tif"):
        if file.parent.name != "TCGA_03" or "_2_" not in file.name:
            rewrite(file, np.zeros_like)


def empty_all_masks(folder):
    for file in folder.rglob("*_mask.tif"):
        rewrite(file, np.zeros_like)


def few(folder):
    for number in range(5, 15):
        (folder / "yes" / f"{number}.png").unlink()


def prolong(folder):
    random = np.random.default_rng(8)
    for number in range(10, 40):
        image, outline = draw_head(random, number % 2 == 0)
        save(folder / f"TCGA_03/TCGA_03_{number}.tif", np.stack([image] * 3, axis=2))
        save(folder / f"TCGA_03/TCGA_03_{number}_mask.tif", outline.astype(np.uint8) * 255)


def mislabel(folder):
    """Tumors that a simple model sees, and one of them filed as tumor-free."""

    def brighten(gray):
        gray[30:66, 30:66] = 250
        return gray

    random = np.random.default_rng(6)
    for number in range(15, 40):
        for answer in ("yes", "no"):
            save(folder / answer / f"{number}.png", draw_head(random)[0])
    for file in (folder / "yes").iterdir():
        rewrite(file, brighten)
    shutil.move(folder / "yes" / "7.png", folder / "no" / "seven.png")


PLANTS = {
    "unreadable-file": (PICTURES, truncate),
    "non-finite": (BRATS, plant_nan),
    "no-pixels": (BRATS, empty_volume),
    "blank-slice": (PICTURES, blacken),
    "color-in-picture": (PICTURES, encircle),
    "mixed-color-modes": (PICTURES, color),
    "mixed-bit-depth": (PICTURES, deepen),
    "mixed-orientation": (BRATS, turn),
    "implausible-spacing": (BRATS, shrink),
    "impossible-label": (BRATS, lambda folder: rewrite_volume(seg(folder), lambda voxels: voxels * 7)),
    "missing-mask": (LGG, lambda folder: mask(folder).unlink()),
    "orphaned-mask": (LGG, lambda folder: (folder / "TCGA_03/TCGA_03_2.tif").unlink()),
    "mask-size": (LGG, lambda folder: rewrite(mask(folder), lambda pixels: pixels[:-2])),
    "mask-grid": (BRATS, lambda folder: rewrite_volume(seg(folder), lambda voxels: voxels, np.diag([2.5, 2.5, 9, 1]))),
    "mask-values": (LGG, lambda folder: rewrite(mask(folder), lambda pixels: pixels // 255 * 3)),
    "soft-mask": (LGG, lambda folder: rewrite(mask(folder), blur)),
    "label-mask-conflict": ("brisc", contradict),
    "mask-specks": (LGG, lambda folder: rewrite(mask(folder), plant_speck)),
    "mask-outside-head": (LGG, lambda folder: rewrite(mask(folder), lambda pixels: np.roll(pixels, 48, axis=(0, 1)))),
    "duplicate-bytes": (PICTURES, lambda folder: shutil.copy(folder / "yes/4.png", folder / "yes/copy.png")),
    "duplicate-pixels": (PICTURES, copy_pixels),
    "near-duplicate": (PICTURES, reencode),
    "duplicate-across-labels": (PICTURES, lambda folder: shutil.copy(folder / "yes/4.png", folder / "no/copy.png")),
    "name-clash": (PICTURES, lambda folder: save(folder / "yes/CAFÉ.png", draw_head(np.random.default_rng(9))[0])),
    "ending-case": (PICTURES, lambda folder: (folder / "yes/4.png").rename(folder / "yes/4.PNG")),
    "unportable-name": (PICTURES, lambda folder: (folder / "yes/4.png").rename(folder / "yes/4?.png")),
    "unrecognized-file": (LGG, lambda folder: save(folder / "TCGA_03/overview.png", draw_head(np.random.default_rng(9))[0])),
    "shortcut-one-class": (LGG, empty_all_masks),
    "shortcut-metadata": (PICTURES, widen_tumor),
    "shortcut-border": (PICTURES, frame_free),
    "class-imbalance": (LGG, empty_masks),
    "few-patients": (PICTURES, few),
    "dominant-patient": (LGG, prolong),
    "intensity-outlier": (PICTURES, lambda folder: rewrite(folder / "yes/4.png", lambda gray: 255 - gray)),
    "suspected-label": (PICTURES, mislabel),
}
ELSEWHERE = {"patient-on-two-sides", "duplicate-on-two-sides", "stale-split", "shortcut-source"}


def test_every_rule_is_planted_here():
    assert set(PLANTS) | ELSEWHERE == set(RULES)


@pytest.mark.parametrize("layout", MAKERS)
def test_a_clean_set_breaks_no_rule(make_set, layout):
    assert [str(finding) for finding in audit_of(make_set(layout), layout).findings] == []


@pytest.mark.parametrize("rule", PLANTS)
def test_a_planted_defect_is_found(make_set, tmp_path, rule):
    layout, plant = PLANTS[rule]
    folder = make_set(layout) if layout in MAKERS else tmp_path / layout
    if rule == "name-clash":
        save(folder / "yes/café.png", draw_head(np.random.default_rng(10))[0])
    plant(folder)
    found = [finding for finding in audit_of(folder, layout).findings if finding.rule == rule]
    assert found, "not found"
    assert all(finding.message and RULES[rule].remedy and RULES[rule].why for finding in found)
    assert found[0].severity in (RULES[rule].severity, Severity.WARNING)


@pytest.fixture
def twins(make_set):
    """A clean set, a copy in it, and a good division of its patients."""
    folder = make_set(PICTURES)
    shutil.copy(folder / "yes/4.png", folder / "yes/copy.png")
    survey = survey_of(folder, PICTURES)
    patients = survey.table[["source", "patient_id"]].drop_duplicates().reset_index(drop=True)
    sides = ["test" if "1" in patient else "train" for patient in patients["patient_id"]]
    return survey, patients.assign(split=sides)


def leaks(survey, split):
    rules = {"patient-on-two-sides", "duplicate-on-two-sides", "stale-split"}
    return {finding.rule: finding for finding in audit(survey, split).findings if finding.rule in rules}


@pytest.mark.parametrize(("name", "rule"), [("x_mask_2.png", "orphaned-mask"), ("overview.png", "unrecognized-file")])
def test_a_stranger_is_a_mask_where_its_name_has_the_word_anywhere(make_set, name, rule):
    folder = make_set(LGG)
    save(folder / "TCGA_03" / name, draw_head(np.random.default_rng(9))[0])
    assert [finding.rule for finding in audit_of(folder, LGG).findings if name in str(finding)] == [rule]


def test_a_good_division_leaks_nothing(twins):
    assert leaks(*twins) == {}


def test_a_patient_on_two_sides_is_found(twins):
    survey, split = twins
    twice = pd.concat([split, split.iloc[[0]].assign(split="val")])
    assert set(leaks(survey, twice)) == {"patient-on-two-sides"}


def test_copies_on_two_sides_are_found(twins):
    survey, split = twins
    split.loc[split["patient_id"].str.contains("copy"), "split"] = "test"
    found = leaks(survey, split)
    assert set(found) == {"duplicate-on-two-sides"}
    assert [file.rsplit("/", 1)[1] for file in found["duplicate-on-two-sides"].files] == ["4.png", "copy.png"]


@pytest.mark.parametrize("change", [lambda split: split.iloc[1:], lambda split: split.replace("yes/4.png", "yes/gone.png")])
def test_a_division_of_other_data_is_found(twins, change):
    survey, split = twins
    changed = change(split)
    assert len(changed) < len(split) or not changed.equals(split)
    assert set(leaks(survey, changed)) == {"stale-split"}


def test_sources_that_tell_the_label_are_found(tmp_path):
    sources, random = {}, np.random.default_rng(4)
    for name, tumors in (("a", 20), ("b", 1)):
        for number in range(21):
            answer = "yes" if number < tumors else "no"
            save(tmp_path / name / answer / f"{number}.png", draw_head(random, answer == "yes")[0])
        sources[name] = SourceConfig(layout=PICTURES, path=tmp_path / name)
    found = {finding.rule: finding for finding in audit(survey_sources(sources, workers=1)).findings}
    assert found["shortcut-source"].severity is Severity.ERROR
    assert "shortcut-metadata" not in found


def test_a_source_that_does_not_teach_classification_has_no_shortcut(make_set):
    folder = make_set(LGG)
    empty_all_masks(folder)
    source = SourceConfig(layout=LGG, path=folder, classification=False)
    assert not [item for item in audit(survey_sources({"lgg": source}, workers=1)).findings if "shortcut" in item.rule]


def test_a_finding_names_each_file_once_and_reads_as_one_line():
    finding = Finding.of("mask-size", "Two sizes.", ["a.png", "b.png", "a.png"], source="lgg")
    assert finding.files == ("a.png", "b.png")
    assert str(finding).splitlines() == [str(finding)]
    assert str(finding).startswith("error: mask-size in lgg: Two sizes. For example a.png.")
