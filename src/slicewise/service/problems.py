"""The one shape of every error: RFC 9457, ``application/problem+json``. Its sentences are fixed and quote nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

__all__ = [
    "MEDIA_TYPE",
    "PROBLEMS",
    "InvalidPart",
    "Kind",
    "Problem",
    "ProblemDocument",
    "document",
    "kind_of_status",
    "known_problem",
]

MEDIA_TYPE = "application/problem+json"
"""Of every error."""


class Kind(NamedTuple):
    """One kind of problem."""

    status: int
    title: str
    detail: str
    """What was expected, and what to do."""


def _unreadable(detail: str) -> Kind:
    return Kind(422, "The file cannot be read", detail)


PROBLEMS: dict[str, Kind] = {
    "bad-request": Kind(
        400, "Bad request", "Expected a multipart/form-data body in UTF-8, of files in fields `file` alone; it is none."
    ),
    "unauthorized": Kind(401, "API key needed", "Expected a valid key in the header `Authorization: Bearer KEY`."),
    "forbidden": Kind(
        403, "Not from here", "Expected a request from this machine, addressed to it; set API keys for others."
    ),
    "not-found": Kind(404, "Not found", "Expected a path of this service; /openapi.json lists them."),
    "no-such-study": Kind(
        404, "No such study", "Expected the id of a study sent with this key whose results are still kept."
    ),
    "no-such-file": Kind(404, "No such file", "This scan has no such file; the study's result lists those that it has."),
    "method-not-allowed": Kind(405, "Method not allowed", "Expected a method that the header `Allow` names."),
    "body-timeout": Kind(408, "Upload too slow", "Expected the upload to go on; it paused for too long. Send it again."),
    "not-finished": Kind(409, "Not finished", "Expected a study whose status is `done`; ask for its status."),
    "study-lost": Kind(410, "Study lost", "The service was restarted and the upload is gone. Send the study again."),
    "too-large": Kind(
        413, "Upload too large", "Expected a smaller body; docs/serving.md lists the limits. Send less at once."
    ),
    "too-many-files": Kind(413, "Too many files", "Expected fewer files at once. Send several requests, or one zip."),
    "too-many-pixels": Kind(413, "Picture too large", "Expected fewer pixels in a slice. Make the picture smaller."),
    "invalid-request": Kind(
        422, "Invalid request", "Expected what /openapi.json describes; `errors` says where it differs."
    ),
    "not-one-slice": Kind(
        422, "Not one slice", "Expected a file with one picture or slice, it holds more. Send it to /v1/studies."
    ),
    "unknown-format": _unreadable("Expected a picture, NIfTI, DICOM or zip file; the bytes are none of these."),
    "unreadable-file": _unreadable(
        "Expected a whole, valid file; its bytes contradict its format. Copy or export it again."
    ),
    "passed-over": _unreadable(
        "Expected scans; in a zip, what is called like a mask or a result is passed over. Send it by itself."
    ),
    "several-pictures": _unreadable("Expected one picture in a file, it holds several. Send each, or all as NIfTI."),
    "non-finite": _unreadable("Expected finite values and plausible geometry; the file holds others. Export it again."),
    "no-pixels": _unreadable("Expected a file with pixels, it holds none. Send the images of the series."),
    "burned-in-annotation": _unreadable(
        "The file says that text is burned into its pixels, which may be a name. Remove it."
    ),
    "decoder-timeout": _unreadable("The file took too long to decode, and its decoder was stopped. Make it smaller."),
    "decoder-memory": _unreadable("The file takes too much memory to decode. Make it smaller."),
    "decoder-crash": _unreadable("Its decoder did not survive the file, or was stopped for the memory that it took."),
    "too-many-requests": Kind(429, "Too many requests", "Expected fewer requests a second of this key; see `Retry-After`."),
    "internal": Kind(500, "Internal error", "The service failed. Report the request id to who runs it."),
    "not-available": Kind(501, "Not available", "This server's model or installation cannot do that; /v1/model says more."),
    "queue-full": Kind(503, "Too busy", "Expected room in the queue, it is full. Try again after `Retry-After` seconds."),
    "not-ready": Kind(503, "Not ready", "No worker is ready to predict. Try again after `Retry-After` seconds."),
    "worker-died": Kind(
        503, "Worker died", "The workers that predicted this ended, twice. Try again, or send another file."
    ),
    "shutting-down": Kind(503, "Shutting down", "The service ends before this could be answered. Try again."),
    "answer-timeout": Kind(504, "Took too long", "No answer was found in the time that is allowed. Try again later."),
}
"""Kinds of problems by name; ``type`` is ``urn:slicewise:problem:NAME``."""

_BY_STATUS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large", 422: "invalid-request"}


class InvalidPart(BaseModel):
    """One part of a request that is not as described."""

    where: str
    """Such as ``query.segment``."""
    expected: str
    """What was expected there."""


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:slicewise:problem:queue-full",
                    "title": PROBLEMS["queue-full"].title,
                    "status": 503,
                    "detail": PROBLEMS["queue-full"].detail,
                    "instance": "urn:uuid:0b6f8c52-3e57-4a0c-b8d0-5f0f6a3c9e11",
                    "request_id": "0b6f8c52-3e57-4a0c-b8d0-5f0f6a3c9e11",
                }
            ]
        },
    )

    type: str
    """``urn:slicewise:problem:NAME``; docs/serving.md lists the names."""
    title: str
    """The kind of problem, in a few words."""
    status: int
    """HTTP status."""
    detail: str
    """What was expected, and what to do."""
    instance: str
    """``urn:uuid:`` and the request id."""
    request_id: str
    """As in the header X-Request-ID and in the log."""
    errors: list[InvalidPart] | None = None
    """Of an invalid request: what is wrong where."""


class Problem(HTTPException):
    """A request that is answered with an error.

    Args:
        name: Of `PROBLEMS`.
        headers: Of the answer, such as ``Retry-After``.
        errors: Of an invalid request.
    """

    def __init__(
        self, name: str, headers: Mapping[str, str] | None = None, errors: Sequence[InvalidPart] | None = None
    ) -> None:
        super().__init__(PROBLEMS[name].status, PROBLEMS[name].title, headers)
        self.name = name
        self.errors = errors


def kind_of_status(status: int) -> str:
    """The name of the problem that a framework's bare status stands for."""
    return _BY_STATUS.get(status, "bad-request" if status < 500 else "internal")


def known_problem(name: str) -> str:
    """The name under which a decoder's refusal is answered. Its sentence is not passed on: it names files."""
    return name if name in PROBLEMS else "unreadable-file"


def document(name: str, request_id: str, errors: Sequence[InvalidPart] | None = None) -> bytes:
    """The body of an error."""
    kind = PROBLEMS[name]
    fields: dict[str, Any] = {
        "type": f"urn:slicewise:problem:{name}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail,
        "instance": f"urn:uuid:{request_id}",
        "request_id": request_id,
    }
    filled = ProblemDocument(**fields, errors=list(errors) if errors else None)
    return filled.model_dump_json(exclude_none=True).encode()
