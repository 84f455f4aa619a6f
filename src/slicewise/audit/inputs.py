"""What can be audited: folders of original data, stores, and runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from slicewise.audit.survey import Survey, combine, survey_sources, survey_store
from slicewise.config import SourceConfig
from slicewise.config_file import load_config
from slicewise.data.split import read_split
from slicewise.data.store import SliceStore
from slicewise.errors import InputError
from slicewise.sources import recognize

__all__ = ["survey_paths"]


def survey_paths(
    paths: Sequence[Path], *, workers: int = 2, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Survey, pd.DataFrame | None]:
    """Look at each path, whatever it is.

    Args:
        paths: Folders of original data in any layout, stores, or runs.
        workers: Processes that read original files.
        progress: Called with the number of studies read and their total.

    Returns:
        One survey of everything, and the division of the patients where the path is a single run that has one.

    Raises:
        InputError: A path is missing or none of the three.
    """
    surveys: list[Survey] = []
    originals: dict[str, SourceConfig] = {}
    split: pd.DataFrame | None = None
    for path in paths:
        if (path / "config.yaml").is_file():
            sources = {name: source.classification for name, source in load_config(path / "config.yaml").sources.items()}
            surveys.append(_of_store(SliceStore(path / "store"), sources))
            if len(paths) == 1 and (path / "split.csv").is_file():
                split = read_split(path / "split.csv")
        elif (path / "store.json").is_file():
            surveys.append(_of_store(SliceStore(path), {}))
        else:
            source = recognize(path)
            originals[_free_name(path, originals)] = source
    if originals:
        surveys.append(survey_sources(originals, workers=workers, progress=progress))
    clashing = [
        name
        for number, survey in enumerate(surveys)
        for later in surveys[number + 1 :]
        for name in survey.sources
        if name in later.sources
    ]
    if clashing:
        raise InputError(f"Expected sources of different names, {clashing[0]} comes twice. Audit its paths one at a time.")
    return combine(surveys), split


def _of_store(store: SliceStore, sources: dict[str, bool]) -> Survey:
    named = {str(name): sources.get(str(name), True) for name in store.table["source"].unique()}
    return survey_store(store, named)


def _free_name(path: Path, taken: dict[str, SourceConfig]) -> str:
    """The folder's name, with those above it as far as needed to tell it from others."""
    parts = path.resolve().parts[1:] or (str(path),)
    for length in range(1, len(parts) + 1):
        name = "/".join(parts[-length:])
        if name not in taken:
            return name
    raise InputError(f"Expected every folder once, {path} comes twice.")
