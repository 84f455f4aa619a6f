"""Readers of original data, one module a layout: file names to studies, studies to slices as decoded."""

from __future__ import annotations

from collections.abc import Iterator

from slicewise.config import SourceConfig
from slicewise.errors import UnreadableFileError
from slicewise.records import Slice, Study
from slicewise.sources import brats, brisc, labelled_folders, lgg

__all__ = ["find_studies", "read_study"]

_LAYOUTS = {"brats": brats, "lgg": lgg, "brisc": brisc, "labelled_folders": labelled_folders}


def find_studies(source: str, config: SourceConfig) -> list[Study]:
    """The studies of a source, from file names alone, in a fixed order.

    Raises:
        InputError: The folder is missing, empty, or not of the configured layout.
    """
    return _LAYOUTS[config.layout].find_studies(source, config)


def read_study(study: Study) -> Iterator[Slice | UnreadableFileError]:
    """Decode a study. What cannot be read comes as an error in its place, so that the rest is not lost.

    Raises:
        LabelError: A mask contradicts its image or its layout.
    """
    try:
        yield from _LAYOUTS[study.layout].read_study(study)
    except UnreadableFileError as error:
        yield error
