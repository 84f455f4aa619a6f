"""The same slice seen otherwise: test-time augmentation (Wang et al. 2019, https://doi.org/10.1016/j.neucom.2019.01.103)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slicewise.data.preprocess import preprocess
from slicewise.model.engine import Pixels

__all__ = ["VIEWS", "View"]


class View(NamedTuple):
    """A slice as it could have been taken, too: a change that leaves the answer alone and can be undone exactly."""

    mirrored: bool = False
    """Left and right."""
    gamma: float = 1.0
    """Exponent of the intensities between air and the brightest pixel; the result is preprocessed as any slice."""
    shift_px: int = 0
    """Rows it moves down; those that leave come in on the other side, where there is air but in the tightest crops."""

    def apply(self, pixels: Pixels) -> Pixels:
        """``(H, W)``, preprocessed, seen so."""
        if self.gamma != 1:
            gray = pixels.astype(np.float32)
            gray -= gray.min()
            pixels, _ = preprocess((gray / (gray.max() or 1)) ** np.float32(self.gamma))
        pixels = np.roll(pixels, self.shift_px, axis=0)
        return pixels[:, ::-1] if self.mirrored else pixels

    def undo(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map ``(H, W)`` of the view, back on the grid of the slice.

        >>> values = np.arange(6, dtype=np.float32).reshape(3, 2)
        >>> bool((View(mirrored=True, shift_px=1).undo(values) == [[3, 2], [5, 4], [1, 0]]).all())
        True
        """
        return np.roll(values[:, ::-1] if self.mirrored else values, -self.shift_px, axis=0)


# Well within what training's augmentation shows. The shift is odd, and so lands elsewhere on the grid of every level.
VIEWS = tuple(
    View(mirrored, gamma, shift_px) for gamma, shift_px in ((1.0, 0), (1.2, 3), (1 / 1.2, -3)) for mirrored in (False, True)
)
"""The slice as it is, with more and with less contrast, and the mirror image of each."""
