"""One slice as a row of pictures, for gallery and `predict --explain`: as it is, outlined, and under its heat map."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

__all__ = ["draw_panel"]

# Okabe and Ito's palette: told apart by every kind of color vision.
_REFERENCE, _PREDICTION = "#56B4E9", "#E69F00"


def draw_panel(
    pixels: NDArray[np.float16],
    *,
    reference: NDArray[np.bool_] | None,
    prediction: NDArray[np.bool_] | None,
    heat: NDArray[np.float32] | None,
    caption: str,
) -> bytes:
    """Draw a slice.

    Args:
        pixels: ``(256, 256)``, preprocessed.
        reference: ``(256, 256)`` bool; None where the mask is not known.
        prediction: ``(256, 256)`` bool; None for a model that does not segment.
        heat: ``(256, 256)`` in [0, 1]; None leaves the third picture out.
        caption: Shown above.

    Returns:
        A PNG.
    """
    count = 2 if heat is None else 3
    figure = Figure(figsize=(2.6 * count, 3.05), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count)
    gray = pixels.astype(np.float32)
    for ax in axes:
        ax.imshow(gray, cmap="gray", vmin=np.percentile(gray, 0.5), vmax=np.percentile(gray, 99.8), interpolation="nearest")
        ax.set_axis_off()
    handles = [
        *_outline(axes[1], reference, _REFERENCE, "reference", "solid"),
        *_outline(axes[1], prediction, _PREDICTION, "predicted", (0, (4, 1.5))),
    ]
    if handles:
        axes[1].legend(handles=handles, loc="lower right", fontsize=7, framealpha=0.8)
    if heat is not None:
        axes[2].imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.5, interpolation="bilinear")
    figure.suptitle(caption, fontsize=9, parse_math=False)  # names may hold dollar signs
    stream = io.BytesIO()
    # Matplotlib would write its version into the file; equal input shall give equal bytes.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _outline(ax: Axes, mask: NDArray[np.bool_] | None, color: str, label: str, style: object) -> list[Line2D]:
    if mask is None or not mask.any():
        return []
    ax.contour(mask.astype(float), levels=[0.5], colors=[color], linewidths=1.3, linestyles=[style])
    return [Line2D([], [], color=color, linewidth=1.3, linestyle=style, label=label)]
