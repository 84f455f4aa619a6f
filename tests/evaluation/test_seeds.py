"""Runs taken together, from tables whose every figure is known by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from slicewise.config import EvaluationConfig, GateConfig
from slicewise.errors import InputError
from slicewise.evaluation.cases import CASE_COLUMNS, make_volumes
from slicewise.evaluation.facts import Facts, ModelFacts
from slicewise.evaluation.metrics import METRICS
from slicewise.evaluation.record import Record
from slicewise.evaluation.seeds import compare_runs, tabulate_runs
from slicewise.model.engine import Calibration


def case(model, patient, number=0, *, split="test", dice=None, label=True, probability=0.9, group=None, source="lgg"):
    """A slice; of one whose Dice is given, 100 pixels each are marked and outlined."""
    row = dict.fromkeys(CASE_COLUMNS) | {
        "model": model,
        "split": split,
        "source": source,
        "patient_id": patient,
        "study_id": patient,
        "slice_id": f"{patient}/{number}",
        "sequence": "flair",
        "label": label,
        "classification": label is not None,
        "probability": probability,
        "threshold": 0.5,
        "is_tumor": probability is not None and probability >= 0.5,
        "mask_state": "unknown" if dice is None else "present",
        "duplicate_group": group,
    }
    if dice is not None:
        row |= {"tp": round(100 * dice), "fp": 100 - round(100 * dice), "fn": 100 - round(100 * dice), "tn": 0}
    return row


def free(model, patient, false_pixels):
    """A slice without tumor."""
    row = case(model, patient, label=False, probability=0.1)
    return row | {"mask_state": "empty", "tp": 0, "fp": false_pixels, "fn": 0, "tn": 100 - false_pixels}


def record(rows, model_id=None, margin=0.05):
    cases = pd.DataFrame(rows, columns=list(CASE_COLUMNS)).astype({name: kind for name, (kind, _) in CASE_COLUMNS.items()})
    described = {}
    if model_id is not None:
        described["joint"] = ModelFacts(
            model_id=model_id,
            threshold=0.5,
            **Calibration()._asdict(),
            parameters=1,
            epochs=1,
            duration_s=1,
            gate=None,
        )
    facts = Facts(models=described, evaluation=EvaluationConfig(resamples=1000), gate=GateConfig(margin=margin))
    return Record(cases, make_volumes(cases), facts)


def run(joint, alone, **options):
    """Dice by patient of two models."""
    pairs = (("joint", joint), ("segmentation_only", alone))
    return record(
        [case(model, patient, dice=dice) for model, scores in pairs for patient, dice in scores.items()], **options
    )


@pytest.fixture
def records():
    """p1 is tested twice: its difference is the mean of 0.1 and 0.3; that of p2 is 0.4."""
    first = run({"p1": 0.8, "p2": 0.9}, {"p1": 0.7, "p2": 0.5})
    return {"a": first, "b": run({"p1": 0.6}, {"p1": 0.3})}


def test_a_figure_over_runs_by_hand(records):
    figure = compare_runs(records)["models"]["joint"]["volume_dice"]
    assert figure == {
        "mean": pytest.approx((0.85 + 0.6) / 2),
        "standard_deviation": pytest.approx(0.25 / math.sqrt(2)),
        "min": pytest.approx(0.6),
        "max": pytest.approx(0.85),
        "n_runs": 2,
        "by_run": {"a": pytest.approx(0.85), "b": pytest.approx(0.6)},
    }


def test_a_figure_that_a_run_lacks_is_left_out_and_counted(records):
    records["c"] = record([case(model, "p9") for model in ("joint", "segmentation_only")])
    figures = compare_runs(records)["models"]["joint"]
    assert figures["volume_dice"]["n_runs"] == 2
    assert figures["volume_dice"]["by_run"]["c"] is None
    assert figures["volume_dice"]["mean"] == pytest.approx((0.85 + 0.6) / 2)
    nothing = {"mean": None, "standard_deviation": None, "min": None, "max": None, "n_runs": 0}
    assert figures["roc_auc"] == nothing | {"by_run": dict.fromkeys("abc")}
    lonely = compare_runs({"a": records["a"], "c": records["c"]})["models"]["joint"]["volume_dice"]
    assert (lonely["n_runs"], lonely["standard_deviation"]) == (1, None)


def test_a_patient_of_several_runs_is_one_patient(records):
    [entry] = compare_runs(records)["comparisons"]
    assert (entry["model"], entry["against"]) == ("joint", "segmentation_only")
    dice = entry["volume_dice"]
    assert dice["value"] == pytest.approx((0.2 + 0.4) / 2)
    assert (dice["n_patients"], dice["n_runs"]) == (2, 2)
    # Of two patients a resample has one twice or both: the ends are the two themselves.
    assert (dice["low"], dice["high"]) == (pytest.approx(0.2), pytest.approx(0.4))
    assert dice["p_value"] == dice["p_adjusted"] == 0.5  # both ahead: two of the four signs are as extreme
    # By run, 0.25 and 0.3.
    assert dice["standard_deviation"] == pytest.approx(0.05 / math.sqrt(2))


@pytest.mark.parametrize(("loss", "margin", "shown"), [(0.04, 0.05, True), (0.06, 0.05, False), (0.06, 0.1, True)])
def test_not_inferior_where_the_worst_case_is_within_the_margin_of_the_first_run(loss, margin, shown):
    scores = {f"p{number}": 0.8 for number in range(4)}
    worse = {patient: dice - loss for patient, dice in scores.items()}
    comparison = compare_runs({"a": run(worse, scores, margin=margin), "b": run(worse, scores, margin=0.5)})
    verdict = comparison["comparisons"][0]["noninferiority"]
    assert verdict == {"margin": margin, "confidence": 0.95, "low": pytest.approx(-loss), "shown": shown, "n_patients": 4}
    assert ("of it is shown: " if shown else "of it is not shown: ") in tabulate_runs(comparison)


def test_a_false_mask_of_one_model_counts_as_0_against_the_others_1(records):
    """p1 differs by the mean of 0.1 and 0.3, p2 by 0.4, and p3, in whom only the joint model draws something, by -1."""
    rows = [case("joint", "p1", dice=0.6), case("segmentation_only", "p1", dice=0.3)]
    records["b"] = record([*rows, free("joint", "p3", 7), free("segmentation_only", "p3", 0)])
    dice = compare_runs(records)["comparisons"][0]["volume_dice"]
    assert (dice["value"], dice["n_patients"]) == (pytest.approx((0.2 + 0.4 - 1) / 3), 3)
    assert "n_left_out" not in dice


def test_a_run_whose_models_did_not_see_the_same_slices_is_not_paired(records):
    rows = [case("joint", "p1", dice=0.6), case("segmentation_only", "p1", dice=0.3)]
    records["b"] = record([*rows, case("joint", "p3"), case("segmentation_only", "p3", dice=0.0)])
    dice = compare_runs(records)["comparisons"][0]["volume_dice"]
    assert (dice["value"], dice["n_patients"], dice["n_runs"]) == (pytest.approx((0.1 + 0.4) / 2), 2, 1)


def test_one_patient_shows_nothing(records):
    one = {name: run({"p1": 0.8}, {"p1": 0.8 - number / 10}) for number, name in enumerate("ab")}
    [entry] = compare_runs(one)["comparisons"]
    assert (entry["volume_dice"]["low"], entry["volume_dice"]["high"]) == (None, None)
    assert (entry["noninferiority"]["low"], entry["noninferiority"]["shown"]) == (None, False)


def test_copies_tie_patients_together_within_a_run_but_not_across():
    """Two runs number their groups each from 0: p1 and p2 of one are copies, p3 of the other is nobody's."""
    first = [
        case(m, p, dice=d, group=0) for m, dice in (("joint", 0.9), ("alone", 0.5)) for p, d in (("p1", dice), ("p2", dice))
    ]
    second = [case(model, "p3", dice=dice, group=0) for model, dice in (("joint", 0.7), ("alone", 0.5))]
    dice = compare_runs({"a": record(first), "b": record(second)})["comparisons"][0]["volume_dice"]
    assert (dice["low"], dice["high"]) == (pytest.approx(0.2), pytest.approx(0.4))
    alone = compare_runs({"a": record(first), "b": record(first)})["comparisons"][0]["volume_dice"]
    assert (alone["low"], alone["high"], alone["n_patients"]) == (None, None, 2)


def answers(probabilities, labels, model):
    """One slice a patient."""
    return [
        case(model, f"p{number}", label=label, probability=probability)
        for number, (label, probability) in enumerate(zip(labels, probabilities, strict=True))
    ]


def test_areas_are_compared_within_runs_and_averaged():
    random = np.random.default_rng(0)
    labels = np.arange(24) % 2 == 0
    scores = {name: random.random(24) + 0.4 * labels for name in ("joint a", "joint b", "alone a", "alone b")}
    scores = {name: values / 2 for name, values in scores.items()}
    records = {
        name: record(answers(scores[f"joint {name}"], labels, "joint") + answers(scores[f"alone {name}"], labels, "alone"))
        for name in "ab"
    }
    [entry] = compare_runs(records)["comparisons"]
    by_run = [
        roc_auc_score(labels, scores[f"joint {name}"]) - roc_auc_score(labels, scores[f"alone {name}"]) for name in "ab"
    ]
    found = entry["roc_auc"]
    assert found["value"] == pytest.approx(np.mean(by_run))
    assert found["standard_deviation"] == pytest.approx(np.std(by_run, ddof=1))
    assert (found["n_patients"], found["n_runs"]) == (24, 2)
    # The same bootstrap with copied cases, patient by patient.
    drawn = []
    for _ in range(300):
        rows = random.integers(0, 24, 24)
        areas = {name: roc_auc_score(labels[rows], values[rows]) for name, values in scores.items()}
        drawn.append(np.mean([areas[f"joint {name}"] - areas[f"alone {name}"] for name in "ab"]))
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), abs=0.05)
    assert entry["volume_dice"] is None
    assert entry["noninferiority"] is None


def test_a_run_with_one_label_alone_has_no_area_and_does_not_count():
    both = answers([0.9, 0.2, 0.4, 0.6], [True, False, True, False], "joint")
    both += answers([0.9, 0.2, 0.1, 0.6], [True, False, True, False], "alone")
    single = answers([0.9, 0.8], [True, True], "joint") + answers([0.9, 0.8], [True, True], "alone")
    found = compare_runs({"a": record(both), "b": record(single)})["comparisons"][0]["roc_auc"]
    assert found["value"] == pytest.approx(3 / 4 - 2 / 4)
    assert (found["n_runs"], found["standard_deviation"], found["n_patients"]) == (1, None, 4)


def test_baselines_are_tabulated_but_not_compared_and_models_that_a_run_lacks_are_named(records):
    records = {
        name: Record(pd.concat([cases, cases[cases["model"] == "joint"].assign(model="metadata_only")]), volumes, facts)
        for name, (cases, volumes, facts) in records.items()
    }
    extra = records["a"].cases[records["a"].cases["model"] == "joint"].assign(model="classification_only")
    records["a"] = records["a"]._replace(cases=pd.concat([records["a"].cases, extra]))
    comparison = compare_runs(records)
    assert list(comparison["models"]) == ["joint", "segmentation_only", "metadata_only"]
    assert [entry["against"] for entry in comparison["comparisons"]] == ["segmentation_only"]
    assert comparison["left_out"] == ["classification_only"]
    assert "not all runs have them: classification_only." in tabulate_runs(comparison)


def test_several_tests_are_adjusted_for_their_number(records):
    more = {}
    for name, (cases, volumes, facts) in records.items():
        other = [table[table["model"] == "segmentation_only"].assign(model="segmentation") for table in (cases, volumes)]
        more[name] = Record(pd.concat([cases, other[0]]), pd.concat([volumes, other[1]]), facts)
    tests = [entry["volume_dice"] for entry in compare_runs(more)["comparisons"]]
    assert [(test["p_value"], test["p_adjusted"]) for test in tests] == [(0.5, 1.0), (0.5, 1.0)]


def test_validation_patients_take_no_part(records):
    cases = records["a"].cases
    val = cases.assign(split="val", tp=0, fp=100, fn=100)
    mixed = pd.concat([cases, val], ignore_index=True)
    with_val = records["a"]._replace(cases=mixed, volumes=make_volumes(mixed))
    assert compare_runs(records | {"a": with_val}) == compare_runs(records)


def test_what_comes_back_is_json_and_the_same_every_time(records):
    comparison = compare_runs(records)
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison == compare_runs(records)
    assert set(comparison["models"]["joint"]) == set(METRICS)


def test_the_table_and_its_sentences(records):
    lines = tabulate_runs(compare_runs(records)).splitlines()
    assert lines[0].split("|")[1:-1] == [
        " model             ",
        " figure      ",
        " mean ± SD     ",
        " range          ",
        " runs ",
    ]
    assert "| joint             | volume Dice | 0.725 ± 0.177 | 0.600 to 0.850 | 2    |" in lines
    assert len({len(line) for line in lines[: lines.index("")]}) == 1
    assert lines[lines.index("") + 1 :] == [
        "Volume Dice of joint less that of segmentation_only: +0.300 (95 % interval +0.200 to +0.400; 2 patients, 2 runs; "
        "Wilcoxon p = 0.500, adjusted p = 0.500).",
        "That joint loses at most 0.05 of it is shown: with a confidence of 95 % the difference is at least +0.200.",
    ]


def without_test(given):
    return given._replace(cases=given.cases.assign(split="val"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: {}, "at least two runs, got none"),
        (lambda given: {"a": given["a"]}, "at least two runs, got a"),
        (lambda given: given | {"b": without_test(given["b"])}, "test slices in the table of cases of b"),
        (lambda given: given | {"c": record([case("other", "p1")])}, "got a: joint, b: joint, c: other"),
        (
            lambda given: given | {"c": record([case("joint", "p1", split="val"), case("other", "p1")])},
            "test slices of model joint in the table of c",
        ),
        (
            lambda given: {name: run({"p1": 0.8}, {"p1": 0.7}, model_id="0123456789ab") for name in "xy"},
            r"x and y have the same weights of model joint \(0123456789ab\)",
        ),
    ],
    ids=["none", "one", "no test", "another model", "main model not tested", "the same run twice"],
)
def test_what_cannot_be_compared_is_refused(records, change, message):
    with pytest.raises(InputError, match=message):
        compare_runs(change(records))
