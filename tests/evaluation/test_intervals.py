import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.evaluation.intervals import Resampling, Sample
from slicewise.evaluation.metrics import METRICS, Tables, measure
from slicewise.evaluation.statistics import percentile_interval, wilson_interval

from .tables import PUBLISHED, decided, make_table, random_cases, repeat

FEW = Sample(resamples=60)


def estimate(cases, sample=FEW):
    return Resampling(cases, sample).estimate(Tables.of(cases))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_resampled_figures_are_those_of_tables_with_patients_copied(seed):
    """The brute force: every patient's rows as often as it was drawn, measured anew."""
    cases = random_cases(seed)
    sample = Sample(resamples=12, seed=seed)
    resampling, estimates = Resampling(cases, sample), estimate(cases, sample)
    patients = sorted(set(zip(cases["source"], cases["patient_id"], strict=True)))
    assert resampling.count == len(patients)
    for draw, weights in enumerate(resampling.weights):
        figures = measure(repeat(cases, dict(zip(patients, weights.tolist(), strict=True))))
        for name in METRICS:
            resampled = estimates[name].resampled[draw]
            assert resampled == pytest.approx(figures[name].value, nan_ok=True), (draw, name)


def test_a_patient_in_twice_weighs_2():
    cases = random_cases(4)
    tables = Tables.of(cases)
    patients = sorted(set(zip(cases["source"], cases["patient_id"], strict=True)))
    once = dict.fromkeys(patients, 1) | {patients[2]: 2}
    resampling = Resampling(cases, Sample(resamples=1))
    resampling.weights = np.array([list(once.values())], np.uint8)
    figures = measure(repeat(cases, once))
    for name, one in resampling.estimate(tables).items():
        assert one.resampled[0] == pytest.approx(figures[name].value, nan_ok=True), name


def test_patients_with_copies_of_one_slice_are_drawn_together():
    cases = make_table([{"label": True, "is_tumor": number < 5, "duplicate_group": number // 2} for number in range(10)])
    resampling = Resampling(cases, FEW)
    assert resampling.count == 5
    assert resampling.clusters(cases).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    accuracy = resampling.estimate(Tables.of(cases))["accuracy"]
    assert accuracy.method == "bootstrap"  # a patient a slice, but not independent
    assert set((accuracy.resampled * 10).round(6) % 1) == {0}


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999), order=st.integers(0, 999))
def test_intervals_know_no_order_of_rows(seed, order):
    cases = random_cases(seed)
    shuffled = estimate(cases.sample(frac=1, random_state=order))
    for name, one in estimate(cases).items():
        assert (one.low, one.high) == pytest.approx((shuffled[name].low, shuffled[name].high), nan_ok=True), name
        assert one.method == shuffled[name].method


def test_models_are_drawn_alike_whichever_comes_first():
    cases = random_cases(5, models=("m", "n"))
    both = Resampling(cases, FEW)
    for model in ("m", "n"):
        of_model = cases[cases["model"] == model]
        assert (Resampling(of_model, FEW).weights == both.weights).all()
        assert (Resampling(of_model, FEW).clusters(of_model) == both.clusters(of_model)).all()


def test_published_counts_have_wilson_intervals():
    estimates = estimate(make_table(PUBLISHED))
    counts = {"accuracy": (147, 161), "precision": (136, 146), "sensitivity": (136, 140), "specificity": (11, 21)}
    for name, (successes, count) in (counts | {"always_tumor_accuracy": (140, 161)}).items():
        one = estimates[name]
        assert one.method == "wilson"
        assert one.figure == (pytest.approx(successes / count), count, count)
        assert (one.low, one.high) == wilson_interval(successes, count, 0.95)
    assert estimates["accuracy"].figure.value == pytest.approx(0.91304, abs=5e-6)
    assert estimates["f1"].method == estimates["brier_score"].method == estimates["mcc"].method == "bootstrap"


def test_several_slices_of_a_patient_are_no_wilson_interval():
    cases = make_table(
        [{"label": True, "is_tumor": n % 4 > 0, "probability": n / 60, "patient_id": f"p{n // 3}"} for n in range(30)]
    )
    accuracy = estimate(cases)["accuracy"]
    assert accuracy.method == "bootstrap"
    assert (accuracy.low, accuracy.high) == percentile_interval(accuracy.resampled, 0.95)


def test_where_all_agree_patients_are_counted():
    """Ten patients of two slices, all right: the resamples are all 1, but 10 of 10 is no proof."""
    cases = make_table([case | {"patient_id": f"p{number // 2}"} for number, case in enumerate(decided(True, True, 20))])
    accuracy = estimate(cases)["accuracy"]
    assert set(accuracy.resampled) == {1.0}
    assert accuracy.method == "wilson"
    assert (accuracy.low, accuracy.high) == wilson_interval(10, 10, 0.95)


@pytest.mark.parametrize("cases", [[], decided(True, True, 1), [{"label": None}] * 3])
def test_one_patient_or_none_has_no_interval(cases):
    for name, one in estimate(make_table(cases)).items():
        assert math.isnan(one.low), name
        assert math.isnan(one.high), name
        assert one.method is None, name
        assert len(one.resampled) == 60


def test_a_figure_that_no_resample_changes_has_no_interval():
    """Four patients whose slices are all ranked rightly, and whose masks are all alike: nothing shows that others are."""
    rows = [{"patient_id": f"p{n // 2}", "label": n % 2 == 0, "probability": 0.9 - n % 2 * 0.5} for n in range(8)]
    found = estimate(make_table([row | {"counts": (7, 2, 1) if row["label"] else (0, 0, 0)} for row in rows]))
    for name, value in (("roc_auc", 1.0), ("slice_dice", 14 / 17), ("volume_dice", 14 / 17)):
        assert found[name].figure.value == pytest.approx(value)
        assert found[name].figure.n_patients == 4
        assert (math.isnan(found[name].low), math.isnan(found[name].high), found[name].method) == (True, True, None)
    assert found["accuracy"].method is None  # half of each patient's slices is right, whoever is drawn
    assert found["sensitivity"].method == "wilson"


def test_patients_who_share_copies_are_counted_once():
    """Three patients, two of whom are one; two who are one have no interval, however many slices they have."""
    rows = [
        {"patient_id": f"p{n}", "label": True, "is_tumor": True, "duplicate_group": 1 if n < 2 else None} for n in range(3)
    ]
    sensitivity = estimate(make_table(rows))["sensitivity"]
    assert (sensitivity.low, sensitivity.high) == wilson_interval(2, 2, 0.95)
    assert estimate(make_table(rows[:2]))["sensitivity"].method is None


def test_the_lower_bound_is_that_of_the_same_percentiles_and_needs_two_patients():
    cases = make_table([{"patient_id": f"p{n}"} for n in range(5)])
    resampling, resampled = Resampling(cases, FEW), np.arange(101.0)
    assert resampling.lower_bound(resampled, cases, 0.9) == pytest.approx(10)
    assert resampling.interval(resampled, cases) == pytest.approx((2.5, 97.5))
    assert resampling.lower_bound(np.full(9, -0.04), cases, 0.95) == -0.04
    assert math.isnan(resampling.lower_bound(resampled, cases.head(1), 0.9))
    assert all(map(math.isnan, resampling.interval(resampled, cases.head(1))))
    assert all(map(math.isnan, resampling.interval(np.full(9, 1.0), cases)))


def test_json_has_value_interval_and_what_stands_behind():
    plain = estimate(make_table(PUBLISHED))["accuracy"].to_json()
    assert list(plain) == ["value", "low", "high", "n_slices", "n_patients", "interval"]
    undefined = estimate(make_table([]))["accuracy"].to_json()
    assert undefined == {"value": None, "low": None, "high": None, "n_slices": 0, "n_patients": 0, "interval": None}


def test_the_calibration_errors_interval_is_reflected_at_its_value():
    """All slices of every fourth patient show tumor where the model says 0.05: the error is 0.2, and its spread askew."""
    rows = [{"patient_id": f"p{n // 4}", "label": n // 4 % 4 == 0, "probability": 0.05} for n in range(80)]
    error = estimate(make_table(rows), Sample(resamples=1000))["expected_calibration_error"]
    low, high = percentile_interval(error.resampled, 0.95)
    assert error.figure.value == pytest.approx(0.2)
    assert (error.low, error.high) == pytest.approx((0.4 - high, 0.4 - low))
    assert high - 0.2 > 0.2 - low + 0.01
    assert error.method == "bootstrap"


def test_the_calibration_errors_interval_contains_it_where_percentiles_lie_above():
    """Of a model that means what it says every resample is further off than the sample."""
    random = np.random.default_rng(3)
    rows = [
        {"patient_id": f"p{number // 10}", "label": bool(random.random() < probability), "probability": probability}
        for number, probability in enumerate(random.random(200))
    ]
    error = estimate(make_table(rows), Sample(resamples=1000))["expected_calibration_error"]
    assert percentile_interval(error.resampled, 0.95)[0] > error.figure.value
    assert (error.low, error.high) == (0, error.figure.value)


def test_a_calibration_error_of_0_has_no_interval():
    """One patient's slice of 0.5 shows tumor, the other's does not; drawn twice, either has an error of 0.5."""
    cases = make_table([{"patient_id": f"p{n}", "label": n == 0, "probability": 0.5} for n in range(2)])
    error = estimate(cases)["expected_calibration_error"]
    assert error.figure.value == 0
    assert set(error.resampled) == {0, 0.5}
    assert (math.isnan(error.low), math.isnan(error.high), error.method) == (True, True, None)


def test_ranks_can_be_left_out():
    cases = random_cases(6)
    without = Resampling(cases, FEW).estimate(Tables.of(cases), ranks=False)
    full = estimate(cases)
    assert np.isnan(without["roc_auc"].resampled).all()
    assert without["roc_auc"].figure == full["roc_auc"].figure
    assert without["brier_score"].low == full["brier_score"].low
