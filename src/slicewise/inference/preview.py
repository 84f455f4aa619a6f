"""The most probable slice as text, for a terminal: `slicewise predict --preview`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slicewise.inference.result import Result
from slicewise.inference.writers import fit_shape, gray_window, overlay, resize_slice

__all__ = ["preview"]

_ROWS = 40
_UPPER_HALF = "▀"
_RAMP = " .:-=+*%"
_MARK = "@"


def preview(result: Result, *, color: bool = True, columns: int = 80) -> str:
    """Draw the most probable slice and its mask.

    A character is about twice as high as wide. In color it therefore shows two pixels, as the upper half of a block
    (U+2580) in one color on another (ANSI's 24 bits); without, it is plain ASCII: denser where the slice is brighter, and an
    @ on the mask.

    Args:
        result: Of a volume, or of a picture.
        color: For a terminal that understands ANSI's colors.
        columns: Characters a line may have, at least 1.

    Returns:
        Up to 40 lines and a last one that names the slice, without a line break at the end. It is for ``print``; a console
        of rich takes it as ``Text.from_ansi``, and would else break the lines within the codes of their colors.
    """
    scan, best = result.scan, int(result.probabilities.argmax())
    window = gray_window(scan.slices)
    rows, width = fit_shape(scan.slices.shape[1:], scan.spacing_mm, (2 * _ROWS, columns))
    lines = -(-rows // 2)
    image, mask = resize_slice(scan.slices[best], result.masks[best], (lines * (2 if color else 1), width))
    caption = f"slice {best}, probability {result.probabilities[best]:.3f}"
    drawn = _in_color(overlay(image, mask, window)) if color else _in_characters(image, mask, window)
    return "\n".join([*drawn, caption[:columns]])


def _in_color(colors: NDArray[np.uint8]) -> list[str]:
    lines = []
    for upper, lower in zip(colors[::2].tolist(), colors[1::2].tolist(), strict=True):
        line, last = [], None
        for pair in zip(upper, lower, strict=True):
            if pair != last:
                (red, green, blue), (red_below, green_below, blue_below) = pair
                line.append(f"\x1b[38;2;{red};{green};{blue};48;2;{red_below};{green_below};{blue_below}m")
                last = pair
            line.append(_UPPER_HALF)
        lines.append("".join(line) + "\x1b[0m")
    return lines


def _in_characters(image: NDArray[np.float32], mask: NDArray[np.bool_], window: tuple[float, float]) -> list[str]:
    # Without a mask, an overlay is the slice's gray.
    gray = overlay(image, np.zeros_like(mask), window)[..., 0]
    characters = np.array(list(_RAMP))[gray.astype(int) * len(_RAMP) // 256]
    characters[mask] = _MARK
    return ["".join(line) for line in characters]
