"""Two models on one slice, and their figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from slicewise.evaluation.metrics import dice
from slicewise.service.schemas import ModelCard, Prediction
from slicewise.ui.answer_view import show_concerns, show_decision
from slicewise.ui.choosing import SLICES, Chosen, choose_files
from slicewise.ui.client import Service
from slicewise.ui.drawing import draw_disagreement, draw_prediction, mask_of, picture_of
from slicewise.ui.figures import figures_of
from slicewise.ui.frame import answering
from slicewise.ui.session import describe_model, remember, room, service_of
from slicewise.ui.wording import COUNTED, describe_lack

__all__ = ["show"]


def show() -> None:
    """Draw the page."""
    st.header("Compare two models")
    services = room().services
    if len(services) < 2:
        st.info(
            "One model is there. Start the reading room with two, such as `slicewise ui --model runs/a --model runs/b`, or "
            "name two services with `--service`.",
            icon=":material/info:",
        )
        return
    names = [service.name for service in services]
    places, name_of = range(len(services)), names.__getitem__
    left, right = st.columns(2)
    first = left.selectbox("First", places, format_func=name_of, key="first", persist_state="session")
    second = right.selectbox("Second", places, 1, format_func=name_of, key="second", persist_state="session")
    if first == second:
        st.info("Choose two different models.", icon=":material/info:")
        return
    asked = service_of(first), service_of(second)
    chosen = choose_files("compare", "Upload one picture or slice", examples=SLICES, many=False)
    with answering():
        cards = [describe_model(service) for service in asked]
        if chosen is not None:
            _show_slice(chosen, asked, cards)
    st.subheader("Their figures")
    _show_figures(cards[0], cards[1])


def _show_slice(chosen: Chosen, services: Sequence[Service], cards: Sequence[ModelCard]) -> None:
    ((_, content),) = chosen.files
    with st.spinner("Predicting (slow the first time)"):
        answers = [_ask(service, card, chosen.digest, content) for service, card in zip(services, cards, strict=True)]
    masks = [mask_of(answer) for answer in answers]
    columns, names = st.columns(2, gap="medium"), ("First", "Second")
    for column, answer, mask, card, name in zip(columns, answers, masks, cards, names, strict=True):
        with column:
            st.subheader(name)
            show_concerns(answer.concerns)  # each model was trained on slices of its own
            st.image(
                draw_prediction(answer), width="stretch", alt=f"{name}: {answer.decision}, {mask.sum()} pixels outlined"
            )
            show_decision(answer, answer.model_id, card.tasks)
            if not card.can_tell_uncertainty:
                st.caption(describe_lack(card))
    if any(answer.mask is None for answer in answers):
        st.info("One of the models draws no masks: there is nothing to compare by place.", icon=":material/info:")
    else:
        _show_agreement(answers[0], masks[0], masks[1])


def _ask(service: Service, card: ModelCard, digest: str, content: bytes) -> Prediction:
    """A service's answer, with its uncertainty where it can say that; found once."""
    ask = partial(service.predict, content, uncertainty=card.can_tell_uncertainty)
    return remember(("compared", service.url, digest), ask)


def _show_agreement(answer: Prediction, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> None:
    both, one, other = (int(part.sum()) for part in (first & second, first & ~second, second & ~first))
    st.subheader("Where they differ")
    left, right = st.columns(2, gap="medium")
    with left:
        st.image(
            draw_disagreement(picture_of(answer), first, second, answer.spacing_mm),
            width="stretch",
            alt=f"{both} pixels in both masks, {one} in the first alone, {other} in the second alone",
        )
    with right:
        agreement = dice(both, one, other)
        st.metric("Dice of the two masks", "both are empty" if np.isnan(agreement) else f"{agreement:.3f}")
        counts = {"in both (yellow)": both, "in the first alone (blue)": one, "in the second alone (vermilion)": other}
        st.table(pd.DataFrame({"pixels": pd.Series(counts).map("{:,}".format)}))
        st.caption("Two models that agree may both be wrong: no reference is here.")


def _show_figures(first: ModelCard, second: ModelCard) -> None:
    sides = [side for side in first.metrics if side in second.metrics]
    if not sides:
        st.info("The two checkpoints have figures of no side in common.", icon=":material/info:")
        return
    side = st.selectbox("Measured on", sides, index=sides.index("test") if "test" in sides else 0)
    tables = [figures_of(card, side).set_index("figure") for card in (first, second)]
    merged = pd.DataFrame(
        {
            f"{name}: {card.model_id}": table["shown"] + table["n_patients"].map(" (n = {:,})".format)
            for name, card, table in zip(("first", "second"), (first, second), tables, strict=True)
        }
    )
    st.dataframe(merged, alt="One row a figure, one column a model")
    st.caption(
        f"{COUNTED} As each checkpoint describes itself. Only where both were measured on the same patients may they be "
        "compared, and then in pairs, as `slicewise report` does."
    )
