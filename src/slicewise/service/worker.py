"""A worker: predicts in a process of its own, which may die without taking a request with it.

While one task is predicted, the file of the next is decoded, by the decoder's own child: that is all the batching there is,
for the engine takes one slice at a time (docs/architecture.md says why).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from slicewise.errors import CheckpointError, FileError, InputError, SlicewiseError
from slicewise.inference.decoding import Decoder
from slicewise.inference.predictor import Predictor
from slicewise.records import Scan
from slicewise.service.answers import predict_slice
from slicewise.service.logs import place_of
from slicewise.service.problems import known_problem
from slicewise.service.wire import SliceTask, StudyTask, WorkerSettings, pack

__all__ = ["RefusedError", "main"]

_WATCH_S = 0.02
_PROGRESS_S = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class RefusedError(Exception):
    """A file that is not predicted.

    Args:
        problem: Name of its kind.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class _Decoded(NamedTuple):
    """A task whose file was decoded."""

    number: int
    task: SliceTask | StudyTask
    found: Sequence[Scan | FileError]
    timings_s: dict[str, float]


def main() -> None:
    """Answer until the service has gone."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what a library prints is no answer, and may quote a header
        os.dup2(nothing, standard)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = WorkerSettings(**_fields(requests.readline()))
    os.nice(settings.nice)
    with Decoder(shares_group=True) as decoder:  # whoever kills this worker kills both
        try:
            predictor = Predictor.from_checkpoint(settings.model, threads=settings.threads)
            # The first slice takes longer than the others; nobody shall wait for it.
            predictor.predict(np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32))
        except SlicewiseError as error:
            _send(answers, pack({"kind": "failed", "detail": str(error)}))
            return
        _send(answers, pack({"kind": "ready"}))
        decoded: queue.Queue[_Decoded | Exception | None] = queue.Queue(1)
        decoding = threading.Event()
        threading.Thread(target=_watch_memory, args=(decoder, decoding, settings.decoder_bytes), daemon=True).start()
        threading.Thread(target=_decode_all, args=(requests, decoder, decoding, settings, decoded), daemon=True).start()
        while (item := decoded.get()) is not None:
            if isinstance(item, Exception):
                raise item
            _send(answers, _answer(predictor, item, settings, answers))
            del item  # a scan may be large, and the next may be long in coming


def _send(answers: BinaryIO, frame: bytes) -> None:
    answers.write(frame)
    answers.flush()


def _decode_all(
    requests: BinaryIO,
    decoder: Decoder,
    decoding: threading.Event,
    settings: WorkerSettings,
    decoded: queue.Queue[_Decoded | Exception | None],
) -> None:
    try:
        for line in requests:
            fields = json.loads(line)
            number, kind = fields.pop("number"), fields.pop("type")
            task = (SliceTask if kind == SliceTask.__name__ else StudyTask)(**fields)
            # Not kept in a name here, where it would stay until the next is decoded.
            decoded.put(_decode(number, task, decoder, decoding, settings))
    except Exception as error:  # such as no child that can be started: this worker is of no use any more
        decoded.put(error)
    decoded.put(None)


def _decode(
    number: int, task: SliceTask | StudyTask, decoder: Decoder, decoding: threading.Event, settings: WorkerSettings
) -> _Decoded:
    begun = time.monotonic()
    decoding.set()
    if isinstance(task, SliceTask):
        found = decoder.read(Path(task.path), settings.decode_timeout_s, slice_pixels=settings.slice_pixels)
        timings_s = {"queue": begun - task.accepted_s}
    else:
        found = decoder.read(Path(task.path), settings.decode_timeout_s, Path(f"{task.output}.scratch"))
        timings_s = {}
    decoding.clear()
    return _Decoded(number, task, found, {"decode": time.monotonic() - begun} | timings_s)


def _answer(predictor: Predictor, item: _Decoded, settings: WorkerSettings, answers: BinaryIO) -> bytes:
    number, payload = item.number, b""
    try:
        if isinstance(item.task, SliceTask):
            scan = _one_slice(item.found, settings.slice_pixels)
            payload = predict_slice(predictor, scan, item.task, item.timings_s)
        else:
            from slicewise.service.study import predict_study  # which loads all of DICOM

            _some_scan(item.found)
            predict_study(predictor, item.found, item.task, _teller(number, answers))
    except RefusedError as refusal:
        return pack({"kind": "refusal", "number": number, "problem": refusal.problem})
    except (ImportError, CheckpointError):  # no torch, or a model that does not classify
        return pack({"kind": "refusal", "number": number, "problem": "not-available"})
    except InputError:
        return pack({"kind": "refusal", "number": number, "problem": "unreadable-file"})
    except Exception as error:
        return pack({"kind": "error", "number": number, "error": type(error).__name__, "where": place_of(error)})
    return pack({"kind": "answer", "number": number}, payload)


def _one_slice(found: Sequence[Scan | FileError], most_pixels: int) -> Scan:
    _some_scan(found)
    if len(found) > 1 or not isinstance(found[0], Scan) or len(found[0].slices) > 1:
        raise RefusedError("not-one-slice")
    if found[0].slices.size > most_pixels:
        raise RefusedError("too-many-pixels")
    return found[0]


def _some_scan(found: Sequence[Scan | FileError]) -> None:
    if not any(isinstance(item, Scan) for item in found):
        problems = [known_problem(item.problem) for item in found if isinstance(item, FileError)]
        raise RefusedError(problems[0] if problems else "unknown-format")


def _teller(number: int, answers: BinaryIO) -> Callable[[int, int], None]:
    """Tells of progress, but not more often than anyone looks."""
    last_s = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last_s
        now = time.monotonic()
        if done in (0, total) or now - last_s >= _PROGRESS_S:
            last_s = now
            _send(answers, pack({"kind": "progress", "number": number, "done": done, "total": total}))

    return tell


def _watch_memory(decoder: Decoder, decoding: threading.Event, most_bytes: int) -> None:
    """Kill a decoder that holds too much: its own limit is one of addresses, and higher than a service can bear."""
    while True:
        decoding.wait()
        time.sleep(_WATCH_S)
        pid = decoder.pid
        if pid is not None and _resident_bytes(pid) > most_bytes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _fields(line: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(line)
    return {name: value for name, value in fields.items() if name not in ("number", "type")}


if __name__ == "__main__":
    main()
