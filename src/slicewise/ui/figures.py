"""The figures of a model's card as a table and as charts."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from slicewise.evaluation.metrics import METRICS
from slicewise.report.wording import percent, with_interval
from slicewise.service.schemas import ModelCard

__all__ = ["draw_calibration", "draw_course", "draw_intervals", "draw_net_benefit", "figures_of", "predictive_values_of"]

_SHARES = (
    *("volume_dice", "slice_dice", "roc_auc", "average_precision", "sensitivity", "specificity", "precision", "accuracy"),
    *("false_mask_rate", "contradiction_rate", "expected_calibration_error", "brier_score"),
)
"""What is drawn: figures in [0, 1] that a reader asks for first."""
_COURSE = {"val_volume_dice": "volume Dice", "val_roc_auc": "ROC-AUC", "val_false_mask_rate": "false-mask rate"}
_COLORS = ["#0072B2", "#009E73", "#D55E00"]


def figures_of(card: ModelCard, side: str) -> pd.DataFrame:
    """One row a figure that is defined: ``figure``, ``value``, ``low``, ``high``, ``shown``, ``n_slices``, ``n_patients``.

    Args:
        card: Of the model.
        side: Of its ``metrics``, such as ``test``.
    """
    rows = [
        {
            "name": name,
            "figure": METRICS.get(name, name.replace("_", " ")),
            "value": figure["value"],
            "low": figure.get("low"),
            "high": figure.get("high"),
            "shown": with_interval(figure),
            "n_slices": figure["n_slices"],
            "n_patients": figure["n_patients"],
        }
        for name, figure in card.metrics[side].items()
        if figure["value"] is not None
    ]
    return pd.DataFrame(rows, columns=["name", "figure", "value", "low", "high", "shown", "n_slices", "n_patients"])


def draw_intervals(table: pd.DataFrame) -> alt.Chart | alt.LayerChart:
    """The first figures with their 95 % intervals, as `figures_of` has them."""
    shown = table[table["name"].isin(_SHARES)]
    order = [name for name in _SHARES if name in set(shown["name"])]
    labels = [shown.loc[shown["name"] == name, "figure"].iloc[0] for name in order]
    base = alt.Chart(shown).encode(
        y=alt.Y("figure:N", sort=labels, title=None, axis=alt.Axis(labelLimit=260)),
        tooltip=["figure", "shown", "n_slices", "n_patients"],
    )
    points = base.mark_point(filled=True, size=70, color=_COLORS[0]).encode(
        x=alt.X("value:Q", scale=alt.Scale(domain=[0, 1]), title=None)
    )
    if shown["low"].isna().all():
        return points
    return base.mark_rule(color=_COLORS[0], strokeWidth=2).encode(x="low:Q", x2="high:Q") + points


def draw_calibration(bins: list[dict[str, Any]]) -> alt.LayerChart:
    """How often there is a tumor where the model says how probable one is; on the dashed line it is as often as it says."""
    table = pd.DataFrame([row for row in bins if row["n"]])
    unit = alt.Scale(domain=[0, 1])
    base = alt.Chart(table).encode(
        x=alt.X("mean_probability:Q", scale=unit, title="predicted probability"),
        tooltip=[alt.Tooltip("mean_probability", format=".3f"), alt.Tooltip("tumor_share", format=".3f"), "n"],
    )
    line = base.mark_line(point=True, color=_COLORS[0]).encode(
        y=alt.Y("tumor_share:Q", scale=unit, title="share with tumor")
    )
    ends = base.mark_rule(color=_COLORS[0]).encode(y="share_low:Q", y2="share_high:Q")
    diagonal = alt.Chart(pd.DataFrame({"at": [0.0, 1.0]})).mark_line(strokeDash=[4, 3], color="#888888")
    return ends + line + diagonal.encode(x="at:Q", y="at:Q")


def draw_net_benefit(curve: list[dict[str, Any]]) -> alt.Chart:
    """Net benefit of acting on the model, on all and on none (Vickers and Elkin 2006,
    https://doi.org/10.1177/0272989X06295361)."""
    names = {"model": "the model", "treat_all": "all", "treat_none": "none"}
    table = pd.DataFrame(curve).melt(id_vars="threshold", value_vars=list(names), var_name="who", value_name="net benefit")
    table["who"] = table["who"].map(names)
    table = table[table["net benefit"] > -0.1]
    colors = alt.Scale(domain=list(names.values()), range=[_COLORS[2], _COLORS[0], "#888888"])
    return (
        alt.Chart(table)
        .mark_line()
        .encode(
            x=alt.X("threshold:Q", title="probability from which one acts"),
            y=alt.Y("net benefit:Q"),
            color=alt.Color("who:N", scale=colors, title="act on", legend=alt.Legend(orient="top")),
            strokeDash=alt.StrokeDash("who:N", title="act on"),
            tooltip=["threshold", alt.Tooltip("who", title="act on"), alt.Tooltip("net benefit", format=".3f")],
        )
    )


def predictive_values_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """What an answer is worth, by how many slices have a tumor where it is asked."""
    return pd.DataFrame(
        {
            "slices with a tumor": [percent(row["prevalence"]) for row in rows],
            '"tumor" is right (PPV)': [with_interval(row["ppv"]) for row in rows],
            '"no tumor" is right (NPV)': [with_interval(row["npv"]) for row in rows],
        }
    )


def draw_course(card: ModelCard) -> alt.Chart | None:
    """Validation figures over the epochs; None where fewer than two epochs are known."""
    history = pd.DataFrame(card.history)
    names = {column: label for column, label in _COURSE.items() if column in history}
    if len(history) < 2 or not names:
        return None
    history = history.reset_index(names="step").assign(step=lambda table: table["step"] + 1)
    rows = history.melt(id_vars="step", value_vars=list(names), var_name="figure").dropna(subset="value")
    rows["figure"] = rows["figure"].map(names)
    colors = alt.Scale(domain=list(names.values()), range=_COLORS[: len(names)])
    return (
        alt.Chart(rows)
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title="epoch", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", scale=alt.Scale(domain=[0, 1]), title=None),
            color=alt.Color("figure:N", scale=colors, title=None),
            strokeDash=alt.StrokeDash("figure:N", title=None),
            tooltip=["step", "figure", alt.Tooltip("value", format=".3f")],
        )
    )
