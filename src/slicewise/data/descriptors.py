"""What kind of picture a preprocessed slice is, in a few numbers; and the range of those that a model was trained on.

The range is a Gaussian over the descriptors, and the squared Mahalanobis distance says how far from it a slice lies, as in
Lee et al. 2018 (https://doi.org/10.48550/arXiv.1807.03888), there over a network's features. The covariance is shrunk after
Ledoit and Wolf 2004 (https://doi.org/10.1016/S0047-259X(03)00096-4).
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    import pandas as pd

    from slicewise.data.store import SliceStore

__all__ = [
    "DESCRIPTORS",
    "Domain",
    "Regions",
    "Sample",
    "corner_medians",
    "describe",
    "describe_sample",
    "fit_domain",
    "halve",
    "regions",
]

DESCRIPTORS: dict[str, str] = {
    "air": "the darkest value; the foreground has mean 0 and standard deviation 1",
    "peak": "the brightest value, likewise",
    "foreground": "logarithm of the share of the grid that is brighter than a tenth of the range",
    "bright": "square root of the share that is brighter than 2",
    "border": "square root of the brightness of the outermost 16th of the side; 0 is that of air, 1 the foreground's mean",
    "corner": "square root of the brightness of the second darkest corner; 0 and 1 are percentiles 2 and 98",
    "contrast": "mean of the grid's middle less that of its corners, in standard deviations of all",
    "asymmetry": "mean difference to the mirror image, over the mean brightness",
    "offset": "logarithm of the distance of the foreground's center from the grid's, in sides",
    "spread": "logarithm of how far the foreground lies from its own center, over the same of a disk of its area",
    "aspect": "logarithm of the foreground's height over its width, as standard deviations",
    "entropy": "of the foreground's brightness in 64 steps, in bits",
    "fine": "logarithm of the mean change to the next pixel on the diagonal; 1 is the foreground's mean brightness",
    "coarse": "logarithm of the mean change from 8 pixels to the next 8, likewise",
}
"""What `describe` measures, in its order. Roots and logarithms bring each nearer to a normal distribution."""

_DARK = 0.1  # of the range: the foreground of the preprocessing
_BINS = 64
_FLOOR = 0.01  # what logarithms begin at
_PERCENTILES = (0.02, 0.98)
_MIDDLE, _CORNER = 0.5, 1.1  # squared distance from the center; the ellipse that touches the sides has 1
_FOREGROUND = list(DESCRIPTORS).index("foreground")
_JUDGED_SHARE = 0.1
_BLANK_SHARE = 0.005  # of the slice, brighter than air: below it lies noise beyond the head, as in the audit
_FITTED = 2000
_LIMIT_PERCENTILE = 99.5


class Domain(BaseModel):
    """The slices that a model was trained on, as a Gaussian over their descriptors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    descriptors: tuple[str, ...]
    """Names, in the order of what follows; those of `DESCRIPTORS` where it was fitted."""
    mean: tuple[float, ...]
    """Of each descriptor over training slices."""
    inverse_covariance: tuple[tuple[float, ...], ...]
    """Of their shrunk covariance."""
    limit: float
    """Squared Mahalanobis distance that 99.5 % of the validation slices do not exceed."""
    planes: dict[str, int]
    """Training slices by plane, ``unknown`` among them."""
    sequences: dict[str, int]
    """Training slices by sequence, ``unknown`` among them."""

    @model_validator(mode="after")
    def _fits_together(self) -> Domain:
        count = len(self.descriptors)
        if len(self.mean) != count or [len(row) for row in self.inverse_covariance] != [count] * count:
            raise ValueError(f"expected {count} means and {count} × {count} values of the inverse covariance")
        return self

    @property
    def is_current(self) -> bool:
        """The descriptors are still those that `describe` measures: distances have a meaning."""
        return self.descriptors == tuple(DESCRIPTORS)

    def distance(self, pixels: NDArray[np.float16]) -> float:
        """Squared Mahalanobis distance of a slice from the training slices.

        Args:
            pixels: ``(256, 256)``, preprocessed.

        Returns:
            Not negative; NaN where the foreground is less than a tenth of the grid, as at the top of the head: such slices
            are too few in training, and too unlike each other, to have a distribution.
        """
        return float(self.distances(describe(pixels)))

    def distances(self, described: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same of what was described already: ``(…, 14)`` to ``(…,)``."""
        mean, inverse_covariance = self._arrays
        away = described - mean
        squared = ((away @ inverse_covariance) * away).sum(axis=-1)
        return np.where(_shows_enough(described), squared, np.nan)

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.array(self.mean), np.array(self.inverse_covariance)


def describe(pixels: NDArray[np.float16]) -> NDArray[np.float64]:
    """Measure a slice.

    Args:
        pixels: ``(256, 256)``, as `slicewise.data.preprocess.preprocess` gives them.

    Returns:
        ``(14,)``, finite: the `DESCRIPTORS`, in their order.
    """
    return describe_sample(Sample.of(pixels))


def describe_sample(sample: Sample) -> NDArray[np.float64]:
    """The same of what was taken from a slice already."""
    first, second, air, peak = sample
    scale = -air if air < 0 else max(peak - air, 1.0)  # brightness of the foreground's mean, which the preprocessing makes 0
    half = (first + second) * np.float32(0.5)
    quarter = halve(half)
    eighth = halve(quarter)
    side = len(quarter)
    foreground = quarter > air + _DARK * (peak - air)
    area = max(1, int(np.count_nonzero(foreground)))
    (row, height), (column, width) = _moments(foreground.sum(axis=1)), _moments(foreground.sum(axis=0))
    whole = float(quarter.mean()) - air
    corner, contrast = _compare_corners(quarter)
    return np.array(
        [
            air,
            peak,
            math.log(np.count_nonzero(foreground) / side**2 + _FLOOR),
            math.sqrt(np.count_nonzero(half > 2) / half.size),
            math.sqrt(max(0.0, (_border_mean(quarter) - air) / scale)),
            math.sqrt(max(0.0, corner)),
            contrast,
            float(np.abs(quarter - quarter[:, ::-1]).mean()) / max(whole, _FLOOR * scale),
            math.log(math.hypot(row, column) / side + _FLOOR),
            0.5 * math.log(2 * math.pi * (height + width) / area),
            0.5 * math.log(height / width),
            _entropy(quarter[foreground], air, peak),
            math.log(float(np.abs(first - second).mean()) / scale + _FLOOR),
            math.log(_change(eighth) / scale + _FLOOR),
        ]
    )


def fit_domain(store: SliceStore, train_rows: NDArray[np.int64], val_rows: NDArray[np.int64]) -> Domain | None:
    """Fit the domain of a training; the same store and rows give the same domain.

    At most 2,000 slices of each side are measured, spread evenly over its rows.

    Args:
        store: The slices.
        train_rows: Rows of the store whose distribution is fitted.
        val_rows: Rows that the limit is chosen on.

    Returns:
        None where fewer than two slices of training, or none of validation, show enough to be judged.
    """
    # Part of a training; a prediction shall not wait for it.
    from sklearn.covariance import ledoit_wolf

    train, val = (_describe_rows(store, rows) for rows in (train_rows, val_rows))
    if len(train) < 2 or not len(val):
        return None
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread[spread == 0] = 1.0
    # Shrinkage pulls toward a sphere, which means something only where all descriptors have one unit.
    covariance, _ = ledoit_wolf((train - mean) / spread)
    inverse = np.linalg.pinv(covariance, hermitian=True) / np.outer(spread, spread)  # slices may be all alike
    fitted = Domain(
        descriptors=tuple(DESCRIPTORS),
        mean=tuple(mean.tolist()),
        inverse_covariance=tuple(tuple(row) for row in inverse.tolist()),
        limit=0.0,
        planes=_count(store.table["plane"].iloc[train_rows]),
        sequences=_count(store.table["sequence"].iloc[train_rows]),
    )
    return fitted.model_copy(update={"limit": float(np.percentile(fitted.distances(val), _LIMIT_PERCENTILE))})


class Sample(NamedTuple):
    """Two pixels of each 2 × 2, on its diagonal: half the work of all four, and each row and column is seen."""

    first: NDArray[np.float32]
    """``(128, 128)``"""
    second: NDArray[np.float32]
    """``(128, 128)``"""
    air: float
    """The darkest."""
    peak: float
    """The brightest."""

    @classmethod
    def of(cls, pixels: NDArray[np.float16]) -> Sample:
        """Take it from a preprocessed slice, ``(256, 256)``."""
        first, second = pixels[::2, ::2].astype(np.float32), pixels[1::2, 1::2].astype(np.float32)
        return cls(first, second, float(min(first.min(), second.min())), float(max(first.max(), second.max())))


class Regions(NamedTuple):
    """Places in the pixels of a picture laid out row by row."""

    middle: NDArray[np.int64]
    """``(m,)``"""
    corners: NDArray[np.int64]
    """``(4, n)``"""


def halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 × 2 pixels: ``(H, W)``, both even, to ``(H / 2, W / 2)``."""
    return (values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]) * np.float32(0.25)


@lru_cache(maxsize=32)  # pictures come in many sizes
def regions(rows: int, columns: int) -> Regions:
    """Where the middle of a picture is, an ellipse of half the inscribed one's area, and where its corners beyond that are.

    Args:
        rows: At least 8, so that there is something in each corner.
        columns: Likewise.
    """
    down, right = ((np.arange(size) + 0.5) / size * 2 - 1 for size in (rows, columns))
    squared = down[:, None] ** 2 + right**2
    corners = [
        np.flatnonzero((squared > _CORNER) & (np.sign(down) == upper)[:, None] & (np.sign(right) == left))
        for upper in (-1, 1)
        for left in (-1, 1)
    ]
    return Regions(np.flatnonzero(squared < _MIDDLE), np.array(corners))


def corner_medians(corners: NDArray[np.float32]) -> list[float]:
    """The (upper) medians of four corners, from the darkest to the brightest: ``(4, n)`` values."""
    half = corners.shape[1] // 2
    return sorted(np.partition(corners, half, axis=1)[:, half].tolist())


def _shows_enough(described: NDArray[np.float64]) -> NDArray[np.bool_]:
    return described[..., _FOREGROUND] >= math.log(_JUDGED_SHARE + _FLOOR)


def _describe_rows(store: SliceStore, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    shares = store.table["bright_share"].to_numpy(float)[rows]
    rows = rows[~(shares < _BLANK_SHARE)]  # what is not known, a NaN, stays
    if len(rows) > _FITTED:
        rows = rows[np.linspace(0, len(rows) - 1, _FITTED).astype(np.int64)]
    described = np.array([describe(store.images[row]) for row in rows]).reshape(-1, len(DESCRIPTORS))
    return described[_shows_enough(described)]


def _count(names: pd.Series[str]) -> dict[str, int]:
    return {str(name): int(count) for name, count in names.fillna("unknown").value_counts().sort_index().items()}


def _moments(profile: NDArray[np.int64]) -> tuple[float, float]:
    """Mean, counted from the middle, and variance of the place of what is counted in ``profile``."""
    total = max(1, int(profile.sum()))
    place = np.arange(len(profile)) - (len(profile) - 1) / 2
    mean = float(profile @ place) / total
    return mean, float(profile @ (place - mean) ** 2) / total + 1 / 12  # a pixel is not a point


def _border_mean(values: NDArray[np.float32]) -> float:
    side, width = len(values), len(values) // 16
    inner = side - 2 * width
    outer_sum = float(values.sum()) - float(values[width:-width, width:-width].sum())
    return outer_sum / (side**2 - inner**2)


def _compare_corners(values: NDArray[np.float32]) -> tuple[float, float]:
    """Brightness of the second darkest corner, in the range, and how much brighter the middle is than all four."""
    flat = values.ravel()
    places = regions(*values.shape)
    ordered = np.sort(flat)
    low, high = (float(ordered[int(share * (len(flat) - 1))]) for share in _PERCENTILES)
    corners = flat[places.corners]
    away = float(flat[places.middle].mean() - corners.mean())
    return (corner_medians(corners)[1] - low) / max(high - low, 1e-6), away / max(float(flat.std()), 1e-6)


def _entropy(values: NDArray[np.float32], air: float, peak: float) -> float:
    if not values.size:
        return 0.0
    places = ((values - air) * (_BINS * 0.999 / (peak - air))).astype(np.uint8)
    counts = np.bincount(places, minlength=_BINS)
    shares = counts[counts > 0] / len(values)
    return float(-(shares * np.log2(shares)).sum())


def _change(values: NDArray[np.float32]) -> float:
    """Mean absolute difference of neighbors, down and right."""
    return float(np.abs(values[1:] - values[:-1]).mean() + np.abs(values[:, 1:] - values[:, :-1]).mean()) / 2
