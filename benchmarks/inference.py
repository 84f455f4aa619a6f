"""Milliseconds a slice from preprocessed pixels to both answers, one slice at a time; on an idle machine.

python benchmarks/inference.py [--json FILE]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from machine import Figure, run_benchmark

from slicewise.config import ModelConfig
from slicewise.model.infer import infer
from slicewise.model.network import MultiTaskUNet

SLICES, UNCOUNTED = 200, 20


def measure(_: argparse.Namespace) -> dict[str, Figure]:
    """Predict one slice again and again."""
    torch.manual_seed(0)
    network = MultiTaskUNet(ModelConfig()).eval().folded()  # as the predictor runs it
    pixels = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float16)
    durations_ms = []
    for _ in range(SLICES + UNCOUNTED):
        started = time.perf_counter()
        infer(network, pixels, segment=True, classify=True)
        durations_ms.append(1000 * (time.perf_counter() - started))
    counted = durations_ms[UNCOUNTED:]
    p95_ms = float(np.percentile(counted, 95))
    return {"slice_duration": Figure.of(counted, "ms"), "slice_duration_p95": Figure(p95_ms, "ms", SLICES)}


if __name__ == "__main__":
    run_benchmark(__doc__, measure)
