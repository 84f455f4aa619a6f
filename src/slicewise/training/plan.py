"""What a training would do, before it does it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from torch.optim import AdamW

from slicewise.config import Config
from slicewise.data.dataset import Epoch, count_steps
from slicewise.model.checkpoint import load_checkpoint
from slicewise.model.description import read_description
from slicewise.model.engine import infer
from slicewise.model.network import PARTS, MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine
from slicewise.training.losses import Objective
from slicewise.training.phases import Phase
from slicewise.training.processes import open_fabric
from slicewise.training.step import Learner
from slicewise.training.supervision import Data, check_supervision, supervised_rows

__all__ = ["describe_plan"]

_TIMED_STEPS = 4
_UNCOUNTED = 1


def describe_plan(
    config: Config, data: Data, phases: Sequence[Phase], given: Mapping[str, Sequence[Path]] | None = None
) -> str:
    """A paragraph a phase: what trains, what is frozen, from where, with which losses, how long.

    The time is estimated from a few steps, without compilation, on the machine at hand; early stopping may shorten it.

    Args:
        config: The run.
        data: What it trains on.
        phases: Those that would be trained.
        given: Checkpoints that some of them would start from, by name.

    Raises:
        TrainingError: As the training itself would, for want of slices or of the accelerator.
        CheckpointError: There is no checkpoint where ``training.teacher`` or ``given`` says.
    """
    for checkpoint in {path for paths in (given or {}).values() for path in paths}:
        read_description(checkpoint)
    if not phases:
        return "Nothing is left to train: every phase has its checkpoint."
    paragraphs, total_s = [], 0.0
    for phase in phases:
        check_supervision(phase, data)
        rows, val_rows = (supervised_rows(side, data.targets, phase) for side in (data.train_rows, data.val_rows))
        network = MultiTaskNetwork(config.model)
        trained = tuple(phase.trained_parts)
        steps = count_steps(config.training.epoch_slices or len(rows), config.training)
        step_s, validation_s = _step_duration_s(network, phase, config, data), _validation_duration_s(network, phase, data)
        duration_s = phase.config.epochs * (steps * step_s + validation_s)
        total_s += duration_s
        weights = {
            "segmentation": phase.config.segmentation_weight,
            "classification": phase.config.classification_weight,
            "distillation": phase.config.distillation_weight,
        }
        size, whole = (network.count_parameters(parts) / 1e6 for parts in (trained, PARTS))
        facts = {
            "starts from": " and ".join(map(str, (given or {}).get(phase.name, ())))
            or phase.starts_from
            or "random weights",
            "trains": f"{', '.join(f'{part} at {rate:g}' for part, rate in phase.trained_parts.items())}; "
            f"{size:.2f} of {whole:.2f} million parameters",
            "frozen": ", ".join(part for part in PARTS if part not in trained) or "nothing",
            "loss": " + ".join(f"{weight:g} × {name}" for name, weight in weights.items() if weight),
            "slices": f"{len(rows)} to train on, {len(val_rows)} to validate on",
            "length": f"at most {phase.config.epochs} epochs of {steps} steps, about {_words(duration_s)}",
        }
        if phase.config.distillation_weight:
            facts["teacher"] = str(config.training.teacher or "segmentation")
        paragraphs.append("\n".join([phase.name, *(f"  {name:<12} {fact}" for name, fact in facts.items())]))
    return "\n".join([*paragraphs, f"In all about {_words(total_s)}; early stopping (training.patience) may shorten it."])


def _step_duration_s(network: MultiTaskNetwork, phase: Phase, config: Config, data: Data) -> float:
    several = config.training.devices * config.training.nodes
    alone = {"devices": 1, "nodes": 1, "batch_size": config.training.batch_size // several, "compile": False}
    settings = config.training.model_copy(update=alone)
    fabric = open_fabric(settings)
    network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in PARTS:
        network.get_submodule(part).requires_grad_(part in phase.trained_parts).train(part in phase.trained_parts)
    optimizer = AdamW(list(network.part_parameters(tuple(phase.trained_parts))), lr=0.0)
    # The segmentation phase may lie ahead; weights of its architecture take as long.
    teacher = None
    if phase.config.distillation_weight:
        teacher = load_checkpoint(settings.teacher)[0] if settings.teacher else MultiTaskNetwork(config.model)
    learner = Learner(fabric, network, optimizer, Objective(phase.config, settings), phase, settings, teacher)
    rows = supervised_rows(data.train_rows, data.targets, phase)[: settings.batch_size * _TIMED_STEPS]
    durations_s = []
    started = time.perf_counter()
    for batch in learner.prefetch(Epoch(data.store, data.targets, rows, settings, config.augmentation, (0,))):
        learner.learn(batch)
        learner.check_finite(0)  # waits for a GPU
        durations_s.append(time.perf_counter() - started)
        started = time.perf_counter()
    return median(durations_s[_UNCOUNTED:] or durations_s)


def _validation_duration_s(network: MultiTaskNetwork, phase: Phase, data: Data) -> float:
    engine = TorchEngine(network, decodes=phase.segments)
    rows = supervised_rows(data.val_rows, data.targets, phase)
    durations_s = []
    for row in rows[: _TIMED_STEPS + _UNCOUNTED]:
        started = time.perf_counter()
        infer(engine, data.store.images[[row]], segment=phase.segments, classify=phase.classifies)
        durations_s.append(time.perf_counter() - started)
    return len(rows) * median(durations_s[_UNCOUNTED:] or durations_s)


def _words(duration_s: float) -> str:
    if duration_s < 100:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 6000 else f"{duration_s / 3600:.1f} h"
