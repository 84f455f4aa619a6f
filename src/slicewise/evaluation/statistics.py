"""Inference from patients: they are resampled whole, because slices of one patient are not independent."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

__all__ = ["bootstrap_means", "draw_weights", "percentile_interval", "resample_ranks", "wilson_interval"]

_CHUNK_VALUES = 4_000_000
"""Numbers that an array of a chunk of resamples may hold: 32 MB."""
_DEFINED_SHARE = 0.5


def draw_weights(count: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    """How often each of ``count`` patients is drawn in each resample (Efron 1979, https://doi.org/10.1214/aos/1176344552).

    Args:
        count: Patients.
        resamples: How often ``count`` patients are drawn with replacement.
        seed: The same seed, the same draws.

    Returns:
        ``(resamples, count)``; each row sums to ``count``.
    """
    generator = np.random.default_rng(seed)
    weights = np.empty((resamples, count), dtype=np.uint8)
    for row in range(resamples):
        # That one patient in millions of draws comes 256 times does not happen: its probability is below 1e-500.
        weights[row] = np.bincount(generator.integers(0, count, count), minlength=count)
    return weights


def bootstrap_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of resampled patients.

    Args:
        values: ``(n,)``, one a patient, such as paired differences.
        resamples: See `draw_weights`.
        seed: See `draw_weights`.

    Returns:
        ``(resamples,)``; their quantiles are the ends of percentile intervals.

    >>> means = bootstrap_means(np.array([0.0, 1.0]), 1000, seed=0)
    >>> sorted(set(means.tolist()))
    [0.0, 0.5, 1.0]
    """
    return draw_weights(len(values), resamples, seed) @ values / len(values)


def resample_ranks(
    labels: NDArray[np.bool_], scores: NDArray[np.float64], clusters: NDArray[np.int64], weights: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ROC-AUC and average precision of every resample.

    A case counts as often as its patient was drawn, so no case is copied and scores are sorted once. Equal scores count half
    in the ROC-AUC (Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747) and are called together in the
    average precision.

    Args:
        labels: ``(N,)``, True for tumor.
        scores: ``(N,)``, any scale.
        clusters: ``(N,)``, each case's patient, a column of ``weights``.
        weights: ``(R, patients)``, see `draw_weights`.

    Returns:
        Both ``(R,)``; NaN where a resample has cases of one label alone.
    """
    found, cleared = labels, ~labels
    # Highest first; what matters of the tumor-free cases is how many lie above and beside each score of a tumor case.
    by_score = np.argsort(-scores[found], kind="stable")
    tumor_clusters, tumor_scores = clusters[found][by_score], scores[found][by_score]
    starts = np.flatnonzero(np.diff(tumor_scores, prepend=np.inf))
    free_order = np.argsort(-scores[cleared], kind="stable")
    free_clusters, free_scores = clusters[cleared][free_order], -scores[cleared][free_order]
    above = np.searchsorted(free_scores, -tumor_scores[starts], side="left")
    not_below = np.searchsorted(free_scores, -tumor_scores[starts], side="right")
    aucs, precisions = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    size = max(1, _CHUNK_VALUES // max(1, len(labels)))
    for start in range(0, len(weights), size):
        chunk = weights[start : start + size]
        positive = np.add.reduceat(chunk[:, tumor_clusters], starts, axis=1, dtype=np.int32)
        called = np.cumsum(positive, axis=1)
        alarms = np.zeros((len(chunk), len(free_scores) + 1), dtype=np.int32)
        np.cumsum(chunk[:, free_clusters], axis=1, dtype=np.int32, out=alarms[:, 1:])
        n_positive, n_negative = called[:, -1].astype(float), alarms[:, -1].astype(float)
        # A tumor case wins against every tumor-free one below it, and half against those beside it.
        wins = n_negative[:, None] - (alarms[:, above] + alarms[:, not_below]) / 2
        both = (n_positive > 0) & (n_negative > 0)
        np.divide((positive * wins).sum(axis=1), n_positive * n_negative, out=aucs[start : start + len(chunk)], where=both)
        # Groups that were not drawn find nothing: what they are divided by does not matter.
        precision = called / np.maximum(called + alarms[:, not_below], 1)
        np.divide((positive * precision).sum(axis=1), n_positive, out=precisions[start : start + len(chunk)], where=both)
    return aucs, precisions


def percentile_interval(resampled: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Percentile interval; NaN where fewer than half of the resamples are defined.

    With few patients it is too short: in simulations of an accuracy of 0.75 with 2000 resamples, intervals of 95 % covered
    94 % with 60 patients, 93 % with 20 and 89 % with 10.

    >>> low, high = percentile_interval(np.arange(101.0), 0.9)
    >>> round(low, 9), round(high, 9)
    (5.0, 95.0)
    """
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < max(1, _DEFINED_SHARE * len(resampled)):
        return math.nan, math.nan
    low, high = np.quantile(defined, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def wilson_interval(successes: int, count: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a simple rate (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953).

    >>> low, high = wilson_interval(147, 161, 0.95)
    >>> round(low, 4), round(high, 4)
    (0.8593, 0.9475)
    """
    interval = binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
