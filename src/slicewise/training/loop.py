"""The one training loop: whatever the phase says, for as long as it says, from wherever an interruption left it."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slicewise.config import Config
from slicewise.data.dataset import Batch, Targets, batches, draw_epoch
from slicewise.data.store import SliceStore
from slicewise.errors import TrainingError
from slicewise.files import write_atomically
from slicewise.model.network import PARTS, MultiTaskUNet
from slicewise.training.losses import combined_loss
from slicewise.training.phases import Phase
from slicewise.training.validate import Validation, validate

__all__ = ["Data", "Outcome", "Watcher", "check_supervision", "train_phase"]


@dataclass(frozen=True, slots=True)
class Data:
    """What every phase of a run trains on."""

    store: SliceStore
    targets: Targets
    train_rows: NDArray[np.int64]
    val_rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a phase leaves: the network holds the best epoch's averaged weights."""

    history: list[dict[str, Any]]
    """One row an epoch."""
    threshold: float
    """The operating threshold, chosen on validation at the best epoch."""
    metrics: dict[str, dict[str, float | int | None]]
    """The best epoch's validation figures."""
    duration_s: float
    """Training and validation, interruptions left out."""


class Watcher(Protocol):
    """Who is told how the training goes."""

    def phase_begins(self, phase: str, epochs: int, steps: int) -> None:
        """``steps`` in each of at most ``epochs``."""

    def step_ends(self, loss: float) -> None:
        """A batch has been learned."""

    def epoch_ends(self, history: Sequence[dict[str, Any]]) -> None:
        """``history`` has a row for each of the phase's epochs so far, those before an interruption included."""


def train_phase(
    network: MultiTaskUNet, phase: Phase, config: Config, data: Data, state_file: Path, watcher: Watcher
) -> Outcome:
    """Train what the phase trains, keep the epoch that validates best.

    The order of slices, the augmentation and the dropout of an epoch follow from (seed, phase, epoch) alone, and the state
    is on disk after each, so a run that was killed goes on to the same weights (on the CPU, bit by bit).

    Args:
        network: Starts with the weights it has, ends with the best epoch's averaged weights, on the CPU.
        phase: What to train.
        config: The run.
        data: Slices and sides.
        state_file: Where the state after each epoch is kept; picked up if it is there, removed by the caller.
        watcher: Told of each step and epoch.

    Raises:
        TrainingError: A side has too little to learn from or to validate on, the accelerator is not there, or the loss is no
            longer finite.
    """
    settings = config.training
    check_supervision(phase, data)
    rows = _supervised(data.train_rows, data.targets, phase)
    fabric = _open_device(config)
    network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = AdamW(
        [
            {"params": list(network.part_parameters((part,))), "lr": rate, "name": part}
            for part, rate in phase.trained_parts.items()
        ],
        weight_decay=settings.weight_decay,
    )
    for part in PARTS:
        network.get_submodule(part).requires_grad_(part in phase.trained_parts)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    average.eval()
    count = settings.epoch_slices or len(rows)
    steps = max(1, math.ceil((count - 1) / settings.batch_size))
    schedule = LambdaLR(optimizer, _warmup_and_cosine(phase.config.epochs * steps, settings.warmup_fraction))
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    progress = _Progress()
    if state_file.is_file():
        progress = _restore(state_file, network, optimizer, schedule, average)

    watcher.phase_begins(phase.name, phase.config.epochs, steps)
    while progress.epoch < phase.config.epochs and progress.epochs_without_gain < settings.patience:
        started = time.perf_counter()
        key = (config.seed, phase.number, progress.epoch)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        _train_mode(network, phase)
        order = draw_epoch(rows, data.targets, settings, key)
        sums = np.zeros(3)
        seen = 0
        for batch in batches(data.store, data.targets, order, settings, config.augmentation, key):
            losses = _step(fabric, wrapped, wrapped_optimizer, batch.to(fabric.device), phase, settings.gradient_clip_norm)
            if not math.isfinite(losses[0]):
                raise TrainingError(
                    f"Expected a finite loss in phase {phase.name}, epoch {progress.epoch + 1}, got {losses[0]}. "
                    "It would be the same again from here: lower the phase's learning rates and begin a new run."
                )
            schedule.step()
            average.update_parameters(network)
            sums += len(batch.images) * losses
            seen += len(batch.images)
            watcher.step_ends(losses[0])
        trained_s = time.perf_counter() - started
        validation = validate(
            cast(MultiTaskUNet, average.module),
            phase,
            data.store,
            data.targets,
            data.val_rows,
            mask_threshold=config.evaluation.mask_threshold,
            sensitivity=config.evaluation.sensitivity,
        )
        progress.take(validation, average.module, time.perf_counter() - started)
        row = _history_row(phase, progress, validation, sums / seen, optimizer, seen / trained_s)
        progress.history.append(row)
        _save(state_file, progress, network, optimizer, schedule, average)
        watcher.epoch_ends(progress.history)

    network.load_state_dict(progress.best_weights)
    network.to("cpu").eval()
    return Outcome(progress.history, progress.best_threshold, progress.best_metrics, progress.duration_s)


@dataclass(slots=True)
class _Progress:
    """How far a phase has come: plain values and tensors, which can be saved and read back without pickled code."""

    epoch: int = 0
    epochs_without_gain: int = 0
    best_score: float = -math.inf
    best_threshold: float = 0.5
    best_metrics: dict[str, dict[str, float | int | None]] = field(default_factory=dict)
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    duration_s: float = 0.0

    def take(self, validation: Validation, network: torch.nn.Module, duration_s: float) -> None:
        """Count an epoch in; keep its weights if none was better."""
        self.epoch += 1
        self.duration_s += duration_s
        self.epochs_without_gain += 1
        if validation.score > self.best_score:
            self.epochs_without_gain = 0
            self.best_score, self.best_threshold = validation.score, validation.threshold
            self.best_metrics = {name: figure.to_json() for name, figure in validation.figures.items()}
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def check_supervision(phase: Phase, data: Data) -> None:
    """Refuse a phase that could not learn, or whose checkpoints could not be told apart on validation.

    Raises:
        TrainingError: A side has no slice with a known outline of a tumor for segmentation, or lacks tumor or tumor-free
            slices for classification.
    """
    targets = data.targets
    for side, rows in (("train", data.train_rows), ("val", data.val_rows)):
        outlined, labels = rows[targets.mask_known[rows]], targets.label[rows[targets.label_known[rows]]]
        missing = []
        if phase.config.segmentation_weight > 0 and not targets.label[outlined].any():
            missing.append(f"outlined tumors (none in {len(outlined)} slices with a known mask)")
        if phase.config.classification_weight > 0 and (labels.all() or not labels.any()):
            missing.append(f"both answers ({labels.sum()} tumor and {(~labels).sum()} tumor-free slices)")
        if missing:
            raise TrainingError(
                f"Expected {' and '.join(missing)} on side {side} for phase {phase.name}. "
                "Check the sources, their `segmentation` and `classification` settings, and the split."
            )


def _supervised(rows: NDArray[np.int64], targets: Targets, phase: Phase) -> NDArray[np.int64]:
    """The rows that one of the phase's losses can learn from."""
    segments, classifies = phase.config.segmentation_weight > 0, phase.config.classification_weight > 0
    return rows[(targets.mask_known[rows] & segments) | (targets.label_known[rows] & classifies)]


def _open_device(config: Config) -> Fabric:
    settings = config.training
    try:
        return Fabric(accelerator=settings.accelerator, devices=1, precision=settings.precision)
    except RuntimeError:  # Fabric's answer to an accelerator that the machine lacks
        raise TrainingError(
            f"Expected the accelerator {settings.accelerator}, this machine has none that can be used. "
            "Set training.accelerator=auto or cpu in the run's config.yaml, then go on with `slicewise train RUN`."
        ) from None


def _train_mode(network: MultiTaskUNet, phase: Phase) -> None:
    """Frozen parts stay in evaluation mode: neither their weights nor their BatchNorm statistics move."""
    for part in PARTS:
        network.get_submodule(part).train(part in phase.trained_parts)


def _step(fabric: Fabric, network: Any, optimizer: Any, batch: Batch, phase: Phase, clip_norm: float) -> NDArray[np.float64]:
    """One batch: forward, backward, update. Returns the total, segmentation and classification loss."""
    images = batch.images.contiguous(memory_format=torch.channels_last)
    logits = network(images, segment=phase.config.segmentation_weight > 0, classify=phase.config.classification_weight > 0)
    losses = combined_loss(logits, batch, phase.config)
    if losses.total.requires_grad:  # a batch may hold nothing that supervises the phase's only loss
        optimizer.zero_grad()
        fabric.backward(losses.total)
        fabric.clip_gradients(network, optimizer, max_norm=clip_norm, error_if_nonfinite=False)
        optimizer.step()
    return np.array([loss.item() for loss in losses])


def _warmup_and_cosine(steps: int, warmup_fraction: float) -> Callable[[int], float]:
    """Factor on the peak learning rate: a linear rise, then half a cosine down to 0."""
    warmup = max(1, round(warmup_fraction * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def _history_row(
    phase: Phase, progress: _Progress, validation: Validation, losses: Any, optimizer: AdamW, slices_per_s: float
) -> dict[str, Any]:
    figures = {
        f"val_{name}": validation.figures[name].to_json()["value"]
        for name in ("slice_dice", "volume_dice", "roc_auc", "false_mask_rate")
    }
    return {
        "model": phase.name,
        "epoch": progress.epoch,
        "train_loss": float(losses[0]),
        "train_segmentation_loss": float(losses[1]) if phase.config.segmentation_weight else None,
        "train_classification_loss": float(losses[2]) if phase.config.classification_weight else None,
        **figures,
        "val_score": validation.score,
        "learning_rate": max(group["lr"] for group in optimizer.param_groups),
        "slices_per_s": slices_per_s,
        "duration_s": progress.duration_s,
        "kept": progress.epochs_without_gain == 0,
    }


def _save(
    file: Path,
    progress: _Progress,
    network: MultiTaskUNet,
    optimizer: AdamW,
    schedule: LambdaLR,
    average: AveragedModel,
) -> None:
    state = {
        "progress": asdict(progress),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "average": average.state_dict(),
    }
    stream = io.BytesIO()  # torch would report a full disk as an error of its own archive writer
    torch.save(state, stream)
    write_atomically(file, stream.getvalue())


def _restore(file: Path, network: MultiTaskUNet, optimizer: AdamW, schedule: LambdaLR, average: AveragedModel) -> _Progress:
    state = torch.load(file, map_location="cpu", weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    average.load_state_dict(state["average"])
    return _Progress(**state["progress"])
