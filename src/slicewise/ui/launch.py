"""`slicewise ui`: the pages, and a service for each model that is named, all ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slicewise.errors import ConfigError
from slicewise.service.settings import KEYS_VARIABLE, ServiceSettings, is_loopback, keys_from
from slicewise.ui.own_service import OwnService, end
from slicewise.ui.settings import VARIABLE, KnownService, RoomSettings

__all__ = ["APP", "open_reading_room"]

APP = Path(__file__).with_name("app.py")
"""The script that Streamlit runs."""

_WATCH_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_UPLOAD_MB = ServiceSettings.model_fields["study_bytes"].default // 2**20

_OPTIONS = {
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "none",
    "global.developmentMode": "false",
    # On all addresses, Streamlit asks a public service for the machine's own, to greet with it.
    "logger.hideWelcomeMessage": "true",
    "logger.level": "warning",
    "runner.magicEnabled": "false",
    "server.enableStaticServing": "false",
    "server.fileWatcherType": "none",
    "server.headless": "true",
    "server.maxUploadSize": str(_UPLOAD_MB),
    "server.maxMessageSize": str(_UPLOAD_MB),
    # Of Okabe and Ito's palette, dark enough on white and light enough on black; orange is left to the masks.
    "theme.light.primaryColor": "#0072B2",
    "theme.dark.primaryColor": "#56B4E9",
    # Captions are drawn at 60 %: of a softer color, they would be too faint to read (WCAG 2.2, 1.4.3).
    "theme.light.textColor": "#000000",
    "theme.light.codeTextColor": "#000000",
    "theme.dark.codeTextColor": "#FFFFFF",
}


def open_reading_room(
    models: Sequence[Path],
    urls: Sequence[str],
    runs: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    public_names: Sequence[str] = (),
) -> None:
    """Serve the pages until SIGTERM, SIGINT or SIGHUP.

    Args:
        models: Each gets a service of its own on a free port of the loopback address, started again if it ends.
        urls: Services that run already. The first key of ``SLICEWISE_API_KEYS`` is sent to them.
        runs: Folders of runs whose reports are shown.
        host: Address of the pages. They ask for no password: beyond the loopback address, a proxy has to.
        port: Of the pages.
        public_names: Host names under which a proxy that asks for a password passes the pages on.

    Raises:
        ConfigError: A service cannot be started or does not stay, the port is taken, a URL is none, a run has no report, or
            the pages would listen to a network without a proxy before them.
    """
    if not is_loopback(host) and not public_names:
        raise ConfigError(
            f"Expected --public-name to listen on {host}, found none: the pages ask for no password, and pass on whoever "
            "comes to a service that asks for a key. Give the name under which a proxy that asks for a password makes them "
            "reachable, or listen on 127.0.0.1."
        )
    for run in runs:
        if not (run / "report.html").is_file():
            raise ConfigError(f"Expected a run with a report, found no {run / 'report.html'}. Run `slicewise report {run}`.")
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"Expected the URL of a service, such as http://127.0.0.1:8000, got {url!r}.")
    _check_free(host, port)
    keys = keys_from(os.environ)
    named = [KnownService(name=url, url=url.rstrip("/"), key=keys[0] if keys else None) for url in urls]
    own = [OwnService(model) for model in models]
    with ExitStack() as stack:
        is_closing = stack.enter_context(_closed_by_signals())
        for service in own:
            stack.callback(service.end)
            service.start(is_closing)
            if is_closing():
                return
        started = [KnownService(name=service.name, url=service.url, key=service.key) for service in own]
        settings = RoomSettings(services=(*started, *named), runs=tuple(run.resolve() for run in runs))
        pages = _start_pages(settings, host, port, public_names)
        stack.callback(end, pages)
        is_announced = False
        while not is_closing():
            if pages.poll() is not None:
                raise ConfigError(
                    f"Expected the pages to stay on {host}, port {port}; they ended, their own words are above."
                )
            if not is_announced and _answers(host, port):
                print(f"The reading room is at http://{_in_url(host)}:{port}. Ctrl-C closes it.", flush=True)
                is_announced = True
            for service in own:
                service.revive()
            time.sleep(_WATCH_S)


def _check_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise ConfigError(
            f"Expected to listen on {host}, port {port}, the system refuses ({error.strerror}). Name another with --port."
        ) from None


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((_REACHED_AT.get(host, host), port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _start_pages(settings: RoomSettings, host: str, port: int, public_names: Sequence[str]) -> subprocess.Popen[str]:
    options = _OPTIONS | {"server.address": host, "server.port": str(port)}
    words = [f"--{name}={value}" for name, value in options.items()]
    # A page from elsewhere whose name was pointed to this machine is refused.
    words += [f"--server.allowedHosts={name}" for name in (*_LOCAL_NAMES, *public_names)]
    environment = os.environ | {VARIABLE: settings.model_dump_json()}
    environment.pop(KEYS_VARIABLE, None)
    command = [sys.executable, "-P", "-m", "streamlit", "run", str(APP), *words]
    # What it says on standard output is not ours.
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, text=True)


@contextmanager
def _closed_by_signals() -> Iterator[Callable[[], bool]]:
    """Says whether somebody has asked for the end; nothing is cut off by it."""
    # Not an event: a signal that comes while another one's handler holds its lock would wait for that lock for ever.
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
