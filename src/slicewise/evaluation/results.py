"""Every model of a run on the same slices, and every figure computed from the resulting cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slicewise.config import SourceConfig
from slicewise.console import Display
from slicewise.data.dataset import find_targets
from slicewise.data.split import SIDES
from slicewise.data.store import SliceStore
from slicewise.evaluation.evaluate import evaluate
from slicewise.evaluation.metrics import measure
from slicewise.inference.predictor import Predictor
from slicewise.model.checkpoint import Description
from slicewise.records import MaskState

__all__ = ["evaluate_models", "summarize"]

_MODELS = (
    ("phases", "segmentation"),
    ("phases", "classification"),
    ("phases", "joint"),
    ("single_task", "segmentation"),
    ("single_task", "classification"),
)


def evaluate_models(
    folder: Path, sources: Mapping[str, SourceConfig], store: SliceStore, sides: pd.Series[str], display: Display
) -> tuple[pd.DataFrame, dict[tuple[str, str], Description]]:
    """Predict the val and test slices with every checkpoint of a run.

    Args:
        folder: The run's.
        sources: Data sources by name, for their settings.
        store: The slices.
        sides: Side of each row of the store.
        display: Where progress goes.

    Returns:
        The table of cases; and each model's description by its section and name in the results.

    Raises:
        CheckpointError: A phase has no checkpoint.
    """
    targets = find_targets(store.table, sources)
    scored = targets.mask_known | targets.label_known
    rows = {side: np.flatnonzero((sides == side).to_numpy() & scored) for side in ("val", "test")}
    tables, descriptions = [], {}
    for section, name in _MODELS:
        if section == "single_task" and not (folder / section / name).is_dir():
            continue
        predictor = Predictor.from_checkpoint(folder / section / name)
        descriptions[section, name] = predictor.description
        for side, of_side in rows.items():
            with display.bar(f"{predictor.description.name}, {side}", len(of_side)) as progress:
                tables.append(
                    evaluate(
                        predictor,
                        store,
                        targets,
                        of_side,
                        model=predictor.description.name,
                        split=side,
                        progress=progress,
                    )
                )
    return pd.concat(tables, ignore_index=True), descriptions


def summarize(
    name: str,
    sources: Mapping[str, SourceConfig],
    store: SliceStore,
    sides: pd.Series[str],
    cases: pd.DataFrame,
    descriptions: Mapping[tuple[str, str], Description],
) -> dict[str, Any]:
    """What ``results.json`` holds.

    Args:
        name: The run's.
        sources: Data sources by name.
        store: The slices.
        sides: Side of each row of the store.
        cases: Of all models.
        descriptions: Of all models, by section and name.
    """
    results: dict[str, Any] = {"name": name, "model_id": descriptions["phases", "joint"].model_id}
    for (section, model), description in descriptions.items():
        of_model = cases[cases["model"] == description.name]
        test = of_model[of_model["split"] == "test"]
        results.setdefault(section, {})[model] = {
            "test": _plain(test),
            "val": _plain(of_model[of_model["split"] == "val"]),
            "by_source": {str(source): _plain(of_source) for source, of_source in test.groupby("source")},
            "threshold": description.threshold,
            "parameters": description.parameters,
            "epochs": len(description.history),
            "duration_s": description.provenance["duration_s"],
            **({} if description.gate is None else {"gate": description.gate}),
        }
    results["data"] = _count_data(store.table.assign(side=sides.to_numpy()), sources)
    results["skipped"] = store.description["skipped"]
    return results


def _plain(cases: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    return {name: figure.to_json() for name, figure in measure(cases).items()}


def _count_data(table: pd.DataFrame, sources: Mapping[str, SourceConfig]) -> list[dict[str, Any]]:
    """One entry a source and side."""
    entries = []
    for source, side in ((source, side) for source in sources for side in SIDES):
        slices = table[(table["source"] == source) & (table["side"] == side)]
        entries.append(
            {
                "source": source,
                "layout": sources[source].layout,
                "split": side,
                "patients": int(slices["patient_id"].nunique()),
                "slices": len(slices),
                "tumor": int((slices["label"] == True).sum()),  # noqa: E712 - a nullable column
                "tumor_free": int((slices["label"] == False).sum()),  # noqa: E712
                "label_unknown": int(slices["label"].isna().sum()),
                **{f"mask_{state}": int((slices["mask_state"] == state).sum()) for state in MaskState},
            }
        )
    return entries
