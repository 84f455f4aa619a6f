"""The LGG segmentation set (``kaggle_3m``): TIFF slices of lower-grade glioma, a mask for each.

``<patient>/<patient>_<slice>.tif`` holds three channels, T1 before contrast, FLAIR, T1 after contrast, and
``<patient>/<patient>_<slice>_mask.tif`` outlines the FLAIR abnormality (Buda et al. 2019,
https://doi.org/10.1016/j.compbiomed.2019.05.002). A file with one channel is FLAIR.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slicewise.config import SourceConfig
from slicewise.errors import FileError, InputError
from slicewise.records import MaskState, Slice, Study
from slicewise.sources.folders import by_number, root_of, visible
from slicewise.sources.images import read_channels, read_mask_of

__all__ = ["find_studies", "read_study"]

_LAYOUT = "a folder <patient>/<patient>_<slice>.tif with <patient>_<slice>_mask.tif (kaggle_3m)"
_CHANNELS = {"t1": 0, "flair": 1, "t1ce": 2}
_NUMBER = re.compile(r"_(\d+)\.tiff?$", re.IGNORECASE)


def find_studies(source: str, config: SourceConfig) -> list[Study]:
    """One study a patient, slices in their order.

    Raises:
        InputError: The folder is missing, empty or of another layout, or a sequence is asked for that the set lacks.
    """
    root = root_of(source, config, _LAYOUT)
    if (root / "kaggle_3m").is_dir():
        root = root / "kaggle_3m"
    unknown = sorted(set(config.sequences) - set(_CHANNELS))
    if unknown:
        raise InputError(f"Expected sequences among {', '.join(_CHANNELS)} for source {source}, got {', '.join(unknown)}.")
    options = (("sequences", config.sequences or ("flair",)),)
    studies = []
    for folder in filter(Path.is_dir, visible(root)):
        files = sorted((file for file in visible(folder) if _NUMBER.search(file.name)), key=by_number)
        if files:
            pairs = tuple(part for file in files for part in (file, _mask_of(file)))
            studies.append(Study("lgg", source, folder.name, folder.name, pairs, options=options))
    if not studies:
        raise InputError(f"Expected {_LAYOUT} for source {source}, found no such slice below {root}.")
    return studies


def read_study(study: Study) -> Iterator[Slice | FileError]:
    """The slices of one patient; what is wrong with one is yielded as its error, and the next one follows.

    A tumor-free slice is tumor-free in every sequence. Where there is tumor, the mask outlines the FLAIR abnormality only,
    so a T1 slice knows its label but not its mask. A T1 channel that copies FLAIR stands for a missing sequence.
    """
    sequences: tuple[str, ...] = dict(study.options)["sequences"]
    for file, mask_file in zip(study.files[::2], study.files[1::2], strict=True):
        try:
            yield from _read_slice(file, mask_file, sequences)
        except FileError as error:
            yield error


def _mask_of(file: Path) -> Path:
    return file.with_name(f"{file.stem}_mask{file.suffix}")


def _read_slice(file: Path, mask_file: Path, sequences: tuple[str, ...]) -> list[Slice]:
    pixels = read_channels(file)
    mask, soft_share = read_mask_of(file, mask_file, pixels.shape[:2])
    has_tumor = bool(mask.any())
    number = _NUMBER.search(file.name)
    slices = []
    for sequence in sequences:
        image = pixels if pixels.ndim == 2 else pixels[..., _CHANNELS[sequence]]
        is_flair = sequence == "flair"
        if not is_flair and (pixels.ndim == 2 or np.array_equal(image, pixels[..., _CHANNELS["flair"]])):
            continue
        state = MaskState.EMPTY if not has_tumor else MaskState.PRESENT if is_flair else MaskState.UNKNOWN
        slices.append(
            Slice(
                image=image,
                mask=None if state is MaskState.UNKNOWN else mask,
                mask_state=state,
                label=has_tumor,
                slice_index=int(number.group(1)) if number else 0,
                sequence=sequence,
                plane="axial",
                file=file,
                mask_file=mask_file,
                mask_soft_share=soft_share,
            )
        )
    return slices
