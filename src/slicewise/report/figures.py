"""The report's charts, as PNG bytes; equal input gives equal bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from slicewise.evaluation.metrics import dice

__all__ = ["COLORS", "draw_curves", "draw_roc", "draw_volume_dice"]

COLORS = {
    "segmentation": "#0072B2",
    "classification": "#009E73",
    "joint": "#D55E00",
    "segmentation_only": "#56B4E9",
    "classification_only": "#CC79A7",
}
"""One color a model, from Okabe and Ito's palette."""


def draw_curves(history: pd.DataFrame) -> bytes:
    """Training loss and validation figures over the epochs of every model, phases one after the other."""
    panels = (
        ("train_loss", "training loss"),
        ("val_volume_dice", "validation volume Dice"),
        ("val_roc_auc", "validation ROC-AUC"),
    )
    figure, axes = _figure(len(panels), width=3.7)
    for ax, (column, title) in zip(axes, panels, strict=True):
        start = 0
        for model, rows in history.groupby("model", sort=False):
            if model not in COLORS:
                continue
            # The three phases follow one another; the single-task models start over, dashed.
            alone = str(model).endswith("_only")
            epochs = rows["epoch"] + (0 if alone else start)
            ax.plot(
                epochs, rows[column], color=COLORS[str(model)], linestyle="--" if alone else "-", marker=".", label=model
            )
            start += 0 if alone else len(rows)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("epoch", fontsize=8)
        if column != "train_loss":
            ax.set_ylim(0, 1)
    axes[0].legend(fontsize=6.5, frameon=False)
    return _png(figure)


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
    figure, (ax,) = _figure(1, width=5.4)
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
    return _png(figure)


def draw_roc(cases: pd.DataFrame) -> bytes | None:
    """ROC curves on the test slices with a known label; None where they are of one class."""
    known = cases[(cases["split"] == "test") & cases["label"].notna() & cases["classification"].fillna(False)]
    known = known[known["probability"].notna()]
    if known["label"].nunique() < 2:
        return None
    figure, (ax,) = _figure(1, width=3.7)
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
    return _png(figure)


def _operating_point(called: NDArray[np.bool_], label: NDArray[np.bool_]) -> tuple[float, float]:
    positives, negatives = label.sum(), (~label).sum()
    if not positives or not negatives:
        return math.nan, math.nan
    return float((called & ~label).sum() / negatives), float((called & label).sum() / positives)


def _figure(panels: int, width: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * panels, 2.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
    return figure, axes


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
