"""Two models on the same cases: differences with intervals, tests, effect sizes, and whether one is not inferior.

A test needs both models' predictions of the same slices: where one lacks some of them there is no p-value, only the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.evaluation.intervals import Estimate, Resampling
from slicewise.evaluation.mask_pairs import MASK_METRICS, pair_masks
from slicewise.evaluation.metrics import Tables, count_behind, rows_behind
from slicewise.evaluation.paired import delong, holm, mcnemar_exact, wilcoxon_signed_rank

__all__ = ["COMPARED", "Assessed", "compare_models", "constant_answer"]

COMPARED = ("volume_dice", "slice_dice", "accuracy", "balanced_accuracy", "roc_auc", "brier_score")
"""Figures whose differences are reported."""

_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Assessed:
    """A model on the test slices, and its figures."""

    tables: Tables
    estimates: Mapping[str, Estimate]


def compare_models(
    models: Mapping[str, Assessed], main: str, resampling: Resampling, margin: float, confidence: float
) -> list[dict[str, Any]]:
    """The main model against each of the others.

    Args:
        models: By name, all with resamples of ``resampling``.
        main: Which one is compared with the others.
        resampling: The patients.
        margin: Largest loss of volume Dice that still counts as not inferior.
        confidence: Of the one-sided interval of that verdict.

    Returns:
        One entry a pair: ``model``, ``against``, ``differences``, ``tests`` with ``p_value`` and, over all tests of all
        pairs, Holm's ``p_adjusted``; ``noninferiority`` of the volume Dice; ``refused``, why tests are missing.
    """
    entries = [
        _compare(models[main], models[other], resampling, margin, confidence) | {"model": main, "against": other}
        for other in models
        if other != main
    ]
    tests = [test for entry in entries for test in entry["tests"]]
    for test, adjusted in zip(tests, holm(np.array([test["p_value"] for test in tests], dtype=float)), strict=True):
        test["p_adjusted"] = float(adjusted)
    return entries


def constant_answer(model: Assessed, resampling: Resampling) -> dict[str, Any] | None:
    """The model against the better of "tumor" and "no tumor" for every slice; None where no label is known.

    The model beats it if the bootstrap over patients says so and, where each slice is of a patient of its own, the exact
    McNemar test, too; elsewhere that test has no p-value.
    """
    terms = model.tables.slice_terms
    known = terms["known"].to_numpy(bool)
    if not known.any():
        return None
    rows, label = model.tables.cases[known], terms.loc[known, "positive"].to_numpy(bool)
    answer = bool(label.mean() >= 0.5)
    share = resampling.means(rows, label)
    accuracy = model.estimates["accuracy"]
    constant = float((label == answer).mean())
    difference = accuracy.figure.value - constant
    low, high = resampling.interval(accuracy.resampled - (share if answer else 1 - share), rows)
    test = mcnemar_exact(terms.loc[known, "right"].to_numpy(bool), label == answer)
    independent = resampling.are_independent(rows)
    return {
        "answer": "tumor" if answer else "no tumor",
        "accuracy": constant,
        "difference": difference,
        "low": low,
        "high": high,
        "p_value": test.p_value if independent else math.nan,
        "only_model_right": test.n_only_a,
        "only_baseline_right": test.n_only_b,
        "beaten": bool(difference > 0 and low > 0 and (test.p_value < _SIGNIFICANT or not independent)),
    }


def _compare(model: Assessed, other: Assessed, resampling: Resampling, margin: float, confidence: float) -> dict[str, Any]:
    differences: dict[str, dict[str, Any]] = {}
    noninferiority = None
    for name in COMPARED:
        found = _of_masks(model, other, name, resampling) if name in MASK_METRICS else _of_answers(model, other, name)
        if found is None:
            continue
        value, resampled, rows = found
        low, high = resampling.interval(resampled, rows)
        differences[name] = {"value": value, "low": low, "high": high, **_sizes(rows)}
        if name == "volume_dice":
            low = resampling.lower_bound(resampled, rows, confidence)
            noninferiority = {"margin": margin, "confidence": confidence, "low": low, "shown": bool(low >= -margin)}
            noninferiority |= _sizes(rows)
    refused = None
    if not differences:
        refused = "No test: the two have no predictions of the same slices in common, or these differ in number."
    return {
        "differences": differences,
        "tests": list(_tests(model, other, resampling)),
        "noninferiority": noninferiority,
        "refused": refused,
    }


_Difference = tuple[float, NDArray[np.float64], pd.DataFrame]
"""Value, resamples, and the rows it was computed from."""


def _of_answers(model: Assessed, other: Assessed, name: str) -> _Difference | None:
    ours, theirs = model.estimates[name], other.estimates[name]
    if math.isnan(ours.figure.value) or math.isnan(theirs.figure.value) or not _same_answers(model, other):
        return None
    return ours.figure.value - theirs.figure.value, ours.resampled - theirs.resampled, rows_behind(model.tables, name)


def _of_masks(model: Assessed, other: Assessed, name: str, resampling: Resampling) -> _Difference | None:
    pairs = pair_masks(model.tables, other.tables, name)
    if pairs is None:
        return None
    differences = pairs["ours"] - pairs["theirs"]
    return float(differences.mean()), resampling.means(pairs, differences), pairs


def _tests(model: Assessed, other: Assessed, resampling: Resampling) -> Iterator[dict[str, Any]]:
    if _same_answers(model, other):
        ours, theirs = _answers(model), _answers(other)
        # Slices of one patient are not independent, as McNemar's test takes them.
        if resampling.are_independent(ours):
            mcnemar = mcnemar_exact(ours["right"].to_numpy(bool), theirs["right"].to_numpy(bool))
            yield {
                "test": "McNemar, exact",
                "metric": "accuracy",
                "statistic": "only one right",
                "statistic_value": float(mcnemar.n_only_a + mcnemar.n_only_b),
                "p_value": mcnemar.p_value,
                "effect": "Cohen's g",
                "effect_size": mcnemar.cohens_g,
                **_sizes(ours),
            }
        label = ours["label"].to_numpy(bool)
        if label.any() and not label.all():
            scores = ours["probability"].to_numpy(float), theirs["probability"].to_numpy(float)
            areas = delong(label, *scores, resampling.clusters(ours))
            yield {
                "test": "DeLong, clustered",
                "metric": "roc_auc",
                "statistic": "z",
                "statistic_value": areas.difference / areas.standard_error if areas.standard_error else math.nan,
                "p_value": areas.p_value,
                "effect": "difference",
                "effect_size": areas.difference,
                **_sizes(ours),
            }
    pairs = pair_masks(model.tables, other.tables, "volume_dice")
    if pairs is not None:
        patients = pairs.groupby(["source", "patient_id"])[["ours", "theirs"]].mean()
        wilcoxon = wilcoxon_signed_rank(patients["ours"].to_numpy(float), patients["theirs"].to_numpy(float))
        yield {
            "test": "Wilcoxon, signed ranks",
            "metric": "volume_dice",
            "statistic": "T",
            "statistic_value": wilcoxon.rank_sum,
            "p_value": wilcoxon.p_value,
            "effect": "rank-biserial correlation",
            "effect_size": wilcoxon.rank_biserial,
            **_sizes(pairs),
        }


def _answers(model: Assessed) -> pd.DataFrame:
    """Of the slices with a known label, by source and slice."""
    known = model.tables.slice_terms["known"].to_numpy(bool)
    cases = model.tables.cases.loc[known, ["source", "patient_id", "slice_id", "label", "probability"]]
    cases = cases.assign(right=model.tables.slice_terms.loc[known, "right"] > 0)
    return cases.set_index(["source", "slice_id"], drop=False).sort_index()


def _same_answers(model: Assessed, other: Assessed) -> bool:
    columns = ["source", "slice_id", "label"]
    ours, theirs = (_answers(one)[columns].reset_index(drop=True) for one in (model, other))
    return len(ours) > 0 and ours.equals(theirs)


def _sizes(rows: pd.DataFrame) -> dict[str, int]:
    n_slices, n_patients = count_behind(rows)
    return {"n_slices": n_slices, "n_patients": n_patients}
