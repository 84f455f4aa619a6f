"""Every metric, computed from a table of cases. Undefined is NaN with n = 0, never 0 or 1.

Segmentation counts only slices whose mask is known; classification only slices with a known label from sources that take
part. An empty reference with a non-empty prediction scores a Dice of 0; both empty is undefined and left out, and the
false-mask rate says how the tumor-free slices fared.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

__all__ = ["METRICS", "Figure", "choose_threshold", "dice", "dice_by_patient", "iou", "measure"]

METRICS = (
    "slice_dice",
    "slice_iou",
    "volume_dice",
    "accuracy",
    "precision",
    "sensitivity",
    "specificity",
    "f1",
    "roc_auc",
    "combined",
    "false_mask_rate",
    "always_tumor_accuracy",
)
"""Names of the figures, in the order of reports."""

_HALF = 0.5
_COUNTS = ["tp", "fp", "fn"]


class Figure(NamedTuple):
    """One number with what stands behind it."""

    value: float
    """NaN where undefined."""
    n_slices: int
    """Slices the value was computed from."""
    n_patients: int
    """Patients these slices belong to."""

    def to_json(self) -> dict[str, float | int | None]:
        """Plain values; JSON has no NaN, so undefined is null."""
        value = None if math.isnan(self.value) else self.value
        return {"value": value, "n_slices": self.n_slices, "n_patients": self.n_patients}


def dice(tp: float, fp: float, fn: float) -> float:
    """Dice's coefficient, 2·TP / (2·TP + FP + FN) (Dice 1945, https://doi.org/10.2307/1932409); NaN if all are 0.

    >>> dice(2, 1, 1)
    0.6666666666666666
    >>> dice(0, 5, 0), dice(0, 0, 0)
    (0.0, nan)
    """
    total = 2 * tp + fp + fn
    return 2 * tp / total if total else math.nan


def iou(tp: float, fp: float, fn: float) -> float:
    """Intersection over union (Jaccard 1912, https://doi.org/10.1111/j.1469-8137.1912.tb05611.x); NaN if all are 0.

    >>> iou(2, 1, 1), iou(0, 0, 0)
    (0.5, nan)
    """
    total = tp + fp + fn
    return tp / total if total else math.nan


def measure(cases: pd.DataFrame) -> dict[str, Figure]:
    """All figures of one model on one set of slices.

    ``slice_dice`` and ``slice_iou`` are means over slices. ``volume_dice`` sums the counts of a study's slices first and is
    the mean over studies, of sources in which tumors are outlined at all: in a yes/no set a Dice could only be 0 or
    undefined, and the false-mask rate says that better. ``combined`` is the mean of ``slice_dice`` and ``accuracy``;
    ``always_tumor_accuracy`` is what answering "tumor" every time would score.

    Args:
        cases: Rows of one model, with the columns of `slicewise.evaluation.cases.CASE_COLUMNS`.
    """
    figures = {**_segmentation(cases[cases["tp"].notna()]), **_classification(cases)}
    both = cases[cases["tp"].notna() | _is_classified(cases)]
    combined = (figures["slice_dice"].value + figures["accuracy"].value) / 2
    figures["combined"] = Figure(combined, *((0, 0) if math.isnan(combined) else _sizes(both)))
    return {name: figures[name] for name in METRICS}


def dice_by_patient(cases: pd.DataFrame) -> pd.Series[float]:
    """Volume Dice by ``source`` and ``patient_id``, the mean where a patient has several scans.

    Args:
        cases: As for `measure`; rows without counts are passed over.
    """
    return _volumes(cases[cases["tp"].notna()]).groupby(["source", "patient_id"])["dice"].mean()


def choose_threshold(labels: np.ndarray, probabilities: np.ndarray, sensitivity: float) -> float:
    """The highest threshold up to 0.5 at which at least ``sensitivity`` of the tumor slices are called.

    Where no probability lies between two values, any threshold between them decides alike: the middle is taken, which
    leaves new slices the widest margin on both sides. What is more likely tumor than not is called whatever these slices
    say: where they are easy, they would push the threshold up as far as their own probabilities reach.

    >>> choose_threshold(np.array([1, 1, 1, 1, 0]), np.array([0.9, 0.8, 0.5, 0.25, 0.1]), sensitivity=0.75)
    0.375
    """
    positives = np.sort(probabilities[labels.astype(bool)])[::-1]
    if not len(positives):
        return _HALF
    # The small term keeps 0.56 · 100 = 56.00000000000001 from asking for one more.
    lowest_called = float(positives[max(0, math.ceil(sensitivity * len(positives) - 1e-9) - 1)])
    next_lower = float(probabilities[probabilities < lowest_called].max(initial=0.0))
    middle = (lowest_called + next_lower) / 2
    return min(_HALF, middle if middle > next_lower else lowest_called)  # where no float lies between


def _segmentation(cases: pd.DataFrame) -> dict[str, Figure]:
    counts = cases[_COUNTS].astype("float64")
    scored = cases[(counts.sum(axis=1) > 0).to_numpy()]
    volumes = _volumes(cases)
    in_volumes = cases.set_index(list(volumes.index.names)).index.isin(volumes.index)
    free = cases[(cases["mask_state"] == "empty").to_numpy()]
    false_masks = (free["predicted_area_px"] > 0).astype("float64")
    return {
        "slice_dice": _mean_over(scored, [dice(*row) for row in counts.loc[scored.index].itertuples(index=False)]),
        "slice_iou": _mean_over(scored, [iou(*row) for row in counts.loc[scored.index].itertuples(index=False)]),
        "volume_dice": _mean_over(cases[in_volumes], volumes["dice"].to_list()),
        "false_mask_rate": _mean_over(free, false_masks.to_list()),
    }


def _volumes(cases: pd.DataFrame) -> pd.DataFrame:
    """Counts and ``dice`` of each scan of sources in which tumors are outlined; scans without any pixel are left out."""
    keys = ["source", "patient_id", "study_id", "sequence"]
    outlined = cases[cases["source"].isin(cases.loc[cases["mask_state"] == "present", "source"])]
    counts = outlined.astype(dict.fromkeys(_COUNTS, "float64")).groupby(keys, dropna=False)[_COUNTS].sum()
    counts = counts[counts.sum(axis=1) > 0]
    return counts.assign(dice=[dice(*row) for row in counts.itertuples(index=False)])


def _classification(cases: pd.DataFrame) -> dict[str, Figure]:
    known = cases[_is_classified(cases)]
    label, called = known["label"].to_numpy(bool), known["is_tumor"].to_numpy(bool)
    true_positive, true_negative = int((label & called).sum()), int((~label & ~called).sum())
    positives, negatives, calls = int(label.sum()), int((~label).sum()), int(called.sum())
    auc = roc_auc_score(label, known["probability"].to_numpy(float)) if positives and negatives else math.nan
    rates = {
        "accuracy": _ratio(true_positive + true_negative, len(known)),
        "precision": _ratio(true_positive, calls),
        "sensitivity": _ratio(true_positive, positives),
        "specificity": _ratio(true_negative, negatives),
        "f1": _ratio(2 * true_positive, positives + calls),
        "roc_auc": float(auc),
        "always_tumor_accuracy": _ratio(positives, len(known)),
    }
    sizes = {
        "precision": _sizes(known[called]),
        "sensitivity": _sizes(known[label]),
        "specificity": _sizes(known[~label]),
    }
    whole = _sizes(known)
    return {name: Figure(value, *((0, 0) if math.isnan(value) else sizes.get(name, whole))) for name, value in rates.items()}


def _is_classified(cases: pd.DataFrame) -> pd.Series[bool]:
    return cases["label"].notna() & cases["classification"].fillna(False) & cases["probability"].notna()


def _mean_over(cases: pd.DataFrame, values: list[float]) -> Figure:
    if not values:
        return Figure(math.nan, 0, 0)
    return Figure(float(np.mean(values)), *_sizes(cases))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _sizes(cases: pd.DataFrame) -> tuple[int, int]:
    return len(cases), int(cases.groupby("source")["patient_id"].nunique().sum())
