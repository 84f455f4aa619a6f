"""`slicewise ui`: the pages, and a service for each model that is named, all ended together."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from slicewise.errors import ConfigError
from slicewise.ui.settings import VARIABLE, RoomSettings, ServiceSettings

__all__ = ["open_reading_room"]

_KEYS_VARIABLE = "SLICEWISE_API_KEYS"
_START_LIMIT_S = 60.0
_END_LIMIT_S = 20.0
_WATCH_S = 0.2
_LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_APP = Path(__file__).with_name("app.py")
_UPLOAD_MB = 1024  # what the service takes of a study

# Okabe and Ito's blue, dark enough on white and light enough on black; orange is left to the masks.
_OPTIONS = {
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "none",
    "global.developmentMode": "false",
    "logger.level": "warning",
    "runner.magicEnabled": "false",
    "server.enableStaticServing": "false",
    "server.fileWatcherType": "none",
    "server.headless": "true",
    "server.maxUploadSize": str(_UPLOAD_MB),
    "server.maxMessageSize": str(_UPLOAD_MB),
    "theme.light.primaryColor": "#0072B2",
    "theme.dark.primaryColor": "#56B4E9",
}


def open_reading_room(
    models: Sequence[Path],
    urls: Sequence[str],
    runs: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
) -> None:
    """Serve the pages until SIGTERM or SIGINT.

    Args:
        models: Each gets a service of its own on a free port of the loopback address, started again if it ends.
        urls: Services that run already. The first key of ``SLICEWISE_API_KEYS`` is sent to them.
        runs: Folders of runs whose reports are shown.
        host: Address of the pages. They ask for no password.
        port: Of the pages.

    Raises:
        ConfigError: A service cannot be started, the port is taken, or a run has no report.
    """
    for run in runs:
        if not (run / "report.html").is_file():
            raise ConfigError(f"Expected a run with a report, found no {run / 'report.html'}. Run `slicewise report {run}`.")
    _check_free(host, port)
    key = os.environ.get(_KEYS_VARIABLE, "").split(",")[0].strip()
    named = [ServiceSettings(name=url, url=url, key=SecretStr(key) if key else None) for url in urls]
    with ExitStack() as stack, suppress(_ClosedError):
        stack.enter_context(_closed_by_signals())
        own = [stack.enter_context(_OwnService(model)) for model in models]
        started = [ServiceSettings(name=_name_of(service.model), url=service.url, key=service.key) for service in own]
        settings = RoomSettings(services=(*started, *named), runs=tuple(run.resolve() for run in runs))
        pages = stack.enter_context(_ending(_start_pages(settings, host, port)))
        shown = f"[{host}]" if ":" in host else host
        is_announced = False
        while pages.poll() is None:
            if not is_announced and _answers(host, port):
                print(f"The reading room is at http://{shown}:{port}. Ctrl-C closes it.", flush=True)
                is_announced = True
            for service in own:
                service.revive()
            time.sleep(_WATCH_S)
        raise ConfigError(f"Expected the pages to be served on {host}, port {port}; they ended, with their own words above.")


class _ClosedError(Exception):
    """Somebody asked for the end."""


class _OwnService:
    """`slicewise serve` on a free port of the loopback address, with a key that nobody else knows."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.key = SecretStr(secrets.token_hex(24))
        self._port = 0
        self._started_s = 0.0
        self._listens = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> _OwnService:
        self._start()
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._listens.wait(0.05):
            if self._has_ended() or time.monotonic() > deadline:
                self.__exit__()
                raise ConfigError(f"Expected a service of {self.model} to start, it did not; its own words are above.")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            _end(self._process)

    def revive(self) -> None:
        """Start it again where it ended, on the port that the pages know."""
        if self._has_ended() and time.monotonic() - self._started_s > 1.0:
            print(f"The service of {self.model} ended; it is started again.", file=sys.stderr, flush=True)
            self._start()

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _start(self) -> None:
        command = [sys.executable, "-m", "slicewise", "serve", "--model", str(self.model), "--port", str(self._port)]
        environment = os.environ | {_KEYS_VARIABLE: self.key.get_secret_value()}
        self._started_s = time.monotonic()
        # A session of its own: Ctrl-C in the terminal reaches the reading room, which ends it in order.
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True, errors="backslashreplace"
        )
        threading.Thread(target=self._read_log, args=(self._process,), daemon=True).start()

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        """Learn the port; pass on what is not an everyday line."""
        assert process.stderr is not None
        for line in process.stderr:
            try:
                entry = json.loads(line)
                is_everyday = entry["level"] == "info"
            except (ValueError, TypeError, KeyError):
                entry, is_everyday = {}, False
            if entry.get("event") == "listening":
                self._port = entry["port"]
                self._listens.set()
            if not is_everyday:
                print(line, end="", file=sys.stderr, flush=True)


def _check_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=_family_of(host)).close()
    except OSError as error:
        raise ConfigError(
            f"Expected to listen on {host}, port {port}, the system refuses ({error.strerror}). Name another with --port."
        ) from None


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((_LOOPBACK.get(host, host), port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _start_pages(settings: RoomSettings, host: str, port: int) -> subprocess.Popen[str]:
    options = _OPTIONS | {"server.address": host, "server.port": str(port)}
    words = [f"--{name}={value}" for name, value in options.items()]
    if host in _LOCAL_NAMES:  # a page from elsewhere whose name was pointed to this machine is refused
        words += [f"--server.allowedHosts={name}" for name in _LOCAL_NAMES]
    environment = os.environ | {VARIABLE: settings.model_dump_json()}
    environment.pop(_KEYS_VARIABLE, None)
    command = [sys.executable, "-m", "streamlit", "run", str(_APP), *words]
    # Its greeting on standard output is not ours.
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, text=True)


@contextmanager
def _ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _closed_by_signals() -> Iterator[None]:
    def close(*_: object) -> None:
        for number in before:  # once is enough: what follows ends the services in order
            signal.signal(number, signal.SIG_IGN)
        raise _ClosedError

    before = {number: signal.signal(number, close) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _name_of(model: Path) -> str:
    """Enough of a path to tell models apart: a run's phases all end in the same words."""
    return "/".join(model.resolve().parts[-3:])
