"""Connections: uvicorn's, with an end to the patience that it has with the head of a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Protocol"]

_HEAD_S = 10.0
_HEAD_BYTES = 64 * 1024
_CONNECTIONS = 1000


class Protocol(HttpToolsProtocol):
    """One connection. It is closed where a head takes longer than 10 s or 64 KiB, and where 1,000 others are open.

    The bytes are those since the last head or piece of a body ended: what follows a chunked body counts as well.
    """

    _deadline: asyncio.TimerHandle | None = None
    _kept_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected, and has to send a head now."""
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a head or of a body has come."""
        self._kept_bytes += len(data)
        super().data_received(data)
        if self.cycle is not None and self.cycle.response_complete:
            # Any byte ends uvicorn's patience with a client that rests: an empty line, or what was left of a body.
            self._expect_head()
        if self._kept_bytes > _HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """The last one."""
        self._head_came()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Of these the gate takes care."""
        self._kept_bytes = 0
        super().on_body(body)

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(_HEAD_S, self.transport.abort)

    def _head_came(self) -> None:
        self._kept_bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
