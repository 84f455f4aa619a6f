"""Three small sets with nothing wrong in them, in the layouts of the publishers, to plant defects in."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from slicewise.audit import predictability
from slicewise.audit.audit import audit
from slicewise.audit.survey import survey_sources
from slicewise.config import SourceConfig

SIDE_PX = 96


def draw_head(random, tumor=False, side=SIDE_PX):
    """An ellipse with a texture of its own, uint8, and the mask of the bright disc in it."""
    down, right = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    inside = (right / 0.7) ** 2 + (down / 0.8) ** 2 < 1
    noise = random.normal(size=(2, side, side))
    coarse, fine = ndimage.gaussian_filter(noise[0], side / 30), ndimage.gaussian_filter(noise[1], side / 75)
    image = inside * (90 + 16 * coarse / coarse.std() + 14 * fine / fine.std())
    row, column = random.uniform(-0.35, 0.35, size=2)
    mask = (right - column) ** 2 + (down - row) ** 2 < 0.15**2
    image += mask * 60 * tumor + random.normal(random.uniform(2, 6), 1.5, size=image.shape)
    return image.clip(0, 255).round().astype(np.uint8), mask & tumor


def save(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not compressed, so that the size of a file says nothing of what it shows.
    options = {"compress_level": 0} if file.suffix == ".png" else {}
    Image.fromarray(pixels).save(file, **options)


def make_pictures(folder):
    """15 pictures in yes/ and in no/."""
    random = np.random.default_rng(3)
    for number in range(15):
        for answer in ("yes", "no"):
            save(folder / answer / f"{number}.png", draw_head(random, answer == "yes")[0])


def make_lgg(folder):
    """12 patients of 4 slices, every second one with a tumor."""
    random = np.random.default_rng(1)
    for patient in range(12):
        for number in range(1, 5):
            image, mask = draw_head(random, number % 2 == 0)
            name = f"TCGA_{patient:02}/TCGA_{patient:02}_{number}"
            save(folder / f"{name}.tif", np.stack([image] * 3, axis=2))
            save(folder / f"{name}_mask.tif", mask.astype(np.uint8) * 255)


def make_brats(folder):
    """10 patients of 4 slices, every second one with a tumor."""
    random = np.random.default_rng(2)
    affine = np.diag([2.5, 2.5, 5, 1])
    for patient in range(10):
        name = f"BraTS2021_{patient:05}"
        slices = [draw_head(random, number % 2 == 0, side=64) for number in range(4)]
        image, mask = (np.stack([pair[part] for pair in slices], axis=2) for part in (0, 1))
        (folder / name).mkdir(parents=True)
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / name / f"{name}_flair.nii.gz")
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), folder / name / f"{name}_seg.nii.gz")


MAKERS = {"labelled_folders": make_pictures, "lgg": make_lgg, "brats": make_brats}


@pytest.fixture(autouse=True)
def _small_forests(monkeypatch):
    """Less exact shortcuts, in a tenth of the time."""
    monkeypatch.setattr(predictability, "_REPEATS", 1)
    monkeypatch.setattr(predictability, "_TREES", 40)


@pytest.fixture
def make_set(tmp_path):
    """Make the clean set of a layout in a folder of its own."""

    def make(layout, name=None) -> Path:
        folder = tmp_path / (name or layout)
        MAKERS[layout](folder)
        return folder

    return make


def survey_of(folder, layout):
    return survey_sources({layout: SourceConfig(layout=layout, path=folder)}, workers=1)


def audit_of(folder, layout, split=None):
    return audit(survey_of(folder, layout), split)
