"""Two models on the same cases: differences with intervals, tests, effect sizes, and whether one is not inferior.

A test needs both models' predictions of the same slices: where one lacks some of them there is no p-value, only the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.evaluation.intervals import Estimate, Resampling
from slicewise.evaluation.mask_pairs import pair_masks
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
    share = resampling.means(model.tables.cases[known], label)
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
    differences, resamples = {}, {}
    for name in COMPARED:
        found = _of_masks(model, other, name, resampling) if name in _OF_MASKS else _of_answers(model, other, name)
        if found is None:
            continue
        value, resamples[name], sizes = found
        low, high = percentile_interval(resamples[name], resampling.sample.confidence)
        differences[name] = {"value": value, "low": low, "high": high, **sizes}
    entry: dict[str, Any] = {"differences": differences, "tests": list(_tests(model, other, resampling)), "refused": None}
    entry["noninferiority"] = None
    if "volume_dice" in differences:
        resampled = resamples["volume_dice"]
        low = float(np.nanquantile(resampled, 1 - confidence)) if np.isfinite(resampled).any() else math.nan
        verdict = {"margin": margin, "confidence": confidence, "low": low, "shown": bool(low >= -margin)}
        entry["noninferiority"] = verdict | {name: differences["volume_dice"][name] for name in ("n_slices", "n_patients")}
    if not entry["tests"]:
        entry["refused"] = "No test: the two have no predictions of the same slices in common, or these differ in number."
    return entry


_Difference = tuple[float, NDArray[np.float64], dict[str, int]]
"""Value, resamples, and what stands behind it."""


def _of_answers(model: Assessed, other: Assessed, name: str) -> _Difference | None:
    ours, theirs = model.estimates[name], other.estimates[name]
    if math.isnan(ours.figure.value) or math.isnan(theirs.figure.value) or not _same_answers(model, other):
        return None
    return ours.figure.value - theirs.figure.value, ours.resampled - theirs.resampled, _sizes(ours)


def _of_masks(model: Assessed, other: Assessed, name: str, resampling: Resampling) -> _Difference | None:
    pairs = _pairs(model, other, "volume_dice" if name == "volume_dice" else "slice_dice")
    if pairs is None:
        return None
    differences = pairs["ours"] - pairs["theirs"]
    return float(differences.mean()), resampling.means(pairs, differences), _behind(pairs)


def _pairs(model: Assessed, other: Assessed, metric: Literal["slice_dice", "volume_dice"]) -> pd.DataFrame | None:
    if not _same_masks(model, other):
        return None
    pairs = pair_masks(model.tables, other.tables, metric)
    return None if pairs.empty else pairs


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
    pairs = _pairs(model, other, "volume_dice")
    if pairs is not None:
        patients = pairs.groupby(["source", "patient_id"])[["ours", "theirs"]].mean()
        wilcoxon = wilcoxon_signed_rank(patients["ours"].to_numpy(float), patients["theirs"].to_numpy(float))
        yield {
            "test": "Wilcoxon, signed ranks",
            "metric": "volume_dice",
            "p_value": wilcoxon.p_value,
            "effect": "rank-biserial correlation",
            "effect_size": wilcoxon.rank_biserial,
            **_behind(pairs),
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


def _behind(pairs: pd.DataFrame) -> dict[str, int]:
    patients = pairs[["source", "patient_id"]].drop_duplicates()
    return {"n_slices": int(pairs["n_slices"].sum()), "n_patients": len(patients)}
