"""Every figure of a table of cases, as ``results.json`` holds them; equal tables give equal bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.evaluation.agreement import bland_altman
from slicewise.evaluation.baselines import BASELINES, source_frequencies
from slicewise.evaluation.calibration import decision_curve, reliability
from slicewise.evaluation.cases import are_judged
from slicewise.evaluation.comparison import Assessed, compare_models, constant_answer
from slicewise.evaluation.facts import Facts
from slicewise.evaluation.intervals import Estimate, Resampling, Sample
from slicewise.evaluation.metrics import METRICS, Tables
from slicewise.evaluation.patients import PATIENT_KEYS
from slicewise.evaluation.selective import area_under_risk_coverage, choose_referral, risk_coverage
from slicewise.evaluation.subgroups import assess_subgroups, name_worst

__all__ = ["FORMAT", "choose_main", "in_order", "summarize"]

FORMAT = "slicewise-results/1"
_SECTIONS = {
    "segmentation": ("phases", "segmentation"),
    "classification": ("phases", "classification"),
    "joint": ("phases", "joint"),
    "segmentation_only": ("single_task", "segmentation"),
    "classification_only": ("single_task", "classification"),
    **{name: ("baselines", name) for name in BASELINES},
}
_DECISION_THRESHOLDS = np.arange(1, 100) / 100
_CAM_SCORES = ("pointing", "mass_in_mask", "iou")
_CAM_MAPS = ("cam", "center", "randomized")


def choose_main(cases: pd.DataFrame) -> str:
    """The model a report is about: the joint one, or else the table's first."""
    names = list(cases["model"].unique())
    return "joint" if "joint" in names else str(names[0])


def summarize(cases: pd.DataFrame, volumes: pd.DataFrame, facts: Facts) -> dict[str, Any]:
    """What ``results.json`` holds.

    Args:
        cases: A table of cases, of any number of models.
        volumes: Its scans.
        facts: What the table does not say.
    """
    options = facts.evaluation
    sample = Sample(resamples=options.resamples, confidence=options.confidence)
    main = choose_main(cases)
    # Sums of floats depend on their order: a shuffled table shall give the same bytes.
    cases, volumes = in_order(cases, main, ["slice_id"]), in_order(volumes, main, ["study_id", "sequence"])
    sides = {side: _assess(cases, volumes, side, main, sample) for side in ("test", "val")}
    resampling, models = sides["test"]
    assessed = models.get(main) or _nothing(cases, sample)
    results: dict[str, Any] = {
        "format": FORMAT,
        "name": facts.name,
        "model": main,
        "model_id": facts.models[main].model_id if main in facts.models else None,
        "sample": {"resamples": sample.resamples, "confidence": sample.confidence, "seed": sample.seed},
        "test": _plain(assessed.estimates),
        "phases": {},
        "single_task": {},
        "baselines": {},
        "models": {},
    }
    for name in dict.fromkeys(cases["model"]):
        section, short = _SECTIONS.get(name, ("models", name))
        described = facts.models[name].model_dump(mode="json") if name in facts.models else {}
        results[section][short] = {
            side: _plain(of_side[name].estimates) for side, (_, of_side) in sides.items() if name in of_side
        } | described
    results["constant"] = constant_answer(assessed, resampling)
    results["comparisons"] = compare_models(models, main, resampling, facts.gate.margin, facts.gate.confidence)
    test = cases[(cases["model"] == main) & (cases["split"] == "test")]
    val = cases[(cases["model"] == main) & (cases["split"] == "val")]
    known, known_val = (rows[are_judged(rows)] for rows in (test, val))
    results["calibration"] = _calibration(known, resampling, sample)
    results["decision_curve"] = _decision_curve(known)
    results["predictive_values"] = _predictive_values(assessed.estimates, options.prevalences, sample.confidence)
    results["uncertainty"] = _uncertainty(known, known_val, options.coverage, resampling)
    groups = [group.to_json() for group in assess_subgroups(test, sample)]
    results["subgroups"] = groups
    results["worst_subgroups"] = name_worst(groups)
    results["tumor_volume"] = bland_altman(assessed.tables.patients, sample.confidence)
    results["explanations"] = _explanations(test, resampling)
    results["data"], results["skipped"] = facts.data, facts.skipped
    return _without_nan(results)


def in_order(table: pd.DataFrame, main: str, keys: list[str]) -> pd.DataFrame:
    """The same rows in an order of their own: by model, side, source and patient, then by ``keys``.

    Models stand as a run has them and those of other systems behind, but where it is not a run's joint one the main model
    stands first: it is the first of its table.
    """
    places = {name: place for place, name in enumerate(_SECTIONS)} | ({} if main == "joint" else {main: -1})
    place = table["model"].map(places).fillna(len(places)).astype(int)
    ordered = table.assign(place=place).sort_values(["place", *PATIENT_KEYS, *keys], ignore_index=True)
    return ordered.drop(columns="place")


def _assess(
    cases: pd.DataFrame, volumes: pd.DataFrame, side: str, main: str, sample: Sample
) -> tuple[Resampling, dict[str, Assessed]]:
    of_side, scans = cases[cases["split"] == side], volumes[volumes["split"] == side]
    resampling, models = Resampling(of_side, sample), {}
    for name, rows in of_side.groupby("model", sort=False):
        tables = Tables.of(rows, scans[scans["model"] == name])
        models[str(name)] = Assessed(tables, resampling.estimate(tables))
    if side == "test" and not set(BASELINES) & set(models) and of_side["source"].nunique() > 1:
        tables = Tables.of(source_frequencies(of_side[of_side["model"] == main]), scans.head(0))
        models["source_only"] = Assessed(tables, resampling.estimate(tables))
    return resampling, models


def _nothing(cases: pd.DataFrame, sample: Sample) -> Assessed:
    """There is no test slice of the main model: every figure is undefined."""
    tables = Tables.of(cases.head(0))
    return Assessed(tables, Resampling(cases.head(0), sample).estimate(tables))


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimates[name].to_json() for name in METRICS}


def _calibration(known: pd.DataFrame, resampling: Resampling, sample: Sample) -> dict[str, Any] | None:
    """Before and after calibration, on test; None without labels."""
    if known.empty:
        return None
    label = known["label"].to_numpy(bool)
    calibration = {}
    for moment, column in (("before", "raw_probability"), ("after", "probability")):
        if known[column].isna().any():
            continue
        tables = Tables.of(known.assign(probability=known[column]))
        # Ranks are the same before and after, and take longest to resample.
        estimates = resampling.estimate(tables, ranks=False)
        figures = {name: estimates[name].to_json() for name in ("expected_calibration_error", "brier_score")}
        bins = reliability(known[column].to_numpy(float), label, confidence=sample.confidence)
        calibration[moment] = figures | {"bins": bins.to_dict("records")}
    return calibration


def _decision_curve(known: pd.DataFrame) -> list[dict[str, Any]]:
    if known.empty:
        return []
    curve = decision_curve(known["probability"].to_numpy(float), known["label"].to_numpy(bool), _DECISION_THRESHOLDS)
    return [{str(name): value for name, value in row.items()} for row in curve.to_dict("records")]


def _predictive_values(
    estimates: Mapping[str, Estimate], prevalences: tuple[float, ...], confidence: float
) -> list[dict[str, Any]]:
    """PPV and NPV by Bayes' rule: what the operating point would mean where tumors are rarer, or more frequent."""
    sensitivity, specificity = estimates["sensitivity"], estimates["specificity"]
    if math.isnan(sensitivity.figure.value) or math.isnan(specificity.figure.value):
        return []
    rows = []
    for prevalence in prevalences:
        row: dict[str, Any] = {"prevalence": prevalence}
        values = _by_bayes(sensitivity.figure.value, specificity.figure.value, prevalence)
        # The ends of both intervals at once: wider than either, and defined where a resample has no false alarm.
        lows = _by_bayes(sensitivity.low, specificity.low, prevalence)
        highs = _by_bayes(sensitivity.high, specificity.high, prevalence)
        for name, value, low, high in zip(("ppv", "npv"), values, lows, highs, strict=True):
            row[name] = {"value": value, "low": low, "high": high}
        rows.append(row)
    return rows


def _by_bayes(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    hit, alarm = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    missed, rejected = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
    ppv = hit / (hit + alarm) if hit + alarm > 0 else math.nan
    return ppv, rejected / (rejected + missed) if rejected + missed > 0 else math.nan


def _uncertainty(test: pd.DataFrame, val: pd.DataFrame, coverage: float, resampling: Resampling) -> dict[str, Any] | None:
    """Risk and coverage on test, with the referral threshold of val; None where no uncertainty is known."""
    test, val = test[test["uncertainty"].notna()], val[val["uncertainty"].notna()]
    if test.empty:
        return None
    errors = np.where((test["is_tumor"] != test["label"]).to_numpy(bool), 1.0, 0.0)
    uncertainty = test["uncertainty"].to_numpy(float)
    margin = -np.abs(test["probability"].to_numpy(float) - test["threshold"].to_numpy(float))
    threshold = choose_referral(val["uncertainty"].to_numpy(float), coverage)
    kept = uncertainty <= threshold
    curve = risk_coverage(errors, uncertainty)
    points = np.unique(np.linspace(0, len(curve) - 1, 100).round().astype(int))
    return {
        "error_rate": float(errors.mean()),
        "area_under_risk_coverage": area_under_risk_coverage(errors, uncertainty),
        "area_of_probability": area_under_risk_coverage(errors, margin),
        "coverage_asked": coverage,
        "referral_threshold": threshold,
        "coverage": float(kept.mean()),
        "kept": _share(errors[kept], test[kept], resampling),
        "referred": _share(errors[~kept], test[~kept], resampling),
        "n_slices": len(test),
        "n_patients": len(test[["source", "patient_id"]].drop_duplicates()),
        "curve": curve.iloc[points][["coverage", "risk"]].to_dict("records"),
    }


def _share(errors: NDArray[np.float64], slices: pd.DataFrame, resampling: Resampling) -> dict[str, Any]:
    value = float(errors.mean()) if len(errors) else math.nan
    low, high = resampling.rate_interval(value, resampling.means(slices, errors), slices)
    return {"value": value, "low": low, "high": high, "n_slices": len(slices)}


def _explanations(test: pd.DataFrame, resampling: Resampling) -> dict[str, Any] | None:
    """Scores of Grad-CAM, of a map of the brain's center and of shuffled weights; None where none were made."""
    scored = test[test["cam_pointing"].notna()]
    if scored.empty:
        return None
    explained: dict[str, Any] = {"n_slices": len(scored)}
    explained["n_patients"] = len(scored[["source", "patient_id"]].drop_duplicates())
    columns = [f"{kind}_{score}" for kind in _CAM_MAPS for score in _CAM_SCORES]
    means = pd.DataFrame({column: resampling.means(scored, scored[column]) for column in columns})

    def with_interval(value: float, resampled: pd.Series[float]) -> dict[str, float]:
        low, high = resampling.interval(np.asarray(resampled.to_numpy(float)), scored)
        return {"value": float(value), "low": low, "high": high}

    for kind in _CAM_MAPS:
        explained[kind] = {
            score: with_interval(scored[f"{kind}_{score}"].mean(), means[f"{kind}_{score}"]) for score in _CAM_SCORES
        }
    explained["above_center"] = {
        score: with_interval(
            scored[f"cam_{score}"].mean() - scored[f"center_{score}"].mean(),
            means[f"cam_{score}"] - means[f"center_{score}"],
        )
        for score in _CAM_SCORES
    }
    explained["randomized_similarity"] = float(scored["randomized_similarity"].mean())
    return explained


def _without_nan(value: Any) -> Any:
    """JSON has neither NaN nor infinity: undefined is null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
