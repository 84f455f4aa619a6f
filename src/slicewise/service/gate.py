"""The gate: what every request passes before a byte of its body is read, and what is written down of it afterwards.

In this order: request id, host, key, rate, charset, size, room in the house. Those that are turned back cost no parsing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urlsplit

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slicewise.service.limits import Lane, RateLimit
from slicewise.service.logs import log, place_of
from slicewise.service.metrics import Metrics
from slicewise.service.problems import MEDIA_TYPE, Problem, document
from slicewise.service.settings import ServiceSettings, is_loopback

__all__ = ["PUBLIC", "VIEWER", "Door", "Gate"]

VIEWER = "/docs/viewer"
"""Where the documentation's page finds its scripts and styles."""

PUBLIC = frozenset(
    {
        *("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"),
        *(f"{VIEWER}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")),
    }
)
"""Paths that need no key: they tell of the service, and nothing of what it was sent."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SMALL_BODY = 64 * 1024
_LEAST_BYTES_PER_S = 16 * 1024
_DRAINED_BYTES, _DRAINED_S = 8 * 2**20, 2.0
_BEARER = "bearer "
# A study may take half an hour, and be cancelled any time.
_STUDY_RETRY_S = "10"
_UTF8 = (b"utf-8", b"utf8")
_NO_SCRIPTS = "default-src 'none'; frame-ancestors 'none'"
# Of the page with the documentation.
_SCRIPTS = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'"
)
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True)
class Door:
    """A route that takes uploads."""

    lane: Lane
    """Who is in."""
    most_bytes: int
    """Of a body."""
    has_room: Callable[[], bool] = lambda: True
    """Whether what comes in would find a place in the end."""


@dataclass
class _Visit:
    """One request, as far as it may be written down."""

    request_id: str
    method: str
    began_s: float = field(default_factory=time.perf_counter)
    status: int = 500
    is_answered: bool = False


class Gate:
    """An ASGI application around another.

    Args:
        app: What answers.
        settings: Keys and limits.
        doors: Routes that take uploads, by path; all are POST.
        metrics: Told of each request.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, doors: dict[str, Door], metrics: Metrics) -> None:
        self._app = app
        self._digests = tuple(_digest(key.get_secret_value()) for key in settings.keys)
        self._doors = doors
        self._metrics = metrics
        self._rate = RateLimit(settings.rate_per_s)
        self._body_timeout_s = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or turn it back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "").lower()
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        # Another id could say anything; it would stand in the log.
        visit = _Visit(given if _UUID.fullmatch(given) else str(uuid.uuid4()), method)
        scope.setdefault("state", {})["request_id"] = visit.request_id
        answer = _answering(visit, send, scope["path"])
        door = self._doors.get(scope["path"]) if method == "POST" else None
        is_in = False
        try:
            self._let_in(scope, headers, door)
            is_in = door is not None
            limited = _limited(receive, headers, door.most_bytes if door else _SMALL_BODY, self._body_timeout_s)
            await self._app(scope, limited, answer)
        except Problem as problem:
            await _drain(receive, headers)
            await _refuse(problem, visit, answer)
        except Exception as error:
            log(
                "request-failed",
                logging.ERROR,
                request_id=visit.request_id,
                error=type(error).__name__,
                where=place_of(error),
            )
            if not visit.is_answered:
                await _refuse(Problem("internal"), visit, answer)
        finally:
            duration_s = time.perf_counter() - visit.began_s
            if door is not None and is_in:
                door.lane.leave(duration_s)
            self._write_down(scope, visit, duration_s, door is not None)

    def _let_in(self, scope: Scope, headers: Headers, door: Door | None) -> None:
        """Raises a Problem where it may not."""
        scope["state"]["owner"] = ""
        if scope["path"] not in PUBLIC:
            owner = self._owner(headers)
            scope["state"]["owner"] = owner
            if not self._rate.take(owner):
                raise Problem("too-many-requests", {"Retry-After": str(self._rate.retry_after_s())})
        if door is None:
            return
        # Starlette decodes names and fields by what this says, in the event loop, and some codecs of Python are quadratic.
        _, options = parse_options_header(headers.get("content-type"))
        if options.get(b"charset", _UTF8[0]).lower() not in _UTF8:
            raise Problem("bad-request")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > door.most_bytes:
            raise Problem("too-large", {"Connection": "close"})
        if not door.has_room():
            raise Problem("queue-full", {"Retry-After": _STUDY_RETRY_S})
        if not door.lane.enter():
            raise Problem("queue-full", {"Retry-After": str(door.lane.retry_after_s())})

    def _owner(self, headers: Headers) -> str:
        """A short digest of the key; without keys, everyone is one."""
        if not self._digests:
            # A page in a browser on this machine may have been made to send this: by its name, or by its origin.
            if not all(map(_is_here, (headers.get("host", ""), headers.get("origin", "http://localhost")))):
                raise Problem("forbidden")
            return "everyone"
        words = headers.get("authorization", "")
        given = _digest(words[len(_BEARER) :].strip()) if words.lower().startswith(_BEARER) else b""
        # All are compared, each in constant time: how long it takes tells nothing of any.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if True not in matches:
            raise Problem("unauthorized", {"WWW-Authenticate": "Bearer"})
        return given.hex()[:16]

    def _write_down(self, scope: Scope, visit: _Visit, duration_s: float, is_upload: bool) -> None:
        route = str(getattr(scope.get("route"), "path", scope["path"] if is_upload else "unmatched"))
        self._metrics.count(visit.method, route, visit.status, duration_s)
        if scope["path"] in PUBLIC and visit.status < HTTPStatus.BAD_REQUEST:
            return  # probes come every second
        log(
            "request",
            request_id=visit.request_id,
            method=visit.method,
            route=route,
            status=visit.status,
            duration_ms=round(1000 * duration_s, 1),
        )


def _answering(visit: _Visit, send: Send, path: str) -> Send:
    policy = (b"content-security-policy", (_SCRIPTS if path == "/docs" else _NO_SCRIPTS).encode())

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            visit.status, visit.is_answered = message["status"], True
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", visit.request_id.encode()),
                policy,
                *_SECURITY,
            ]
        await send(message)

    return answer


def _limited(receive: Receive, headers: Headers, most_bytes: int, timeout_s: float) -> Receive:
    """The body, counted and timed as it comes, whatever its head said of its length.

    It may pause for ``timeout_s``, and lag behind a slow line by as much: else a client could hold its place for ever by a
    byte now and then.
    """
    total, is_whole, began_s = 0, False, time.monotonic()

    async def receive_some() -> Message:
        nonlocal total, is_whole
        if is_whole:  # what is waited for now is that the client goes away
            return await receive()
        left_s = began_s + timeout_s + total / _LEAST_BYTES_PER_S - time.monotonic()
        try:
            async with asyncio.timeout(min(timeout_s, left_s)):
                message = await receive()
        except TimeoutError:
            raise Problem("body-timeout", {"Connection": "close"}) from None
        total += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if total > most_bytes:
            if not is_whole:
                await _drain(receive, headers)
            raise Problem("too-large", {"Connection": "close"})
        return message

    return receive_some


async def _drain(receive: Receive, headers: Headers) -> None:
    """Read on for a while what is not wanted: a client that is cut off in the middle of an upload never sees the answer."""
    if "content-length" not in headers and "transfer-encoding" not in headers:
        return
    if headers.get("expect", "").lower() == "100-continue":
        return  # it waits to be asked
    total = 0
    try:
        async with asyncio.timeout(_DRAINED_S):
            while total < _DRAINED_BYTES:
                message = await receive()
                total += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


async def _refuse(problem: Problem, visit: _Visit, answer: Send) -> None:
    if visit.is_answered:
        return
    body = document(problem.name, visit.request_id, problem.errors)
    headers: Sequence[tuple[bytes, bytes]] = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in (problem.headers or {}).items()),
    ]
    await answer({"type": "http.response.start", "status": problem.status_code, "headers": list(headers)})
    await answer({"type": "http.response.body", "body": body})


@lru_cache(256)  # a client says the same with every request
def _is_here(address: str) -> bool:
    try:
        host = urlsplit(address if "//" in address else f"//{address}").hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
