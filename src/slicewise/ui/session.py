"""What one person's session knows: which service it asks, and what was answered. Nothing is shared between sessions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st

from slicewise.service.schemas import ModelCard
from slicewise.ui.client import File, Service
from slicewise.ui.settings import RoomSettings

__all__ = [
    "chosen_service",
    "describe_model",
    "digest_of",
    "forget_answers",
    "has_answer",
    "remember",
    "room",
    "service_of",
]

_KEPT_ANSWERS = 24

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


def describe_model(service: Service) -> ModelCard:
    """A service's model, asked once.

    Raises:
        ServiceError: The service refused, or does not answer.
    """
    cards: dict[str, ModelCard] = st.session_state.setdefault("cards", {})
    if service.url not in cards:
        cards[service.url] = service.describe_model()
    return cards[service.url]


def remember(key: tuple[Any, ...], find: Callable[[], T]) -> T:
    """An answer, found once; those that were not asked for longest are forgotten."""
    answers: dict[tuple[Any, ...], T] = st.session_state.setdefault("answers", {})
    answers[key] = answers.pop(key) if key in answers else find()
    while len(answers) > _KEPT_ANSWERS:
        del answers[next(iter(answers))]
    return answers[key]


def has_answer(key: tuple[Any, ...]) -> bool:
    """Whether it was found before."""
    return key in st.session_state.get("answers", {})


def forget_answers() -> None:
    """Of a service that was away: what comes back may have another model."""
    for name in ("answers", "cards"):
        st.session_state.pop(name, None)


def digest_of(files: Sequence[File]) -> str:
    """Of their contents, in their order."""
    whole = hashlib.sha256()
    for _, content in files:
        whole.update(len(content).to_bytes(8, "big"))
        whole.update(content)
    return whole.hexdigest()
