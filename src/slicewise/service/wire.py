"""What the service and its workers say to each other, over pipes.

::

    service   a line of JSON      first `WorkerSettings`, then a `SliceTask` or `StudyTask` each
    worker    two lengths (4 bytes each, little-endian), header (JSON), payload

=============  ================================  =======================================================================
``kind``       other fields of the header        payload
=============  ================================  =======================================================================
``ready``
``failed``     ``detail``: why it cannot start
``progress``   ``number``, ``done``, ``total``
``answer``     ``number``                        of a slice: JSON, as it goes to the client
``refusal``    ``number``, ``problem``
``error``      ``number``, ``error``, ``where``
=============  ================================  =======================================================================
"""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["ENDINGS", "RESULT", "SliceTask", "StudyTask", "WorkerSettings", "line_of", "pack", "read_frame"]

RESULT = "result.json"
"""What a study's results begin with: it names the other files."""

ENDINGS: dict[str, str] = {
    "mask": "mask.nii.gz",
    "segmentation": "seg.dcm",
    "report": "sr.dcm",
    "montage": "montage.png",
    "slices": "slices.npz",
}
"""How the file of each name ends, behind the number of the scan."""

_LENGTHS = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is."""

    model: str
    threads: int | None
    nice: int
    """By how much other processes come first."""
    decode_timeout_s: float
    decoder_bytes: int
    slice_pixels: int


@dataclass(frozen=True, slots=True)
class SliceTask:
    """Predict one picture or slice."""

    path: str
    request_id: str
    accepted_s: float
    """When it came, on the clock of `time.monotonic`, which the processes of a machine share."""
    explain: bool = False
    uncertainty: bool = False
    segment: Literal["auto", "always", "never"] = "auto"
    mask: Literal["png", "rle", "none"] = "png"
    picture: bool = False


@dataclass(frozen=True, slots=True)
class StudyTask:
    """Predict a file or zip, and write the results into a folder."""

    path: str
    study_id: str
    output: str
    """Folder for ``result.json`` and the files that it names; emptied before."""
    uncertainty: bool = False
    segment: Literal["auto", "never"] = "auto"


def line_of(value: WorkerSettings | SliceTask | StudyTask, number: int = 0) -> bytes:
    """A line to a worker."""
    return json.dumps({"number": number, "type": type(value).__name__, **asdict(value)}).encode() + b"\n"


def pack(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """A frame from a worker."""
    head = json.dumps(header).encode()
    return _LENGTHS.pack(len(head), len(payload)) + head + payload


async def read_frame(stream: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """The next frame.

    Raises:
        asyncio.IncompleteReadError: The worker has ended.
    """
    head, payload = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
    content = await stream.readexactly(head + payload)
    return json.loads(content[:head]), content[head:]
