"""Labels that a simple model, cross-validated, confidently disagrees with.

The rule is confident learning's: Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels,
JAIR 70 (2021), doi 10.1613/jair.1.12125. A class's threshold is the mean probability that the model gives the class on
slices labelled so; a slice is suspected where the other class reaches its threshold, and 0.9 at least, and its own does not.
(The authors' library, cleanlab, is under the AGPL.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from slicewise.audit.findings import Finding
from slicewise.audit.predictability import FOLDS, folds, with_interval

__all__ = ["check_labels"]

_COMPONENTS = 50
_LARGEST_FIT = 5000  # slices held in memory as numbers at a time
_SKILLED = 0.75  # ROC-AUC, lower end of the interval
_SURE = 0.9


def check_labels(labelled: pd.DataFrame, thumbnails: NDArray[np.uint8], groups: NDArray[np.int64]) -> Iterator[Finding]:
    """Findings about labels, each source by itself.

    Args:
        labelled: One row a slice, blank ones left out; every label known.
        thumbnails: ``(N, 64, 64)``.
        groups: ``(N,)``; patients and their copies.
    """
    for source, slices in labelled.groupby("source"):
        rows = (labelled["source"] == source).to_numpy(bool)
        labels = slices["label"].to_numpy(bool)
        if min(len(np.unique(groups[rows][labels == label])) for label in (True, False)) < FOLDS:
            continue
        pictures = thumbnails[rows].reshape(len(labels), -1)
        probabilities = _cross_validate(pictures, labels, groups[rows])
        skill = with_interval(labels, probabilities, groups[rows])
        if skill.low is None or skill.low < _SKILLED:  # a model that is often wrong itself suspects nobody
            continue
        suspected = _suspected(probabilities, labels)
        if suspected.any():
            doubt = np.abs(probabilities - labels)
            worst = slices.iloc[np.flatnonzero(suspected)[np.argsort(-doubt[suspected], kind="stable")]]
            yield Finding.of(
                "suspected-label",
                f"{suspected.sum()} of {len(labels)} labels contradict a simple model of the other patients (its ROC-AUC is "
                f"{skill.value:.2f}); the most doubtful first.",
                worst["file"].dropna(),
                source=str(source),
            )


def _cross_validate(
    pictures: NDArray[np.uint8], labels: NDArray[np.bool_], groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    probabilities = np.full(len(labels), labels.mean())
    for fitted, judged in folds(labels, groups, seed=0):
        fitted = fitted[:: -(-len(fitted) // _LARGEST_FIT)]
        components = min(_COMPONENTS, len(fitted) - 1)
        model = make_pipeline(
            PCA(components, svd_solver="randomized", random_state=0), StandardScaler(), LogisticRegression(max_iter=1000)
        )
        model.fit(_scale(pictures[fitted]), labels[fitted])
        for start in range(0, len(judged), _LARGEST_FIT):
            part = judged[start : start + _LARGEST_FIT]
            probabilities[part] = model.predict_proba(_scale(pictures[part]))[:, 1]
    return probabilities


def _scale(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    return pictures.astype(np.float32) / np.float32(255)


def _suspected(probabilities: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    tumor, free = probabilities, 1 - probabilities
    surely_tumor, surely_free = tumor >= tumor[labels].mean(), free >= free[~labels].mean()
    given, other = np.where(labels, tumor, free), np.where(labels, free, tumor)
    sure_of_other = np.where(labels, surely_free, surely_tumor)
    sure_of_given = np.where(labels, surely_tumor, surely_free)
    return sure_of_other & ~sure_of_given & (other > np.maximum(given, _SURE))
