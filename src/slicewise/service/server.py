"""`slicewise serve`: from settings to a process that listens, and back to an orderly end."""

from __future__ import annotations

import resource
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from slicewise.errors import ConfigError
from slicewise.service.house import House
from slicewise.service.logs import configure_logs, log
from slicewise.service.settings import ServiceSettings

__all__ = ["serve"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048
_KEEP_ALIVE_S = 75  # longer than a proxy keeps its connections: it, and not the service, shall close them


def serve(settings: ServiceSettings) -> None:
    """Answer until SIGTERM or SIGINT; then finish what was accepted, and return.

    Raises:
        ConfigError: The settings are not safe, or the address cannot be listened on.
        CheckpointError: There is no model, or it is damaged.
    """
    settings.check()
    _allow_open_files()
    listener = _listen(settings)
    configure_logs()
    try:
        house = House(settings)
        uvloop.run(_serve(house, listener))
    finally:
        listener.close()


async def _serve(house: House, listener: socket.socket) -> None:
    settings = house.settings
    await house.start()
    # Loaded while the workers start.
    import uvicorn

    from slicewise.service.api import create_app
    from slicewise.service.protocol import Protocol

    class Server(uvicorn.Server):
        """Uvicorn's raises the signal again when it has shut down; a service that ended in order ends with 0."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    config = uvicorn.Config(
        create_app(house),
        lifespan="off",
        ws="none",
        http=Protocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.drain_s),
    )
    host, port = listener.getsockname()[:2]
    log(
        "listening",
        host=host,
        port=port,
        workers=settings.workers,
        model_id=house.description.model_id,
        access="anyone on this machine, for no API keys are set" if settings.is_open else f"{len(settings.keys)} API keys",
    )
    try:
        await Server(config).serve(sockets=[listener])
    finally:
        log("ending")
        await house.close()
        log("ended")


def _allow_open_files() -> None:
    """As many as the system grants: each file of a study that is being uploaded is one, and the usual 1,024 are too few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(settings: ServiceSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"Expected to listen on {settings.host}, port {settings.port}, the system refuses ({error.strerror}). Free the "
            "port, or name another with --port."
        ) from None
