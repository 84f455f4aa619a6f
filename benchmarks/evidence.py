"""How long a report of many cases takes, and how much memory.

python benchmarks/evidence.py [--cases 100000] [--json FILE]

Cases with labels, probabilities and pixel counts: 100 a patient, and then one a patient, the most that can be resampled.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from machine import Figure, run_benchmark


def write_table(file: Path, count: int, slices_a_patient: int) -> None:
    """Cases of a model that is right more often than not."""
    random, number = np.random.default_rng(0), np.arange(count)
    label = random.random(count) < 0.3
    cases = {
        "slice_id": number,
        "patient_id": number // slices_a_patient,
        "source": "a",
        "label": label.astype(int),
        "probability": np.clip(random.normal(0.3 + 0.3 * label, 0.2), 0, 1),
        "tp": 50 * label,
        "fp": random.integers(0, 5, count),
        "fn": 7 * label,
        "tn": 60_000,
    }
    pd.DataFrame(cases).to_csv(file, index=False)


def measure(table: Path, out: Path) -> tuple[float, float]:
    """Seconds of the whole command, and the most memory it held, in GB."""
    started, most = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "slicewise", "report", "--from", table, "--out", out], stdout=subprocess.DEVNULL
    )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            most = max(most, watched.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.05)
    if process.wait():
        raise SystemExit(f"The report ended with exit code {process.returncode}.")
    return time.perf_counter() - started, most / 1e9


def main(arguments: argparse.Namespace) -> dict[str, Figure]:
    """Measure both tables."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, slices_a_patient in (("report", 100), ("report_one_slice_a_patient", 1)):
            table = Path(folder) / f"{name}.csv"
            write_table(table, arguments.cases, slices_a_patient)
            seconds, gigabytes = measure(table, Path(folder) / name)
            figures[f"{name}_time"] = Figure(seconds, "s", arguments.cases)
            figures[f"{name}_memory"] = Figure(gigabytes, "GB", arguments.cases)
    return figures


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many cases."""
    parser.add_argument("--cases", type=int, default=100_000)


if __name__ == "__main__":
    run_benchmark(__doc__, main, add_options)
