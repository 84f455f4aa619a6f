"""Charts as PNG bytes; equal input gives equal bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["COLORS", "draw_curves", "draw_examples", "new_figure", "to_png"]

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
    figure, axes = new_figure(len(panels), width=3.7)
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
    return to_png(figure)


def draw_examples(
    images: Sequence[NDArray[np.float32]],
    references: Sequence[NDArray[np.bool_]],
    predictions: Sequence[NDArray[np.bool_]],
    titles: Sequence[str],
) -> bytes:
    """Slices side by side with the reference's outline (blue) and the prediction's (orange).

    Args:
        images: ``(H, W)`` each, any range.
        references: ``(H, W)`` bool each; all False draws nothing.
        predictions: Alike.
        titles: One a slice.
    """
    figure, axes = new_figure(len(images), width=2.2)
    for ax, image, reference, prediction, title in zip(axes, images, references, predictions, titles, strict=True):
        ax.imshow(image, cmap="gray")
        for mask, color in ((reference, "#56B4E9"), (prediction, "#E69F00")):
            if mask.any():
                ax.contour(mask, levels=[0.5], colors=color, linewidths=1)
        ax.set_title(title, fontsize=7)
        ax.set_axis_off()
    return to_png(figure)


def new_figure(panels: int, width: float) -> tuple[Figure, list[Axes]]:
    """A row of ``panels`` axes, each ``width`` inches wide."""
    figure = Figure(figsize=(width * panels, 2.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
    return figure, axes


def to_png(figure: Figure) -> bytes:
    """The picture's file, without the name of the software that made it."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
