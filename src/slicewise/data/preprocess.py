"""THE preprocessing: every slice that is trained on, evaluated or predicted passes through `preprocess`, and only here.

Geometry: the aspect ratio of the head is kept; pixels that are not square are made so, where their spacing is known. A slice
whose longer side then lies between 192 and 256 pixels, as most MR matrices do, is padded to 256×256 and not resampled; any
other is first scaled until its longer side is 256. `Geometry` is the exact way back to the input's own grid.

Intensity: robust range, then z-score over the foreground, so that neither the scanner's scale nor the amount of air around
the head matters. Values are rounded to float16, the store's precision, so that a slice read from the store and the same
slice read from its file are the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "PREPROCESSING",
    "SIDE_PX",
    "Geometry",
    "normalize",
    "preprocess",
    "preprocess_mask",
    "preprocess_single",
    "restore",
    "robust_range",
]

SIDE_PX = 256
"""Side of the network's square grid in pixels."""
PREPROCESSING = "foreground-zscore-256/1"
"""Name and version, kept in every store and checkpoint; a change of what this module makes of square pixels changes it."""

_NATIVE_MIN_PX = 192
_SQUARE = 1.01
"""Up to this ratio of their sides pixels are square: headers are rounded."""
_RANGE_PERCENTILES = (0.5, 99.9)
_FOREGROUND_SHARE = 0.1
_CLIP = 6.0
_HALF_NORMAL = np.float32(2.0**-14)
"""Below it half precision has fewer bits."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where an input slice lies on the network's grid."""

    shape: tuple[int, int]
    """Rows and columns of the input."""
    content: tuple[int, int]
    """Rows and columns it takes on the grid, after scaling."""
    offset: tuple[int, int]
    """Row and column on the grid of its upper left pixel."""

    @classmethod
    def of(cls, shape: tuple[int, int], spacing_mm: tuple[float, float] | None = None) -> Geometry:
        """Place an input of ``shape`` (rows, columns) in the middle of the grid.

        Args:
            shape: Of the input.
            spacing_mm: Between its rows and between its columns; None where unknown, which counts as square.
        """
        height, width = _sides(shape, spacing_mm)
        longest = max(height, width)
        if _NATIVE_MIN_PX <= longest <= SIDE_PX:
            content = (max(1, round(height)), max(1, round(width)))
        else:
            content = (max(1, round(height * SIDE_PX / longest)), max(1, round(width * SIDE_PX / longest)))
        offset = ((SIDE_PX - content[0]) // 2, (SIDE_PX - content[1]) // 2)
        return cls(shape=shape, content=content, offset=offset)

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the content on the grid."""
        return (
            slice(self.offset[0], self.offset[0] + self.content[0]),
            slice(self.offset[1], self.offset[1] + self.content[1]),
        )


def preprocess(
    image: NDArray[np.float32], spacing_mm: tuple[float, float] | None = None
) -> tuple[NDArray[np.float16], Geometry]:
    """Bring a slice onto the network's grid and scale.

    Args:
        image: ``(H, W)``, finite, any range.
        spacing_mm: Between rows and between columns, where known.

    Returns:
        ``(256, 256)`` float16, foreground of mean 0 and standard deviation 1, clipped to ±6, padded with the value of
        air; and the way back.
    """
    grid, geometry = preprocess_single(image, spacing_mm)
    return grid.astype(np.float16), geometry


def preprocess_single(
    image: NDArray[np.float32], spacing_mm: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], Geometry]:
    """The same values, those of half precision, in single: what is computed with."""
    height, width = image.shape
    geometry = Geometry.of((height, width), spacing_mm)
    content = normalize(_resize(np.asarray(image, dtype=np.float32), geometry.content, Image.Resampling.BILINEAR))
    content = _round_to_half(content)
    if content.shape == (SIDE_PX, SIDE_PX):
        return content, geometry
    grid = np.full((SIDE_PX, SIDE_PX), content.min(), dtype=np.float32)
    grid[geometry.window] = content
    return grid, geometry


def preprocess_mask(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """Bring a reference mask onto the grid of its slice: a pixel is tumor where at least half of it is.

    Args:
        mask: ``(H, W)`` bool, of the slice's own shape.
        geometry: What `preprocess` returned for the slice.

    Returns:
        ``(256, 256)`` bool.
    """
    content = _resize(mask.astype(np.float32), geometry.content, Image.Resampling.BOX)
    grid = np.zeros((SIDE_PX, SIDE_PX), dtype=np.bool_)
    grid[geometry.window] = content >= 0.5
    return grid


def restore(values: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Bring a map from the network's grid back onto the input's grid, the inverse of the geometry in `preprocess`.

    Args:
        values: ``(256, 256)``, such as tumor probabilities.
        geometry: What `preprocess` returned for the slice.

    Returns:
        ``(H, W)`` of the input; bilinear where the slice was scaled, untouched where it was only padded.
    """
    content = np.ascontiguousarray(values[geometry.window], dtype=np.float32)
    return _resize(content, geometry.shape, Image.Resampling.BILINEAR)


def _sides(shape: tuple[int, int], spacing_mm: tuple[float, float] | None) -> tuple[float, float]:
    """Of the slice, in pixels as small as its finer spacing."""
    if spacing_mm is None or max(spacing_mm) <= _SQUARE * min(spacing_mm):
        return shape
    finer = min(spacing_mm)
    return shape[0] * spacing_mm[0] / finer, shape[1] * spacing_mm[1] / finer


def _resize(image: NDArray[np.float32], shape: tuple[int, int], method: Image.Resampling) -> NDArray[np.float32]:
    """Resample with a filter that widens when shrinking, so that nothing aliases."""
    if image.shape == shape:
        return image
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), resample=method), dtype=np.float32)


def normalize(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Robust range, then z-score over the foreground, of ``(H, W)``; clipped to ±6."""
    low, high = robust_range(image)
    if not high > low:
        return np.zeros_like(image)
    air = _air_value(image)
    if air is not None and air > low:
        # Skull-stripped slices that were z-scored before carry air as a 0 in the middle of the brain's own range.
        image = np.where(image == air, low, image)
    # A power of two scales exactly: whatever the unit, no square below overflows or vanishes.
    _, exponent = np.frexp(max(abs(low), abs(high)))
    image, low, high = (np.ldexp(part, -exponent) for part in (np.clip(image, low, high), low, high))
    foreground = image[image > low + _FOREGROUND_SHARE * (high - low)]
    spread = foreground.std() if foreground.size else np.float32(0)
    if not spread > 0:  # two-valued pictures: any scale will do, and this one is finite
        spread = high - low
    center = foreground.mean() if foreground.size else low
    return np.clip((image - center) / spread, -_CLIP, _CLIP)


def robust_range(image: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """Percentiles 0.5 and 99.9 of ``(H, W)``, to the bit those of `numpy.percentile`.

    Only the two ends of the picture's values are sorted, which is faster; where they end is guessed from every 16th
    pixel, on the safe side.
    """
    values = image.ravel()
    low_place, high_place = (percentile / 100 * (values.size - 1) for percentile in _RANGE_PERCENTILES)
    probe = np.sort(values[::16])
    low_end = np.sort(values[values <= probe[probe.size // 50]])
    high_end = np.sort(values[values >= probe[-1 - probe.size // 100]])
    if min(low_end.size - low_place, high_place - (values.size - high_end.size)) < 1:  # the guess failed, as of few pixels
        low_end = high_end = np.sort(values)
    return _interpolate(low_end, low_place), _interpolate(high_end, high_place - (values.size - high_end.size))


def _interpolate(ordered: NDArray[np.float32], place: float) -> np.float32:
    below = int(place)
    first, second = ordered[below], ordered[min(below + 1, ordered.size - 1)]
    weight, step = place - below, np.float64(second - first)
    return np.float32(second - step * (1 - weight) if weight >= 0.5 else first + step * weight)


def _round_to_half(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the nearest value of half precision, of two the even one, as a conversion does; for magnitudes up to 65504."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    # A significand of 10 bits in place of 23.
    rounded = ((bits + (np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1)))) & np.uint32(0xFFFFE000)).view(
        np.float32
    )
    subnormal = np.abs(values) < _HALF_NORMAL
    rounded[subnormal] = values[subnormal].astype(np.float16)
    return rounded


def _air_value(image: NDArray[np.float32]) -> np.float32 | None:
    """The value that more than half of the picture's border has, where there is one."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    middle = np.partition(border, border.size // 2)[border.size // 2]
    return middle if np.count_nonzero(border == middle) * 2 > border.size else None
