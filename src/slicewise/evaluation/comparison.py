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
from slicewise.evaluation.metrics import Tables
from slicewise.evaluation.paired import delong, holm, mcnemar_exact, wilcoxon_signed_rank
from slicewise.evaluation.statistics import percentile_interval

__all__ = ["COMPARED", "Assessed", "compare_models", "constant_answer"]

COMPARED = ("volume_dice", "slice_dice", "accuracy", "balanced_accuracy", "roc_auc", "brier_score")
"""Figures whose differences are reported."""

_OF_MASKS = ("volume_dice", "slice_dice")
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

    The model beats it if the exact McNemar test, which takes slices as independent, and the bootstrap over patients, which
    does not, both say so.
    """
    terms = model.tables.slice_terms
    known = terms["known"].to_numpy(bool)
    if not known.any():
        return None
    label = terms.loc[known, "positive"].to_numpy(bool)
    answer = bool(label.mean() >= 0.5)
    totals = resampling.totals(model.tables.cases, terms[["known", "positive", "right"]])
    share = np.divide(totals[:, 1], totals[:, 0], out=np.full(len(totals), np.nan), where=totals[:, 0] > 0)
    accuracy = model.estimates["accuracy"]
    differences = accuracy.resampled - (share if answer else 1 - share)
    right = terms.loc[known, "right"].to_numpy(bool)
    constant = float((label == answer).mean())
    return {
        "answer": "tumor" if answer else "no tumor",
        "accuracy": constant,
        **_verdict(accuracy.figure.value - constant, differences, mcnemar_exact(right, label == answer), resampling),
    }


def _verdict(difference: float, resampled: NDArray[np.float64], test: Any, resampling: Resampling) -> dict[str, Any]:
    low, high = percentile_interval(resampled, resampling.sample.confidence)
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "p_value": test.p_value,
        "only_model_right": test.n_only_a,
        "only_baseline_right": test.n_only_b,
        "beaten": bool(test.p_value < _SIGNIFICANT and difference > 0 and low > 0),
    }


def _compare(model: Assessed, other: Assessed, resampling: Resampling, margin: float, confidence: float) -> dict[str, Any]:
    differences = {}
    for name in COMPARED:
        ours, theirs = model.estimates[name], other.estimates[name]
        alike = _same_masks(model, other) if name in _OF_MASKS else _same_answers(model, other)
        undefined = math.isnan(ours.figure.value) or math.isnan(theirs.figure.value)
        if undefined or not alike or ours.figure[1:] != theirs.figure[1:]:
            continue
        resampled = ours.resampled - theirs.resampled
        low, high = percentile_interval(resampled, resampling.sample.confidence)
        value = ours.figure.value - theirs.figure.value
        differences[name] = {"value": value, "low": low, "high": high, **_sizes(ours)}
    entry: dict[str, Any] = {"differences": differences, "tests": list(_tests(model, other, resampling)), "refused": None}
    entry["noninferiority"] = None
    if "volume_dice" in differences:
        resampled = model.estimates["volume_dice"].resampled - other.estimates["volume_dice"].resampled
        low = float(np.nanquantile(resampled, 1 - confidence)) if np.isfinite(resampled).any() else math.nan
        verdict = {"margin": margin, "confidence": confidence, "low": low, "shown": bool(low >= -margin)}
        entry["noninferiority"] = verdict | _sizes(model.estimates["volume_dice"])
    if not entry["tests"]:
        entry["refused"] = "No test: the two have no predictions of the same slices in common, or these differ in number."
    return entry


def _tests(model: Assessed, other: Assessed, resampling: Resampling) -> Iterator[dict[str, Any]]:
    if _same_answers(model, other):
        ours, theirs = _answers(model), _answers(other)
        sizes = _sizes(model.estimates["accuracy"])
        mcnemar = mcnemar_exact(ours["right"].to_numpy(bool), theirs["right"].to_numpy(bool))
        yield {
            "test": "McNemar, exact",
            "metric": "accuracy",
            "p_value": mcnemar.p_value,
            "effect": "Cohen's g",
            "effect_size": mcnemar.cohens_g,
            **sizes,
        }
        label = ours["label"].to_numpy(bool)
        if label.any() and not label.all():
            scores = ours["probability"].to_numpy(float), theirs["probability"].to_numpy(float)
            areas = delong(label, *scores, resampling.clusters(ours))
            yield {
                "test": "DeLong, clustered",
                "metric": "roc_auc",
                "p_value": areas.p_value,
                "effect": "difference",
                "effect_size": areas.difference,
                **sizes,
            }
    dice = [
        assessed.tables.patients.set_index(["source", "patient_id"])["volume_dice"].dropna() for assessed in (model, other)
    ]
    if _same_masks(model, other) and len(dice[0]) and dice[0].index.equals(dice[1].index):
        wilcoxon = wilcoxon_signed_rank(*(values.to_numpy(float) for values in dice))
        yield {
            "test": "Wilcoxon, signed ranks",
            "metric": "volume_dice",
            "p_value": wilcoxon.p_value,
            "effect": "rank-biserial correlation",
            "effect_size": wilcoxon.rank_biserial,
            "n_slices": model.estimates["volume_dice"].figure.n_slices,
            "n_patients": wilcoxon.n,
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


def _same_masks(model: Assessed, other: Assessed) -> bool:
    """Do both have pixel counts of the same slices?"""
    counted = (one.tables.cases[one.tables.cases["tp"].notna()] for one in (model, other))
    ours, theirs = (pd.MultiIndex.from_frame(cases[["source", "slice_id"]]).sort_values() for cases in counted)
    return len(ours) > 0 and ours.equals(theirs)


def _sizes(estimate: Estimate) -> dict[str, int]:
    return {"n_slices": estimate.figure.n_slices, "n_patients": estimate.figure.n_patients}
