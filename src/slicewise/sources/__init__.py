"""Readers of original data, one module a layout: file names to studies, studies to slices as decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from slicewise.config import SourceConfig
from slicewise.errors import FileError, InputError
from slicewise.records import Slice, Study

__all__ = ["find_studies", "read_study", "recognize"]

_LAYOUTS = ("brats", "lgg", "brisc", "labelled_folders")
"""Names of the readers' modules; one is loaded when it is needed."""


def find_studies(source: str, config: SourceConfig) -> list[Study]:
    """The studies of a source, from file names alone, in a fixed order.

    Raises:
        InputError: The folder is missing, empty, or not of the configured layout, or a file's name is no text.
    """
    studies: list[Study] = _reader(config.layout).find_studies(source, config)
    for file in (file for study in studies for file in study.files):
        if not _is_text(str(file)):
            raise InputError(
                f"Expected file names in UTF-8 for source {source}, got {os.fsencode(file)!r}. Rename the file: no table "
                "could hold its name."
            )
    return studies


def recognize(folder: Path) -> SourceConfig:
    """The layout of a folder, by trying each reader on its file names.

    Raises:
        InputError: There is no such folder, or no reader knows its layout.
    """
    if not folder.is_dir():
        raise InputError(f"Expected a folder of original data, found none at {folder}. Check the path.")
    refusals = []
    for layout in _LAYOUTS:
        source = SourceConfig.model_validate({"layout": layout, "path": folder})
        try:
            find_studies(folder.name, source)
        except InputError as error:
            refusals.append(str(error))
        else:
            return source
    raise InputError(f"Expected data in one of the layouts {', '.join(_LAYOUTS)}, {folder} has none. " + " ".join(refusals))


def read_study(study: Study) -> Iterator[Slice | FileError]:
    """Decode a study. What is wrong with a file comes as an error in its place, so that the rest is not lost."""
    try:
        yield from _reader(study.layout).read_study(study)
    except FileError as error:
        yield error


def _reader(layout: str) -> Any:
    return import_module(f"slicewise.sources.{layout}")


def _is_text(name: str) -> bool:
    """Bytes of a name that are not UTF-8 reach Python as lone surrogates, which cannot be encoded again."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
