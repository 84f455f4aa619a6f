"""Untrusted files, decoded in a child process that can be killed, under limits.

::

    parent, a line of JSON     {"path": …, "folder": …, "scratch": …, "timeout_s": …, "allow_burned_in": …,
                                "slice_pixels": …}
    child                      length of the header (4 bytes), header (JSON), then the slices of each scan (float32)

Every number is little-endian. Nothing is pickled, and the parent checks every field: what the child decodes may have taken
it over. It sends such an answer, of no scans, when it is ready.

=================  =====================================================================================================
limit              why so high
=================  =====================================================================================================
4 GiB of memory    of 512³ voxels, in any type, the readers hold 2.2 GiB at most; a picture of 64 million pixels, 2.0 GiB
time               the caller's; the parent kills, and an alarm ends a child whose parent has gone
2 GiB a file       the most that a zip may inflate to
no core dump       it would hold a patient's scan
=================  =====================================================================================================
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from slicewise.errors import FileError, InputError, LabelError, UnreadableFileError
from slicewise.files import printable
from slicewise.orientation import Orientation
from slicewise.records import Concern, Scan
from slicewise.sources.nifti_start import parse_start, read_start
from slicewise.sources.scans import PIXEL_LIMIT, check_name, read_scans

__all__ = ["Decoder"]

_COMMAND = (sys.executable, "-P", "-m", "slicewise.inference.decoding")  # -P: no module comes from the working directory
_MEMORY_BYTES = 4 * 2**30
_FILE_BYTES = 2 * 2**30
_HEADER_LIMIT = 16 * 2**20
_MESSAGE_LIMIT = 20_000
_CHUNK_BYTES = 2**20
_START_LIMIT_S = 60.0
_GRACE_S = 5.0
_NO_NEW_PRIVILEGES = 38
# Where the interpreter finds its modules and libraries; nothing else of the environment reaches the child.
_INHERITED = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")


class Decoder:
    """`read_scans` in a child process, which lives on from file to file and is replaced when it crashes or is killed.

    Threads may share it; their files are decoded one after another. Use it with ``with``, or `close` it.

    Args:
        shares_group: The child stays in this process's group, for one who ends both by it; else Ctrl-C in a terminal is this
            process's alone to handle.
    """

    def __init__(self, *, shares_group: bool = False) -> None:
        self._shares_group = shares_group
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Decoder:
        """Start the child, without waiting for it."""
        with self._lock:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the child."""
        self.close()

    def close(self) -> None:
        """End the child and remove what it extracted; a later `read` starts another."""
        with self._lock:
            self._kill()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    @property
    def pid(self) -> int | None:
        """Of the child; None while there is none."""
        child = self._child
        return None if child is None else child.process.pid

    def read(
        self,
        path: Path,
        timeout_s: float = 10.0,
        scratch: Path | None = None,
        *,
        allow_burned_in: bool = False,
        slice_pixels: int | None = None,
    ) -> list[Scan | FileError]:
        """Decode as `slicewise.sources.scans.read_scans`.

        A file that takes too long, or that the child does not survive, is an `UnreadableFileError` as well, of the problem
        ``decoder-timeout``, ``decoder-memory`` or ``decoder-crash``.

        Args:
            path: As of `read_scans`.
            timeout_s: After so many seconds the child is killed.
            scratch: As of `read_scans`; without it, what is extracted of a zip stays until the next `read`.
            allow_burned_in: As of `read_scans`.
            slice_pixels: One slice of so many pixels at most is wanted: a volume or a larger slice is an
                `UnreadableFileError` of the problem ``not-one-slice`` or ``too-many-pixels``. Where the header of NIfTI or
                DICOM says so, nothing else of the file is read.

        Raises:
            InputError: No child can be started.
        """
        try:
            check_name(path)
        except FileError as error:
            return [error]
        with self._lock:
            child = self._ready_child()
            assert self._folder is not None
            own = Path(self._folder.name)
            if scratch is None:
                _empty(own)
            place = own if scratch is None else scratch.absolute()
            request = {
                "path": str(path),
                "folder": None if path.is_absolute() else str(Path.cwd()),  # the child's may be another
                "scratch": str(place),
                "timeout_s": timeout_s,
                "allow_burned_in": allow_burned_in,
                "slice_pixels": slice_pixels,
            }
            refusal: FileError
            try:
                child.send(request)
                return child.receive(time.monotonic() + timeout_s, (path, place))
            except TimeoutError:
                refusal = UnreadableFileError(
                    f"Expected {path} to be decoded within {timeout_s:g} s, it was not, and its decoder was stopped. "
                    "Make it smaller, or allow more time.",
                    "decoder-timeout",
                    path,
                )
            except EOFError:
                refusal = _crash(path, f"its decoder was ended by {child.cause()}")
            except ValueError:
                refusal = _crash(path, "its decoder's answer makes no sense")
            except BaseException:
                self._kill()  # an answer that nobody reads would be taken for the next file's
                raise
            self._start()
            return [refusal]

    def _ready_child(self) -> _Child:
        if self._child is None or (self._child.is_ready and self._child.has_more()):
            self._start()  # there was none, it died while idle, or it spoke without being asked
        assert self._child is not None
        if not self._child.is_ready:
            try:
                self._child.receive(time.monotonic() + _START_LIMIT_S, ())
            except (TimeoutError, EOFError, ValueError):
                cause = self._child.cause()
                self._kill()
                raise InputError(
                    f"Expected a process that decodes files, it did not start ({cause}). See what this prints: "
                    f"{' '.join(_COMMAND)}"
                ) from None
            except BaseException:
                self._kill()
                raise
            self._child.is_ready = True
        return self._child

    def _start(self) -> None:
        self._kill()
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="slicewise-")
        self._child = _Child(Path(self._folder.name), self._shares_group)

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


class _Child:
    """The process, and what the parent believes of its words."""

    def __init__(self, folder: Path, shares_group: bool) -> None:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self.process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pipesize=_CHUNK_BYTES if sys.platform == "linux" else -1,
            env=environment | {"PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1", "TMPDIR": str(folder)},
            start_new_session=not shares_group,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self.is_ready = False

    def has_more(self) -> bool:
        """There are bytes to read, or the end of them."""
        return bool(self._poll.poll(0))

    def send(self, request: dict[str, Any]) -> None:
        """Raises EOFError if there is nobody to hear it."""
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")  # less than a pipe holds: this never waits
        except BrokenPipeError:
            raise EOFError from None

    def receive(self, deadline: float, places: Sequence[Path]) -> list[Scan | FileError]:
        """What the child found.

        Args:
            deadline: On the clock of `time.monotonic`.
            places: Files and folders that the scans' files may lie in.

        Raises:
            TimeoutError: The deadline came first.
            EOFError: The child has ended.
            ValueError: What it says is not possible.
        """
        size = bytearray(4)
        self._fill(memoryview(size), deadline)
        (length,) = struct.unpack("<I", size)
        if length > _HEADER_LIMIT:
            raise ValueError
        header = bytearray(length)
        self._fill(memoryview(header), deadline)
        found = _Answer.model_validate_json(bytes(header)).found
        if sum(math.prod(item.shape) for item in found if isinstance(item, _Header)) > PIXEL_LIMIT:
            raise ValueError
        return [self._rebuilt(item, deadline, places) for item in found]

    def kill(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._requests.close()
        self._answers.close()

    def cause(self) -> str:
        """Why it ended, in words; one that has not is killed."""
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "its own silence"
        return f"status {code}" if code >= 0 else signal.Signals(-code).name

    def _rebuilt(self, item: _Header | _Refusal, deadline: float, places: Sequence[Path]) -> Scan | FileError:
        if isinstance(item, _Refusal):
            files = [_allowed(file, places) for file in item.files]
            return _ERRORS[item.error](item.message, item.problem, files[0] if len(files) == 1 else None, files)
        slices = np.empty(item.shape, dtype="<f4")
        self._fill(slices.reshape(-1).view(np.uint8).data, deadline)
        if not all(np.isfinite(image).all() for image in slices):
            raise ValueError
        return Scan(
            np.asarray(slices, dtype=np.float32),
            files=tuple(_allowed(file, places) for file in item.files),
            affine=None if item.affine is None else np.array(item.affine, dtype=np.float64),
            **{name: getattr(item, name) for name in _SAME},
        )

    def _fill(self, buffer: memoryview, deadline: float) -> None:
        while buffer:
            if not self._poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                raise TimeoutError
            count = os.readv(self._answers.fileno(), [buffer[:_CHUNK_BYTES]])
            if count == 0:
                raise EOFError
            buffer = buffer[count:]


def _checked_name(name: str) -> str:
    if name != printable(name) or not name.strip(". ") or {"/", "\\"} & set(name):
        raise ValueError
    return name


def _checked_turn(orientation: Orientation) -> Orientation:
    plausible = all(math.isfinite(spacing) and spacing > 0 for spacing in orientation.spacing_mm)
    if not plausible or sorted(orientation.axes) != [0, 1, 2] or orientation.plane not in ("axial", "coronal", "sagittal"):
        raise ValueError
    return orientation


def _checked_concern(concern: Concern) -> Concern:
    if len(concern.rule) > 100 or len(concern.message) > 2000 or not math.isfinite(concern.value or 0.0):
        raise ValueError
    return Concern(printable(concern.rule), printable(concern.message), concern.value)


_Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Row = tuple[_Finite, _Finite, _Finite, _Finite]
_Size = Annotated[int, Field(ge=1, le=PIXEL_LIMIT)]
_Message = Annotated[str, Field(max_length=_MESSAGE_LIMIT), AfterValidator(printable)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Header(_Checked):
    """A `Scan` but for its slices, of which it says the shape."""

    shape: tuple[_Size, _Size, _Size]
    kind: Literal["picture", "nifti", "dicom"]
    name: Annotated[str, Field(max_length=200), AfterValidator(_checked_name)]
    files: tuple[Path, ...]
    plane: Literal["axial", "coronal", "sagittal", "unknown"]
    modality: Annotated[str, Field(pattern=r"^[A-Za-z0-9_ ]{1,16}$")]
    spacing_mm: tuple[_Length, _Length] | None
    slice_spacing_mm: _Length | None
    orientation: Annotated[Orientation, AfterValidator(_checked_turn)] | None
    grid_shape: Annotated[tuple[_Size, ...], Field(min_length=2, max_length=7)]
    affine: tuple[_Row, _Row, _Row, _Row] | None
    color_share: Annotated[float, Field(ge=0, le=1)]
    concerns: tuple[Annotated[Concern, AfterValidator(_checked_concern)], ...]

    @model_validator(mode="after")
    def _check(self) -> _Header:
        """The way back to the file's grid has to lead there."""
        if math.prod(self.shape) != math.prod(self.grid_shape):
            raise ValueError
        if self.orientation is not None and (
            len(self.grid_shape) < 3 or tuple(self.grid_shape[axis] for axis in self.orientation.axes) != self.shape
        ):
            raise ValueError
        return self


_SAME = tuple(name for name in _Header.model_fields if name not in ("shape", "files", "affine"))
"""Fields of a scan that its header holds as they are."""


class _Refusal(_Checked):
    """A `FileError`."""

    error: Literal["FileError", "LabelError", "UnreadableFileError"]
    message: _Message
    problem: Annotated[str, Field(pattern=r"^[a-z-]{1,40}$")]
    files: tuple[Path, ...]


class _Answer(_Checked):
    found: list[_Header | _Refusal]


_ERRORS = {error.__name__: error for error in (FileError, LabelError, UnreadableFileError)}


def _allowed(file: Path, places: Sequence[Path]) -> Path:
    """The file, if it lies where it may: what is done with it later is done in the parent."""
    if not any(file.is_relative_to(place) and ".." not in file.relative_to(place).parts for place in places):
        raise ValueError
    return file


def _crash(path: Path, what: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"Expected {path} to be decoded, {what}. Copy the file again, or convert it.", "decoder-crash", path
    )


def _empty(folder: Path) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            Path(entry).unlink(missing_ok=True)


def _serve() -> None:
    """The child: answer until the parent has gone."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what a decoder prints is no answer
        os.dup2(nothing, standard)
    _restrict()
    _answer(answers, [])
    for line in requests:
        request = json.loads(line)
        # Not PR_SET_PDEATHSIG: that ends the child with the thread that started it, not with the parent.
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + _GRACE_S)
        _answer(answers, _decode(request))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _decode(request: dict[str, Any]) -> list[Scan | FileError]:
    path = Path(request["path"])
    if request["folder"] is not None:
        os.chdir(request["folder"])
    try:
        if request["slice_pixels"] is not None:
            _check_slice(path, _declared_shape(path), request["slice_pixels"])
        found = read_scans(path, Path(request["scratch"]), allow_burned_in=request["allow_burned_in"])
        if request["slice_pixels"] is not None:
            for scan in found:  # of a zip no header was read; the parent is spared what it holds
                if isinstance(scan, Scan):
                    _check_slice(path, scan.slices.shape, request["slice_pixels"])
        return found
    except UnreadableFileError as error:
        return [error]
    except MemoryError:
        return [
            UnreadableFileError(
                f"Expected a file that takes less than {_MEMORY_BYTES // 2**30} GiB to decode, {path} takes more. Make it "
                "smaller.",
                "decoder-memory",
                path,
            )
        ]


def _check_slice(path: Path, shape: tuple[int, ...], most_pixels: int) -> None:
    """Refuse more than one slice, or one that is too large. What has an axis of a single voxel is one slice, across it."""
    if shape and min(shape) > 1:
        raise UnreadableFileError(
            f"Expected one slice in {path}, it has {shape}. Read it as a volume.", "not-one-slice", path
        )
    if math.prod(shape) > most_pixels:
        raise UnreadableFileError(
            f"Expected at most {most_pixels:,} pixels in {path}, it has {shape}. Make it smaller.", "too-many-pixels", path
        )


def _declared_shape(path: Path) -> tuple[int, ...]:
    """What a header of NIfTI or DICOM says of the three axes; empty where there is none, or one that its reader refuses."""
    with suppress(Exception):  # damaged headers fail in more ways than can be listed
        head = read_start(path)
        if head[128:132] == b"DICM":
            from slicewise.sources.dicom_header import guarded, read_header

            with guarded(path):
                header = read_header(path)
                return int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns)
        start = parse_start(head)
        if start is not None and len(start.shape) >= 3:
            return start.shape[:3]
    return ()


def _restrict() -> None:
    import ctypes
    import resource

    limits = {resource.RLIMIT_AS: _MEMORY_BYTES, resource.RLIMIT_FSIZE: _FILE_BYTES, resource.RLIMIT_CORE: 0}
    for limit, most in limits.items():
        with suppress(OSError, ValueError):  # a stricter one is there already, or the system knows no such limit
            resource.setrlimit(limit, (most, most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _answer(stream: BinaryIO, found: Sequence[Scan | FileError]) -> None:
    header = _Answer(found=[_described(item) for item in found]).model_dump_json().encode()
    stream.write(struct.pack("<I", len(header)) + header)
    for item in found:
        if isinstance(item, Scan):
            stream.write(np.ascontiguousarray(item.slices, dtype="<f4").reshape(-1).view(np.uint8).data)
    stream.flush()


def _described(item: Scan | FileError) -> _Header | _Refusal:
    if isinstance(item, FileError):
        fields = {"error": type(item).__name__, "message": str(item)[:_MESSAGE_LIMIT], "problem": item.problem}
        return _Refusal.model_validate(fields | {"files": item.files})
    fields = {name: getattr(item, name) for name in _SAME}
    affine = None if item.affine is None else tuple(map(tuple, item.affine.tolist()))
    return _Header.model_validate(fields | {"shape": item.slices.shape, "files": item.files, "affine": affine})


if __name__ == "__main__":
    _serve()
