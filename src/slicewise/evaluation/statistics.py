"""Inference from patients: they are resampled whole, because slices of one patient are not independent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_means"]

_CHUNK_VALUES = 10_000_000


def bootstrap_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of resampled patients (Efron 1979, https://doi.org/10.1214/aos/1176344552).

    Args:
        values: ``(n,)``, one a patient, such as paired differences.
        resamples: How often ``n`` patients are drawn with replacement.
        seed: The same seed, the same draws.

    Returns:
        ``(resamples,)``; their quantiles are the ends of percentile intervals.

    >>> means = bootstrap_means(np.array([0.0, 1.0]), 1000, seed=0)
    >>> sorted(set(means.tolist()))
    [0.0, 0.5, 1.0]
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    chunk = max(1, _CHUNK_VALUES // count)
    return np.concatenate(
        [
            values[generator.integers(0, count, (min(chunk, resamples - start), count))].mean(axis=1)
            for start in range(0, resamples, chunk)
        ]
    )
