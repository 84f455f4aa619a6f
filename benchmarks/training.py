"""Slices per second of joint training, forward to update, without reading and augmentation; on an idle machine.

python benchmarks/training.py [--json FILE]
"""

from __future__ import annotations

import argparse
import time

import torch
from machine import Figure, run_benchmark

from slicewise.config import Config, SourceConfig
from slicewise.data.dataset import Batch
from slicewise.model.network import MultiTaskUNet
from slicewise.training.losses import combined_loss

STEPS, UNCOUNTED = 40, 5


def measure(_: argparse.Namespace) -> dict[str, Figure]:
    """Train on one batch again and again."""
    config = Config(sources={"unused": SourceConfig(layout="lgg")})
    size, phase = config.training.batch_size, config.phases.joint
    torch.manual_seed(0)
    network = MultiTaskUNet(config.model).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    images = torch.randn(size, 1, 256, 256).contiguous(memory_format=torch.channels_last)
    masks = torch.zeros(size, 1, 256, 256)
    masks[:, :, 100:140, 100:140] = 1
    known = torch.ones(size, dtype=torch.bool)
    batch = Batch(images, masks, known, torch.ones(size), known)

    durations_s = []
    for _ in range(STEPS + UNCOUNTED):
        started = time.perf_counter()
        losses = combined_loss(network(batch.images), batch, phase)
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.training.gradient_clip_norm)
        optimizer.step()
        durations_s.append(time.perf_counter() - started)
    rates = [size / duration_s for duration_s in durations_s[UNCOUNTED:]]
    return {"training_rate": Figure.of(rates, "slices/s")}


if __name__ == "__main__":
    run_benchmark(__doc__, measure)
