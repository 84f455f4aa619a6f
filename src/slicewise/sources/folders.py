"""What every layout asks of its folder before it reads names."""

from __future__ import annotations

import re
from pathlib import Path

from slicewise.config import SourceConfig
from slicewise.errors import InputError

__all__ = ["by_number", "root_of", "visible"]


def root_of(source: str, config: SourceConfig, expected: str) -> Path:
    """The source's folder.

    Args:
        source: Name of the source.
        config: Holds the path.
        expected: The layout in words, for the message.

    Raises:
        InputError: No path is configured, or there is no folder, or it is empty.
    """
    if config.path is None:
        raise InputError(f"Expected a folder for source {source}, none is configured. Give sources.{source}.path=FOLDER.")
    # Absolute, because the name of the folder itself can be a study's: "." would be nobody's.
    root = config.path.expanduser().absolute()
    if not root.is_dir():
        raise InputError(
            f"Expected {expected} for source {source}, found no folder at {config.path}. Check sources.{source}.path."
        )
    root = root.resolve()
    if not visible(root):
        raise InputError(f"Expected {expected} for source {source}, the folder {config.path} is empty.")
    return root


def visible(folder: Path) -> list[Path]:
    """What a folder holds, in order; but for hidden names, such as the ``._scan.tif`` that macOS leaves behind."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def by_number(file: Path) -> tuple[list[int | str], str]:
    """Sort key that counts: ``slice_9`` before ``slice_10``."""
    parts: list[int | str] = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]
    return parts, file.name
