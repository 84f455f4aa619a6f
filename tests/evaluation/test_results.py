"""`results.json` from tables of cases whose every figure is known by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.config import EvaluationConfig
from slicewise.evaluation.calibration import expected_calibration_error, reliability
from slicewise.evaluation.cases import make_volumes
from slicewise.evaluation.facts import Facts, ModelFacts
from slicewise.evaluation.metrics import METRICS
from slicewise.evaluation.results import FORMAT, choose_main, summarize
from slicewise.evaluation.statistics import wilson_interval

from .tables import PUBLISHED, make_table, random_cases

FACTS = Facts(evaluation=EvaluationConfig(resamples=1000))


def results_of(cases, facts=FACTS):
    table = cases if isinstance(cases, pd.DataFrame) else make_table(cases)
    return summarize(table, make_volumes(table), facts)


def case(model, split, source, patient, label, called, counts=None, place=0):
    row = {"model": model, "split": split, "source": source, "patient_id": patient, "study_id": patient, "label": label}
    row |= {"is_tumor": called, "probability": 0.9 if called else 0.1, "slice_id": f"{source}/{patient}/{place}"}
    return row if counts is None else row | {"counts": counts}


@pytest.fixture(scope="module")
def results():
    described = ModelFacts(
        model_id="joint0000000",
        threshold=0.4,
        decoder_share=0.6,
        center=5.4,
        temperature=1.0,
        parameters=12,
        epochs=2,
        duration_s=3.5,
        gate=None,
    )
    facts = Facts(
        name="a name",
        models={"joint": described},
        data=[{"source": "lgg"}],
        skipped=[{"file": "broken.png", "reason": "no picture"}],
        evaluation=EvaluationConfig(resamples=1000),
    )
    rows = [
        case("joint", "test", "lgg", "p2", True, True, (3, 1, 1), 0),  # Dice 6 / 8
        case("joint", "test", "lgg", "p2", False, True, (0, 2, 0), 1),  # a false mask
        case("joint", "test", "lgg", "p2", False, False, (0, 0, 0), 2),
        case("joint", "test", "yes_no", "q1", True, False),
        case("joint", "val", "yes_no", "q2", False, False, (0, 0, 0)),
        case("segmentation_only", "test", "lgg", "p2", True, True, (4, 0, 0)),
        case("metadata_only", "test", "lgg", "p2", True, False),
        case("somebody's", "test", "lgg", "p2", True, True),
    ]
    return results_of(make_table(rows), facts)


def shown(figure):
    return {name: figure[name] for name in ("value", "n_slices", "n_patients")}


def test_every_figure_stands_where_it_is_promised(results):
    test = results["phases"]["joint"]["test"]
    assert list(test) == list(METRICS)
    assert shown(test["slice_dice"]) == {"value": pytest.approx((6 / 8 + 0) / 2), "n_slices": 2, "n_patients": 1}
    assert shown(test["volume_dice"]) == {"value": pytest.approx(2 * 3 / (2 * 3 + 3 + 1)), "n_slices": 3, "n_patients": 1}
    assert shown(test["accuracy"]) == {"value": pytest.approx(2 / 4), "n_slices": 4, "n_patients": 2}
    assert shown(test["false_mask_rate"]) == {"value": pytest.approx(1 / 2), "n_slices": 2, "n_patients": 1}
    assert results["test"] == test
    assert results["format"] == FORMAT
    assert results["sample"] == {"resamples": 1000, "confidence": 0.95, "seed": 0}


def test_validation_is_not_mixed_into_test(results):
    val = results["phases"]["joint"]["val"]
    assert shown(val["specificity"]) == {"value": 1.0, "n_slices": 1, "n_patients": 1}
    assert shown(val["sensitivity"]) == {"value": None, "n_slices": 0, "n_patients": 0}


def test_each_model_keeps_its_own_cases_and_facts(results):
    assert results["single_task"]["segmentation"]["test"]["slice_dice"]["value"] == 1.0
    assert results["baselines"]["metadata_only"]["test"]["accuracy"]["value"] == 0.0
    assert results["models"]["somebody's"]["test"]["accuracy"]["value"] == 1.0
    joint = results["phases"]["joint"]
    assert (joint["threshold"], joint["epochs"], joint["duration_s"]) == (0.4, 2, 3.5)
    assert (results["name"], results["model"], results["model_id"]) == ("a name", "joint", "joint0000000")
    assert [entry["against"] for entry in results["comparisons"]] == ["segmentation_only", "metadata_only", "somebody's"]


def test_what_the_table_does_not_say_is_handed_on(results):
    assert results["data"] == [{"source": "lgg"}]
    assert results["skipped"] == [{"file": "broken.png", "reason": "no picture"}]


def test_published_counts_from_table_to_json():
    results = results_of(PUBLISHED)
    test = results["test"]
    assert test["accuracy"]["value"] == pytest.approx(0.91304, abs=5e-6)
    for name, successes, count in (("accuracy", 147, 161), ("sensitivity", 136, 140), ("specificity", 11, 21)):
        low, high = wilson_interval(successes, count, 0.95)
        expected = {"value": successes / count, "low": low, "high": high, "n_slices": count, "n_patients": count}
        assert test[name] == pytest.approx(expected | {"interval": "wilson"})
    constant = results["constant"]
    assert (constant["answer"], round(constant["accuracy"], 3), constant["beaten"]) == ("tumor", 0.870, False)
    assert round(constant["p_value"], 4) == 0.1185
    assert results["comparisons"] == []
    assert results["tumor_volume"] is results["uncertainty"] is results["explanations"] is None


def test_predictive_values_by_bayes():
    """Of 1000 with one tumor in ten, 136/140 of 100 are found, and 10/21 of 900 called wrongly."""
    rows = {row["prevalence"]: row for row in results_of(PUBLISHED)["predictive_values"]}
    assert list(rows) == [0.01, 0.05, 0.1, 0.3, 0.5]
    found, alarms, missed, rejected = 100 * 136 / 140, 900 * 10 / 21, 100 * 4 / 140, 900 * 11 / 21
    assert rows[0.1]["ppv"]["value"] == pytest.approx(found / (found + alarms))
    assert rows[0.1]["npv"]["value"] == pytest.approx(rejected / (rejected + missed))
    for row in rows.values():
        for value in (row["ppv"], row["npv"]):
            assert value["low"] < value["value"] < value["high"]
    assert results_of([{"label": True}])["predictive_values"] == []


def test_calibration_is_told_before_and_after():
    cases = random_cases(1)
    calibration = results_of(cases)["calibration"]
    label = cases["label"].to_numpy(bool)
    for moment, column in (("before", "raw_probability"), ("after", "probability")):
        values = cases[column].to_numpy(float)
        error = calibration[moment]["expected_calibration_error"]["value"]
        assert error == pytest.approx(expected_calibration_error(values, label))
        assert calibration[moment]["brier_score"]["value"] == pytest.approx(np.mean((values - label) ** 2))
        assert [entry["n"] for entry in calibration[moment]["bins"]] == reliability(values, label)["n"].tolist()
    assert "before" not in results_of(cases.assign(raw_probability=math.nan))["calibration"]
    assert results_of([{"label": None}])["calibration"] is None


def test_referral_is_chosen_on_val_and_judged_on_test():
    rows = [{"split": "val", "label": True, "slice_id": f"v{number}"} for number in range(10)]
    rows += [{"label": number < 6, "is_tumor": True, "slice_id": f"t{number}"} for number in range(8)]
    uncertainty = [number / 10 for number in range(10)] + [0.1, 0.2, 0.3, 0.4, 0.5, 0.95, 0.9, 0.85]
    cases = make_table(rows).assign(uncertainty=uncertainty)
    found = results_of(cases, Facts(evaluation=EvaluationConfig(resamples=1000, coverage=0.8)))["uncertainty"]
    assert found["referral_threshold"] == 0.7
    assert (found["coverage"], found["coverage_asked"], found["n_slices"]) == (5 / 8, 0.8, 8)
    assert (found["kept"]["value"], found["kept"]["n_slices"]) == (0, 5)
    assert (found["referred"]["value"], found["referred"]["n_slices"]) == (pytest.approx(2 / 3), 3)
    assert (found["kept"]["low"], found["kept"]["high"]) == wilson_interval(0, 5, 0.95)
    assert found["error_rate"] == 2 / 8
    assert found["curve"][-1] == {"coverage": 1, "risk": 0.25}


def test_shares_of_wrong_answers_have_intervals_over_patients():
    """Four patients of five slices each, all wrong in one: Wilson's interval of 5 in 20 would take them as independent.

    That this patient is not drawn in four has a probability of 0.75⁴ = 0.32, that it is drawn three times of 0.047, in all
    four of 0.004.
    """
    rows = [{"split": "val", "label": True, "slice_id": f"v{number}"} for number in range(10)]
    rows += [{"label": number >= 5, "is_tumor": True, "patient_id": f"t{number // 5}"} for number in range(20)]
    cases = make_table(rows).assign(uncertainty=[0.5] * 10 + [0.1] * 20)
    kept = results_of(cases)["uncertainty"]["kept"]
    assert (kept["value"], kept["n_slices"]) == (0.25, 20)
    assert (kept["low"], kept["high"]) == (0, 0.75)


def test_explanations_are_compared_with_the_brains_center():
    rows = [{"label": True, "patient_id": f"p{number // 2}", "counts": (1, 0, 0)} for number in range(8)]
    cases = make_table([*rows, {"label": False}])
    for name in ("cam", "center", "randomized"):
        for score in ("pointing", "mass_in_mask", "iou"):
            value = {"cam": 0.75, "center": 0.25, "randomized": 0.1}[name]
            cases[f"{name}_{score}"] = [value + (number - 3.5) / 100 for number in range(8)] + [math.nan]
    cases["randomized_similarity"] = [0.0, 0.1] * 4 + [math.nan]
    found = results_of(cases)["explanations"]
    assert (found["n_slices"], found["n_patients"]) == (8, 4)
    assert found["cam"]["pointing"]["value"] == pytest.approx(0.75)
    assert found["cam"]["pointing"]["low"] < 0.75 < found["cam"]["pointing"]["high"]
    above = found["above_center"]["iou"]  # paired: it is the same in every slice, of which no resample can tell more
    assert above == {"value": pytest.approx(0.5), "low": None, "high": None}
    assert found["randomized_similarity"] == pytest.approx(0.05)


def test_explanations_of_one_patient_have_no_interval():
    cases = make_table([{"label": True, "patient_id": "p", "counts": (1, 0, 0)}] * 4)
    for name, value in (("cam", 0.8), ("center", 0.3), ("randomized", 0.1)):
        for score in ("pointing", "mass_in_mask", "iou"):
            cases[f"{name}_{score}"] = value + np.arange(4) / 100
    found = results_of(cases.assign(slice_id=list("abcd")).astype({"slice_id": "string"}))["explanations"]
    assert found["above_center"]["pointing"] == {"value": pytest.approx(0.5), "low": None, "high": None}
    assert found["cam"]["pointing"]["low"] is None


@pytest.mark.parametrize("seed", [0, 1])
def test_shuffled_rows_change_no_byte(seed):
    cases = random_cases(seed, patients=10, models=("joint", "zeta", "alpha"))
    cases["split"] = np.where(cases["patient_id"].isin(["p1", "p2"]), "val", "test")
    cases["duplicate_group"] = np.where(cases["patient_id"].isin(["p4", "p7"]), 3, None)
    cases = cases.astype({"split": "string", "duplicate_group": "Int64"})
    volumes = make_volumes(cases)
    straight = json.dumps(summarize(cases, volumes, FACTS), allow_nan=False)
    shuffled = cases.sample(frac=1, random_state=seed)
    again = summarize(shuffled, volumes.sample(frac=1, random_state=seed), FACTS)
    assert json.dumps(again, allow_nan=False) == straight
    assert json.dumps(summarize(shuffled.reset_index(drop=True), make_volumes(shuffled), FACTS), allow_nan=False) == straight


@settings(deadline=None, max_examples=2)
@given(seed=st.integers(0, 10**6))
def test_what_is_said_is_json_whatever_the_table(seed):
    results = results_of(random_cases(seed, patients=4))
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    for name, figure in results["test"].items():
        if figure["low"] is not None:
            assert figure["low"] <= figure["high"], name


@pytest.mark.parametrize(
    "cases", [[{"label": None}], [{"label": True, "split": "val"}], [{"label": True, "probability": math.nan}]]
)
def test_tables_that_say_little_are_said_to(cases):
    results = results_of(cases)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert results["constant"] is None
    assert results["test"]["accuracy"]["value"] is None


def test_the_confidence_asked_for_is_that_of_every_interval():
    cases = random_cases(2)
    narrow, wide = (
        results_of(cases, Facts(evaluation=EvaluationConfig(resamples=1000, confidence=level))) for level in (0.8, 0.95)
    )
    label = cases["label"].to_numpy(bool)
    bins = reliability(cases["probability"].to_numpy(float), label, confidence=0.8).to_dict("records")
    assert [entry["share_low"] for entry in narrow["calibration"]["after"]["bins"]] == [
        None if math.isnan(entry["share_low"]) else entry["share_low"] for entry in bins
    ]
    for part in ("bias", "upper_limit"):
        assert narrow["tumor_volume"][part]["value"] == wide["tumor_volume"][part]["value"]
        assert narrow["tumor_volume"][part]["high"] < wide["tumor_volume"][part]["high"]


def test_several_sources_are_compared_with_their_frequencies():
    cases = [{"source": "x", "label": number < 9} for number in range(10)] + [
        {"source": "y", "label": number < 1} for number in range(10)
    ]
    results = results_of(cases)
    (entry,) = results["comparisons"]
    assert entry["against"] == "source_only"
    assert {test["metric"] for test in entry["tests"]} == {"accuracy", "roc_auc"}
    one_source = [change | {"source": "x"} for change in cases]
    assert results_of(one_source)["comparisons"] == []


def test_frequencies_are_those_of_the_main_models_slices():
    """The table's first model is not the first by name, and the other's labels are all the same."""
    cases = [
        {"model": "z", "source": source, "label": number < tumors, "slice_id": f"{source}{number}"}
        for source, tumors in (("x", 9), ("y", 1))
        for number in range(10)
    ]
    results = results_of(cases + [change | {"model": "a", "label": True} for change in cases])
    (entry,) = [entry for entry in results["comparisons"] if entry["against"] == "source_only"]
    assert results["model"] == "z"
    assert entry["differences"]["accuracy"]["value"] == pytest.approx(10 / 20 - 18 / 20)


def test_the_main_model_is_the_joint_one_or_the_first():
    assert choose_main(make_table([{"model": "b"}, {"model": "joint"}])) == "joint"
    assert choose_main(make_table([{"model": "b"}, {"model": "a"}])) == "b"
