"""Trains a phase in as many processes as launched it, and writes what the first of them saw; not a test by itself."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from slicewise.config import Config, EvaluationConfig
from slicewise.data.dataset import Epoch, draw_epoch, find_targets
from slicewise.data.store import SliceStore, checksum_of
from slicewise.model.network import MultiTaskNetwork
from slicewise.training.loop import train_phase
from slicewise.training.losses import Objective
from slicewise.training.phases import plan_phases
from slicewise.training.processes import gather_items, open_fabric, share_of, synchronize_statistics
from slicewise.training.state import StateKeeper
from slicewise.training.step import Learner
from slicewise.training.supervision import Data
from slicewise.training.validate import validate


class Recorder:
    """Keeps the losses; raises after some steps, on every process alike."""

    def __init__(self, stop_after=None):
        self.losses, self.stop_after = [], stop_after

    def phase_begins(self, phase, epochs, steps):
        pass

    def step_ends(self, losses):
        self.losses.append(losses)
        if len(self.losses) == self.stop_after:
            raise KeyboardInterrupt

    def epoch_ends(self, history, network):
        pass


def samples(fabric, config, data):
    """Checksums of the augmented slices of the first epoch, in the order of the global batches."""
    key = (config.seed, 3, 1, 0)
    order = draw_epoch(data.train_rows, data.targets, config.training, key)
    parts = Epoch(data.store, data.targets, order, config.training, config.augmentation, key, share=share_of(fabric))
    return [
        checksum
        for batch in parts
        for checksum in gather_items(
            fabric, [checksum_of(image.numpy(), mask.numpy()) for image, mask in zip(batch.images, batch.masks, strict=True)]
        )
    ]


def gradient_norm(fabric, network, phase, config, data):
    """Of the first batch, as the first step would clip it."""
    if fabric.world_size > 1:
        synchronize_statistics(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    settings = config.training.model_copy(update={"gradient_clip_norm": 1e9})
    learner = Learner(fabric, network, optimizer, Objective(phase.config, settings), phase, settings)
    key = (config.seed, 3, 1, 0)
    order = draw_epoch(data.train_rows, data.targets, settings, key)
    learner.learn(Epoch(data.store, data.targets, order, settings, config.augmentation, key, share=share_of(fabric))[0])
    return float(torch.cat([weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]).norm())


def train(config, store, states, stop_after=None):
    """One joint phase from fixed weights; returns plain values."""
    rows = np.arange(len(store))
    data = Data(store, find_targets(store.table, config.sources), rows[rows % 3 > 0], rows[rows % 3 == 0])
    fabric = open_fabric(config.training)
    torch.manual_seed(0)
    network, twin = MultiTaskNetwork(config.model), MultiTaskNetwork(config.model)
    phase = next(phase for phase in plan_phases(config) if phase.name == "joint")
    recorder = Recorder(stop_after)
    seen = samples(fabric, config, data)
    deciding = EvaluationConfig(mask_threshold=0.1, sensitivity=0.9)
    figures = validate(network.eval(), phase, fabric, store, data.targets, data.val_rows, evaluation=deciding).figures
    norm = gradient_norm(fabric, twin, phase, config, data)
    try:
        outcome = train_phase(network, phase, config, data, fabric, StateKeeper(states), recorder)
    except KeyboardInterrupt:
        return fabric, {"losses": recorder.losses}
    timing = {"slices_per_s", "duration_s"}
    history = [{name: value for name, value in row.items() if name not in timing} for row in outcome.history]
    return fabric, {
        "losses": recorder.losses,
        "samples": seen,
        "history": history,
        "digest": outcome.digest,
        "gradient_norm": norm,
        "validation": {name: figure.to_json() for name, figure in figures.items()},
    }


if __name__ == "__main__":
    config_file, store_folder, states_folder, out, steps = sys.argv[1:]
    given = Config.model_validate_json(Path(config_file).read_text())
    reached_fabric, reached = train(given, SliceStore(Path(store_folder)), Path(states_folder), int(steps) or None)
    if reached_fabric.is_global_zero:
        Path(out).write_text(json.dumps(reached))
    reached_fabric.barrier()
    torch.distributed.destroy_process_group()
