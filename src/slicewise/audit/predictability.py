"""How well labels follow from something: ROC-AUC by grouped cross-validation, with an interval over groups."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

__all__ = ["FOLDS", "Predictability", "folds", "new_forest", "predictability", "with_interval"]

FOLDS = 5
"""Parts of a cross-validation, and the least number of groups of each class."""

_REPEATS = 3
_TREES = 100
_RESAMPLES = 1000
_LARGEST = 5000  # slices; the interval is then ± 0.02 at most
_INTERVAL_PERCENTILES = (2.5, 97.5)


class Predictability(NamedTuple):
    """A ROC-AUC, or why there is none."""

    value: float | None
    """In [0, 1]; 0.5 is guessing. None where it cannot be computed."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    """Upper end."""
    n_slices: int
    """Slices that it was measured on."""
    n_groups: int
    """Independent groups among them."""
    reason: str = ""
    """Why there is no value."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``audit.json``."""
        return self._asdict()


def predictability(features: pd.DataFrame, labels: NDArray[np.bool_], groups: NDArray[np.int64]) -> Predictability:
    """Cross-validate a random forest of fixed settings and measure its answers.

    Args:
        features: One row a slice; text columns are taken as categories, gaps in numbers as a value of their own.
        labels: ``(N,)``, True for tumor.
        groups: ``(N,)``; slices of one group are never divided between fitting and judging.
    """
    if len(labels) > _LARGEST:  # whole groups, drawn once
        numbers, sizes = np.unique(groups, return_counts=True)
        order = np.random.default_rng(0).permutation(len(numbers))
        chosen = np.isin(groups, numbers[order[np.cumsum(sizes[order]) <= _LARGEST]])
        features, labels, groups = features[chosen], labels[chosen], groups[chosen]
    few = min((len(np.unique(groups[labels == label])) for label in (True, False)), default=0)
    if few < FOLDS:
        reason = f"Needs {FOLDS} groups of patients with each label, the rarer has {few}."
        return Predictability(None, None, None, len(labels), len(np.unique(groups)), reason)
    probabilities = np.zeros(len(labels))
    for repeat in range(_REPEATS):
        for fitted, judged in folds(labels, groups, seed=repeat):
            model = new_forest().fit(features.iloc[fitted], labels[fitted])
            probabilities[judged] += model.predict_proba(features.iloc[judged])[:, 1] / _REPEATS
    return with_interval(labels, probabilities, groups)


def folds(
    labels: NDArray[np.bool_], groups: NDArray[np.int64], seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to fit on and rows to judge, groups whole and classes alike, where both classes can be fitted on."""
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    parts = splitter.split(np.zeros(len(labels)), labels, groups)
    return [(fitted, judged) for fitted, judged in parts if len(np.unique(labels[fitted])) == 2]


def with_interval(labels: NDArray[np.bool_], scores: NDArray[np.float64], groups: NDArray[np.int64]) -> Predictability:
    """ROC-AUC with the percentile interval of a bootstrap over groups.

    Args:
        labels: ``(N,)``, both values present.
        scores: ``(N,)``, any scale.
        groups: ``(N,)``; drawn whole, because slices of one group say nearly the same.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    # Weighted by how often its group was drawn, a slice need not be copied; equal scores count half, by midranks.
    order = np.argsort(scores, kind="stable")
    ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        weights = np.bincount(generator.integers(0, count, count), minlength=count)[numbers][order].astype(float)
        positive = np.add.reduceat(weights * labels[order], ties)
        negative = np.add.reduceat(weights * ~labels[order], ties)
        if positive.sum() > 0 and negative.sum() > 0:
            below = np.cumsum(negative) - negative
            drawn.append((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
    low, high = (float(value) for value in np.percentile(drawn, _INTERVAL_PERCENTILES))
    return Predictability(float(roc_auc_score(labels, scores)), low, high, len(labels), count)


def new_forest() -> Pipeline:
    """A random forest of fixed settings that takes text columns as categories; equal data, equal answers."""
    categories = make_column_selector(dtype_include=["object", "string", "str"])
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", min_frequency=2), categories), remainder="passthrough"
    )
    return make_pipeline(encode, RandomForestClassifier(_TREES, min_samples_leaf=5, n_jobs=1, random_state=0))
