"""How fast the machine is at the moment: a figure of speed means little without it."""

from __future__ import annotations

import time
from statistics import median

import torch

__all__ = ["matrix_rate_gflop_per_s"]

_SIDE = 2048
_REPEATS = 7


def matrix_rate_gflop_per_s() -> float:
    """Median rate of float32 products of two 2048 × 2048 matrices."""
    left, right = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    durations_s = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        left @ right
        durations_s.append(time.perf_counter() - started)
    return 2 * _SIDE**3 / median(durations_s) / 1e9
