"""Grad-CAM of a result's most probable slice, as a picture beside its other files."""

from __future__ import annotations

from pathlib import Path

from slicewise.data.preprocess import preprocess, preprocess_mask
from slicewise.explanation.gradcam import explain
from slicewise.explanation.panel import draw_panel
from slicewise.files import write_atomically
from slicewise.inference.predictor import Predictor
from slicewise.inference.result import Result

__all__ = ["write_explanation"]


def write_explanation(predictor: Predictor, result: Result, file: Path) -> None:
    """Draw what spoke for "tumor" in the most probable slice, whatever the decision.

    Args:
        predictor: That made the result, with a model that classifies: its classification head is what is explained.
        result: Of one scan.
        file: The picture, in PNG.
    """
    place = int(result.probabilities.argmax())
    pixels, geometry = preprocess(result.scan.slices[place], result.scan.spacing_mm)
    number = f", slice {place}" if len(result.masks) > 1 else ""
    picture = draw_panel(
        pixels,
        reference=None,
        prediction=preprocess_mask(result.masks[place], geometry),
        heat=explain(predictor.network, pixels),
        caption=f"{result.decision}{number} · p = {result.probabilities[place]:.2f}",
    )
    write_atomically(file, picture)
