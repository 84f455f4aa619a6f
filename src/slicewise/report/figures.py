"""The report's charts, as PNG bytes; equal input gives equal bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from slicewise.charts import COLORS, new_figure, to_png

__all__ = ["draw_agreement", "draw_decision_curve", "draw_reliability", "draw_risk_coverage", "draw_roc", "draw_volume_dice"]

_OTHER = "#000000"
_REFERENCE: dict[str, Any] = {"color": "#999999", "linewidth": 0.8, "linestyle": ":"}


def draw_volume_dice(patients: pd.DataFrame) -> bytes | None:
    """One dot a test patient and model that segments, with the mean; None where no mask is known."""
    scored = patients[(patients["split"] == "test") & patients["volume_dice"].notna()]
    scores = {str(model): rows["volume_dice"].to_list() for model, rows in scored.groupby("model", sort=False)}
    if not scores:
        return None
    figure, (ax,) = new_figure(1, width=5.4)
    for place, (model, values) in enumerate(scores.items()):
        # A fixed pattern keeps equal dots apart; chance would change the file.
        offsets = [0.09 * ((number * 0.618) % 1 - 0.5) * 4 for number in range(len(values))]
        places = [place + offset for offset in offsets]
        ax.plot(places, values, "o", color=COLORS.get(model, _OTHER), alpha=0.6, markersize=4)
        mean = sum(values) / len(values)
        ax.plot([place - 0.25, place + 0.25], [mean, mean], color="#444444", linewidth=1.5)
        ax.annotate(f"{mean:.3f}", (place + 0.27, mean), fontsize=7, va="center")
    names = [f"{model.replace('_', ' ')}\nn = {len(values)}" for model, values in scores.items()]
    ax.set_xticks(range(len(scores)), names, fontsize=7)
    ax.set_ylim(0, 1)
    ax.set_title("Dice of each test patient", fontsize=9)
    return to_png(figure)


def draw_roc(cases: pd.DataFrame) -> bytes | None:
    """ROC curves on the test slices with a known label; None where they are of one class."""
    known = cases[(cases["split"] == "test") & cases["label"].notna() & cases["classification"].fillna(False)]
    known = known[known["probability"].notna()]
    if known["label"].nunique() < 2:
        return None
    figure, (ax,) = new_figure(1, width=3.7)
    for model, rows in known.groupby("model", sort=False):
        if rows["label"].nunique() < 2:
            continue
        false_rate, true_rate, _ = roc_curve(rows["label"].to_numpy(bool), rows["probability"])
        color, style = COLORS.get(str(model), _OTHER), "--" if str(model).endswith("_only") else "-"
        if str(model) in ("metadata_only", "border_only", "source_only"):
            color, style = "#999999", {"metadata_only": "--", "border_only": "-.", "source_only": ":"}[str(model)]
        ax.plot(false_rate, true_rate, color=color, linestyle=style, label=str(model).replace("_", " "))
        point = _operating_point(rows["is_tumor"].to_numpy(bool), rows["label"].to_numpy(bool))
        ax.plot(*point, "o", color=color, markersize=5)
    ax.plot([0, 1], [0, 1], **_REFERENCE)
    ax.set_xlabel("1 - specificity", fontsize=8)
    ax.set_ylabel("sensitivity", fontsize=8)
    ax.set_title("ROC on test slices, dots at the thresholds", fontsize=9)
    ax.legend(fontsize=6.5, frameon=False, loc="lower right")
    return to_png(figure)


def draw_reliability(calibration: Mapping[str, Any] | None) -> bytes | None:
    """How often there is a tumor where the model says how probable one is, before and after calibration."""
    if not calibration:
        return None
    figure, (ax,) = new_figure(1, width=3.7)
    for moment, color in (("before", "#999999"), ("after", COLORS["joint"])):
        bins = [row for row in calibration.get(moment, {}).get("bins", []) if row["n"]]
        if not bins:
            continue
        mean, share = (np.array([row[name] for row in bins]) for name in ("mean_probability", "tumor_share"))
        low, high = (np.array([row[name] for row in bins]) for name in ("share_low", "share_high"))
        ends = np.clip([share - low, high - share], 0, None)
        error = calibration[moment]["expected_calibration_error"]["value"]
        ax.errorbar(mean, share, ends, fmt="o-", color=color, markersize=4, linewidth=1, label=f"{moment}, ECE {error:.3f}")
    ax.plot([0, 1], [0, 1], **_REFERENCE)
    ax.set_xlabel("predicted probability", fontsize=8)
    ax.set_ylabel("share with tumor", fontsize=8)
    ax.set_title("Reliability on test slices", fontsize=9)
    ax.legend(fontsize=6.5, frameon=False, loc="upper left")
    return to_png(figure)


def draw_decision_curve(curve: list[dict[str, Any]]) -> bytes | None:
    """Net benefit of acting on the model, on all and on nobody."""
    if not curve:
        return None
    table = pd.DataFrame(curve)
    figure, (ax,) = new_figure(1, width=3.7)
    ax.plot(table["threshold"], table["model"], color=COLORS["joint"], label="act on the model")
    ax.plot(table["threshold"], table["treat_all"], color="#0072B2", linestyle="--", label="act on all")
    ax.plot(table["threshold"], table["treat_none"], **_REFERENCE, label="act on none")
    ax.set_ylim(-0.1 * table["model"].max() - 0.02, 1.1 * table[["model", "treat_all"]].max().max() + 0.02)
    ax.set_xlabel("probability from which one acts", fontsize=8)
    ax.set_ylabel("net benefit", fontsize=8)
    ax.set_title("Decision curve on test slices", fontsize=9)
    ax.legend(fontsize=6.5, frameon=False)
    return to_png(figure)


def draw_risk_coverage(uncertainty: Mapping[str, Any] | None) -> bytes | None:
    """Error rate among the most certain answers, from few of them to all."""
    if not uncertainty:
        return None
    curve = pd.DataFrame(uncertainty["curve"])
    figure, (ax,) = new_figure(1, width=3.7)
    ax.step(curve["coverage"], curve["risk"], where="post", color=COLORS["joint"])
    ax.axhline(uncertainty["error_rate"], **_REFERENCE)
    ax.axvline(uncertainty["coverage"], color="#0072B2", linewidth=0.8, linestyle="--")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, max(0.02, 1.15 * curve["risk"].max()))
    ax.set_xlabel("share of slices answered", fontsize=8)
    ax.set_ylabel("share of wrong answers", fontsize=8)
    ax.set_title("Risk and coverage; dashed: referral threshold", fontsize=9)
    return to_png(figure)


def draw_agreement(volume: Mapping[str, Any] | None) -> bytes | None:
    """Bland and Altman's plot of tumor volumes."""
    if not volume:
        return None
    points = pd.DataFrame(volume["points"])
    figure, (ax,) = new_figure(1, width=3.7)
    ax.plot(points["mean"], points["difference"], "o", color=COLORS["joint"], alpha=0.6, markersize=4)
    for name, style in (("bias", "-"), ("lower_limit", "--"), ("upper_limit", "--")):
        ax.axhline(volume[name]["value"], color="#444444", linewidth=1, linestyle=style)
    ax.set_xlabel(f"mean of predicted and reference, {volume['unit']}", fontsize=8)
    ax.set_ylabel(f"predicted less reference, {volume['unit']}", fontsize=8)
    ax.set_title("Tumor volume of each test patient", fontsize=9)
    return to_png(figure)


def _operating_point(called: NDArray[np.bool_], label: NDArray[np.bool_]) -> tuple[float, float]:
    positives, negatives = label.sum(), (~label).sum()
    if not positives or not negatives:
        return math.nan, math.nan
    return float((called & ~label).sum() / negatives), float((called & label).sum() / positives)
