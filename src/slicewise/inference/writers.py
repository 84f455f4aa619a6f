"""What a prediction leaves on disk for a picture: a mask and an overlay."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from slicewise.files import write_atomically
from slicewise.records import Prediction

__all__ = ["output_files", "overlay", "write_picture_outputs"]

_ORANGE = (230, 159, 0)  # of Okabe and Ito's palette, told apart from gray by every kind of color vision
_FILL = 0.25


def overlay(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The slice in gray with the mask's outline, and a light fill inside it.

    Args:
        image: ``(H, W)``, any range.
        mask: ``(H, W)`` bool.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    gray = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1) * 255
    colors = np.repeat(gray[..., None], 3, axis=2)
    colors[mask] = (1 - _FILL) * colors[mask] + _FILL * np.array(_ORANGE)
    width = max(1, round(max(image.shape) / 400))
    outline = mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=0)
    colors[outline] = _ORANGE
    return colors.round().astype(np.uint8)


def output_files(target: Path) -> tuple[Path, Path]:
    """Where the mask and the overlay of ``target``, a path without ending, go."""
    return target.with_name(f"{target.name}_mask.png"), target.with_name(f"{target.name}_overlay.png")


def write_picture_outputs(image: NDArray[np.float32], prediction: Prediction, target: Path) -> None:
    """Write the mask (0 or 255, on the input's own grid) and the overlay.

    Args:
        image: ``(H, W)``, the slice as decoded.
        prediction: Of this slice.
        target: Path without the endings, see `output_files`.
    """
    pictures = (prediction.mask.astype(np.uint8) * 255, overlay(image, prediction.mask))
    for file, pixels in zip(output_files(target), pictures, strict=True):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="PNG")
        write_atomically(file, stream.getvalue())
