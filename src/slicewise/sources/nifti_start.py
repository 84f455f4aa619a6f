"""The first bytes of a NIfTI file, read without its library: what has to be known before that is trusted with the rest."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import NamedTuple

__all__ = ["START_BYTES", "NiftiStart", "parse_start", "read_start"]

START_BYTES = 540
"""Of the longer header, that of NIfTI-2."""

_GZIP = b"\x1f\x8b"


class _Layout(NamedTuple):
    """Where a header has what."""

    dimensions: tuple[int, str]
    voxels_at: tuple[int, str]
    magic: tuple[int, bytes]
    """Of a header and voxels in a single file."""


# Of NIfTI-1 and -2, by the size of the header, which begins it.
_LAYOUTS = {
    348: _Layout((40, "8h"), (108, "f"), (344, b"n+1\0")),
    540: _Layout((16, "8q"), (168, "q"), (4, b"n+2\0\r\n\x1a\n")),
}


class NiftiStart(NamedTuple):
    """What a header declares; nothing of it is checked."""

    shape: tuple[int, ...]
    """Of the first axes, up to seven."""
    voxels_at: float
    """Bytes before the voxels."""
    is_single_file: bool
    """The voxels follow, and are in no file of their own."""


def parse_start(head: bytes) -> NiftiStart | None:
    """Read the first `START_BYTES` of a file, inflated; None where they are no header of NIfTI's size.

    >>> parse_start(b"text") is None
    True
    """
    for order in "<>":
        size = int.from_bytes(head[:4], "little" if order == "<" else "big")
        if size in _LAYOUTS and len(head) >= size:
            (dimensions_at, dimensions), (offset_at, offset), (magic_at, magic) = _LAYOUTS[size]
            count, *sizes = struct.unpack_from(order + dimensions, head, dimensions_at)
            (voxels_at,) = struct.unpack_from(order + offset, head, offset_at)
            return NiftiStart(tuple(sizes[: max(0, count)]), float(voxels_at), head.startswith(magic, magic_at))
    return None


def read_start(file: Path) -> bytes:
    """The first `START_BYTES` of a file, inflated where it is packed by gzip.

    Raises:
        OSError, EOFError, zlib.error: It cannot be read or inflated.
    """
    with file.open("rb") as stream:
        head = stream.read(START_BYTES)
    if head.startswith(_GZIP):
        with gzip.open(file) as stream:
            head = stream.read(START_BYTES)
    return head
