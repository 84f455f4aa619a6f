"""BraTS: a folder a study, a NIfTI file a sequence, voxel labels in ``seg``; the namings of 2020 to 2024.

=====================  =================================================  ============================
edition                file names                                         label integers
=====================  =================================================  ============================
2020, 2021             ``BraTS2021_00006_flair``, ``_t1``, ``_t1ce``,     1 necrosis, 2 edema,
                       ``_t2``, ``_seg``                                  4 enhancing tumor
2023                   ``BraTS-GLI-00001-000-t2f``, ``-t1n``, ``-t1c``,   1 necrosis, 2 edema,
                       ``-t2w``, ``-seg``                                 3 enhancing tumor
2024                   as 2023                                            also 4, the resection cavity
=====================  =================================================  ============================

Files end in ``.nii`` or ``.nii.gz``. The mask is the whole tumor: every label but background and the resection cavity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slicewise.config import SourceConfig
from slicewise.errors import FileError, InputError, LabelError
from slicewise.records import MaskState, Scan, Slice, Study
from slicewise.sources.folders import root_of, visible
from slicewise.sources.nifti import read_volume

__all__ = ["find_studies", "read_study"]

_LAYOUT = "a folder <study>/<study>_<sequence>.nii.gz or <study>/<study>-<sequence>.nii.gz for each study (BraTS)"
_SUFFIXES = {
    "flair": "flair",
    "t1": "t1",
    "t1ce": "t1ce",
    "t2": "t2",
    "t2f": "flair",
    "t1n": "t1",
    "t1c": "t1ce",
    "t2w": "t2",
    "seg": "seg",
}
_NAME = re.compile(rf"^(?P<study>.+)[_-](?P<suffix>{'|'.join(_SUFFIXES)})\.nii(\.gz)?$", re.IGNORECASE)
_SEQUENCES = ("t1", "t1ce", "t2", "flair")
_LABELS = {2020: {0, 1, 2, 4}, 2021: {0, 1, 2, 4}, 2023: {0, 1, 2, 3}, 2024: {0, 1, 2, 3, 4}}
_CAVITY = {2024: 4}


def find_studies(source: str, config: SourceConfig) -> list[Study]:
    """One study a folder; ``BraTS-GLI-00001-000`` and ``-001`` are two time points of one patient.

    Args:
        source: Name of the source.
        config: Its folder, the parent of the studies or one of them; the sequences to read (none named: all that are there);
            the edition (none named: by the studies' names).

    Raises:
        InputError: The folder is missing, empty or of another layout, or a study lacks a sequence that is asked for.
    """
    root = root_of(source, config, _LAYOUT)
    studies = [
        _study(source, folder, files, config)
        for folder in (root, *filter(Path.is_dir, visible(root)))
        if (files := _files_by_sequence(folder)) and set(files) != {"seg"}
    ]
    if not studies:
        raise InputError(f"Expected {_LAYOUT} for source {source}, found none in {root}.")
    return studies


def read_study(study: Study) -> Iterator[Slice | FileError]:
    """The axial slices of every sequence; slices without any contrast, outside the brain, are left out.

    A sequence that cannot be read, or lies on another grid than the mask, is yielded as its error, and the next one follows.

    Raises:
        UnreadableFileError: The mask cannot be read.
        LabelError: The mask has labels that its edition does not know.
    """
    options = dict(study.options)
    files = dict(zip(options["sequences"], study.files, strict=True))
    seg_file = files.pop("seg", None)
    seg = None if seg_file is None else read_volume(seg_file)
    mask = None if seg is None or seg_file is None else _whole_tumor(seg.slices, seg_file, options["year"], study.source)
    for sequence, file in files.items():
        try:
            volume = read_volume(file)
            if seg is not None:
                _check_grids(volume, seg, file, study)
        except FileError as error:
            yield error
            continue
        for index, image in enumerate(volume.slices):
            if image.min() == image.max():
                continue
            has_tumor = None if mask is None else bool(mask[index].any())
            yield Slice(
                image=image,
                mask=None if mask is None else mask[index],
                mask_state=_STATES[has_tumor],
                label=has_tumor,
                slice_index=index,
                sequence=sequence,
                plane=volume.plane,
                spacing_mm=volume.spacing_mm,
                slice_spacing_mm=volume.slice_spacing_mm,
                file=file,
                mask_file=seg_file,
            )


_STATES = {None: MaskState.UNKNOWN, True: MaskState.PRESENT, False: MaskState.EMPTY}


def _files_by_sequence(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in visible(folder):
        match = _NAME.match(file.name)
        if not match or not file.is_file():
            continue
        sequence = _SUFFIXES[match["suffix"].lower()]
        if sequence in files:
            raise InputError(
                f"Expected one file for {sequence} in the study's folder {folder}, found {files[sequence].name} and "
                f"{file.name}. Keep one study a folder, and one file a sequence."
            )
        files[sequence] = file
    return files


def _study(source: str, folder: Path, files: dict[str, Path], config: SourceConfig) -> Study:
    wanted: tuple[str, ...] = config.sequences or tuple(sequence for sequence in _SEQUENCES if sequence in files)
    missing = [sequence for sequence in wanted if sequence not in files]
    if missing:
        found = [sequence for sequence in _SEQUENCES if sequence in files]
        raise InputError(
            f"Expected {len(wanted)} sequences ({', '.join(wanted)}) for study {folder.name}, found {len(found)}: "
            f"{', '.join(missing)} is missing in {folder}. Add the file, or name fewer in sources.{source}.sequences."
        )
    order = (*wanted, "seg") if "seg" in files else wanted
    is_new_naming = folder.name.upper().startswith("BRATS-")
    options = (("sequences", order), ("year", config.year or (2023 if is_new_naming else 2021)))
    patient_id = folder.name.rsplit("-", 1)[0] if is_new_naming and folder.name.count("-") >= 3 else folder.name
    return Study("brats", source, folder.name, patient_id, tuple(files[name] for name in order), options=options)


def _whole_tumor(labels: NDArray[np.float32], file: Path, year: int, source: str) -> NDArray[np.bool_]:
    found = set(np.unique(labels).tolist())
    unknown = sorted(found - _LABELS[year])
    if unknown:
        raise LabelError(
            f"Expected labels {sorted(_LABELS[year])} of BraTS {year}, found "
            f"{', '.join(f'{value:g}' for value in unknown)} in {file}. "
            f"If it is of another edition, set sources.{source}.year.",
            "impossible-label",
            file,
        )
    return (labels > 0) & (labels != _CAVITY.get(year, -1))


def _check_grids(image: Scan, seg: Scan, file: Path, study: Study) -> None:
    if image.slices.shape != seg.slices.shape:
        raise LabelError(
            f"Expected a mask of shape {image.slices.shape} (slices, rows, columns) for {file}, the mask of study "
            f"{study.study_id} has {seg.slices.shape}. Check that they belong together.",
            "mask-size",
            file,
        )
    if not np.allclose(image.slice_affine, seg.slice_affine, atol=0.1):
        raise LabelError(
            f"Expected image and mask on one grid, the affines of {file} and of the mask of study {study.study_id} differ. "
            "Resample the mask onto the image.",
            "mask-grid",
            file,
        )
