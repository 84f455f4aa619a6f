"""The service, as a client of it sees it: typed answers, and one error that can be shown to a person."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from slicewise.errors import SlicewiseError
from slicewise.service.schemas import BatchLine, ModelCard, Prediction, SegmentChoice, StudyResult, StudyStatus
from slicewise.service.settings import ServiceSettings

__all__ = ["File", "Service", "ServiceError", "State"]

File = tuple[str, bytes]
"""A file's name, which stays here, and its bytes, which are sent."""

_BATCH_FILES: int = ServiceSettings.model_fields["batch_files"].default
_BATCH_BYTES: int = ServiceSettings.model_fields["batch_bytes"].default * 3 // 4  # the rest is for the form around them
"""Of one batch request; more is sent as several."""

_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_STUDY_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
_STATE_TIMEOUT = httpx.Timeout(2.0)
_NOT_OURS = (
    "Expected an answer of slicewise, got one of another program or of another version. Check the address, and that both "
    "sides have the same version."
)

State = Literal["ready", "starting", "away"]
"""Of a service: it predicts, it runs but does not predict yet, it does not answer."""

Answer = TypeVar("Answer", bound=BaseModel)


class ServiceError(SlicewiseError):
    """The service refused, failed, or does not answer.

    Args:
        problem: Name of the kind of problem, such as ``unreadable-file``; ``unreachable`` where nobody answered.
        title: In a few words.
        detail: What was expected, and what to do.
        request_id: By which who runs the service finds it in the log.
    """

    def __init__(self, problem: str, title: str, detail: str, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.problem, self.title, self.detail, self.request_id = problem, title, detail, request_id


class Service:
    """A running `slicewise serve`.

    Args:
        url: Where it listens, such as ``http://127.0.0.1:8000``.
        key: API key; None where it asks for none.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Not by way of a proxy that the environment names: patients' slices go to this address and nowhere else.
        self._client = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=False)

    def close(self) -> None:
        """Give its connections back."""
        self._client.close()

    def state(self) -> State:
        """Whether it would predict now."""
        try:
            answer = self._client.get("/readyz", timeout=_STATE_TIMEOUT)
        except httpx.HTTPError:
            return "away"
        return "ready" if answer.is_success else "starting"

    def describe_model(self) -> ModelCard:
        """Its model: card, figures, threshold.

        Raises:
            ServiceError: As of every method.
        """
        return _read(ModelCard, self._ask("GET", "/v1/model").content)

    def predict(
        self, content: bytes, *, segment: SegmentChoice = "auto", explain: bool = False, uncertainty: bool = False
    ) -> Prediction:
        """One picture or slice, with its mask and the slice as it was read, as PNG."""
        options = {"segment": segment, "explain": explain, "uncertainty": uncertainty, "picture": True}
        answer = self._ask("POST", "/v1/predict", params=options, files=_parts([("", content)]))
        return _read(Prediction, answer.content)

    def predict_batch(self, files: Sequence[File]) -> Iterator[BatchLine]:
        """Many, each as soon as it is answered; the line's ``index`` is the place in ``files``."""
        for start, end in _portions([len(content) for _, content in files]):
            parts = _parts(files[start:end])
            with (
                _reaching(self.url),
                self._client.stream("POST", "/v1/predict/batch", params={"picture": True}, files=parts) as answer,
            ):
                if answer.is_error:
                    answer.read()
                    raise _refusal(answer)
                for line in answer.iter_lines():
                    found = _read(BatchLine, line.encode())
                    yield found.model_copy(update={"index": start + found.index})

    def send_study(self, files: Sequence[File], *, uncertainty: bool = False) -> StudyStatus:
        """Pictures, NIfTI files, zips and the DICOM files of a series; predicted when their turn comes."""
        options = {"uncertainty": uncertainty}
        # The service holds each file of an upload as an open file, and where the system grants it no more than the usual
        # 1,024, a series may have too many.
        sent = _parts(files) if len(files) == 1 else {"file": ("0", _together(files))}
        answer = self._ask("POST", "/v1/studies", params=options, files=sent, timeout=_STUDY_TIMEOUT)
        return _read(StudyStatus, answer.content)

    def follow_study(self, study_id: str) -> StudyStatus:
        """How far it is."""
        return _read(StudyStatus, self._ask("GET", f"/v1/studies/{study_id}").content)

    def remove_study(self, study_id: str) -> None:
        """End it, and remove upload and results from the service."""
        self._ask("DELETE", f"/v1/studies/{study_id}")

    def study_result(self, study_id: str) -> StudyResult:
        """The answer of a finished study."""
        return _read(StudyResult, self._ask("GET", f"/v1/studies/{study_id}/result").content)

    def fetch(self, href: str) -> bytes:
        """A file that a study's result names."""
        return self._ask("GET", href).content

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        with _reaching(self.url):
            answer = self._client.request(method, path, **options)
        if answer.is_error:
            raise _refusal(answer)
        return answer


def _portions(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each request starts and ends, so that none holds too many files or bytes; a single file is never cut."""
    start = held = 0
    for place, size in enumerate(sizes):
        if place > start and (place - start == _BATCH_FILES or held + size > _BATCH_BYTES):
            yield start, place
            start, held = place, 0
        held += size
    if start < len(sizes):
        yield start, len(sizes)


def _parts(files: Sequence[File]) -> list[tuple[str, tuple[str, bytes]]]:
    # Names of files may be names of patients, and the service has no need of them.
    return [("file", (str(place), content)) for place, (_, content) in enumerate(files)]


def _together(files: Sequence[File]) -> io.BytesIO:
    """Files as a zip, to be read from its start."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for place, (_, content) in enumerate(files):
            archive.writestr(str(place), content)
    stream.seek(0)
    return stream


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.ConnectTimeout:
        raise _away(url) from None
    except httpx.TimeoutException:
        raise ServiceError("silent", "The service is silent", f"Expected an answer from {url} in time. Try again.") from None
    except httpx.HTTPError:
        raise _away(url) from None


def _away(url: str) -> ServiceError:
    detail = f"Expected a service at {url}, nobody answers there. Start it again; this page waits for it."
    return ServiceError("unreachable", "The service does not answer", detail)


def _refusal(answer: httpx.Response) -> ServiceError:
    try:
        fields = answer.json()
        problem = fields["type"].rpartition(":")[2]
        return ServiceError(problem, fields["title"], fields["detail"], fields["request_id"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ServiceError("unknown", f"Refused with status {answer.status_code}", _NOT_OURS)


def _read(schema: type[Answer], content: bytes) -> Answer:
    try:
        return schema.model_validate_json(content)
    except ValidationError:
        raise ServiceError("unknown", "An answer of another shape", _NOT_OURS) from None
