"""What can be said of a slice without a model: the audit's raw material, kept as columns of the store's table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slicewise.records import Slice

__all__ = ["bright_shares", "describe_slice"]

_RANGE_PERCENTILES = (0.5, 99.5)
_DARK = 0.1  # of the range: below it is air, and what is no brighter than air
_FRAME = 1 / 32  # of the side: the border of a picture, where no head should be
_HEAD = 0.05
_MARGIN = 1 / 32  # of the side: how far a mask may reach beyond what is brighter than air
_SPECK_SHARE = 1e-4  # of the picture: 6 pixels of 256 x 256; the smallest outlines of LGG and BRISC are larger


def describe_slice(item: Slice) -> dict[str, float | int | str]:
    """Facts of one slice as decoded, on its own grid.

    Returns:
        ``pixel_checksum`` (equal pixels, equal checksum, whatever the file); ``intensity_low``, ``_high`` (percentiles 0.5
        and 99.5), ``_mean``, ``_std``; ``border_mean``, ``border_std`` (of the outermost 32nd of the side, in units of the
        median brightness of what is no air) and ``border_dark_share`` (of its pixels, those below a tenth of that);
        ``mask_pieces`` (connected regions), ``mask_speck_px`` (pixels in regions below a ten thousandth of the picture) and
        ``mask_outside_share`` (of the mask, the part beyond the head); ``color_share``, ``mask_soft_share`` as in `Slice`.
    """
    image = item.image
    low, high = (float(value) for value in np.percentile(image, _RANGE_PERCENTILES))
    span = high - low or 1.0
    # In units of the tissue's brightness: those of the range would depend on how bright the tumor is.
    border = (_frame(image) - low) / (float(np.median(image[image > low + _DARK * span] - low)) if high > low else 1.0)
    pieces, speck_px, outside = _describe_mask(item.mask, image, low + _HEAD * span)
    return {
        "pixel_checksum": hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest(),
        "intensity_low": low,
        "intensity_high": high,
        "intensity_mean": float(image.mean(dtype=np.float64)),
        "intensity_std": float(image.std(dtype=np.float64)),
        "color_share": item.color_share,
        "border_mean": float(border.mean()),
        "border_std": float(border.std()),
        "border_dark_share": float((border <= _DARK).mean()),
        "mask_pieces": pieces,
        "mask_speck_px": speck_px,
        "mask_outside_share": outside,
        "mask_soft_share": item.mask_soft_share,
    }


def bright_shares(images: Sequence[NDArray[np.float32]], ranges: Sequence[tuple[float, float]]) -> list[float]:
    """The share of each slice that is brighter than a tenth of the range of the brightest slice of its study.

    A slice beyond the head holds noise, which fills its own range as well as a brain does: only the study's other slices
    tell that it is faint.

    Args:
        images: ``(H, W)`` each, all slices of one sequence of a study, or one picture.
        ranges: ``intensity_low`` and ``intensity_high`` of each, as `describe_slice` gives them.
    """
    low, high = min((low for low, _ in ranges), default=0.0), max((high for _, high in ranges), default=0.0)
    limit = low + _DARK * (high - low)
    return [float((image > limit).mean()) for image in images]


def _frame(image: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = (max(1, round(size * _FRAME)) for size in image.shape)
    inner = np.zeros(image.shape, dtype=np.bool_)
    inner[rows:-rows, columns:-columns] = True
    return image[~inner]


def _describe_mask(mask: NDArray[np.bool_] | None, image: NDArray[np.float32], air: float) -> tuple[int, int, float]:
    if mask is None or not mask.any():
        return 0, 0, 0.0
    labelled, pieces = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labelled.ravel())[1:]
    head = ndimage.binary_fill_holes(image > air)
    head = ndimage.binary_dilation(head, iterations=max(1, round(max(image.shape) * _MARGIN)))
    outside = np.count_nonzero(mask & ~head) / np.count_nonzero(mask)
    return int(pieces), int(sizes[sizes < max(2, _SPECK_SHARE * mask.size)].sum()), float(outside)
