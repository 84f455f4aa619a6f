"""What stands on every page: the notice, the service and whether it answers, warnings, refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import streamlit as st

from slicewise.inference.record import ConcernRecord, ScanRecord
from slicewise.service.schemas import NOTICE, ModelCard, Prediction
from slicewise.ui.client import File, Service, ServiceError
from slicewise.ui.settings import RoomSettings, ServiceSettings
from slicewise.ui.wording import SYMBOLS, describe_extent, describe_probability, describe_uncertainty, give_reason

__all__ = [
    "answering",
    "chosen_service",
    "describe_model",
    "digest_of",
    "offer",
    "remember",
    "room",
    "service_of",
    "show_concerns",
    "show_decision",
    "show_notice",
    "show_service",
]

_KEPT_ANSWERS = 12
_PING_S = 4

T = TypeVar("T")


def room() -> RoomSettings:
    """What the pages were told."""
    return RoomSettings.from_environment()


@st.cache_resource(show_spinner=False)
def service_of(number: int) -> Service:
    """The client of a service, by its place in the settings; connections are kept."""
    settings = room().services[number]
    return Service(settings.url, settings.key.get_secret_value() if settings.key else None)


def chosen_service() -> Service:
    """The service that the pages ask."""
    return service_of(int(st.session_state.get("service", 0)))


def show_notice() -> None:
    """What this must not be used for: above everything, on every page."""
    st.html(
        "<style>.stMainBlockContainer { padding-top: 4.5rem }</style>"
        '<div role="note" style="border:1px solid;border-radius:.4rem;padding:.35rem .8rem;font-size:.9rem">'
        f"<strong>Research use only – not a medical device.</strong> {NOTICE.partition(': ')[2].capitalize()}</div>"
    )


def show_service() -> None:
    """In the sidebar: which model answers, and whether it does."""
    services = room().services
    with st.sidebar:
        if len(services) > 1:
            st.selectbox("Model", range(len(services)), format_func=lambda number: services[number].name, key="service")
        _show_state(services[int(st.session_state.get("service", 0))])


@st.fragment(run_every=_PING_S)
def _show_state(settings: ServiceSettings) -> None:
    is_ready = chosen_service().is_ready()
    st.caption(f"● The service answers at `{settings.url}`" if is_ready else f"○ Nobody answers at `{settings.url}`")
    if not is_ready:
        st.error(
            "**The service does not answer.** What is on the page stays; new questions wait until it is back.",
            icon=":material/power_off:",
        )
    was_ready = st.session_state.get("was_ready", True)
    st.session_state["was_ready"] = is_ready
    if is_ready and not was_ready:
        st.rerun(scope="app")


@contextmanager
def answering() -> Iterator[None]:
    """Show a refusal of the service as such; what follows on the page is left out."""
    try:
        yield
    except ServiceError as error:
        if error.problem == "unreachable":
            st.session_state["was_ready"] = False  # so that the page is drawn again when it is back
        words = f"**{error.title}.** {error.detail}"
        if error.request_id:
            words += f"\n\nIn the service's log this is request `{error.request_id}`."
        st.error(words, icon=":material/block:")
        st.stop()


def show_concerns(concerns: Sequence[ConcernRecord]) -> None:
    """The gatekeeper's warnings, before any answer."""
    if not concerns:
        return
    lines = "\n".join(f"- **{concern.rule}**: {concern.message}" for concern in concerns)
    count = "a reason" if len(concerns) == 1 else f"{len(concerns)} reasons"
    st.error(f"### Do not trust this answer without a look: {count} for doubt\n{lines}", icon=":material/warning:")


def show_decision(answer: Prediction | ScanRecord, model_id: str) -> None:
    """The decision, its probability, why, and how much is outlined."""
    st.markdown(f"## {SYMBOLS[answer.decision]} {answer.decision.capitalize()}")
    st.metric("Probability of tumor", describe_probability(answer.probability), help="After temperature scaling.")
    if answer.uncertainty is not None:
        st.caption(describe_uncertainty(answer.uncertainty))
    st.metric(*describe_extent(answer))
    st.markdown(give_reason(answer))
    st.caption(f"Model {model_id}, threshold {answer.threshold:.3f}, plane: {answer.plane}")


def describe_model() -> ModelCard:
    """The chosen service's model, asked once a session and service."""
    service = chosen_service()
    return remember(("model", service.url), service.describe_model)


def offer(label: str, content: str | bytes, name: str, media_type: str) -> None:
    """A download.

    Args:
        label: On its button.
        content: Of the file.
        name: Of the file.
        media_type: Of the file.
    """
    st.download_button(label, content, name, media_type, on_click="ignore", icon=":material/download:")


def digest_of(files: Sequence[File]) -> str:
    """Of what was uploaded."""
    whole = hashlib.sha256()
    for _, content in files:
        whole.update(len(content).to_bytes(8, "big"))
        whole.update(content)
    return whole.hexdigest()


def remember(key: tuple[Any, ...], find: Callable[[], T]) -> T:
    """An answer of this session, found once; the oldest are forgotten. Nothing is shared between sessions."""
    answers: dict[tuple[Any, ...], T] = st.session_state.setdefault("answers", {})
    if key not in answers:
        answers[key] = find()
        while len(answers) > _KEPT_ANSWERS:
            del answers[next(iter(answers))]
    return answers[key]
