"""A contact sheet of a volume: where in it the mask lies, at a glance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slicewise.errors import InputError
from slicewise.inference.result import Result
from slicewise.inference.writers import fit_shape, gray_window, overlay, resize_slice

__all__ = ["montage"]

_WIDTH_PX = 2000
_TILE_PX = 320
_ROWS = 4
_MAX_COLUMNS = 16  # of which each has room for its caption
_GAP_PX, _CAPTION_PX, _FONT_PX = 4, 20, 14
_CAPTION_WIDTH_PX = 110
_SHEET, _TEXT, _POSITIVE, _FRAME = (24, 24, 24), (190, 190, 190), (230, 159, 0), (255, 255, 255)


def montage(result: Result, columns: int = 6) -> NDArray[np.uint8]:
    """Draw slices in rows, with the outline of the mask, their numbers and their probabilities.

    Up to four rows of slices, evenly chosen among those that are not blank; the nearest gives its place to the most probable
    slice, which is framed. The probability is orange where the slice's answer is "tumor". One gray window serves them all,
    and pixels are square in mm.

    Args:
        result: Of a volume, or of a picture.
        columns: 1 to 16; fewer are drawn where there are fewer slices.

    Returns:
        ``(H, W, 3)`` uint8, at most 2000 pixels wide.

    Raises:
        InputError: ``columns`` is out of range.
    """
    if not 1 <= columns <= _MAX_COLUMNS:
        raise InputError(f"Expected 1 to {_MAX_COLUMNS} columns of slices, got {columns}.")
    slices, best = result.scan.slices, int(result.probabilities.argmax())
    chosen = _choose(slices, columns * _ROWS, best)
    columns = min(columns, len(chosen))
    widest = min(_TILE_PX, (_WIDTH_PX + _GAP_PX) // columns - _GAP_PX)
    height, width = fit_shape(slices.shape[1:], result.scan.spacing_mm, (_TILE_PX, widest))
    cell = (height + _CAPTION_PX + _GAP_PX, max(width, _CAPTION_WIDTH_PX) + _GAP_PX)
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * cell[1] - _GAP_PX, rows * cell[0] - _GAP_PX), _SHEET)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_PX)
    window = gray_window(slices)
    for place, index in enumerate(chosen):
        top, left = (place // columns) * cell[0], (place % columns) * cell[1]
        right, middle = left + cell[1] - _GAP_PX, top + _CAPTION_PX // 2
        draw.text((left + 2, middle), f"slice {index}", _TEXT, font, anchor="lm")
        color = _POSITIVE if result.is_tumor[index] else _TEXT
        draw.text((right - 2, middle), f"{result.probabilities[index]:.3f}", color, font, anchor="rm")
        image, mask = resize_slice(slices[index], result.masks[index], (height, width))
        corner = (left + (right - left - width) // 2, top + _CAPTION_PX)
        sheet.paste(Image.fromarray(overlay(image, mask, window)), corner)
        if index == best:
            draw.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), outline=_FRAME)
    return np.array(sheet)


def _choose(slices: NDArray[np.float32], count: int, best: int) -> list[int]:
    """Numbers of at most ``count`` slices, in order, ``best`` among them."""
    shown = np.flatnonzero(slices.max(axis=(1, 2)) > slices.min(axis=(1, 2)))
    if not len(shown):
        shown = np.arange(len(slices))
    if len(shown) > count:
        shown = shown[((np.arange(count) + 0.5) * len(shown) / count).astype(int)]
    shown[np.abs(shown - best).argmin()] = best
    return [int(index) for index in np.sort(shown)]
