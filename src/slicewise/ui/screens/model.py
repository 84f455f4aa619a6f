"""What the model says of itself: its card, figures with intervals, course, limits."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from slicewise.service.schemas import ModelCard
from slicewise.ui.figures import (
    draw_calibration,
    draw_course,
    draw_intervals,
    draw_net_benefit,
    figures_of,
    predictive_values_of,
)
from slicewise.ui.frame import answering, draw_chart, offer
from slicewise.ui.session import chosen_service, describe_model
from slicewise.ui.wording import COUNTED, describe_training

__all__ = ["show"]


def show() -> None:
    """Draw the page."""
    st.header("The model")
    with answering():
        card = describe_model(chosen_service())
    facts = (
        ("Weights", card.model_id),
        ("Parameters", f"{card.parameters / 1e6:.2f} M"),
        ("Threshold", f"{card.threshold:.3f}"),
    )
    for column, (name, value) in zip(st.columns(3), facts, strict=True):
        column.metric(name, value)
    st.caption(describe_training(card.patients))
    names = ["Figures", "Curves and limits", "Course of the training", "Model card", "Origin"]
    figures, curves, course, words, origin = st.tabs(names)
    with figures:
        _show_figures(card)
    with curves:
        _show_curves(card)
    with course:
        _show_course(card)
    with words:
        if card.card is None:
            st.info("No model card lies beside this checkpoint; `slicewise report` writes one.", icon=":material/info:")
        else:
            st.markdown(_for_people(card.card))
            offer("Model card", card.card, "model_card.md", "text/markdown")
    with origin:
        st.json(
            {name: getattr(card, name) for name in ("weights_sha256", "architecture", "preprocessing", "provenance", "gate")}
        )


def _show_figures(card: ModelCard) -> None:
    if not card.metrics:
        st.info("This checkpoint was not measured; `slicewise evaluate` does it.", icon=":material/info:")
        return
    sides = list(card.metrics)
    side = st.selectbox("Measured on", sides, index=sides.index("test") if "test" in sides else 0)
    table = figures_of(card, side)
    draw_chart(draw_intervals(table), "Figures with their intervals; the table below has the same")
    st.dataframe(
        table[["figure", "shown", "n_slices", "n_patients"]],
        hide_index=True,
        column_config={
            "shown": "value (95 % interval)",
            "n_slices": st.column_config.NumberColumn("slices", format="%,d"),
            "n_patients": st.column_config.NumberColumn("n", format="%,d"),
        },
        alt="One row a figure",
    )
    st.caption(COUNTED)
    if table["n_patients"].min() < 10:
        st.caption("A figure from fewer than ten patients is an example.")
    st.subheader("Patients")
    st.dataframe(pd.DataFrame(card.patients).T.fillna(0).astype(int), alt="One row a source, one column a side")
    st.caption(COUNTED)


def _show_curves(card: ModelCard) -> None:
    if not card.curves:
        words = "This checkpoint has no curves; `slicewise publish` keeps those of a run that was evaluated."
        st.info(words, icon=":material/info:")
        return
    left, right = st.columns(2, gap="large")
    if "calibration" in card.curves:
        left.subheader("Does it mean what it says?")
        with left:
            draw_chart(draw_calibration(card.curves["calibration"]), "Share with tumor by probability", height=320)
        left.caption("Share of test slices with a tumor, by the probability they were given; on the dashed line they agree.")
    if "decision_curve" in card.curves:
        right.subheader("Is acting on it worth it?")
        with right:
            draw_chart(draw_net_benefit(card.curves["decision_curve"]), "Net benefit by threshold", height=320)
        right.caption("Net benefit among the test slices: above both other lines, acting on the model is better.")
    if "predictive_values" in card.curves:
        st.subheader("What an answer is worth")
        st.dataframe(predictive_values_of(card.curves["predictive_values"]), hide_index=True, alt="By prevalence")
        st.caption("At the threshold, by how many slices have a tumor where it is asked; 95 % intervals.")


def _show_course(card: ModelCard) -> None:
    if card.gate is not None:
        verdict = "passed" if card.gate.get("accepted") else "not passed"
        st.markdown(
            f"**The gate**, by which joint training must not cost segmentation: {verdict}, kept: {card.gate.get('kept')}."
        )
    chart = draw_course(card)
    if chart is None:
        st.info("The checkpoint knows a single epoch; there is no course to draw.", icon=":material/info:")
    else:
        draw_chart(chart, "Validation figures over the epochs; the table below has the same")
    st.dataframe(pd.DataFrame(card.history), hide_index=True, alt="One row an epoch")


def _for_people(card: str) -> str:
    """Without the YAML in front, which is for machines, and without pictures, which could be fetched from anywhere."""
    text = card.partition("\n---\n")[2] if card.startswith("---\n") else card
    return text.replace("![", "[")
