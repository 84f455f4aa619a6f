"""SIGTERM and Ctrl-C end a training after the step or epoch that is going on, with its state on disk."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest", "listen_for_stop"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """What has been asked for so far."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """While it is open, the first signal is noted; a second one acts as ever. Outside the main thread nothing changes."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
