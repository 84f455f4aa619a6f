"""From a plan of phases to their checkpoints and the run's history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric

import slicewise
from slicewise.config import Config, SourceConfig
from slicewise.console import Display
from slicewise.data.dataset import find_targets
from slicewise.data.descriptors import fit_domain
from slicewise.data.split import SIDES
from slicewise.data.store import SliceStore
from slicewise.errors import CheckpointError, ConfigError, TrainingError
from slicewise.model.checkpoint import load_checkpoint, round_to_half, save_checkpoint
from slicewise.model.description import Description, read_description
from slicewise.model.network import MultiTaskNetwork, average
from slicewise.training.gate import Gate, Verdict
from slicewise.training.interruption import StopRequest, listen_for_stop
from slicewise.training.loop import Outcome, train_phase
from slicewise.training.phases import Phase, next_attempt, plan_phases
from slicewise.training.processes import open_fabric
from slicewise.training.state import StateKeeper
from slicewise.training.supervision import Data, check_supervision
from slicewise.training.validate import Validation, validate
from slicewise.training.watch import Watchers

__all__ = ["gather_data", "hand_out", "is_interrupted", "select_phases", "train_run"]

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


def select_phases(config: Config, only: str | None, folder: Path | None = None) -> list[Phase]:
    """The phases of a run, or the one that is named.

    Args:
        config: The run.
        only: Name of the one phase.
        folder: The run's; where its joint phase has a checkpoint, the single-task phases are as long as that training was.

    Raises:
        ConfigError: The run has no such phase.
    """
    joint_epochs = None
    if folder is not None and (folder / "phases" / "joint" / "model.json").is_file():
        joint_epochs = read_description(folder / "phases" / "joint").provenance["phase"]["epochs"]
    phases = plan_phases(config, joint_epochs)
    if only is None:
        return phases
    names = [phase.name for phase in phases]
    if only not in names:
        raise ConfigError(f"Expected a phase of this run, one of {', '.join(names)}, got {only!r}.")
    return [phase for phase in phases if phase.name == only]


def hand_out(init_from: Sequence[Path], unfinished: Sequence[Phase], only: str | None) -> dict[str, Sequence[Path]]:
    """The given checkpoints by the names of the phases that start from them: the one named, or those with random weights.

    Args:
        init_from: Checkpoints.
        unfinished: Phases that are left to train.
        only: Name of the one phase to train.

    Raises:
        ConfigError: No phase starts from them, and they would not be looked at.
    """
    if not init_from:
        return {}
    heirs = [phase.name for phase in unfinished if only is not None or phase.starts_from is None]
    if not heirs:
        left = ", ".join(phase.name for phase in unfinished) or "none"
        raise ConfigError(
            f"Expected a phase left to train that starts from random weights, as --init-from replaces them, got {left}. "
            "Name the phase with --phase, or leave --init-from out."
        )
    return dict.fromkeys(heirs, init_from)


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
    init_from: Sequence[Path] = (),
    accept: Callable[[], None] = lambda: None,
) -> None:
    """Train the phases of a run; one that has its checkpoint already is passed over.

    Args:
        folder: The run's.
        config: The run.
        data: What it trains on.
        sides: Side of each row of the store, for the checkpoint's record.
        display: Where progress goes.
        only: Name of the one phase to train.
        init_from: Checkpoints the mean of whose weights stands for the random ones that a phase would start from, or for
            those of the phase before ``only``.
        accept: Called, in the first of several processes, when a phase begins.

    Raises:
        ConfigError: The run has no phase ``only``, or none that is left starts from ``init_from``.
        CheckpointError: A phase that another starts from, or one of ``init_from``, has another architecture; there is no
            checkpoint where ``training.teacher`` says, which is said before the first phase begins.
        StoppedError: SIGTERM or Ctrl-C.
        TrainingError: As `slicewise.training.loop.train_phase`; what a later phase lacks is said before the first begins.
    """
    phases = select_phases(config, only)
    for phase in phases:
        check_supervision(phase, data)
    unfinished = [phase for phase in phases if not (folder / phase.folder / "model.json").is_file()]
    given = hand_out(init_from, unfinished, only)
    if unfinished and config.training.teacher is not None:
        load_checkpoint(config.training.teacher)  # it may be asked for the first time hours from now
    fabric = open_fabric(config.training)
    with listen_for_stop() as stop:
        trainer = _Trainer(folder, config, data, sides, fabric, display if fabric.is_global_zero else None, accept, stop)
        for planned in plan_phases(config):
            target = folder / planned.folder
            if (target / "model.json").is_file():
                trainer.finished[planned.name] = load_checkpoint(target)[1]
                if fabric.is_global_zero:
                    StateKeeper(target / "states").discard()
            elif planned in phases:
                (phase,) = select_phases(config, planned.name, folder)  # the joint phase may have ended just now
                trainer.train(phase, given.get(phase.name, ()))
            fabric.barrier()


class _Kept(NamedTuple):
    """What becomes a phase's checkpoint."""

    network: MultiTaskNetwork
    validation: Validation
    resort: Verdict | None
    """The gate's on the last resort, where that is kept."""


@dataclass(slots=True)
class _Trainer:
    folder: Path
    config: Config
    data: Data
    sides: pd.Series[str]
    fabric: Fabric
    display: Display | None
    """None in all but the first of several processes."""
    accept: Callable[[], None]
    stop: StopRequest
    finished: dict[str, Description] = field(default_factory=dict)

    def train(self, phase: Phase, init_from: Sequence[Path]) -> None:
        """Train a phase until the gate accepts an epoch, or its attempts are used up; leave its checkpoint."""
        states = self.folder / phase.folder / "states"
        gate, resort = None, None
        if phase.name == "joint":
            gate, resort = self._gate(), self._load("classification")[0]
        outcomes: list[Outcome] = []
        attempt = phase
        while True:
            network, origin = self._start(phase, init_from)
            teacher, taught_by = self._teacher() if attempt.config.distillation_weight else (None, None)
            keeper = StateKeeper(states / f"attempt_{attempt.attempt}")
            earlier = [row for outcome in outcomes for row in outcome.history]
            with self._watch(earlier) as watcher:
                outcome = train_phase(
                    network,
                    attempt,
                    self.config,
                    self.data,
                    self.fabric,
                    keeper,
                    watcher,
                    gate=gate,
                    teacher=teacher,
                    stop=self.stop,
                )
                watcher.write(outcome.history)  # a kill may have come between the last state and its row
            outcomes.append(outcome)
            if outcome.verdict is None or outcome.verdict.accepted or attempt.attempt > self.config.gate.attempts:
                break
            attempt = next_attempt(attempt, self.config.gate)
            self._say(
                f"  {phase.name}: refused, Dice falls short of the segmentation phase's (difference "
                f"{outcome.verdict.difference or 0:+.3f}, low {outcome.verdict.low or 0:+.3f}); attempt "
                f"{attempt.attempt} begins"
            )
        refused = gate is not None and resort is not None and not (outcome.verdict and outcome.verdict.accepted)
        if refused:
            self._say(f"  {phase.name}: refused {len(outcomes)} times; the model of the classification phase is kept")
        # What is kept is rounded first, so that operating point and figures are those of the weights on disk.
        network = round_to_half(resort if refused and resort is not None else network)
        validation = self._validate(network.to(self.fabric.device), phase)
        kept = _Kept(
            network.to("cpu"),
            validation,
            gate.judge(validation.dice_by_patient) if refused and gate is not None else None,
        )
        if self.fabric.is_global_zero:
            origins = {"starts_from": origin, "teacher": None if kept.resort else taught_by}
            self.finished[phase.name] = self._save(phase, attempt, kept, outcomes, origins)
            StateKeeper(states).discard()

    def _save(
        self, phase: Phase, attempt: Phase, kept: _Kept, outcomes: list[Outcome], origins: dict[str, str | None]
    ) -> Description:
        config, verdict = self.config, None
        verdicts = [outcome.verdict.to_json() for outcome in outcomes if outcome.verdict]
        if verdicts:
            verdict = {
                "accepted": kept.resort is None,
                "kept": phase.name if kept.resort is None else "classification",
                "attempts": verdicts,
                "last_resort": None if kept.resort is None else kept.resort.to_json(),
            }
        parts = tuple(dict.fromkeys(part for task in phase.tasks for part in _PARTS_OF_TASK[task]))
        return save_checkpoint(
            self.folder / phase.folder,
            kept.network,
            name=phase.name,
            tasks=phase.tasks,
            architecture=config.model,
            **kept.validation.operating_point.calibration._asdict(),
            threshold=kept.validation.operating_point.threshold,
            mask_from=kept.validation.operating_point.mask_from,
            mask_threshold=config.evaluation.mask_threshold,
            parameters=kept.network.count_parameters(parts),
            data_fingerprint=self.data.store.fingerprint,
            patients=_patients(self.data.store.table, self.sides),
            metrics={"val": {name: figure.to_json() for name, figure in kept.validation.figures.items()}},
            gate=verdict,
            history=[row for outcome in outcomes for row in outcome.history],
            domain=fit_domain(self.data.store, self.data.train_rows, self.data.val_rows),
            provenance={
                "slicewise": slicewise.__version__,
                "torch": torch.__version__,
                "seed": config.seed,
                "phase": attempt.config.model_dump(mode="json"),
                **origins,
                "processes": self.fabric.world_size,
                "duration_s": sum(outcome.duration_s for outcome in outcomes),
                "state_sha256": outcomes[-1].digest,
            },
        )

    def _gate(self) -> Gate:
        reference = next(phase for phase in plan_phases(self.config) if phase.name == "segmentation")
        validation = self._validate(self._load(reference.name)[0].to(self.fabric.device), reference)
        return Gate(validation.dice_by_patient, self.config.gate, self.config.seed)

    def _teacher(self) -> tuple[MultiTaskNetwork, str]:
        """Whose masks are distilled, and its SHA-256."""
        if self.config.training.teacher is None:
            return self._load("segmentation")
        network, description = load_checkpoint(self.config.training.teacher)
        return network, description.weights_sha256

    def _validate(self, network: MultiTaskNetwork, phase: Phase) -> Validation:
        return validate(
            network,
            phase,
            self.fabric,
            self.data.store,
            self.data.targets,
            self.data.val_rows,
            evaluation=self.config.evaluation,
        )

    def _start(self, phase: Phase, init_from: Sequence[Path]) -> tuple[MultiTaskNetwork, str | None]:
        """What the phase starts from, and its SHA-256: given weights, an earlier phase's, or random ones of the seed."""
        if init_from:
            networks, origins = zip(*map(self._of_this_architecture, init_from), strict=True)
            return average(networks), " + ".join(origins)
        if phase.starts_from is not None:
            return self._load(phase.starts_from)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            return MultiTaskNetwork(self.config.model), None

    def _load(self, phase: str) -> tuple[MultiTaskNetwork, str]:
        folder = self.folder / "phases" / phase
        if not (folder / "model.json").is_file():
            raise TrainingError(f"Expected the checkpoint of phase {phase} in {folder}, found none. Train that phase first.")
        return self._of_this_architecture(folder)

    def _of_this_architecture(self, path: Path) -> tuple[MultiTaskNetwork, str]:
        network, description = load_checkpoint(path)
        if description.architecture != self.config.model:
            raise CheckpointError(
                f"Expected weights for the architecture {self.config.model} of this run, {path} has "
                f"{description.architecture}. Begin a run with the same `model` section."
            )
        return network, description.weights_sha256

    def _watch(self, earlier: list[dict[str, Any]]) -> Watchers:
        finished = [row for description in self.finished.values() for row in description.history]
        return Watchers(self.folder, self.config, self.data, [*finished, *earlier], self.display, self.accept)

    def _say(self, sentence: str) -> None:
        if self.display is not None:
            self.display.say(sentence)


def _patients(table: pd.DataFrame, sides: pd.Series[str]) -> dict[str, dict[str, list[str]]]:
    named = table.assign(side=sides.to_numpy())
    return {
        str(source): {side: sorted(slices.loc[slices["side"] == side, "patient_id"].unique()) for side in SIDES}
        for source, slices in named.groupby("source")
    }
