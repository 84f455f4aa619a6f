"""Every model of a run, and the answers that need no look at the brain, on the same slices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from slicewise.config import Config, SourceConfig
from slicewise.console import Display
from slicewise.data.dataset import find_targets
from slicewise.data.store import SliceStore
from slicewise.evaluation.baselines import answer_blindly
from slicewise.evaluation.evaluate import Evaluated, evaluate
from slicewise.evaluation.facts import Facts, ModelFacts, count_data
from slicewise.inference.predictor import Predictor

__all__ = ["MODELS", "EvaluatedRun", "evaluate_models"]

MODELS = (
    ("phases", "segmentation"),
    ("phases", "classification"),
    ("phases", "joint"),
    ("single_task", "segmentation"),
    ("single_task", "classification"),
)
"""Where a run keeps its checkpoints; single-task ones are optional."""


class EvaluatedRun(NamedTuple):
    """What is computed from predictions, and written beside the run's checkpoints."""

    cases: pd.DataFrame
    volumes: pd.DataFrame
    facts: Facts


def evaluate_models(
    folder: Path,
    config: Config,
    sources: Mapping[str, SourceConfig],
    store: SliceStore,
    sides: pd.Series[str],
    duplicates: Mapping[str, int],
    display: Display,
) -> EvaluatedRun:
    """Predict the val and test slices with every checkpoint of a run.

    Args:
        folder: The run's.
        config: The run.
        sources: Data sources by name, for their settings.
        store: The slices.
        sides: Side of each row of the store.
        duplicates: Number of the group of each file that has copies.
        display: Where progress goes.

    Raises:
        CheckpointError: A phase has no checkpoint.
    """
    targets = find_targets(store.table, sources)
    scored = targets.mask_known | targets.label_known
    rows = {side: np.flatnonzero((sides == side).to_numpy() & scored) for side in ("val", "test")}
    parts: list[Evaluated] = []
    described = {}
    for section, name in MODELS:
        if section == "single_task" and not (folder / section / name).is_dir():
            continue
        predictor = Predictor.from_checkpoint(folder / section / name)
        model = predictor.description.name
        described[model] = ModelFacts.of(predictor.description)
        for side, of_side in rows.items():
            with display.bar(f"{model}, {side}", len(of_side)) as progress:
                parts.append(
                    evaluate(
                        predictor,
                        store,
                        targets,
                        of_side,
                        model=model,
                        split=side,
                        duplicates=duplicates,
                        with_uncertainty=config.evaluation.uncertainty and model == "joint",
                        progress=progress,
                    )
                )
    blind = answer_blindly(store, targets, sides, sensitivity=config.evaluation.sensitivity)
    facts = Facts(
        name=config.name,
        models=described,
        data=count_data(store, sides, sources),
        skipped=store.description["skipped"],
        evaluation=config.evaluation,
        gate=config.gate,
    )
    cases = pd.concat([*(part.cases for part in parts), *([blind] if len(blind) else [])], ignore_index=True)
    return EvaluatedRun(cases, pd.concat([part.volumes for part in parts], ignore_index=True), facts)
