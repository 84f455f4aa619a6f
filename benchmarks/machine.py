"""What every benchmark shares: its options, how it prints, and how fast the machine is at the moment."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

__all__ = ["run_benchmark"]

_SIDE = 2048
_REPEATS = 7


def run_benchmark(description: str | None, measure: Callable[[], dict[str, Any]]) -> None:
    """Print what ``measure`` returns, beside the machine's matrix rate: a figure of speed means little without it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    result = measure() | {
        "threads": torch.get_num_threads(),
        "matrix_rate_gflop_per_s": round(_matrix_rate_gflop_per_s(), 1),
    }
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:>24}  {value}" for name, value in result.items()))


def _matrix_rate_gflop_per_s() -> float:
    """Median rate of float32 products of two 2048 × 2048 matrices."""
    left, right = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    durations_s = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        left @ right
        durations_s.append(time.perf_counter() - started)
    return 2 * _SIDE**3 / median(durations_s) / 1e9
