"""The routes. What is slow is done by workers; here requests are read, passed on, and answered."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, File, Query, Request, UploadFile
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, Response, StreamingResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp, Receive, Scope, Send

from slicewise import __version__
from slicewise.service.card import card_of
from slicewise.service.gate import PUBLIC, VIEWER, Door, Gate
from slicewise.service.house import House
from slicewise.service.limits import Lane
from slicewise.service.logs import log, place_of
from slicewise.service.metrics import MEDIA_TYPE as METRICS_TYPE
from slicewise.service.metrics import Metrics
from slicewise.service.pool import Pool
from slicewise.service.problems import MEDIA_TYPE, InvalidPart, Problem, ProblemDocument, document, kind_of_status
from slicewise.service.schemas import (
    NOTICE,
    BatchLine,
    Health,
    ModelCard,
    Prediction,
    Readiness,
    SliceOptions,
    StudyResult,
    StudyStatus,
)
from slicewise.service.uploads import Spool
from slicewise.service.wire import ENDINGS, SliceTask

__all__ = ["create_app"]

_STUDY_FILES = 2000
_SPOOLED_BYTES = 64 * 1024
# Starlette holds fields that are no files in memory, and no route has any.
_FIELDS = 0
# How Starlette's words begin where a form has more than its `max_files`; the status is that of any other broken form.
_TOO_MANY_FILES = "Too many files"
_JSON, _NDJSON = "application/json", "application/x-ndjson"
_FILE_TYPES = {
    "mask": "application/gzip",
    "segmentation": "application/dicom",
    "report": "application/dicom",
    "montage": "image/png",
    "slices": "application/octet-stream",
}
_CODES_OF_GETS = (401, 403, 429, 500)
_CODES_OF_POSTS = (400, 401, 403, 408, 413, 422, 429, 500, 503)

Upload = Annotated[UploadFile, File(description="A picture, a NIfTI file or a DICOM file with one slice.")]
Uploads = Annotated[list[UploadFile], File(description="Files, each in a field of this name.")]
Options = Annotated[SliceOptions, Query()]
Uncertain = Annotated[bool, Query(description="Also say how much the answers move. Needs torch on the server.")]
StudyId = Annotated[str, PathParameter(pattern="^[0-9a-f]{32}$", description="As answered when it was sent.")]
FileName = Literal["mask", "segmentation", "report", "montage", "slices"]
assert set(_FILE_TYPES) == set(ENDINGS)


class _WholeFile(FileResponse):
    """A file, whatever range of it is asked for: Starlette refuses some of them in plain text, as no error here is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["accept-ranges"] = "none"
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


def create_app(house: House) -> ASGIApp:
    """The service as an ASGI application, its gate around it.

    Args:
        house: Started, or to be started by whoever runs the application.
    """
    # A series may have thousands of files; held in memory up to the usual megabyte each, they would not fit.
    MultiPartParser.spool_max_size = _SPOOLED_BYTES
    metrics = Metrics(house.pools, house.lanes, lambda: house.studies.unfinished, house.description.model_id)
    app = FastAPIOffline(
        title="slicewise",
        version=__version__,
        description=f"Given a brain MRI slice: is there a tumor, and where? {NOTICE}",
        redoc_url=None,
        static_url=VIEWER,
        redirect_slashes=False,
    )
    app.include_router(_state_routes(house, metrics))
    app.include_router(_predict_routes(house))
    app.include_router(_study_routes(house))
    app.add_exception_handler(HTTPException, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_failure)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    settings = house.settings

    def has_room_for_a_study() -> bool:
        # An upload is in the lane until it is one of the unfinished; for a moment it is both, and never neither.
        return house.studies.unfinished + house.lanes["studies"].count < settings.studies

    doors = {
        "/v1/predict": Door(house.lanes["predict"], settings.slice_bytes),
        "/v1/predict/batch": Door(house.lanes["batch"], settings.batch_bytes),
        "/v1/studies": Door(house.lanes["studies"], settings.study_bytes, has_room_for_a_study),
    }
    return Gate(app, settings, doors, metrics)


def _state_routes(house: House, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["state"])
    card = card_of(house.description, house.model)

    @router.get("/healthz", responses=_problems())
    async def health() -> Health:
        """The process is alive."""
        return Health(status="ok")

    @router.get("/readyz", responses=_problems(503))
    async def readiness() -> Readiness:
        """Slices can be predicted."""
        if not house.slices.ready:
            raise Problem("not-ready", {"Retry-After": "1"})
        return Readiness(status="ready", workers=house.slices.ready)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_problems()},
    )
    async def metrics_text() -> Response:
        """Metrics for Prometheus."""
        return Response(metrics.text(), media_type=METRICS_TYPE)

    @router.get("/v1/model", responses=_problems(*_CODES_OF_GETS))
    async def model() -> ModelCard:
        """The model: its card, figures with intervals, thresholds; all read from the checkpoint."""
        return card

    return router


def _predict_routes(house: House) -> APIRouter:
    router = APIRouter(tags=["slices"])
    patience_s = house.settings.answer_timeout_s

    def pool_for(options: SliceOptions) -> Pool:
        return house.thorough if options.explain or options.uncertainty else house.slices

    async def own_spool() -> AsyncIterator[Spool]:
        """Of a batch. It ends after the answer, and also where the client has gone before that had begun."""
        with house.spool.divide() as spool:
            yield spool

    @router.post(
        "/v1/predict",
        form_limits={"max_files": 1, "max_fields": _FIELDS},
        response_model=Prediction,
        responses=_problems(501, 504, *_CODES_OF_POSTS),
    )
    async def predict(request: Request, file: Upload, options: Options) -> Response:
        """Is there a tumor in this slice, and where?"""
        pool = pool_for(options)
        with _place_in(house.lanes["thorough"]) if pool is house.thorough else nullcontext():
            path = await house.spool.save(file)
            return Response(await _ask(pool, path, _request_id(request), options, patience_s), media_type=_JSON)

    @router.post(
        "/v1/predict/batch",
        dependencies=[Depends(_refuse_other_fields)],
        form_limits={"max_files": house.settings.batch_files, "max_fields": _FIELDS},
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "One `BatchLine` a line, in the order in which they were found.",
                "content": {_NDJSON: {"schema": {"$ref": "#/components/schemas/BatchLine"}}},
            },
            **_problems(*_CODES_OF_POSTS),
        },
    )
    async def predict_batch(
        request: Request, file: Uploads, options: Options, spool: Spool = Depends(own_spool)
    ) -> StreamingResponse:
        """The same for many slices; each answer is sent as soon as it is found."""
        paths = [await spool.save(upload) for upload in file]
        request_id, pool = _request_id(request), pool_for(options)

        async def ask(path: Path) -> bytes:
            if path.stat().st_size > house.settings.slice_bytes:  # no way around the limit of a single slice
                raise Problem("too-large")
            return await _ask(pool, path, request_id, options, patience_s)

        # As many at a time as are worked on, so that the slices of others come in between.
        lines = _lines(paths, ask, request_id, at_once=pool.size * pool.depth)
        return StreamingResponse(lines, media_type=_NDJSON)

    return router


def _study_routes(house: House) -> APIRouter:
    router = APIRouter(tags=["studies"], prefix="/v1/studies")
    studies = house.studies

    @router.post(
        "",
        status_code=HTTPStatus.ACCEPTED,
        dependencies=[Depends(_refuse_other_fields)],
        responses=_problems(*_CODES_OF_POSTS),
        form_limits={"max_files": _STUDY_FILES, "max_fields": _FIELDS},
    )
    async def send(
        request: Request,
        response: Response,
        file: Uploads,
        uncertainty: Uncertain = False,
        segment: Annotated[Literal["auto", "never"], Query(description="never: the probabilities alone.")] = "auto",
    ) -> StudyStatus:
        """Send a file of any kind, a zip, or several files, each read for what it is: predicted when its turn comes."""
        status = await studies.add(_owner(request), file, uncertainty=uncertainty, segment=segment)
        response.headers["Location"] = f"/v1/studies/{status.id}"
        return status

    @router.get("/{study}", responses=_problems(404, 422, *_CODES_OF_GETS))
    async def status(request: Request, study: StudyId) -> StudyStatus:
        """How far it is."""
        return studies.status(_owner(request), study)

    @router.delete("/{study}", responses=_problems(404, 422, *_CODES_OF_GETS))
    async def cancel(request: Request, study: StudyId) -> StudyStatus:
        """End it, and remove upload and results."""
        return await studies.cancel(_owner(request), study)

    @router.get("/{study}/result", response_model=StudyResult, responses=_problems(404, 409, 422, *_CODES_OF_GETS))
    async def result(request: Request, study: StudyId) -> Response:
        """The answer of a finished study: as `slicewise predict` records it, and which files can be fetched."""
        return _WholeFile(studies.result(_owner(request), study), media_type=_JSON)

    @router.get(
        "/{study}/scans/{scan}/{name}",
        response_class=_WholeFile,
        responses={
            200: {
                "content": {
                    media_type: {"schema": {"type": "string", "format": "binary"}}
                    for media_type in sorted(set(_FILE_TYPES.values()))
                }
            },
            **_problems(404, 409, 422, *_CODES_OF_GETS),
        },
    )
    async def file_of(
        request: Request,
        study: StudyId,
        scan: Annotated[int, PathParameter(ge=0, le=99_999, description="Which of the result's scans.")],
        name: Annotated[FileName, PathParameter(description="Which of its files.")],
    ) -> _WholeFile:
        """A file of a scan.

        mask: NIfTI on the input's grid. segmentation, report: DICOM SEG and SR, of DICOM alone. montage: PNG of a volume.
        slices: numpy's npz with values, uint16, from the least to the greatest of the scan, and mask, bool, both (slices,
        rows, columns); window, the values that are drawn black and white; and spacing_mm between slices, rows and columns.
        """
        path = studies.file(_owner(request), study, scan, name)
        return _WholeFile(path, media_type=_FILE_TYPES[name], filename=path.name)

    return router


async def _refuse_other_fields(request: Request) -> None:
    """A file in a field of another name would be dropped without a word. The form has been read, and is not read again."""
    if any(name != "file" for name in await request.form()):
        raise Problem("bad-request")


async def _ask(pool: Pool, path: Path, request_id: str, options: SliceOptions, patience_s: float) -> bytes:
    """The answer for one upload, which is removed."""
    task = SliceTask(str(path), request_id, time.monotonic(), **options.model_dump())
    try:
        return await pool.ask(task, patience_s=patience_s)
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _place_in(lane: Lane) -> Iterator[None]:
    """A place in a lane, for as long as it takes.

    Raises:
        Problem: There is none.
    """
    if not lane.enter():
        raise Problem("queue-full", {"Retry-After": str(lane.retry_after_s())})
    began_s = time.monotonic()
    try:
        yield
    finally:
        lane.leave(time.monotonic() - began_s)


async def _lines(
    paths: Sequence[Path], ask: Callable[[Path], Awaitable[bytes]], request_id: str, at_once: int
) -> AsyncIterator[bytes]:
    room = asyncio.Semaphore(at_once)

    async def line(index: int, path: Path) -> bytes:
        async with room:
            try:
                return b'{"index":%d,"status":200,"prediction":%b}\n' % (index, await ask(path))
            except Problem as problem:
                content = document(problem.name, request_id)
                return b'{"index":%d,"status":%d,"problem":%b}\n' % (index, problem.status_code, content)

    tasks = [asyncio.create_task(line(index, path)) for index, path in enumerate(paths)]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _request_id(request: Request) -> str:
    return str(request.state.request_id)


def _owner(request: Request) -> str:
    return str(request.state.owner)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        problem = error
    elif error.detail.startswith(_TOO_MANY_FILES):
        problem = Problem("too-many-files")
    elif isinstance(cause := error.__cause__, OSError):
        # Of a body that could not be kept, such as on a full disk. FastAPI takes all of these for a broken form.
        problem = Problem("too-many-files" if cause.errno == errno.EMFILE else "internal")
        fields = {"request_id": _request_id(request), "error": type(cause).__name__, "where": place_of(cause)}
        log("request-failed", logging.ERROR, **fields)
    else:
        problem = Problem(kind_of_status(error.status_code), error.headers)
    content = document(problem.name, _request_id(request), problem.errors)
    return Response(content, problem.status_code, problem.headers, MEDIA_TYPE)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Pydantic's "input" and "ctx" are left out: they quote what was sent.
    parts = [InvalidPart(where=".".join(map(str, part["loc"])), expected=part["msg"]) for part in error.errors()]
    return await _on_problem(request, Problem("invalid-request", errors=parts))


async def _on_failure(request: Request, error: Exception) -> Response:
    """The answer alone: the error is raised on, to the gate, which writes down where it came from."""
    return await _on_problem(request, Problem("internal"))


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": ProblemDocument, "description": HTTPStatus(status).phrase} for status in sorted({400, *statuses})
    }


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the media type of problems, the key, and the schema of a batch's lines."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= HTTPStatus.BAD_REQUEST:
                    answer["content"] = {MEDIA_TYPE: answer["content"][_JSON]}
            if path not in PUBLIC:
                operation["security"] = [{"key": []}]
    components = schema["components"]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    lines = BatchLine.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= lines.pop("$defs", {}) | {"BatchLine": lines}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    app.openapi_schema = json.loads(json.dumps(schema))
    return schema
