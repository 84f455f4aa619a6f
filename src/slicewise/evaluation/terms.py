"""What every figure is a function of: numbers of a slice, a scan or a patient that add up.

A figure is computed from sums of these terms, and so is its interval: a resample of patients is nothing but other weights in
the same sums, thousands of which are one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.evaluation.cases import are_judged, are_outlined

__all__ = ["ECE_BINS", "RATIOS", "figures_of", "patient_terms", "slice_terms", "volume_terms"]

ECE_BINS = 10
"""Bins of equal width of the expected calibration error."""

RATIOS = {
    "slice_dice": ("dice", "outlined"),
    "slice_iou": ("iou", "outlined"),
    "slice_hausdorff95_mm": ("hausdorff95_mm", "hausdorff95_mm_known"),
    "slice_hausdorff95_px": ("hausdorff95_px", "hausdorff95_px_known"),
    "slice_surface_dice_mm": ("surface_dice_mm", "surface_dice_mm_known"),
    "slice_surface_dice_px": ("surface_dice_px", "surface_dice_px_known"),
    "volume_dice": ("volume_dice", "volumes"),
    "volume_iou": ("volume_iou", "volumes"),
    "volume_hausdorff95_mm": ("volume_hausdorff95_mm", "volume_hausdorff95_mm_known"),
    "volume_hausdorff95_px": ("volume_hausdorff95_px", "volume_hausdorff95_px_known"),
    "volume_surface_dice_mm": ("volume_surface_dice_mm", "volume_surface_dice_mm_known"),
    "volume_surface_dice_px": ("volume_surface_dice_px", "volume_surface_dice_px_known"),
    "accuracy": ("right", "known"),
    "precision": ("hit", "called"),
    "sensitivity": ("hit", "positive"),
    "specificity": ("rejected", "negative"),
    "f1": ("twice_hit", "positive_or_called"),
    "brier_score": ("squared_error", "known"),
    "always_tumor_accuracy": ("positive", "known"),
    "false_mask_rate": ("false_mask", "tumor_free"),
    "contradiction_rate": ("contradicted", "answered_twice"),
    "both_right_rate": ("both_right", "judged_twice"),
    "patient_sensitivity": ("patient_hit", "patient_positive"),
    "patient_specificity": ("patient_rejected", "patient_negative"),
}
"""Figures that are one sum divided by another: numerator and denominator. The slices, scans or patients whose denominator is
not 0 are what stands behind a figure."""

_RIGHT_DICE = 0.5


def slice_terms(cases: pd.DataFrame) -> pd.DataFrame:
    """Terms of each slice, ``(N, terms)`` float64; what does not apply to a slice is 0.

    Segmentation counts only slices whose mask is known, and a Dice or distance only those of sources and sequences with
    outlined tumors; classification only slices with a known label from sources that take part. Answer and decoder contradict
    each other where the answer is "tumor" and the decoder marks nothing, or the other way round. Both are right where the
    answer is, and the mask is empty on a tumor-free slice or has a Dice of at least 0.5.

    Args:
        cases: Rows of one model, with the columns of `slicewise.evaluation.cases.CASE_COLUMNS`.
    """
    known = are_judged(cases).to_numpy(float)
    label, called = known * _flags(cases["label"]), known * _flags(cases["is_tumor"])
    probability = np.where(known > 0, cases["probability"].to_numpy(float, na_value=np.nan), 0.0)
    right = known * (label == called)
    terms = {
        "known": known,
        "positive": label,
        "negative": known - label,
        "called": called,
        "hit": label * called,
        "rejected": known * (1 - label) * (1 - called),
        "right": right,
        "twice_hit": 2 * label * called,
        "positive_or_called": label + called,
        "squared_error": known * (probability - label) ** 2,
    }
    # The bins of `slicewise.evaluation.calibration.reliability`: open at the left, the first one closed.
    bins = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1)[1:-1], probability)
    for number in range(ECE_BINS):
        terms[f"gap_{number}"] = np.where((bins == number) & (known > 0), probability - label, 0.0)

    tp, fp, fn = (cases[name].to_numpy(float, na_value=np.nan) for name in ("tp", "fp", "fn"))
    total = np.nan_to_num(tp + fp + fn)
    group = are_outlined(cases).to_numpy()
    outlined = group & (total > 0)
    dice = np.divide(2 * tp, 2 * tp + fp + fn, out=np.zeros(len(cases)), where=outlined)
    terms |= {"outlined": outlined.astype(float), "dice": dice}
    terms["iou"] = np.divide(tp, total, out=np.zeros(len(cases)), where=outlined)
    terms |= {name: np.where(group, values, 0.0) for name, values in _distance_terms(cases, "").items()}
    counted = ~np.isnan(tp)
    free = counted & _flags(cases["mask_state"] == "empty").astype(bool)
    terms |= {"tumor_free": free.astype(float), "false_mask": (free & (tp + fp > 0)).astype(float)}

    drawn = cases["decoder_area_px"].to_numpy(float, na_value=np.nan)
    twice = (known > 0) & ~np.isnan(drawn)
    terms["answered_twice"] = twice.astype(float)
    terms["contradicted"] = (twice & ((drawn > 0) != (called > 0))).astype(float)
    judged = (known > 0) & counted & ((label > 0) != free)
    mask_right = np.where(label > 0, dice >= _RIGHT_DICE, total == 0)
    terms |= {"judged_twice": judged.astype(float), "both_right": (judged & mask_right & (right > 0)).astype(float)}
    return pd.DataFrame(terms, index=cases.index)


def volume_terms(volumes: pd.DataFrame) -> pd.DataFrame:
    """Terms of each scan, ``(N, terms)`` float64; 0 where it has neither tumor nor mask, and so no Dice.

    Args:
        volumes: Rows of one model of `slicewise.evaluation.cases.make_volumes`.
    """
    tp, fp, fn = (volumes[name].to_numpy(float) for name in ("tp", "fp", "fn"))
    total = tp + fp + fn
    terms = {
        "volumes": (total > 0).astype(float),
        "volume_dice": np.divide(2 * tp, total + tp, out=np.zeros(len(volumes)), where=total > 0),
        "volume_iou": np.divide(tp, total, out=np.zeros(len(volumes)), where=total > 0),
    }
    return pd.DataFrame(terms | _distance_terms(volumes, "volume_"), index=volumes.index)


def patient_terms(patients: pd.DataFrame) -> pd.DataFrame:
    """Terms of each patient, ``(N, terms)`` float64.

    Args:
        patients: Rows of one model of `slicewise.evaluation.patients.make_patients`.
    """
    known = _flags(patients["label"].notna())
    label, called = known * _flags(patients["label"]), known * _flags(patients["is_tumor"])
    terms = {
        "patient_positive": label,
        "patient_negative": known - label,
        "patient_hit": label * called,
        "patient_rejected": known * (1 - label) * (1 - called),
    }
    return pd.DataFrame(terms, index=patients.index)


def figures_of(sums: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Every figure but the ranks', from sums of the terms; NaN where undefined.

    Args:
        sums: Any shape, the same for all terms: ``()`` for one set of slices, ``(R,)`` for R resamples.
    """
    figures = {name: _divide(sums[part], sums[whole]) for name, (part, whole) in RATIOS.items()}
    figures["balanced_accuracy"] = (figures["sensitivity"] + figures["specificity"]) / 2
    figures["combined"] = (figures["slice_dice"] + figures["accuracy"]) / 2
    hit, rejected = sums["hit"], sums["rejected"]
    missed, alarms = sums["positive"] - hit, sums["negative"] - rejected
    # Matthews 1975, https://doi.org/10.1016/0005-2795(75)90109-9; undefined where a row or column of the table is empty.
    spread = sums["positive"] * sums["negative"] * sums["called"] * (sums["known"] - sums["called"])
    figures["mcc"] = _divide(hit * rejected - alarms * missed, np.sqrt(spread))
    # Naeini et al. 2015, https://ojs.aaai.org/index.php/AAAI/article/view/9602, of the probability of tumor.
    gaps = sum((np.abs(sums[f"gap_{number}"]) for number in range(ECE_BINS)), start=np.zeros_like(hit))
    figures["expected_calibration_error"] = _divide(gaps, sums["known"])
    return figures


def _distance_terms(table: pd.DataFrame, prefix: str) -> dict[str, NDArray[np.float64]]:
    terms = {}
    for unit in ("mm", "px"):
        of_unit = _flags(table["distance_unit"] == unit).astype(bool)
        for name in ("hausdorff95", "surface_dice"):
            values = table[name].to_numpy(float, na_value=np.nan)
            known = of_unit & ~np.isnan(values)
            terms[f"{prefix}{name}_{unit}"] = np.where(known, values, 0.0)
            terms[f"{prefix}{name}_{unit}_known"] = known.astype(float)
    return terms


def _divide(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def _flags(column: pd.Series[bool]) -> NDArray[np.float64]:
    return column.fillna(False).to_numpy(bool).astype(float)
