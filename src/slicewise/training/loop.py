"""The one training loop: whatever the phase says, for as long as it says, from wherever an interruption left it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from signal import SIGTERM
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slicewise.config import Config
from slicewise.data.dataset import Epoch, count_steps, draw_epoch
from slicewise.data.store import checksum_of
from slicewise.errors import StoppedError, TrainingError
from slicewise.model.network import PARTS, MultiTaskNetwork
from slicewise.training.gate import Gate, Verdict
from slicewise.training.interruption import StopRequest
from slicewise.training.losses import Objective
from slicewise.training.phases import Phase
from slicewise.training.processes import agree, share_of, synchronize_statistics
from slicewise.training.state import StateKeeper, digest_of
from slicewise.training.step import Learner, gradient_cosine
from slicewise.training.supervision import Data, check_supervision, supervised_rows
from slicewise.training.validate import Validation, validate

__all__ = ["Outcome", "Watcher", "train_phase"]

_SANITY_SLICES = 2
_DECIDING = {"sensitivity", "specificity", "false_mask_rate", "mask_threshold"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a phase leaves: the network holds the best epoch's averaged weights."""

    history: list[dict[str, Any]]
    """One row an epoch."""
    verdict: Verdict | None
    """The gate's on the best epoch; None without a gate. One that is not accepted: no epoch was."""
    duration_s: float
    """Training and validation, interruptions left out."""
    digest: str
    """SHA-256 of the last state: weights, optimizer, averages, history, and what is kept."""


class Watcher(Protocol):
    """Who is told how the training goes; only the first of several processes tells."""

    def phase_begins(self, phase: Phase, epochs: int, steps: int) -> None:
        """``steps`` in each of at most ``epochs``."""

    def step_ends(self, losses: Sequence[float]) -> None:
        """A batch has been learned: total, segmentation and classification loss."""

    def epoch_ends(self, history: Sequence[dict[str, Any]], network: MultiTaskNetwork) -> None:
        """``history`` has a row for each of the phase's epochs so far; the network is the averaged one."""


def train_phase(
    network: MultiTaskNetwork,
    phase: Phase,
    config: Config,
    data: Data,
    fabric: Fabric,
    keeper: StateKeeper,
    watcher: Watcher,
    *,
    gate: Gate | None = None,
    teacher: MultiTaskNetwork | None = None,
    stop: StopRequest | None = None,
) -> Outcome:
    """Train what the phase trains, keep the epoch that validates best.

    Order of slices, augmentation and dropout follow from (seed, phase, attempt, epoch, step) alone, and the state is on disk
    every few minutes, so a run that was killed goes on to the same weights (on the CPU, bit by bit).

    Args:
        network: Starts with the weights it has, ends with the best epoch's averaged weights, on the CPU.
        phase: What to train.
        config: The run.
        data: Slices and sides.
        fabric: Device, precision, processes.
        keeper: Where the state is kept; picked up if there is one, discarded by the caller.
        watcher: Told of each step and epoch.
        gate: An epoch that it refuses cannot be the best.
        teacher: Whose masks the phase distills, where it distills.
        stop: Looked at after every step and epoch.

    Raises:
        TrainingError: A side has too little to learn from or to validate on, the state was begun with other settings, a
            state cannot be saved, or the loss is no longer finite.
        StoppedError: SIGTERM or Ctrl-C; the state is on disk.
    """
    settings, stop = config.training, stop or StopRequest()
    check_supervision(phase, data)
    rows = supervised_rows(data.train_rows, data.targets, phase)
    if fabric.world_size > 1:
        synchronize_statistics(network)
    network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in PARTS:
        network.get_submodule(part).requires_grad_(part in phase.trained_parts)
    objective = Objective(phase.config, settings).to(fabric.device)
    groups = _parameter_groups(network, objective, phase)
    optimizer = AdamW(groups, weight_decay=settings.weight_decay, fused=fabric.device.type in ("cpu", "cuda"))
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    average.eval()
    steps = count_steps(settings.epoch_slices or len(rows), settings)
    schedule = LambdaLR(optimizer, _warmup_and_cosine(phase.config.epochs * steps, settings.warmup_fraction))
    modules: dict[str, Any] = {
        "network": network,
        "objective": objective,
        "optimizer": optimizer,
        "schedule": schedule,
        "average": average,
    }
    learner = Learner(fabric, network, optimizer, objective, phase, settings, teacher)
    progress = _Progress()
    begun_with = _settings_of(config, phase, data, network)
    if (state := fabric.broadcast(keeper.load() if fabric.is_global_zero else None)) is not None:
        _check_same(state["settings"], begun_with, phase, keeper)
        for name, module in modules.items():
            module.load_state_dict(state[name])
        progress = _Progress(**state["progress"])
        learner.sums += torch.tensor(progress.loss_sums, dtype=torch.float64).to(learner.sums)

    def check(rows: Any) -> Validation:
        return validate(
            cast(MultiTaskNetwork, average.module),
            phase,
            fabric,
            data.store,
            data.targets,
            rows,
            evaluation=config.evaluation,
        )

    def save() -> None:
        learner.check_finite(progress.epoch)
        if fabric.is_global_zero:
            progress.loss_sums = learner.sums.tolist()
            states = {name: module.state_dict() for name, module in modules.items()}
            states |= {"settings": begun_with, "progress": asdict(progress)}
            keeper.save(states, progress.epoch * steps + progress.step)

    def stop_if_asked() -> None:
        if agree(fabric, stop.signal is not None):
            save()
            number = stop.signal or SIGTERM  # another process may have received it
            raise StoppedError(
                f"Stopped by {number.name} in phase {phase.name}, epoch {progress.epoch + 1}, step {progress.step} of "
                f"{steps}. The state is in {keeper.folder}; go on with --resume.",
                number,
            )

    watcher.phase_begins(phase, phase.config.epochs, steps)
    check(data.val_rows[:_SANITY_SLICES])  # what is broken in validation shall not cost an epoch first
    while progress.epoch < phase.config.epochs and progress.epochs_without_gain < settings.patience:
        key = (config.seed, phase.number, phase.attempt, progress.epoch)
        order = draw_epoch(rows, data.targets, settings, key)
        _train_mode(network, phase, freeze_statistics=settings.freeze_statistics)

        epoch = Epoch(data.store, data.targets, order, settings, config.augmentation, key, share=share_of(fabric))
        started = saved = time.perf_counter()
        for batch in learner.prefetch(epoch, progress.step):
            torch.manual_seed(_seed(*key, progress.step, fabric.global_rank))
            losses = learner.learn(batch)
            schedule.step()
            average.update_parameters(network)
            progress.step += 1
            now = time.perf_counter()
            progress.trained_s += now - started
            started = now
            watcher.step_ends(losses)
            stop_if_asked()
            if now - saved > settings.save_interval_s:
                save()
                started = saved = time.perf_counter()
        learner.check_finite(progress.epoch)
        started = time.perf_counter()
        cosine = None
        if phase.segments and phase.classifies:
            cosine = gradient_cosine(fabric, network, objective, epoch[steps - 1].to(fabric.device))
        validation = check(data.val_rows)
        verdict = gate.judge(validation.dice_by_patient) if gate else None
        progress.take(validation, verdict, average.module)
        progress.timings.append(
            {
                "slices_per_s": steps * min(settings.batch_size, len(order)) / progress.trained_s,
                "duration_s": progress.trained_s + time.perf_counter() - started,
            }
        )
        rates = [group["lr"] for group in optimizer.param_groups]
        progress.history.append(
            _history_row(phase, progress, validation, verdict, (learner.sums / steps).tolist(), max(rates), cosine)
        )
        progress.step, progress.trained_s = 0, 0.0
        learner.sums.zero_()
        save()
        watcher.epoch_ends(progress.timed_history(), cast(MultiTaskNetwork, average.module))
        stop_if_asked()

    kept = {"history": progress.history, "best": progress.best_weights}
    digest = digest_of({name: module.state_dict() for name, module in modules.items()} | kept)
    if progress.best_weights:
        network.load_state_dict(progress.best_weights)
    network.to("cpu").eval()
    return Outcome(
        history=progress.timed_history(),
        verdict=Verdict(**progress.best_verdict) if progress.best_verdict else None,
        duration_s=sum(timing["duration_s"] for timing in progress.timings),
        digest=digest,
    )


@dataclass(slots=True)
class _Progress:
    """How far a phase has come: plain values and tensors, which can be saved and read back without pickled code."""

    epoch: int = 0
    """Finished ones."""
    step: int = 0
    """Of the epoch that is going on."""
    loss_sums: list[float] = field(default_factory=lambda: [0.0] * 3)
    """Over the steps of this epoch: total, segmentation, classification."""
    trained_s: float = 0.0
    """Spent on the steps of this epoch."""
    epochs_without_gain: int = 0
    best_score: float = -math.inf
    best_verdict: dict[str, Any] | None = None
    """Of the epoch that is kept; where none could be kept, of the one that lost least."""
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """What follows from the seed."""
    timings: list[dict[str, float]] = field(default_factory=list)
    """What does not: rows that belong to those of the history."""

    def take(self, validation: Validation, verdict: Verdict | None, network: torch.nn.Module) -> None:
        """Count an epoch in; keep its weights if none was better."""
        self.epoch += 1
        if verdict is not None and not verdict.accepted:
            # Patience is for what could be kept: a high learning rate may lose segmentation at first.
            self.epochs_without_gain += bool(self.best_weights)
            if not self.best_weights and _low(verdict.to_json()) >= _low(self.best_verdict):
                self.best_verdict = verdict.to_json()
            return
        self.epochs_without_gain += 1
        if validation.score > self.best_score:
            self.epochs_without_gain = 0
            self.best_score = validation.score
            self.best_verdict = None if verdict is None else verdict.to_json()
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}

    def timed_history(self) -> list[dict[str, Any]]:
        """The history with its timings."""
        return [row | timing for row, timing in zip(self.history, self.timings, strict=True)]


def _settings_of(config: Config, phase: Phase, data: Data, network: MultiTaskNetwork) -> dict[str, Any]:
    """Everything that the kept weights follow from, as plain values; the network is as it starts."""
    sections: dict[str, dict[str, Any]] = {
        "training": config.training.model_dump(mode="json", exclude={"save_interval_s", "single_task", "loaders"}),
        f"phases.{phase.name}": phase.config.model_dump(mode="json"),
        "evaluation": config.evaluation.model_dump(mode="json", include=_DECIDING),
        **{name: getattr(config, name).model_dump(mode="json") for name in ("model", "augmentation", "gate")},
    }
    return {
        "seed": config.seed,
        "slices": data.store.fingerprint,
        "split": checksum_of(data.train_rows, data.val_rows),
        "starting weights": digest_of(network.state_dict()),
        **{f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()},
    }


def _check_same(begun: dict[str, Any], now: dict[str, Any], phase: Phase, keeper: StateKeeper) -> None:
    changed = [f"{name}={begun.get(name)}" for name in now if begun.get(name) != now[name]]
    if changed:
        raise TrainingError(
            f"Expected the settings that the interrupted training of phase {phase.name} was begun with, among them "
            f"{', '.join(changed)}, got others. Give these, or remove {keeper.folder} to begin the phase again."
        )


def _low(verdict: dict[str, Any] | None) -> float:
    return -math.inf if verdict is None or verdict["low"] is None else float(verdict["low"])


def _parameter_groups(network: MultiTaskNetwork, objective: Objective, phase: Phase) -> list[dict[str, Any]]:
    groups = [
        {"params": list(network.part_parameters((part,))), "lr": rate, "name": part}
        for part, rate in phase.trained_parts.items()
    ]
    if learned := list(objective.parameters()):
        groups.append({"params": learned, "lr": max(phase.trained_parts.values()), "name": "objective", "weight_decay": 0.0})
    return groups


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _train_mode(network: MultiTaskNetwork, phase: Phase, *, freeze_statistics: bool) -> None:
    """Frozen parts stay in evaluation mode: neither their weights nor their BatchNorm statistics move."""
    for part in PARTS:
        network.get_submodule(part).train(part in phase.trained_parts or not freeze_statistics)


def _warmup_and_cosine(steps: int, warmup_fraction: float) -> Callable[[int], float]:
    """Factor on the peak learning rate: a linear rise, then half a cosine down to 0."""
    warmup = max(1, round(warmup_fraction * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def _history_row(
    phase: Phase,
    progress: _Progress,
    validation: Validation,
    verdict: Verdict | None,
    losses: Sequence[float],
    learning_rate: float,
    cosine: float | None,
) -> dict[str, Any]:
    figures = {
        f"val_{name}": validation.figures[name].to_json()["value"]
        for name in ("slice_dice", "volume_dice", "roc_auc", "false_mask_rate")
    }
    return {
        "model": phase.name,
        "attempt": phase.attempt,
        "epoch": progress.epoch,
        "train_loss": losses[0],
        "train_segmentation_loss": losses[1] if phase.segments else None,
        "train_classification_loss": losses[2] if phase.classifies else None,
        "gradient_cosine": cosine,
        **figures,
        "val_score": validation.score,
        "dice_difference": verdict and verdict.difference,
        "dice_difference_low": verdict and verdict.low,
        "accepted": verdict and verdict.accepted,
        "learning_rate": learning_rate,
        "kept": progress.epochs_without_gain == 0 and bool(progress.best_weights),
    }
