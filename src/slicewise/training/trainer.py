"""From a plan of phases to their checkpoints and the run's history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric

import slicewise
from slicewise.config import Config, SourceConfig
from slicewise.console import Display
from slicewise.data.dataset import find_targets
from slicewise.data.split import SIDES
from slicewise.data.store import SliceStore
from slicewise.errors import CheckpointError, ConfigError, TrainingError
from slicewise.model.checkpoint import Description, load_checkpoint, save_checkpoint
from slicewise.model.network import MultiTaskUNet
from slicewise.training.gate import Gate
from slicewise.training.loop import Outcome, train_phase
from slicewise.training.phases import Phase, next_attempt, plan_phases
from slicewise.training.processes import open_fabric
from slicewise.training.state import StateKeeper
from slicewise.training.supervision import Data, check_supervision
from slicewise.training.validate import validate
from slicewise.training.watch import Watchers

__all__ = ["gather_data", "is_interrupted", "select_phases", "train_run"]

_PARTS_OF_TASK = {"segmentation": ("encoder", "decoder"), "classification": ("encoder", "classifier")}


def gather_data(sources: Mapping[str, SourceConfig], store: SliceStore, sides: pd.Series[str]) -> Data:
    """What every phase trains and validates on.

    Args:
        sources: Data sources by name, for their settings.
        store: The slices.
        sides: Side of each row of the store.
    """
    return Data(
        store=store,
        targets=find_targets(store.table, sources),
        train_rows=np.flatnonzero(sides == "train"),
        val_rows=np.flatnonzero(sides == "val"),
    )


def select_phases(config: Config, only: str | None) -> list[Phase]:
    """The phases of a run, or the one that is named.

    Raises:
        ConfigError: The run has no such phase.
    """
    phases = plan_phases(config)
    if only is None:
        return phases
    names = [phase.name for phase in phases]
    if only not in names:
        raise ConfigError(f"Expected a phase of this run, one of {', '.join(names)}, got {only!r}.")
    return [phase for phase in phases if phase.name == only]


def is_interrupted(folder: Path, phase: Phase) -> bool:
    """A training of this phase was begun and has not ended."""
    target = folder / phase.folder
    return not (target / "model.json").is_file() and any((target / "states").glob("attempt_*/*.state"))


def train_run(
    folder: Path,
    config: Config,
    data: Data,
    sides: pd.Series[str],
    display: Display,
    *,
    only: str | None = None,
    init_from: Path | None = None,
) -> None:
    """Train the phases of a run; one that has its checkpoint already is passed over.

    Args:
        folder: The run's.
        config: The run.
        data: What it trains on.
        sides: Side of each row of the store, for the checkpoint's record.
        display: Where progress goes.
        only: Name of the one phase to train.
        init_from: A checkpoint whose weights stand for the random ones that a phase would start from, or for those of the
            phase before ``only``.

    Raises:
        ConfigError: The run has no phase ``only``.
        CheckpointError: The phase that another starts from has not been trained, or ``init_from`` has another architecture.
        TrainingError: As `slicewise.training.loop.train_phase`; what a later phase lacks is said before the first begins.
    """
    phases = select_phases(config, only)
    for phase in phases:
        check_supervision(phase, data)
    fabric = open_fabric(config.training)
    trainer = _Trainer(folder, config, data, sides, fabric, display if fabric.is_global_zero else None)
    for phase in plan_phases(config):
        target = folder / phase.folder
        if (target / "model.json").is_file():
            trainer.finished[phase.name] = load_checkpoint(target)[1]
            if fabric.is_global_zero:
                StateKeeper(target / "states").discard()
        elif phase in phases:
            trainer.train(phase, init_from if only is not None or phase.starts_from is None else None)
        fabric.barrier()


@dataclass(slots=True)
class _Trainer:
    folder: Path
    config: Config
    data: Data
    sides: pd.Series[str]
    fabric: Fabric
    display: Display | None
    """None in all but the first of several processes."""
    finished: dict[str, Description] = field(default_factory=dict)

    def train(self, phase: Phase, init_from: Path | None) -> None:
        """Train a phase until the gate accepts an epoch, or its attempts are used up; leave its checkpoint."""
        states = self.folder / phase.folder / "states"
        gate = self._gate() if phase.name == "joint" else None
        outcomes: list[Outcome] = []
        attempt = phase
        while True:
            network = self._initial_network(phase, init_from)
            teacher = self._load("segmentation") if attempt.config.distillation_weight else None
            keeper = StateKeeper(states / f"attempt_{attempt.attempt}")
            earlier = [row for outcome in outcomes for row in outcome.history]
            with self._watch(earlier) as watcher:
                outcome = train_phase(
                    network, attempt, self.config, self.data, self.fabric, keeper, watcher, gate=gate, teacher=teacher
                )
            outcomes.append(outcome)
            if outcome.verdict is None or outcome.verdict.accepted:
                break
            if attempt.attempt > self.config.gate.attempts:
                # Its encoder and decoder are those of the segmentation phase, bit by bit: nothing is lost.
                network = self._load("classification")
                break
            attempt = next_attempt(attempt, self.config.gate)
            self._say(
                f"  {phase.name}: refused, Dice falls short of the segmentation phase's (difference "
                f"{outcome.verdict.difference:+.3f}, low {outcome.verdict.low:+.3f}); attempt {attempt.attempt} begins"
            )
        if self.fabric.is_global_zero:
            self.finished[phase.name] = self._save(phase, attempt, network, outcomes)
            StateKeeper(states).discard()

    def _save(self, phase: Phase, attempt: Phase, network: MultiTaskUNet, outcomes: list[Outcome]) -> Description:
        outcome, config = outcomes[-1], self.config
        threshold, metrics, verdict = outcome.threshold, {"val": outcome.metrics}, None
        if outcome.verdict is not None:
            kept = phase.name if outcome.verdict.accepted else "classification"
            verdicts = [each.verdict.to_json() for each in outcomes if each.verdict]
            verdict = {"accepted": outcome.verdict.accepted, "kept": kept, "attempts": verdicts}
            if kept != phase.name:
                threshold, metrics = self.finished[kept].threshold, self.finished[kept].metrics
                self._say(f"  {phase.name}: refused {len(outcomes)} times; the model of the classification phase is kept")
        parts = tuple(dict.fromkeys(part for task in phase.tasks for part in _PARTS_OF_TASK[task]))
        return save_checkpoint(
            self.folder / phase.folder,
            network,
            name=phase.name,
            tasks=phase.tasks,
            architecture=config.model,
            threshold=threshold,
            mask_threshold=config.evaluation.mask_threshold,
            parameters=network.count_parameters(parts),
            data_fingerprint=self.data.store.fingerprint,
            patients=_patients(self.data.store.table, self.sides),
            metrics=metrics,
            gate=verdict,
            history=[row for each in outcomes for row in each.history],
            provenance={
                "slicewise": slicewise.__version__,
                "torch": torch.__version__,
                "seed": config.seed,
                "phase": attempt.config.model_dump(mode="json"),
                "starts_from": self.finished[phase.starts_from].weights_sha256
                if phase.starts_from in self.finished
                else None,
                "processes": self.fabric.world_size,
                "duration_s": sum(each.duration_s for each in outcomes),
                "state_sha256": outcome.digest,
            },
        )

    def _gate(self) -> Gate:
        reference = next(phase for phase in plan_phases(self.config) if phase.name == "segmentation")
        validation = validate(
            self._load(reference.name).to(self.fabric.device),
            reference,
            self.fabric,
            self.data.store,
            self.data.targets,
            self.data.val_rows,
            mask_threshold=self.config.evaluation.mask_threshold,
            sensitivity=self.config.evaluation.sensitivity,
        )
        return Gate(validation.dice_by_patient, self.config.gate, self.config.seed)

    def _initial_network(self, phase: Phase, init_from: Path | None) -> MultiTaskUNet:
        """What the phase starts from: given ones, an earlier phase's, or random ones that follow from the seed."""
        if init_from is not None:
            network, description = load_checkpoint(init_from)
            if description.architecture != self.config.model:
                raise CheckpointError(
                    f"Expected weights for the architecture {self.config.model} of this run, {init_from} has "
                    f"{description.architecture}. Begin a run with the same `model` section."
                )
            return network
        if phase.starts_from is not None:
            return self._load(phase.starts_from)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            return MultiTaskUNet(self.config.model)

    def _load(self, phase: str) -> MultiTaskUNet:
        folder = self.folder / "phases" / phase
        if not (folder / "model.json").is_file():
            raise TrainingError(f"Expected the checkpoint of phase {phase} in {folder}, found none. Train that phase first.")
        return load_checkpoint(folder)[0]

    def _watch(self, earlier: list[dict[str, Any]]) -> Watchers:
        finished = [row for description in self.finished.values() for row in description.history]
        return Watchers(self.folder, self.config, self.data, [*finished, *earlier], self.display)

    def _say(self, sentence: str) -> None:
        if self.display is not None:
            self.display.say(sentence)


def _patients(table: pd.DataFrame, sides: pd.Series[str]) -> dict[str, dict[str, list[str]]]:
    named = table.assign(side=sides.to_numpy())
    return {
        str(source): {side: sorted(slices.loc[slices["side"] == side, "patient_id"].unique()) for side in SIDES}
        for source, slices in named.groupby("source")
    }
