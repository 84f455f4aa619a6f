"""Slices per second of joint training, forward to update, without reading and augmentation; on an idle machine.

python benchmarks/training.py [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import torch
from machine import matrix_rate_gflop_per_s

from slicewise.config import Config, SourceConfig
from slicewise.data.dataset import Batch
from slicewise.model.network import MultiTaskUNet
from slicewise.training.losses import combined_loss

STEPS, UNCOUNTED = 40, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

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
    result = {
        "slices_per_s": round(size / median(durations_s[UNCOUNTED:]), 1),
        "n_steps": STEPS,
        "batch_size": size,
        "threads": torch.get_num_threads(),
        "matrix_rate_gflop_per_s": round(matrix_rate_gflop_per_s(), 1),
    }
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:>24}  {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
