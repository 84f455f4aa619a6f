"""What every benchmark shares: its options, how it prints, and how fast the machine is at the moment."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Figure", "matrix_rate", "run_benchmark"]

_SIDE = 2048
_REPEATS = 7


class Figure(NamedTuple):
    """One measured number."""

    value: float
    unit: str
    n: int
    """How many measurements the value is the median of, or how many things were counted."""
    low: float | None = None
    """First quartile of the measurements."""
    high: float | None = None
    """Third quartile."""

    @classmethod
    def of(cls, measurements: Sequence[float], unit: str) -> Figure:
        """Median and quartiles."""
        low, middle, high = (float(value) for value in np.percentile(measurements, (25, 50, 75)))
        return cls(middle, unit, len(measurements), low, high)


def run_benchmark(
    description: str | None,
    measure: Callable[[argparse.Namespace], dict[str, Figure]],
    add_options: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> None:
    """Print what ``measure`` returns, and write it as ``{name: {value, unit, n}}`` where a file is named.

    The machine's matrix rate stands beside every figure: one of speed means little without it.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    add_options(parser)
    arguments = parser.parse_args()
    figures = measure(arguments)
    figures.setdefault("matrix_rate", matrix_rate())
    figures["threads"] = Figure(torch.get_num_threads(), "", 1)
    for name, figure in figures.items():
        spread = "" if figure.low is None else f"  {figure.low:.4g} to {figure.high:.4g}"
        print(f"{name:>36}  {figure.value:10.4g} {figure.unit:<12} n {figure.n:<7}{spread}")
    if arguments.json:
        contents = {name: {"value": figure.value, "unit": figure.unit, "n": figure.n} for name, figure in figures.items()}
        arguments.json.write_text(json.dumps(contents, indent=2))


def matrix_rate() -> Figure:
    """Rate of float32 products of two 2048 × 2048 matrices."""
    left, right = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    durations_s = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        left @ right
        durations_s.append(time.perf_counter() - started)
    rate = 2 * _SIDE**3 / median(durations_s) / 1e9
    return Figure(rate, "GFLOP/s", _REPEATS)
