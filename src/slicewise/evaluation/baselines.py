"""Answers that need no look at the brain: what a model has to beat before its accuracy means anything.

Each is a model of its own in the table of cases, fitted on the training patients, so that it is measured and compared with
the others by the same code.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.audit.predictability import new_forest
from slicewise.audit.shortcuts import SHORTCUTS
from slicewise.data.dataset import Targets
from slicewise.data.store import SliceStore
from slicewise.evaluation.cases import CASE_COLUMNS, FROM_STORE, make_cases
from slicewise.evaluation.metrics import choose_threshold

__all__ = ["BASELINES", "answer_blindly", "source_frequencies"]

BASELINES = {f"{name}_only": name for name in SHORTCUTS}
"""Model names, and which of `slicewise.audit.shortcuts.SHORTCUTS` each sees: file metadata, border, or source."""

_HALF = 0.5


def answer_blindly(store: SliceStore, targets: Targets, sides: pd.Series[str], *, sensitivity: float) -> pd.DataFrame:
    """Cases of every baseline on the labelled val and test slices.

    Args:
        store: The slices.
        targets: What is known of every row of the store.
        sides: Side of each row of the store.
        sensitivity: What the threshold of each must reach on val, as that of the models.

    Returns:
        A table of cases; empty where the training slices have one label alone.
    """
    rows = {side: np.flatnonzero((sides == side).to_numpy() & targets.label_known) for side in ("train", "val", "test")}
    label = targets.label
    if len(np.unique(label[rows["train"]])) < 2:
        return make_cases(store.table, np.array([], dtype=np.int64), [], model="", split="")
    tables = []
    for model, shortcut in BASELINES.items():
        features = SHORTCUTS[shortcut](store.table)
        forest = new_forest().fit(features.iloc[rows["train"]], label[rows["train"]])
        found: dict[str, NDArray[np.float64]] = {
            side: forest.predict_proba(features.iloc[rows[side]])[:, 1] if len(rows[side]) else np.array([])
            for side in ("val", "test")
        }
        threshold = choose_threshold(label[rows["val"]], found["val"], sensitivity)
        for side, probabilities in found.items():
            outcomes: list[dict[str, object]] = [
                {"probability": p, "raw_probability": p, "is_tumor": p >= threshold, "classification": True}
                for p in probabilities
            ]
            tables.append(make_cases(store.table, rows[side], outcomes, model=model, split=side, threshold=threshold))
    return pd.concat(tables, ignore_index=True)


def source_frequencies(cases: pd.DataFrame) -> pd.DataFrame:
    """The same rows, answered by how often their own source shows tumor: the most that the source's name could tell.

    For tables that come without training slices to learn it from; a model that does not beat this may have learned it.

    Args:
        cases: Rows of one model.
    """
    known = cases["label"].notna() & cases["classification"].fillna(False)
    tumor = cases["label"].astype("Float64").where(known)
    probability = tumor.groupby(cases["source"]).transform("mean").astype("Float64").fillna(_HALF).astype(float)
    kept = ("split", *FROM_STORE, "institution", "duplicate_group", "slice_position", "classification", "row")
    columns = {name: kind for name, (kind, _) in CASE_COLUMNS.items()}
    # What the model of these rows drew, and how far off, is not this one's: it draws nothing.
    return (
        cases[list(kept)]
        .assign(
            model="source_only",
            probability=probability,
            raw_probability=probability,
            threshold=_HALF,
            is_tumor=(probability >= _HALF).astype("boolean"),
        )
        .reindex(columns=list(columns))
        .astype(columns)
    )
