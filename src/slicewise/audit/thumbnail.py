"""A slice reduced to what its copies share: the head's box, 64 pixels wide and high, in 256 grays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["THUMBNAIL_PX", "make_thumbnail"]

THUMBNAIL_PX = 64
"""Side of a thumbnail."""

_DARK = 0.1
_LINE_SHARE = 0.04  # of a row or column: what a letter or a scale bar beyond the head does not reach
_PERCENTILES = (0.5, 99.5)


def make_thumbnail(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Crop to the head and shrink.

    Args:
        image: ``(H, W)``, finite, any range.

    Returns:
        ``(64, 64)`` uint8; the head fills it whatever the margins and the aspect of the picture were.
    """
    low, high = (float(value) for value in np.percentile(image[::2, ::2], _PERCENTILES))  # a quarter says the same
    if not high > low:
        return np.zeros((THUMBNAIL_PX, THUMBNAIL_PX), dtype=np.uint8)
    head = image > low + _DARK * (high - low)
    rows, columns = _extent(head.mean(axis=1)), _extent(head.mean(axis=0))
    gray = np.clip((image[rows, columns] - low) * (255 / (high - low)), 0, 255).astype(np.float32)
    # Antialiased, so that copies of other sizes end alike.
    small = Image.fromarray(gray).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
    return np.asarray(small).round().astype(np.uint8)


def _extent(profile: NDArray[np.float64]) -> slice:
    """From the first to the last line that crosses the head."""
    lines = np.flatnonzero(profile > _LINE_SHARE)
    return slice(int(lines[0]), int(lines[-1]) + 1) if len(lines) else slice(None)
