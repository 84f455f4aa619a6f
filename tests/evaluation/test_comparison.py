import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm, wilcoxon

from slicewise.evaluation.comparison import Assessed, compare_models, constant_answer
from slicewise.evaluation.intervals import Resampling, Sample
from slicewise.evaluation.metrics import Tables
from slicewise.evaluation.paired import delong, holm
from slicewise.evaluation.statistics import percentile_interval

from .tables import PUBLISHED, decided, make_table


def assess(*tables, resamples=300):
    import pandas as pd

    resampling = Resampling(pd.concat(tables), Sample(resamples=resamples))
    assessed = {}
    for number, table in enumerate(tables):
        of_model = Tables.of(table)
        assessed["abc"[number]] = Assessed(of_model, resampling.estimate(of_model))
    return assessed, resampling


def outlined(dice_of, *, model, shift=0.0, slices=2, wrong=()):
    """Patients of several slices, each with 100 outlined pixels and as many marked; a free slice each."""
    rows = []
    for patient, dice in enumerate(dice_of):
        for place in range(slices):
            hit = round(100 * (dice + shift))
            row = {"counts": (hit, 100 - hit, 100 - hit), "label": True, "probability": 0.5 + dice / 3 + shift}
            rows.append(row | {"is_tumor": (patient, place) not in wrong})
        rows.append({"counts": (0, 0, 0), "label": False, "probability": 0.4 + dice / 3, "is_tumor": False})
        for place, row in enumerate(rows[-slices - 1 :]):
            row |= {"patient_id": f"p{patient}", "study_id": f"p{patient}", "slice_id": f"{patient}/{place}", "model": model}
    return make_table(rows)


DICE = np.linspace(0.3, 0.8, 12)


def test_published_model_does_not_beat_tumor_for_all():
    models, resampling = assess(make_table(PUBLISHED))
    constant = constant_answer(models["a"], resampling)
    assert constant["answer"] == "tumor"
    assert constant["accuracy"] == pytest.approx(140 / 161)
    assert round(constant["accuracy"], 3) == 0.870
    assert (constant["only_model_right"], constant["only_baseline_right"]) == (11, 4)
    assert constant["p_value"] == pytest.approx(binomtest(4, 15).pvalue)
    assert round(constant["p_value"], 4) == 0.1185
    assert constant["difference"] == pytest.approx(7 / 161)
    assert constant["low"] < constant["difference"] < constant["high"]
    assert constant["beaten"] is False


def test_a_model_that_is_right_beats_the_constant_answer():
    models, resampling = assess(make_table(decided(False, False, 40) + decided(True, True, 20) + decided(True, False, 2)))
    constant = constant_answer(models["a"], resampling)
    assert constant["answer"] == "no tumor"
    assert constant["accuracy"] == pytest.approx(40 / 62)
    assert (constant["only_model_right"], constant["only_baseline_right"]) == (20, 0)
    assert constant["beaten"] is True


def test_slices_of_few_patients_do_not_beat_it_however_many():
    """By McNemar on slices, p < 0.01, it would be beaten; of four patients the resamples are not so sure."""
    rows = [case | {"patient_id": "p0"} for case in decided(False, False, 30) + decided(True, True, 20)]
    for number in range(1, 4):
        rows += [case | {"patient_id": f"p{number}"} for case in decided(True, False, 4) + decided(True, True, 10)]
    models, resampling = assess(make_table(rows))
    constant = constant_answer(models["a"], resampling)
    assert constant["difference"] > 0
    assert (constant["only_model_right"], constant["only_baseline_right"]) == (30, 12)
    assert binomtest(30, 42).pvalue < 0.01
    assert math.isnan(constant["p_value"])
    assert constant["low"] <= 0
    assert constant["beaten"] is False


def test_slices_of_many_patients_beat_it_without_a_p_value():
    """Slices share patients: McNemar's test is not for them, the bootstrap is."""
    rows = []
    for number in range(30):
        answers = decided(False, False, 2) + decided(True, number % 3 > 0, 1 + number % 2)
        rows += [case | {"patient_id": f"p{number}"} for case in answers]
    models, resampling = assess(make_table(rows))
    constant = constant_answer(models["a"], resampling)
    assert math.isnan(constant["p_value"])
    assert constant["low"] > 0
    assert constant["beaten"] is True


def test_one_patient_decides_nothing():
    rows = [case | {"patient_id": "p"} for case in decided(False, False, 30) + decided(True, True, 20)]
    models, resampling = assess(make_table(rows))
    constant = constant_answer(models["a"], resampling)
    assert constant["difference"] == pytest.approx(0.4)
    assert all(math.isnan(constant[name]) for name in ("low", "high", "p_value"))
    assert constant["beaten"] is False
    models, resampling = assess(outlined([0.5], model="a", shift=0.1), outlined([0.5], model="b"))
    (entry,) = compare_models(models, "a", resampling, 0.01, 0.95)
    assert entry["differences"]["volume_dice"]["value"] == pytest.approx(0.1)
    for difference in entry["differences"].values():
        assert math.isnan(difference["low"])
        assert math.isnan(difference["high"])
    assert math.isnan(entry["noninferiority"]["low"])
    assert entry["noninferiority"]["shown"] is False


def test_a_constant_answer_is_beaten_by_nobody_who_gives_it():
    models, resampling = assess(make_table(decided(True, True, 9) + decided(False, True, 3)))
    constant = constant_answer(models["a"], resampling)
    assert (constant["difference"], constant["p_value"]) == (0, 1)
    assert math.isnan(constant["low"])
    assert math.isnan(constant["high"])
    assert constant["beaten"] is False


def test_without_labels_there_is_no_constant_answer():
    models, resampling = assess(make_table([{"label": None}]))
    assert constant_answer(models["a"], resampling) is None


def test_a_pair_by_hand():
    ours = outlined(DICE, model="a", shift=0.05, wrong={(0, 0)})
    theirs = outlined(DICE, model="b", wrong={(0, 1), (3, 0), (4, 0), (5, 1), (6, 0), (7, 0)})
    models, resampling = assess(ours, theirs)
    (entry,) = compare_models(models, "a", resampling, 0.01, 0.95)
    assert (entry["model"], entry["against"], entry["refused"]) == ("a", "b", None)
    tests = {test["test"]: test for test in entry["tests"]}
    assert list(tests) == ["DeLong, clustered", "Wilcoxon, signed ranks"]
    label = ours["label"].to_numpy(bool)
    areas = delong(label, ours["probability"].to_numpy(), theirs["probability"].to_numpy(), ours["patient_id"].to_numpy())
    assert tests["DeLong, clustered"]["p_value"] == pytest.approx(areas.p_value)
    assert tests["DeLong, clustered"]["statistic"] == "z"
    assert 2 * norm.sf(abs(tests["DeLong, clustered"]["statistic_value"])) == pytest.approx(areas.p_value)
    assert tests["DeLong, clustered"]["statistic_value"] * areas.difference > 0
    dice = [one.tables.patients["volume_dice"].to_numpy() for one in models.values()]
    assert dice[0] - dice[1] == pytest.approx(np.full(12, 0.05), abs=0.011)
    assert tests["Wilcoxon, signed ranks"]["p_value"] == pytest.approx(wilcoxon(*dice, zero_method="pratt").pvalue)
    assert (tests["Wilcoxon, signed ranks"]["statistic"], tests["Wilcoxon, signed ranks"]["statistic_value"]) == ("T", 0)
    assert tests["Wilcoxon, signed ranks"]["effect_size"] == 1
    adjusted = holm(np.array([test["p_value"] for test in entry["tests"]]))
    assert [test["p_adjusted"] for test in entry["tests"]] == pytest.approx(adjusted)
    accuracy = entry["differences"]["accuracy"]
    assert (accuracy["value"], accuracy["n_slices"], accuracy["n_patients"]) == (pytest.approx(5 / 36), 36, 12)
    resampled = models["a"].estimates["accuracy"].resampled - models["b"].estimates["accuracy"].resampled
    assert (accuracy["low"], accuracy["high"]) == percentile_interval(resampled, 0.95)


@pytest.mark.parametrize("slices", [1, 2])
def test_answers_are_compared_by_mcnemar_where_each_slice_is_a_patient(slices):
    ours = [case | {"model": "a"} for case in decided(True, True, 9) + decided(True, False, 1) + decided(False, False, 2)]
    theirs = [case | {"model": "b"} for case in decided(True, True, 3) + decided(True, False, 7) + decided(False, False, 2)]
    patients = [{"patient_id": f"p{number // slices}"} for number in range(12)]
    tables = (make_table([row | patient for row, patient in zip(rows, patients, strict=True)]) for rows in (ours, theirs))
    models, resampling = assess(*tables)
    (entry,) = compare_models(models, "a", resampling, 0.01, 0.95)
    found = [test for test in entry["tests"] if test["test"] == "McNemar, exact"]
    assert entry["refused"] is None
    assert entry["differences"]["accuracy"]["value"] == pytest.approx(0.5)
    if slices == 1:
        (test,) = found
        assert (test["statistic"], test["statistic_value"]) == ("only one right", 6)
        assert test["p_value"] == pytest.approx(binomtest(6, 6).pvalue)
        assert (test["effect_size"], test["n_slices"], test["n_patients"]) == (0.5, 12, 12)
    else:
        assert found == []


def test_differences_are_paired():
    """Patients vary by half a Dice, the models by 0.05 or 0.06: unpaired, the interval would be as wide as the patients."""
    models, resampling = assess(outlined(DICE + np.resize([0.05, 0.06], 12), model="a"), outlined(DICE, model="b"))
    (entry,) = compare_models(models, "a", resampling, 0.01, 0.95)
    difference = entry["differences"]["volume_dice"]
    assert difference["high"] - difference["low"] < 0.01
    alone = models["a"].estimates["volume_dice"]
    assert alone.high - alone.low > 0.1


@pytest.mark.parametrize(("shift", "shown"), [(0.0, True), (0.05, True), (-0.05, False)])
def test_not_inferior_is_a_matter_of_the_margin(shift, shown):
    models, resampling = assess(outlined(DICE, model="a", shift=shift), outlined(DICE, model="b"))
    (entry,) = compare_models(models, "a", resampling, 0.02, 0.95)
    verdict = entry["noninferiority"]
    assert verdict["shown"] is shown
    assert (verdict["margin"], verdict["confidence"], verdict["n_patients"]) == (0.02, 0.95, 12)
    assert verdict["low"] == pytest.approx(shift, abs=0.01)
    wide = compare_models(models, "a", resampling, 0.1, 0.95)[0]["noninferiority"]
    assert wide["shown"] is True


def test_all_tests_of_all_pairs_are_adjusted_together():
    tables = [
        outlined(DICE, model=name, shift=shift, wrong={(0, 0)}) for name, shift in zip("abc", (0, 0.1, 0.2), strict=True)
    ]
    models, resampling = assess(*tables)
    entries = compare_models(models, "a", resampling, 0.01, 0.95)
    tests = [test for entry in entries for test in entry["tests"]]
    assert [entry["against"] for entry in entries] == ["b", "c"]
    assert len(tests) == 4
    adjusted = holm(np.array([test["p_value"] for test in tests]))
    assert [test["p_adjusted"] for test in tests] == pytest.approx(adjusted, nan_ok=True)


def refused(ours, theirs):
    models, resampling = assess(ours, theirs)
    (entry,) = compare_models(models, "a", resampling, 0.01, 0.95)
    assert entry["tests"] == []
    assert entry["differences"] == {}
    assert entry["noninferiority"] is None
    return entry["refused"]


def test_where_one_model_lacks_a_slice_nothing_is_tested():
    """The patients are the same, and so is each patient's Dice as a name: their slices are not."""
    ours = outlined(DICE, model="a")
    assert "same slices" in refused(ours, outlined(DICE, model="b").drop(index=4))
    assert "same slices" in refused(ours.drop(index=4), outlined(DICE, model="b"))


def test_as_many_slices_are_not_the_same_slices():
    assert "same slices" in refused(outlined(DICE, model="a").drop(index=0), outlined(DICE, model="b").drop(index=1))


def test_other_patients_are_not_tested():
    other = outlined(DICE, model="b")
    assert "same slices" in refused(outlined(DICE, model="a"), other.assign(slice_id="x" + other["slice_id"]))


def test_labels_that_contradict_one_another_are_not_tested():
    ours, theirs = outlined(DICE, model="a"), outlined(DICE, model="b")
    theirs.loc[2, "label"] = True
    models, resampling = assess(ours, theirs)
    (entry,) = compare_models(models, "a", resampling, 0.01, 0.95)
    assert [test["metric"] for test in entry["tests"]] == ["volume_dice"]
    assert "accuracy" not in entry["differences"]


def test_a_model_that_does_not_classify_is_compared_by_its_masks():
    theirs = outlined(DICE, model="b").assign(probability=math.nan)
    models, resampling = assess(outlined(DICE, model="a"), theirs)
    (entry,) = compare_models(models, "a", resampling, 0.01, 0.95)
    assert [test["metric"] for test in entry["tests"]] == ["volume_dice"]
    assert list(entry["differences"]) == ["volume_dice", "slice_dice"]


def test_the_order_of_rows_does_not_matter():
    ours, theirs = outlined(DICE, model="a", shift=0.05, wrong={(0, 0)}), outlined(DICE, model="b", wrong={(2, 0)})
    straight = compare_models(*(lambda m, r: (m, "a", r))(*assess(ours, theirs)), 0.01, 0.95)
    shuffled = compare_models(*(lambda m, r: (m, "a", r))(*assess(ours, theirs.sample(frac=1, random_state=0))), 0.01, 0.95)
    for one, other in zip(straight[0]["tests"], shuffled[0]["tests"], strict=True):
        assert one["p_value"] == pytest.approx(other["p_value"], nan_ok=True)
    assert straight[0]["noninferiority"]["low"] == pytest.approx(shuffled[0]["noninferiority"]["low"])
