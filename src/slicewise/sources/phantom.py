"""A generated cohort in two published layouts, so that everything can be run and tested without a patient's data.

``studies`` holds BraTS-named volumes with voxel labels, ``pictures`` yes/no folders of single slices of other patients.
Every patient is drawn from random streams of their own, and a tumor from one that nothing else uses: leaving it out
changes nothing but the tumor, and neither the number of workers nor the order of work changes a byte.
"""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slicewise.config import PhantomConfig
from slicewise.errors import InputError
from slicewise.sources.phantom_anatomy import Array, Head, Lesion, load_template, tissue_fractions
from slicewise.sources.phantom_signal import acquire, tumor_labels

__all__ = ["generate_phantom"]

_SIDE = 240
_MARGIN = (28, 12)
"""Voxels left, right and front, back of the grid that no head reaches: they are not computed."""
_CENTER_MM = (0.0, -18.0)
_BOTTOM_MM, _TOP_MM = -62.0, 78.0
_SEQUENCES = ("flair", "t1", "t1ce", "t2")
_STUDY, _PICTURE, _COHORT = range(3)


@dataclass(frozen=True, slots=True)
class _Task:
    """One patient to generate; plain values, so that a worker process can receive it."""

    kind: int
    index: int
    has_tumor: bool
    config: PhantomConfig
    seed: int
    folder: Path


@dataclass(frozen=True, slots=True)
class _PictureFormat:
    """How a picture is published; drawn without knowing what it shows."""

    field_mm: tuple[int, int]
    """Height and width of the field of view."""
    size_px: tuple[int, int]
    """Height and width of the file."""
    mode: str
    suffix: str
    quality: int
    """Of JPEG; PNG ignores it."""
    gain: float
    """Gray level of a signal of 1."""


def generate_phantom(config: PhantomConfig, seed: int, folder: Path, workers: int = 2) -> None:
    """Write a cohort: ``studies/BraTS2021_9xxxx/…nii.gz`` and ``pictures/{yes,no}/…``.

    The cohort appears under its name when it is complete; an interrupted generation leaves nothing there. The same
    seed gives the same bytes, whatever ``workers`` is, with the same versions of the libraries.

    Names do not say the seed, because a split is drawn by them (`slicewise.data.split`) and that of the demo shall stay. Two
    cohorts of different seeds are other patients of equal names: sources of their own, never files merged into one folder,
    nor runs that are compared as those of the same patients (`slicewise.evaluation.seeds`).

    Args:
        config: How many patients, slices and pictures, and which sequences.
        seed: Not negative.
        folder: Must not exist yet.
        workers: Processes.

    Raises:
        InputError: ``folder`` exists.
        ConfigError: nilearn is not installed.
    """
    if folder.exists():
        raise InputError(f"Expected a new folder for the phantom cohort, found {folder}. Remove it or name another one.")
    load_template()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as staging:
        cohort = Path(staging) / "cohort"
        for name in ("studies", "pictures/yes", "pictures/no"):
            (cohort / name).mkdir(parents=True)
        tasks = list(_plan(config, seed, cohort))
        if workers == 1:
            for task in tasks:
                _generate(task)
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for _ in pool.map(_generate, tasks):
                    pass
        cohort.rename(folder)


def _plan(config: PhantomConfig, seed: int, folder: Path) -> Iterable[_Task]:
    (random,) = _streams(seed, _COHORT, 0, 1)
    cases = (
        (_STUDY, config.patients, round(config.patients * 2 / 3)),
        (_PICTURE, config.pictures, config.pictures // 2),
    )
    for kind, count, tumors in cases:
        for index, rank in enumerate(random.permutation(count)):
            yield _Task(kind, index, bool(rank < tumors), config, seed, folder)


def _generate(task: _Task) -> None:
    if task.kind == _STUDY:
        _write_study(task)
    else:
        _write_picture(task)


def _write_study(task: _Task) -> None:
    spacing = (_TOP_MM - _BOTTOM_MM) / task.config.slices
    levels = _BOTTOM_MM + spacing * (np.arange(task.config.slices) + 0.5)
    name = f"BraTS2021_{90_000 + task.index}"
    folder = task.folder / "studies" / name
    folder.mkdir()
    affine = np.diag((-1.0, -1.0, spacing, 1.0))
    affine[:3, 3] = (*_first_voxel_mm(), levels[0])
    images, labels = _scan(task, levels, task.config.sequences)
    (random,) = _streams(task.seed, _STUDY, task.index, 1, purpose=1)
    for sequence in _SEQUENCES:
        scale = np.exp(random.uniform(np.log(500), np.log(4000)))
        if sequence in images:
            volume = np.rint(scale * images[sequence]).astype(np.int16)
            _write_nifti(volume, affine, folder / f"{name}_{sequence}.nii.gz")
    _write_nifti(labels, affine, folder / f"{name}_seg.nii.gz")


def _write_picture(task: _Task) -> None:
    shape, content = _streams(task.seed, _PICTURE, task.index, 2, purpose=1)
    form = _draw_format(shape)
    sequence = task.config.sequences[content.integers(len(task.config.sequences))]
    images, _ = _scan(task, np.array([content.uniform(-15, 50)]), (sequence,))
    top, left = ((_SIDE - side) // 2 for side in form.field_mm)
    rows = images[sequence][left : left + form.field_mm[1], top : top + form.field_mm[0], 0].T
    levels = np.clip(np.rint(form.gain * rows), 0, 255).astype(np.uint8)
    picture = Image.fromarray(levels).resize(form.size_px[::-1], Image.Resampling.BICUBIC).convert(form.mode)
    answer = "yes" if task.has_tumor else "no"
    file = task.folder / "pictures" / answer / f"picture_{task.index + 1:04d}{form.suffix}"
    picture.save(file, quality=form.quality)


def _scan(
    task: _Task, levels_mm: NDArray[np.floating], sequences: tuple[str, ...]
) -> tuple[dict[str, Array], NDArray[np.uint8]]:
    """Images by sequence and labels, ``(240, 240, slices)`` with axes to the left, posterior and superior."""
    anatomy, spotting, growth, *scanner = _streams(task.seed, task.kind, task.index, 3 + len(_SEQUENCES))
    first, (width, height) = _first_voxel_mm(), _MARGIN
    axes = (first[0] - np.arange(width, _SIDE - width), first[1] - np.arange(height, _SIDE - height), levels_mm)
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    head = Head(anatomy)
    lesion = Lesion(growth, head, points) if task.has_tumor else None
    fractions = tissue_fractions(head, lesion, _draw_spots(spotting, head, points), points)
    padding = ((width, width), (height, height), (0, 0))
    images = {
        sequence: np.pad(acquire(fractions, points, sequence, random), padding)
        for sequence, random in zip(_SEQUENCES, scanner, strict=True)
        if sequence in sequences
    }
    return images, np.pad(tumor_labels(fractions), padding)


def _draw_spots(random: np.random.Generator, head: Head, points: Array) -> Array:
    """Small white-matter hyperintensities of 2 to 4 mm, as many in patients with a tumor as in those without."""
    spots = np.zeros(points.shape[1:])
    candidates = np.argwhere(head.tissues(points[:, ::3, ::3])[0] > 0.8) * (3, 3, 1)
    count = random.poisson(random.uniform(0, 2) * points.shape[3])
    for i, j, k in random.permutation(candidates)[:count]:
        window = np.s_[max(i - 5, 0) : i + 6, max(j - 5, 0) : j + 6, k]
        stretch = np.exp(random.normal(0, 0.25, 2))
        x, y = ((points[axis][window] - points[axis][i, j, k]) * stretch[axis] for axis in range(2))
        spot = random.uniform(0.4, 1) * np.clip(random.uniform(1, 2) - np.hypot(x, y) + 0.5, 0, 1)
        spots[window] = np.maximum(spots[window], spot)
    return spots


def _draw_format(random: np.random.Generator) -> _PictureFormat:
    field = np.array((random.integers(208, _SIDE + 1), random.integers(184, _SIDE + 1)))
    zoom = random.uniform(180 / field.min(), 630 / field.max())
    height, width = (int(side) for side in np.clip(np.rint(zoom * field), 180, 630))
    return _PictureFormat(
        field_mm=(int(field[0]), int(field[1])),
        size_px=(height, width),
        mode=str(random.choice(("L", "RGB"))),
        suffix=str(random.choice((".png", ".jpg", ".jpeg", ".JPG"))),
        quality=int(random.integers(75, 96)),
        gain=random.uniform(210, 270),
    )


def _first_voxel_mm() -> tuple[float, float]:
    return _CENTER_MM[0] + (_SIDE - 1) / 2, _CENTER_MM[1] + (_SIDE - 1) / 2


def _streams(seed: int, kind: int, index: int, count: int, purpose: int = 0) -> list[np.random.Generator]:
    """Independent random streams of one patient."""
    return [np.random.default_rng(one) for one in np.random.SeedSequence((seed, kind, index, purpose)).spawn(count)]


def _write_nifti(voxels: NDArray[np.int16] | NDArray[np.uint8], affine: Array, file: Path) -> None:
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    packed = io.BytesIO()
    # nibabel would put the time and the file's name into the gzip header: the same seed would not give the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as stream:
        stream.write(image.to_bytes())
    file.write_bytes(packed.getvalue())
