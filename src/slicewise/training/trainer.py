"""From a plan of phases to their checkpoints and the run's history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import slicewise
from slicewise.config import Config, SourceConfig
from slicewise.console import Display
from slicewise.data.dataset import find_targets
from slicewise.data.split import SIDES
from slicewise.data.store import SliceStore
from slicewise.files import write_atomically
from slicewise.model.checkpoint import Description, load_checkpoint, save_checkpoint
from slicewise.model.network import MultiTaskUNet
from slicewise.training.loop import Data, check_supervision, train_phase
from slicewise.training.phases import Phase, plan_phases

__all__ = ["train_run"]

_PARTS_OF_TASK = {"segmentation": ("encoder", "decoder"), "classification": ("encoder", "classifier")}


class _HistoryKeeper:
    """Passes every event on to the display and keeps ``history.csv`` up to date."""

    def __init__(self, folder: Path, finished: Iterable[Description], display: Display) -> None:
        self._file = folder / "history.csv"
        self._earlier = [row for description in finished for row in description.history]
        self._display = display
        self.phase_begins, self.step_ends = display.phase_begins, display.step_ends

    def epoch_ends(self, history: Sequence[dict[str, Any]]) -> None:
        self.write(history)
        self._display.epoch_ends(history)

    def write(self, history: Sequence[dict[str, Any]]) -> None:
        """Finished phases first; the whole file each time, so that an interruption cannot leave a gap in it."""
        text = pd.DataFrame([*self._earlier, *history]).to_csv(index=False, lineterminator="\n")
        write_atomically(self._file, text)


def train_run(
    folder: Path,
    config: Config,
    sources: Mapping[str, SourceConfig],
    store: SliceStore,
    sides: pd.Series[str],
    display: Display,
) -> None:
    """Train the phases of a run; one that has its checkpoint already is passed over.

    Args:
        folder: The run's.
        config: The run.
        sources: Data sources by name, for their settings.
        store: The slices.
        sides: Side of each row of the store.
        display: Where progress goes.

    Raises:
        TrainingError: As `slicewise.training.loop.train_phase`; what a later phase lacks is said before the first begins.
    """
    data = Data(
        store=store,
        targets=find_targets(store.table, sources),
        train_rows=np.flatnonzero(sides == "train"),
        val_rows=np.flatnonzero(sides == "val"),
    )
    phases = plan_phases(config)
    for phase in phases:
        check_supervision(phase, data)
    finished: dict[str, Description] = {}
    for phase in phases:
        target = folder / phase.folder
        state_file = target / "state.pt"
        if (target / "model.json").is_file():
            finished[phase.name] = load_checkpoint(target)[1]
            state_file.unlink(missing_ok=True)
            continue
        network = _initial_network(folder, phase, config)
        keeper = _HistoryKeeper(folder, finished.values(), display)
        with display.training():
            outcome = train_phase(network, phase, config, data, state_file, keeper)
        keeper.write(outcome.history)
        parts = tuple(dict.fromkeys(part for task in phase.tasks for part in _PARTS_OF_TASK[task]))
        finished[phase.name] = save_checkpoint(
            target,
            network,
            name=phase.name,
            tasks=phase.tasks,
            architecture=config.model,
            threshold=outcome.threshold,
            mask_threshold=config.evaluation.mask_threshold,
            parameters=network.count_parameters(parts),
            data_fingerprint=store.fingerprint,
            patients=_patients(store.table, sides),
            metrics={"val": outcome.metrics},
            history=outcome.history,
            provenance={
                "slicewise": slicewise.__version__,
                "torch": torch.__version__,
                "seed": config.seed,
                "phase": phase.config.model_dump(mode="json"),
                "starts_from": finished[phase.starts_from].weights_sha256 if phase.starts_from else None,
                "duration_s": outcome.duration_s,
            },
        )
        state_file.unlink(missing_ok=True)


def _initial_network(folder: Path, phase: Phase, config: Config) -> MultiTaskUNet:
    """The weights that the phase starts from: an earlier phase's, or random ones that follow from the seed."""
    if phase.starts_from is not None:
        return load_checkpoint(folder / "phases" / phase.starts_from)[0]
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return MultiTaskUNet(config.model)


def _patients(table: pd.DataFrame, sides: pd.Series[str]) -> dict[str, dict[str, list[str]]]:
    named = table.assign(side=sides.to_numpy())
    return {
        str(source): {side: sorted(slices.loc[slices["side"] == side, "patient_id"].unique()) for side in SIDES}
        for source, slices in named.groupby("source")
    }
