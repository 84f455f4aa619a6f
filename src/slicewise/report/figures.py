"""The report's charts of test results, as PNG bytes; equal input gives equal bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from slicewise.charts import COLORS, new_figure, to_png
from slicewise.evaluation.metrics import dice

__all__ = ["draw_roc", "draw_volume_dice"]


def draw_volume_dice(cases: pd.DataFrame) -> bytes | None:
    """One dot a test patient and model that segments, with the mean; None where no mask is known."""
    test = cases[(cases["split"] == "test") & cases["tp"].notna()]
    keys = ["model", "source", "patient_id"]
    counts = test.groupby(keys, sort=False)[["tp", "fp", "fn"]].sum().astype(float)
    counts["dice"] = [dice(*row) for row in counts[["tp", "fp", "fn"]].itertuples(index=False)]
    scores: Mapping[str, Sequence[float]] = {
        str(model): group.dropna().to_list() for model, group in counts.groupby("model", sort=False)["dice"]
    }
    scores = {model: values for model, values in scores.items() if values}
    if not scores:
        return None
    figure, (ax,) = new_figure(1, width=5.4)
    for place, (model, values) in enumerate(scores.items()):
        # A fixed pattern keeps equal dots apart; chance would change the file.
        offsets = [0.09 * ((number * 0.618) % 1 - 0.5) * 4 for number in range(len(values))]
        ax.plot(
            [place + offset for offset in offsets], values, "o", color=COLORS.get(model, "#000000"), alpha=0.6, markersize=4
        )
        mean = sum(values) / len(values)
        ax.plot([place - 0.25, place + 0.25], [mean, mean], color="#444444", linewidth=1.5)
        ax.annotate(f"{mean:.3f}", (place + 0.27, mean), fontsize=7, va="center")
    ax.set_xticks(
        range(len(scores)), [f"{model.replace('_', ' ')}\nn = {len(values)}" for model, values in scores.items()], fontsize=7
    )
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
        false_rate, true_rate, _ = roc_curve(rows["label"].to_numpy(bool), rows["probability"])
        style = "--" if str(model).endswith("_only") else "-"
        ax.plot(false_rate, true_rate, color=COLORS.get(str(model), "#000000"), linestyle=style, label=str(model))
        point = rows["is_tumor"].to_numpy(bool), rows["label"].to_numpy(bool)
        ax.plot(*_operating_point(*point), "o", color=COLORS.get(str(model), "#000000"), markersize=5)
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    ax.set_xlabel("1 - specificity", fontsize=8)
    ax.set_ylabel("sensitivity", fontsize=8)
    ax.set_title("ROC on test slices, dots at the thresholds", fontsize=9)
    ax.legend(fontsize=6.5, frameon=False, loc="lower right")
    return to_png(figure)


def _operating_point(called: NDArray[np.bool_], label: NDArray[np.bool_]) -> tuple[float, float]:
    positives, negatives = label.sum(), (~label).sum()
    if not positives or not negatives:
        return math.nan, math.nan
    return float((called & ~label).sum() / negatives), float((called & label).sum() / positives)
