"""A service that belongs to the reading room: started, watched, started again, ended with it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

from pydantic import SecretStr

from slicewise.errors import ConfigError
from slicewise.model.description import PACKAGED
from slicewise.service.settings import KEYS_VARIABLE

__all__ = ["OwnService", "end"]

_START_LIMIT_S = 60.0
_END_LIMIT_S = 20.0
_STEADY_S = 30.0
_QUICK_ENDS = 5
_FIRST_PAUSE_S = 0.5


class OwnService:
    """`slicewise serve` on a free port of the loopback address, with a key that nobody else knows.

    Args:
        model: Folder of a checkpoint, or of a run.
    """

    def __init__(self, model: Path) -> None:
        self.model = model
        self.key = SecretStr(secrets.token_hex(24))
        self._port = 0
        self._listens = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._started_s = 0.0
        self._quick_ends = 0

    @property
    def name(self) -> str:
        """Enough of the model's path to tell it from others: the phases of runs all end in the same words."""
        return "packaged model" if self.model.resolve() == PACKAGED.resolve() else "/".join(self.model.parts[-3:])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def start(self, is_closing: Callable[[], bool]) -> None:
        """Start it, and wait until it listens, or until everything is to end.

        Args:
            is_closing: Whether everything is to end.

        Raises:
            ConfigError: It did not start.
        """
        self._spawn()
        while not self._listens.wait(0.05) and not is_closing():
            if self._has_ended() or time.monotonic() - self._started_s > _START_LIMIT_S:
                self.end()
                raise ConfigError(f"Expected a service of {self.model} to start, it did not; its own words are above.")

    def revive(self) -> None:
        """Start it again where it ended, on the port that the pages know; after each quick end, a longer pause.

        Raises:
            ConfigError: It ends again and again.
        """
        if not self._has_ended():
            return
        lived_s = time.monotonic() - self._started_s
        quick_ends = 0 if lived_s > _STEADY_S else self._quick_ends
        if quick_ends and lived_s < _FIRST_PAUSE_S * 2**quick_ends:
            return
        if quick_ends == _QUICK_ENDS:
            raise ConfigError(f"Expected a service of {self.model} to stay, it ended {quick_ends + 1} times in a row.")
        self._quick_ends = quick_ends + 1
        print(f"The service of {self.model} ended; it is started again.", file=sys.stderr, flush=True)
        self._spawn()

    def end(self) -> None:
        """End it in order, and pass on its last words."""
        if self._process is not None:
            end(self._process)
        if self._reader is not None:
            self._reader.join(1.0)

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _spawn(self) -> None:
        command = [sys.executable, "-P", "-m", "slicewise", "serve", "--model", str(self.model), "--port", str(self._port)]
        environment = os.environ | {KEYS_VARIABLE: self.key.get_secret_value()}
        self._started_s = time.monotonic()
        # A session of its own: Ctrl-C in the terminal reaches the reading room, which ends it in order.
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True, errors="backslashreplace"
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        """Learn the port; pass on what is not of every day, such as the request that a page names after a refusal."""
        assert process.stderr is not None
        for line in process.stderr:
            try:
                entry = json.loads(line)
                is_everyday = entry["level"] == "info" and entry.get("status", 0) < HTTPStatus.BAD_REQUEST
            except (ValueError, TypeError, KeyError):
                entry, is_everyday = {}, False
            if entry.get("event") == "listening":
                self._port = entry["port"]
                self._listens.set()
            if not is_everyday:
                with suppress(OSError):  # nobody listens to our own words; the service must be read all the same
                    print(line, end="", file=sys.stderr, flush=True)


def end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and make it end."""
    process.terminate()
    try:
        process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
