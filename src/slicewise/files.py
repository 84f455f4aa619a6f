"""Files appear whole or not at all, and are known by their checksum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["as_cell", "printable", "sha256_of", "write_atomically"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_cell(name: str) -> str:
    """A name for a table that spreadsheets open: none of them takes it for a formula.

    >>> as_cell("=1+1.png"), as_cell("scan.png")
    ("'=1+1.png", 'scan.png')
    """
    return f"'{name}" if name.startswith(_FORMULA) else name


def printable(text: str) -> str:
    """The text, with an underscore for each character that does not print, such as those that color a terminal.

    >>> printable("case\\x1b[31m.png")
    'case_[31m.png'
    """
    return "".join(letter if letter.isprintable() else "_" for letter in text)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(file: Path, content: bytes | str | Callable[[Path], None]) -> None:
    """Write ``file`` so that a crash leaves the old content or the new one, never a part.

    Args:
        file: Destination; its folder is made where missing.
        content: Bytes, text (UTF-8), or a function that writes the file it is given.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
