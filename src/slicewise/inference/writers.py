"""A slice and its mask as pictures to look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

__all__ = ["fit_shape", "gray_window", "overlay", "resize_slice"]

_ORANGE = (230, 159, 0)  # of Okabe and Ito's palette, told apart from gray by every kind of color vision
_FILL = 0.25


def overlay(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    window: tuple[float, float] | None = None,
    *,
    opacity: float = _FILL,
    outlined: bool = True,
) -> NDArray[np.uint8]:
    """The slice in gray with the mask's outline, and a light fill inside it.

    Args:
        image: ``(H, W)``, any range.
        mask: ``(H, W)`` bool.
        window: The values that are black and white; None takes the slice's own `gray_window`.
        opacity: Of the fill, in [0, 1].
        outlined: Whether the outline is drawn.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    low, high = gray_window(image) if window is None else window
    gray = np.clip((image.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1) * 255
    colors = np.repeat(gray[..., None], 3, axis=2)
    colors[mask] = (1 - opacity) * colors[mask] + opacity * np.array(_ORANGE)
    if outlined:
        width = max(1, round(max(image.shape) / 400))
        outline = mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=0)
        colors[outline] = _ORANGE
    return colors.round().astype(np.uint8)


def gray_window(image: NDArray[np.float32]) -> tuple[float, float]:
    """The values that are drawn black and white: the 0.5th and 99.5th percentiles of a slice, or of a whole volume."""
    low, high = np.percentile(image, (0.5, 99.5), method="nearest")  # between two values, float32 could overflow
    return float(low), float(high)


def fit_shape(shape: tuple[int, ...], spacing_mm: tuple[float, float] | None, limits: tuple[int, int]) -> tuple[int, int]:
    """The largest rows and columns within ``limits`` that show a slice with square pixels.

    Args:
        shape: ``(H, W)`` of the slice.
        spacing_mm: Between rows and between columns; None takes its pixels as square.
        limits: Rows and columns at most.

    >>> fit_shape((100, 200), (3.0, 1.0), (60, 60))
    (60, 40)
    """
    height, width = (float(count * distance) for count, distance in zip(shape, spacing_mm or (1.0, 1.0), strict=True))
    scale = min(limits[0] / height, limits[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_slice(
    image: NDArray[np.float32], mask: NDArray[np.bool_], shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A slice and its mask at another size, to be looked at.

    Args:
        image: ``(H, W)``, any range.
        mask: ``(H, W)`` bool.
        shape: Rows and columns to be had.

    Returns:
        Both of ``shape``. A pixel is in the mask where any of what it shows is: a small lesion does not vanish.
    """
    size = (shape[1], shape[0])
    resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    marked = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return np.asarray(resized), np.asarray(marked) > 0
