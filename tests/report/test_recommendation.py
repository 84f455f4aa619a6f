"""What an operating point is recommended for follows from the worst ends of its intervals."""

import pytest

from slicewise.report.recommendation import recommend


def figure(value, low, high, n_patients=50):
    return {"value": value, "low": low, "high": high, "n_slices": 500, "n_patients": n_patients}


def results(rows, n_patients=50):
    test = {"sensitivity": figure(0.97, 0.93, 0.99, n_patients), "specificity": figure(0.9, 0.85, 0.95)}
    return {"test": test | {"accuracy": figure(0.93, 0.9, 0.95)}, "predictive_values": rows}


def row(prevalence, ppv_low, npv_low):
    ends = {"ppv": ppv_low, "npv": npv_low}
    return {"prevalence": prevalence} | {
        name: {"value": low + 0.002, "low": low, "high": low + 0.004} for name, low in ends.items()
    }


def the_one(sentences, start):
    (found,) = [sentence for sentence in sentences if sentence.startswith(start)]
    return found


def test_every_prevalence_is_said_with_its_interval():
    said = recommend(results([row(0.05, 0.3, 0.985), row(0.3, 0.8, 0.97)]))
    assert '"tumor" is right in 30.2 % (30.0 % to 30.4 %), "no tumor" in 98.7 %' in the_one(said, "With 5.0 % tumor slices")
    assert "not supported at any prevalence" in the_one(said, "Ruling out")
    assert "not supported at any prevalence" in the_one(said, "Ruling in")


def test_a_use_is_conceivable_only_where_the_worse_end_reaches_the_bar():
    said = recommend(results([row(0.01, 0.1, 0.9995), row(0.1, 0.3, 0.991), row(0.2, 0.5, 0.985), row(0.5, 0.92, 0.9)]))
    ruled_out = the_one(said, "Ruling out: conceivable")
    assert "up to 10.0 %" in ruled_out
    assert "of 10.0 % tumor slices it leaves 11.11 times fewer" in ruled_out
    assert "from 50.0 % on" in the_one(said, "Ruling in: conceivable")


@pytest.mark.parametrize(("npv_low", "conceivable"), [(0.9991, True), (0.9989, False), (0.9901, False)])
def test_where_tumors_are_rare_a_high_npv_is_not_enough(npv_low, conceivable):
    """Of one tumor slice in a hundred, "no tumor" must leave one in a thousand at most: 0.99 it is worth without a look."""
    said = the_one(recommend(results([row(0.01, 0.1, npv_low), row(0.05, 0.3, 0.98)])), "Ruling out")
    assert ("conceivable at prevalences up to 1.0 %" in said) == conceivable
    assert ("not supported at any prevalence" in said) != conceivable
    assert "at least 10 times rarer" in said
    assert f"of 1.0 % tumor slices it leaves {0.01 / (1 - npv_low):.4g} times fewer" in said


@pytest.mark.parametrize(("n_patients", "few"), [(9, True), (10, False)])
def test_few_patients_are_an_example(n_patients, few):
    said = recommend(results([row(0.05, 0.3, 0.98)], n_patients))
    assert any("is an example" in sentence for sentence in said) == few


def test_without_both_classes_nothing_is_recommended():
    (said,) = recommend(results([]))
    assert "no operating point" in said
