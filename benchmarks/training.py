"""Training: its rate beside the machine's and a plain U-Net's, the time spent on data, and runs killed at random moments.

python benchmarks/training.py [--kills 100] [--steps 60] [--json FILE]

Rates want an idle machine. The rate is that of the real loop: batches are read from a store and augmented, forward, loss,
backward, update, average. Killed trainings (`kill -9`, a state saved after every step, so that saving is hit too) go on with
--resume, are killed again, and must end with the digests of the uninterrupted one: weights, optimizer, averages, history.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from machine import Figure, matrix_rate, run_benchmark
from monai.losses import DiceCELoss
from plain_unet import plain_unet
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from slicewise.config import Config, SourceConfig
from slicewise.data.dataset import Batch, Epoch, draw_epoch, find_targets
from slicewise.data.store import COLUMNS, SliceStore, StoreWriter
from slicewise.model.network import PARTS, MultiTaskNetwork
from slicewise.training.losses import Objective
from slicewise.training.phases import plan_phases
from slicewise.training.processes import open_fabric
from slicewise.training.step import Learner

SLICES, SIDE_PX, UNCOUNTED, PARALLEL = 256, 256, 6, 2
KILLED_RUN = """
name: killed
phantom: {patients: 9, pictures: 16, slices: 6}
split: {train: 0.5, val: 0.25}
model: {widths: [4, 4, 8, 8], blocks: [1, 1, 1, 1], decoder_width: 4}
audit: {accept: [shortcut-border, shortcut-metadata, shortcut-source]}
training: {batch_size: 8, epoch_slices: 32, ema_decay: 0.8, accelerator: cpu, save_interval_s: 0, single_task: false}
logging: {backend: none, example_epochs: 0}
phases:
  segmentation: {epochs: 4}
  classification: {epochs: 2}
  joint: {epochs: 4}
"""


def make_store(folder: Path) -> SliceStore:
    """Slices of noise with a bright square in every second one."""
    generator, writer = np.random.default_rng(0), StoreWriter(folder / "store", "benchmark")
    images = generator.normal(size=(SLICES, SIDE_PX, SIDE_PX)).astype(np.float16)
    masks = np.zeros(images.shape, dtype=np.bool_)
    masks[::2, 100:140, 100:140] = True
    rows = [
        dict.fromkeys(COLUMNS)
        | {"slice_id": f"noise/{row}", "source": "noise", "patient_id": f"{row}", "study_id": "all", "slice_index": row}
        | {"label": row % 2 == 0, "mask_state": ("present", "empty")[row % 2], "reference_area_px": int(masks[row].sum())}
        | {"foreground_share": 1.0, "height_px": SIDE_PX, "width_px": SIDE_PX}
        for row in range(SLICES)
    ]
    writer.append("noise", "all", images, masks, rows, [])
    return writer.finish([("noise", "all")])


def measure_rate(store: SliceStore, steps: int) -> dict[str, Figure]:
    """Steps of the joint phase, compiled."""
    config = Config.model_validate(
        {
            "sources": {"noise": SourceConfig(layout="lgg")},
            "training": {"compile": True, "batch_size": 24 if torch.cuda.is_available() else 8},
        }
    )
    size, phase = config.training.batch_size, next(phase for phase in plan_phases(config) if phase.name == "joint")
    fabric = open_fabric(config.training)
    torch.manual_seed(0)
    network = MultiTaskNetwork(config.model).to(fabric.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    objective = Objective(phase.config, config.training)
    targets = find_targets(store.table, config.sources)
    config_of_epoch = config.training.model_copy(update={"epoch_slices": size * (steps + UNCOUNTED)})
    order = draw_epoch(np.arange(SLICES), targets, config_of_epoch, (0,))
    learner = Learner(fabric, network, optimizer, objective, phase, config.training)
    parts = iter(learner.prefetch(Epoch(store, targets, order, config.training, config.augmentation, (0,))))
    waits_s, steps_s = [], []
    for _ in range(steps + UNCOUNTED):
        started = time.perf_counter()
        batch = next(parts)
        waits_s.append(time.perf_counter() - started)
        learner.learn(batch)
        average.update_parameters(network)
        learner.check_finite(0)  # waits for a GPU
        steps_s.append(time.perf_counter() - started)
    counted = np.array(steps_s[UNCOUNTED:])
    rate = Figure.of(list(size / counted), "slices/s")
    flop = _count_flop(network, objective, batch) / size
    machine = matrix_rate()
    return {
        "training_rate": rate,
        "data_fraction": Figure.of(list(np.array(waits_s[UNCOUNTED:]) / counted), "of a step"),
        "training_work": Figure(flop / 1e9, "GFLOP/slice", 1),
        "matrix_rate": machine,
        "fraction_of_matrix_rate": Figure(rate.value * flop / 1e9 / machine.value, "", rate.n),
        "parameters": Figure(network.count_parameters(PARTS) / 1e6, "million", 1),
    }


def _count_flop(network: MultiTaskNetwork, objective: Objective, batch: Batch) -> float:
    with FlopCounterMode(display=False) as counter:
        objective(network(batch.images), batch).total.backward()
    return float(counter.get_total_flops())


def measure_plain(steps: int) -> dict[str, Figure]:
    """The plain U-Net at full resolution, as its library builds it, in eager mode on one batch again and again."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = plain_unet().to(device).train()
    optimizer, loss = torch.optim.AdamW(network.parameters(), lr=1e-4), DiceCELoss(sigmoid=True)
    images, masks = torch.randn(8, 1, SIDE_PX, SIDE_PX, device=device), torch.zeros(8, 1, SIDE_PX, SIDE_PX, device=device)
    masks[:, :, 100:140, 100:140] = 1
    rates = []
    for _ in range(2 + steps):
        started = time.perf_counter()
        optimizer.zero_grad()
        loss(network(images), masks).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(8 / (time.perf_counter() - started))
    parameters = sum(weight.numel() for weight in network.parameters())
    return {
        "baseline_training_rate": Figure.of(rates[2:], "slices/s"),
        "baseline_parameters": Figure(parameters / 1e6, "million", 1),
    }


def slicewise(*words: object, **options: object) -> subprocess.Popen[bytes]:
    """Start the command, in one thread: a training this small is not faster in two."""
    code = "import torch; torch.set_num_threads(1); from slicewise.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=-3, **options)


def measure_kills(folder: Path, kills: int) -> dict[str, Figure]:
    """Kill trainings at random moments, and compare how they end."""
    (folder / "killed.yaml").write_text(KILLED_RUN)
    if slicewise("ingest", folder / "killed.yaml", "--out", folder / "prepared", stderr=-3).wait():
        raise RuntimeError("the run to be killed could not be prepared")
    if slicewise("split", folder / "prepared", stderr=-3).wait():
        raise RuntimeError("the run to be killed could not be divided")
    whole = folder / "whole"
    shutil.copytree(folder / "prepared", whole)
    started = time.perf_counter()
    slicewise("train", whole, stderr=-3).wait()
    duration_s = time.perf_counter() - started
    expected = _digests(whole)
    if len(expected) != 3:
        raise RuntimeError("the run that is not killed did not end")

    def kill_again_and_again(number: int) -> tuple[int, int, int]:
        """Kills, runs that ended badly, and digests that differ."""
        run, generator = folder / f"run_{number}", random.Random(number)
        killed, lost, mismatches = 0, 0, 0
        while killed < kills // PARALLEL or run.exists():
            if not run.exists():
                shutil.copytree(folder / "prepared", run)
            process = slicewise("train", run, "--resume", stderr=subprocess.PIPE)
            patience_s = generator.uniform(0.3, 1.0) * duration_s if killed < kills // PARALLEL else 600
            try:
                process.communicate(timeout=patience_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                continue
            lost += process.returncode != 0
            mismatches += sum(_digests(run).get(phase) != digest for phase, digest in expected.items())
            shutil.rmtree(run)
        return killed, lost, mismatches

    with ThreadPoolExecutor(PARALLEL) as pool:
        killed, lost, mismatches = map(sum, zip(*pool.map(kill_again_and_again, range(PARALLEL)), strict=True))
    return {
        "kill_resume_mismatches": Figure(mismatches, "digests", killed),
        "kill_resume_lost": Figure(lost, "runs", killed),
        "killed_training_duration": Figure(duration_s, "s", 1),
    }


def _digests(run: Path) -> dict[str, str]:
    return {
        file.parent.name: json.loads(file.read_text())["provenance"]["state_sha256"]
        for file in sorted((run / "phases").rglob("model.json"))
    }


def measure(arguments: argparse.Namespace) -> dict[str, Figure]:
    """Rates first, while nothing else has warmed the machine."""
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure_rate(make_store(Path(scratch)), arguments.steps)
        figures |= measure_plain(max(5, arguments.steps // 6))
        ratio = figures["training_rate"].value / figures["baseline_training_rate"].value
        figures["times_baseline"] = Figure(ratio, "", figures["training_rate"].n)
        if arguments.kills:
            figures |= measure_kills(Path(scratch), arguments.kills)
    if not torch.cuda.is_available():
        print("No GPU was at hand: rates are those of the CPU.")
    return figures


def add_options(parser: argparse.ArgumentParser) -> None:
    """How long it takes."""
    parser.add_argument("--kills", type=int, default=100, help="how often a training is killed (default: 100)")
    parser.add_argument("--steps", type=int, default=60, help="steps that are timed (default: 60)")


if __name__ == "__main__":
    run_benchmark(__doc__, measure, add_options)
