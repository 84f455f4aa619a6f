"""What stands around every page: the notice, the service and whether it answers, refusals, defects."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import altair as alt
import streamlit as st

from slicewise.service.logs import place_of
from slicewise.service.schemas import NOTICE
from slicewise.ui.client import ServiceError
from slicewise.ui.session import chosen_service, forget_answers, room
from slicewise.ui.wording import describe_refusal

__all__ = ["ANSWER", "answering", "draw_chart", "guarding", "offer", "show_notice", "show_refusal", "show_service"]

ANSWER = "answer"
"""Key of the container with the answer beside pictures."""

_PING_S = 4
_CHART_TEXT = "#595959"
_STATES = {"ready": "● The service answers at", "starting": "◐ The service starts at", "away": "○ Nobody answers at"}


def show_notice() -> None:
    """What this must not be used for: above everything, on every page."""
    st.html(
        "<style>.stMainBlockContainer { padding-top: 4.5rem }"
        # On a phone columns lie below one another: the answer comes before the pictures that it is about.
        f"@media (max-width: 640px) {{ .stColumn:has(.st-key-{ANSWER}) {{ order: -1 }} }}</style>"
        '<div role="note" style="border:1px solid;border-radius:.4rem;padding:.35rem .8rem;font-size:.9rem">'
        f"<strong>Research use only – not a medical device.</strong> {NOTICE.partition(': ')[2].capitalize()}</div>"
    )


def show_service() -> None:
    """In the sidebar: which model answers, and whether it does."""
    services = room().services
    with st.sidebar:
        if len(services) > 1:
            places = range(len(services))
            names = [service.name for service in services]
            st.selectbox("Model", places, format_func=names.__getitem__, key="service", persist_state="session")
        _show_state()


@st.fragment(run_every=_PING_S)
def _show_state() -> None:
    with guarding("the service's state"):
        service = chosen_service()
        state = service.state()
        st.caption(f"{_STATES[state]} `{service.url}`")
        if state == "away":
            st.error(
                "**The service does not answer.** What is on the page stays; new questions wait until it is back.",
                icon=":material/power_off:",
            )
        was_away = st.session_state.get("was away", False)
        st.session_state["was away"] = state != "ready"
    if was_away and state == "ready":
        forget_answers()
        st.rerun(scope="app")


@contextmanager
def answering() -> Iterator[None]:
    """Show a refusal of the service as such; what follows on the page is left out."""
    try:
        yield
    except ServiceError as error:
        show_refusal(error)
        st.stop()


def show_refusal(error: ServiceError) -> None:
    """What the service refused and why, for a person at a page."""
    if error.problem == "unreachable":
        st.session_state["was away"] = True  # so that the page is drawn again when it is back
    words = f"**{error.title}.** {describe_refusal(error.problem, error.detail)}"
    if error.request_id:
        words += f"\n\nIn the service's log this is request `{error.request_id}`."
    st.error(words, icon=":material/block:")


@contextmanager
def guarding(what: str) -> Iterator[None]:
    """Show a defect of our own by its place. Its message stays out of page and log: it may quote what was uploaded."""
    try:
        yield
    except Exception as error:
        place = f"{type(error).__name__} at {place_of(error)}"
        print(f"The page failed ({what}): {place}", file=sys.stderr, flush=True)
        st.error(f"**The page failed**, by a defect of slicewise ({place}). Please report it.", icon=":material/bug_report:")


def draw_chart(chart: alt.Chart | alt.LayerChart, words: str, **options: Any) -> None:
    """A chart whose words can be read: on a light page, Streamlit's gray has a contrast of 3.7 (WCAG 2.2, 1.4.3, wants 4.5).

    Args:
        chart: What is drawn.
        words: For those who do not see it.
        **options: Of Streamlit.
    """
    if st.context.theme.type != "dark":
        chart = chart.configure_axis(labelColor=_CHART_TEXT, titleColor=_CHART_TEXT).configure_legend(
            labelColor=_CHART_TEXT, titleColor=_CHART_TEXT
        )
    st.altair_chart(chart, alt=words, **options)


def offer(label: str, content: str | bytes, name: str, media_type: str) -> None:
    """A download.

    Args:
        label: On its button.
        content: Of the file.
        name: Of the file.
        media_type: Of the file.
    """
    st.download_button(label, content, name, media_type, on_click="ignore", icon=":material/download:")
