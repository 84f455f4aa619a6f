"""Milliseconds a slice from preprocessed pixels to both answers, one slice at a time; on an idle machine.

python benchmarks/inference.py [--json]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from machine import matrix_rate_gflop_per_s

from slicewise.config import ModelConfig
from slicewise.model.infer import infer
from slicewise.model.network import MultiTaskUNet

SLICES, UNCOUNTED = 200, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    network = MultiTaskUNet(ModelConfig()).to(memory_format=torch.channels_last).eval()
    pixels = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float16)
    durations_ms = []
    for _ in range(SLICES + UNCOUNTED):
        started = time.perf_counter()
        infer(network, pixels, segment=True, classify=True)
        durations_ms.append(1000 * (time.perf_counter() - started))
    median_ms, p95_ms = np.percentile(durations_ms[UNCOUNTED:], (50, 95))
    result = {
        "median_ms": round(float(median_ms), 2),
        "p95_ms": round(float(p95_ms), 2),
        "n_slices": SLICES,
        "threads": torch.get_num_threads(),
        "matrix_rate_gflop_per_s": round(matrix_rate_gflop_per_s(), 1),
    }
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:>24}  {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
