"""Everything an audit looks at, gathered once: from original files or from a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.audit.thumbnail import THUMBNAIL_PX, make_thumbnail
from slicewise.config import SourceConfig
from slicewise.data.reading import read_studies
from slicewise.data.store import COLUMNS, SliceStore, checksum_of
from slicewise.errors import FileError
from slicewise.records import Study
from slicewise.sources import find_studies
from slicewise.sources.folders import root_of
from slicewise.sources.images import is_picture_name

__all__ = ["Problem", "Survey", "combine", "survey_sources", "survey_store"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What reading a file ended with."""

    rule: str
    """Name of the rule that it breaks."""
    message: str
    """What was expected and what came."""
    file: str
    """The file."""


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """Facts, and no judgment."""

    table: pd.DataFrame
    """One row a slice, see `slicewise.data.store.COLUMNS`."""
    thumbnails: NDArray[np.uint8]
    """``(N, 64, 64)``, in the order of the rows."""
    problems: tuple[Problem, ...]
    """Files that could not be used."""
    strangers: tuple[Path, ...]
    """Pictures and volumes that the layouts have no place for."""
    sources: Mapping[str, bool]
    """By source: do its labels teach and score classification?"""


def survey_sources(
    sources: Mapping[str, SourceConfig],
    *,
    workers: int = 2,
    excluded: frozenset[Path] = frozenset(),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read original files; nothing of them is kept but facts and thumbnails.

    Args:
        sources: By name.
        workers: Processes that read.
        excluded: Files to leave out.
        progress: Called with the number of studies done and their total.

    Raises:
        InputError: A folder is missing, empty or of another layout.
    """
    studies = [study for name, source in sources.items() for study in find_studies(name, source)]
    place = {(study.source, study.study_id): number for number, study in enumerate(studies)}
    blocks: list[tuple[int, list[dict[str, Any]], NDArray[np.uint8]]] = []
    problems: list[tuple[int, FileError]] = []
    for done, (study, read) in enumerate(read_studies(studies, workers, excluded), start=1):
        number = place[study.source, study.study_id]
        for row, image in zip(read.rows, read.images, strict=True):
            row["image_checksum"] = checksum_of(image)
        blocks.append((number, read.rows, _thumbnails(read.images)))
        problems += [(number, problem) for problem in read.problems]
        progress(done, len(studies))
    blocks.sort(key=lambda block: block[0])
    problems.sort(key=lambda problem: problem[0])
    rows = [row for _, of_study, _ in blocks for row in of_study]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return Survey(
        table=table,
        thumbnails=np.concatenate([_thumbnails(()), *(thumbnails for _, _, thumbnails in blocks)]),
        problems=tuple(Problem(error.problem, str(error), str(error.file or "")) for _, error in problems),
        strangers=tuple(_strangers(sources, studies)),
        sources={name: source.classification for name, source in sources.items()},
    )


def survey_store(store: SliceStore, sources: Mapping[str, bool]) -> Survey:
    """Look at a store.

    Args:
        store: Made by any ingest; the original files need not be there any more.
        sources: By source: do its labels teach and score classification?
    """
    return Survey(
        table=store.table,
        thumbnails=_thumbnails(store.images),
        problems=tuple(Problem(item["problem"], item["reason"], item["file"]) for item in store.description["skipped"]),
        strangers=(),
        sources=sources,
    )


def combine(surveys: Sequence[Survey]) -> Survey:
    """One survey of several that share no source."""
    return Survey(
        table=pd.concat([survey.table for survey in surveys], ignore_index=True).astype(COLUMNS),
        thumbnails=np.concatenate([survey.thumbnails for survey in surveys]),
        problems=tuple(problem for survey in surveys for problem in survey.problems),
        strangers=tuple(file for survey in surveys for file in survey.strangers),
        sources={name: teaches for survey in surveys for name, teaches in survey.sources.items()},
    )


def _thumbnails(images: Iterable[NDArray[np.float16]]) -> NDArray[np.uint8]:
    made = [make_thumbnail(np.asarray(image, dtype=np.float32)) for image in images]
    return np.array(made, dtype=np.uint8).reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX)


def _strangers(sources: Mapping[str, SourceConfig], studies: Iterable[Study]) -> Iterable[Path]:
    known = {file for study in studies for file in study.files}
    for name, source in sources.items():
        for file in sorted(root_of(name, source, source.layout).rglob("*")):
            if file in known or file.name.startswith(".") or not file.is_file():
                continue
            if is_picture_name(file) or file.name.lower().endswith((".nii", ".nii.gz")):
                yield file
