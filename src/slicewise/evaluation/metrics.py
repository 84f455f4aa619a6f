"""Every metric, computed from a table of cases. Undefined is NaN with n = 0, never 0 or 1.

An empty reference with a non-empty prediction scores a Dice of 0; both empty is undefined and left out, and the false-mask
rate says how the tumor-free slices fared.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from slicewise.evaluation.cases import make_volumes
from slicewise.evaluation.patients import make_patients
from slicewise.evaluation.terms import RATIOS, figures_of, patient_terms, slice_terms, volume_terms

__all__ = [
    "METRICS",
    "SUPPORT",
    "Figure",
    "Tables",
    "choose_mask_from",
    "choose_threshold",
    "count_behind",
    "dice",
    "dice_by_patient",
    "measure",
    "rows_behind",
]

METRICS = {
    "slice_dice": "slice Dice",
    "slice_iou": "slice IoU",
    "slice_hausdorff95_mm": "slice HD95, mm",
    "slice_hausdorff95_px": "slice HD95, px",
    "slice_surface_dice_mm": "slice surface Dice, mm known",
    "slice_surface_dice_px": "slice surface Dice, px",
    "volume_dice": "volume Dice",
    "volume_iou": "volume IoU",
    "volume_hausdorff95_mm": "volume HD95, mm",
    "volume_hausdorff95_px": "volume HD95, px",
    "volume_surface_dice_mm": "volume surface Dice, mm known",
    "volume_surface_dice_px": "volume surface Dice, px",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "brier_score": "Brier score",
    "expected_calibration_error": "expected calibration error",
    "combined": "combined",
    "false_mask_rate": "false-mask rate",
    "contradiction_rate": "contradiction rate",
    "both_right_rate": "both-right rate",
    "patient_sensitivity": "patient sensitivity",
    "patient_specificity": "patient specificity",
    "patient_roc_auc": "patient ROC-AUC",
    "always_tumor_accuracy": 'accuracy of "always tumor"',
}
"""Names of the figures, in the order of reports, and how they are called there."""

SUPPORT = {name: whole for name, (_, whole) in RATIOS.items()} | {
    "f1": "known",
    "balanced_accuracy": "known",
    "mcc": "known",
    "expected_calibration_error": "known",
    "roc_auc": "known",
    "average_precision": "known",
}
"""The term that is not 0 for the slices or scans that stand behind a figure."""

_HALF = 0.5


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


class Tables(NamedTuple):
    """One model on one set of slices, as slices, scans and patients, each with its terms beside it."""

    cases: pd.DataFrame
    volumes: pd.DataFrame
    patients: pd.DataFrame
    slice_terms: pd.DataFrame
    volume_terms: pd.DataFrame
    patient_terms: pd.DataFrame

    @classmethod
    def of(cls, cases: pd.DataFrame, volumes: pd.DataFrame | None = None) -> Tables:
        """From rows of one model; ``volumes`` are its scans with their distances, where measured."""
        volumes = make_volumes(cases) if volumes is None else volumes
        patients = make_patients(cases, volumes)
        return cls(cases, volumes, patients, slice_terms(cases), volume_terms(volumes), patient_terms(patients))


def dice(tp: float, fp: float, fn: float) -> float:
    """Dice's coefficient, 2·TP / (2·TP + FP + FN) (Dice 1945, https://doi.org/10.2307/1932409); NaN if all are 0.

    >>> dice(2, 1, 1)
    0.6666666666666666
    >>> dice(0, 5, 0), dice(0, 0, 0)
    (0.0, nan)
    """
    total = 2 * tp + fp + fn
    return 2 * tp / total if total else math.nan


def measure(tables: pd.DataFrame | Tables) -> dict[str, Figure]:
    """All figures of one model on one set of slices.

    ``slice_dice`` and ``slice_iou`` are means over slices. ``volume_dice`` sums the counts of a scan's slices first and is
    the mean over scans, see `slicewise.evaluation.cases.make_volumes`. ``combined`` is the mean of ``slice_dice`` and
    ``accuracy``; ``always_tumor_accuracy`` is what answering "tumor" every time would score.

    Args:
        tables: Rows of one model, with the columns of `slicewise.evaluation.cases.CASE_COLUMNS`.
    """
    if isinstance(tables, pd.DataFrame):
        tables = Tables.of(tables)
    frames = (tables.slice_terms, tables.volume_terms, tables.patient_terms)
    sums = {str(name): np.asarray(column.sum()) for frame in frames for name, column in frame.items()}
    values = {name: float(value) for name, value in figures_of(sums).items()} | _ranks(tables)
    return {
        name: Figure(values[name], *((0, 0) if math.isnan(values[name]) else count_behind(rows_behind(tables, name))))
        for name in METRICS
    }


def _ranks(tables: Tables) -> dict[str, float]:
    known = tables.cases[tables.slice_terms["known"].to_numpy(bool)]
    patients = tables.patients[tables.patients["label"].notna()]
    ranks = {"roc_auc": math.nan, "average_precision": math.nan, "patient_roc_auc": math.nan}
    if known["label"].nunique() == 2:
        label, probability = known["label"].to_numpy(bool), known["probability"].to_numpy(float)
        ranks["roc_auc"] = float(roc_auc_score(label, probability))
        ranks["average_precision"] = float(average_precision_score(label, probability))
    if patients["label"].nunique() == 2:
        label, probability = patients["label"].to_numpy(bool), patients["probability"].to_numpy(float)
        ranks["patient_roc_auc"] = float(roc_auc_score(label, probability))
    return ranks


def rows_behind(tables: Tables, name: str) -> pd.DataFrame:
    """The slices, scans or patients that a figure is computed from."""
    if name == "combined":
        return tables.cases[(tables.slice_terms["known"] + tables.cases["tp"].notna()).to_numpy() > 0]
    if name == "patient_roc_auc":
        return tables.patients[tables.patients["label"].notna()]
    if SUPPORT[name] in tables.slice_terms:
        return tables.cases[tables.slice_terms[SUPPORT[name]].to_numpy() > 0]
    if SUPPORT[name] in tables.volume_terms:
        return tables.volumes[tables.volume_terms[SUPPORT[name]].to_numpy() > 0]
    return tables.patients[tables.patient_terms[SUPPORT[name]].to_numpy() > 0]


def count_behind(rows: pd.DataFrame) -> tuple[int, int]:
    """Slices and patients of rows that are slices, or that say in ``n_slices`` how many they have."""
    n_slices = int(rows["n_slices"].sum()) if "n_slices" in rows else len(rows)
    return n_slices, len(rows[["source", "patient_id"]].drop_duplicates())


def dice_by_patient(cases: pd.DataFrame) -> pd.Series[float]:
    """Volume Dice by ``source`` and ``patient_id``, the mean where a patient has several scans; of those with tumor or mask.

    Args:
        cases: As for `measure`.
    """
    volumes = make_volumes(cases)
    scores = 2 * volumes["tp"] / (2 * volumes["tp"] + volumes["fp"] + volumes["fn"])
    return volumes.assign(dice=scores).groupby(["source", "patient_id"])["dice"].mean().dropna()


def choose_threshold(
    labels: np.ndarray, probabilities: np.ndarray, sensitivity: float, specificity: float | None = None
) -> float:
    """The highest threshold up to 0.5 at which at least ``sensitivity`` of the tumor slices are called.

    Where no probability lies between two values, any threshold between them decides alike: the middle is taken, which
    leaves new slices the widest margin on both sides. What is more likely tumor than not is called whatever these slices
    say: where they are easy, they would push the threshold up as far as their own probabilities reach.

    With a ``specificity``, the threshold goes further down as long as so many of the tumor-free slices are not called: a
    sensitivity measured on few patients hardly holds on others, and what specificity is not needed buys a margin.

    >>> choose_threshold(np.array([1, 1, 1, 1, 0]), np.array([0.9, 0.8, 0.5, 0.25, 0.1]), sensitivity=0.75)
    0.375
    >>> choose_threshold(np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.3, 0.1]), sensitivity=0.5, specificity=0.5)
    0.2
    """
    by_sensitivity = _threshold_for_sensitivity(labels, probabilities, sensitivity)
    others = np.sort(probabilities[~labels.astype(bool)])[::-1]
    if specificity is None or not len(others):
        return by_sensitivity
    spared = min(max(1, math.ceil(specificity * len(others) - 1e-9)), len(others))
    highest_spared = float(others[len(others) - spared])
    above = probabilities[probabilities > highest_spared].min(initial=1.0)
    return min(by_sensitivity, (highest_spared + float(above)) / 2)


def choose_mask_from(probabilities: np.ndarray, marked: np.ndarray, threshold: float, false_mask_rate: float) -> float:
    """The lowest probability, from ``threshold`` on, at which at most so many tumor-free slices would get a mask.

    Args:
        probabilities: ``(N,)``, of tumor-free slices.
        marked: ``(N,)`` bool, the decoder marks something.
        threshold: From which the answer is "tumor".
        false_mask_rate: Share of the slices, 0..1.

    >>> marked = np.array([True, True, False, True])
    >>> choose_mask_from(np.array([0.1, 0.4, 0.6, 0.8]), marked, threshold=0.2, false_mask_rate=0.25) > 0.4
    True
    """
    candidates = np.sort(probabilities[marked & (probabilities >= threshold)])[::-1]
    allowed = int(false_mask_rate * len(probabilities) + 1e-9)
    if len(candidates) <= allowed:
        return threshold
    return float(np.nextafter(candidates[allowed], 1.0))


def _threshold_for_sensitivity(labels: np.ndarray, probabilities: np.ndarray, sensitivity: float) -> float:
    positives = np.sort(probabilities[labels.astype(bool)])[::-1]
    if not len(positives):
        return _HALF
    # The small term keeps 0.56 · 100 = 56.00000000000001 from asking for one more.
    lowest_called = float(positives[max(0, math.ceil(sensitivity * len(positives) - 1e-9) - 1)])
    next_lower = float(probabilities[probabilities < lowest_called].max(initial=0.0))
    middle = (lowest_called + next_lower) / 2
    return min(_HALF, middle if middle > next_lower else lowest_called)  # where no float lies between
