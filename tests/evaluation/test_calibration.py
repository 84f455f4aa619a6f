import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import binary_calibration_error

from slicewise.evaluation.calibration import (
    apply_temperature,
    decision_curve,
    expected_calibration_error,
    fit_temperature,
    reliability,
)

NOTHING = np.zeros(0), np.zeros(0, bool)


@st.composite
def predictions(draw, fewest=1):
    """Probabilities between the ends of ten or seven bins, and labels."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(fewest, 80))
    return random.beta(0.5, 0.5, count).clip(1e-5, 1 - 1e-5), random.random(count) < draw(st.floats(0, 1))


@pytest.mark.parametrize("scale", [0.5, 1, 3, 8])
def test_a_planted_temperature_is_found(scale):
    random = np.random.default_rng(0)
    logits = random.normal(scale=1.5, size=50_000)
    labels = random.random(50_000) < expit(logits)
    temperature = fit_temperature(expit(logits * scale), labels)
    assert temperature == pytest.approx(scale, rel=0.03)
    calibrated = apply_temperature(expit(logits * scale), temperature)
    assert expected_calibration_error(calibrated, labels) < 0.01
    if scale != 1:
        assert expected_calibration_error(expit(logits * scale), labels) > 0.05


def targets(labels):
    """Platt's: no label is quite certain."""
    return np.where(labels, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((~labels).sum() + 2))


def log_loss(labels, probabilities):
    return -(targets(labels) * np.log(probabilities) + (1 - targets(labels)) * np.log(1 - probabilities)).mean()


@settings(deadline=None, max_examples=50)
@given(data=predictions(fewest=30))
def test_no_temperature_makes_the_labels_likelier(data):
    probabilities, labels = data
    temperature = fit_temperature(*data)
    assert 0.05 <= temperature <= 20
    if 0 < labels.sum() < len(labels):
        best = log_loss(labels, apply_temperature(probabilities, temperature))
        for other in np.geomspace(0.5, 20, 50):
            assert best <= log_loss(labels, apply_temperature(probabilities, other)) + 1e-6


def test_the_temperature_is_the_inverse_of_a_logistic_regression_through_the_origin():
    random = np.random.default_rng(1)
    probabilities = random.beta(0.5, 0.5, 400)
    labels = random.random(400) < 0.3 + 0.4 * probabilities
    # Each case once with either label, as heavy as the label is certain.
    cases, both = np.tile(logit(probabilities)[:, None], (2, 1)), np.repeat([True, False], 400)
    regression = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10, max_iter=1000)
    regression.fit(cases, both, sample_weight=np.concatenate([targets(labels), 1 - targets(labels)]))
    assert fit_temperature(probabilities, labels) == pytest.approx(1 / regression.coef_.item(), rel=1e-3)


def test_a_temperature_needs_both_classes():
    probabilities = np.array([0.1, 0.9, 1.0])
    assert fit_temperature(probabilities, np.ones(3, bool)) == 1
    assert fit_temperature(probabilities, np.zeros(3, bool)) == 1
    assert fit_temperature(*NOTHING) == 1


def test_certain_probabilities_are_finite_evidence():
    assert fit_temperature(np.array([0.0, 1, 0, 1]), np.array([True, False, False, True])) == pytest.approx(20, rel=1e-3)


def test_classes_told_apart_without_an_error_do_not_make_the_model_certain():
    labels = np.repeat([False, True], 20)
    probabilities = np.where(labels, 0.9, 0.1)
    temperature = fit_temperature(probabilities, labels)
    # The likeliest probability of a tumor that was right 20 times of 20 is Platt's target for it.
    assert apply_temperature(np.array([0.9]), temperature) == pytest.approx(21 / 22, abs=1e-4)


def test_softened_certainty_stays_in_bounds():
    softened = apply_temperature(np.array([0.0, 1]), 4)
    assert 0 < softened[0] < 0.02
    assert softened.sum() == pytest.approx(1)


@given(probabilities=st.lists(st.floats(0, 1), max_size=50), temperature=st.floats(0.05, 20))
def test_a_temperature_keeps_the_order_and_the_side(probabilities, temperature):
    probabilities = np.sort(np.array(probabilities, float))
    scaled = apply_temperature(probabilities, temperature)
    assert scaled.dtype == np.float64
    assert (np.diff(scaled) >= -1e-15).all()
    assert ((scaled >= 0) & (scaled <= 1)).all()
    clear = np.abs(probabilities - 0.5) > 1e-12
    assert ((scaled > 0.5) == (probabilities > 0.5))[clear].all()


def test_a_temperature_of_1_changes_no_bit():
    probabilities = np.random.default_rng(2).random(1000)
    probabilities[:4] = 0, 1, 5e-324, 1 - 2**-53
    before = probabilities.tobytes()
    unchanged = apply_temperature(probabilities, 1.0)
    assert unchanged.tobytes() == before
    unchanged[:] = 0
    assert probabilities.tobytes() == before
    assert apply_temperature(np.float32([0.1]), 1.0).dtype == np.float64


@settings(deadline=None)
@given(data=predictions(), bins=st.sampled_from([1, 7, 10]))
def test_calibration_error_agrees_with_torchmetrics(data, bins):
    probabilities, labels = data
    reference = binary_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels).int(), n_bins=bins)
    assert expected_calibration_error(*data, bins) == pytest.approx(reference.item(), abs=1e-6)


@settings(deadline=None)
@given(data=predictions(fewest=2), bins=st.sampled_from([7, 10]))
def test_reliability_agrees_with_scikit_learn(data, bins):
    table = reliability(*data, bins)
    share, mean = calibration_curve(data[1], data[0], n_bins=bins) if len(set(data[1])) == 2 else (None, None)
    filled = table[table["n"] > 0]
    if share is not None:
        assert filled["tumor_share"].to_numpy() == pytest.approx(share)
        assert filled["mean_probability"].to_numpy() == pytest.approx(mean)
    assert len(table) == bins
    assert table["n"].sum() == len(data[0])
    assert (filled["share_low"] <= filled["tumor_share"] + 1e-12).all()
    assert (filled["share_high"] >= filled["tumor_share"] - 1e-12).all()
    assert ((filled["mean_probability"] >= filled["low"]) & (filled["mean_probability"] <= filled["high"])).all()


def test_bins_are_closed_above_and_empty_ones_are_undefined():
    table = reliability(np.array([0, 0.25, 0.5, 0.75, 1]), np.array([0, 1, 0, 1, 1], bool), bins=4)
    assert table["n"].tolist() == [2, 1, 1, 1]
    empty = reliability(np.array([0.9]), np.array([True]), bins=2)
    assert empty.loc[0, ["mean_probability", "tumor_share", "share_low", "share_high"]].isna().all()
    half = reliability(np.full(20, 0.3), np.arange(20) < 10, bins=2).iloc[0]
    reach = 1.96 * math.sqrt(0.25 / 20 + 1.96**2 / (4 * 20**2)) / (1 + 1.96**2 / 20)
    assert (half["share_low"], half["share_high"]) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-5)
    assert reliability(*NOTHING)["n"].sum() == 0
    assert math.isnan(expected_calibration_error(*NOTHING))


def test_calibration_error_by_hand():
    """Three at a mean of 0.2 with a third of tumors, one at 0.9 with a tumor."""
    error = expected_calibration_error(np.array([0.1, 0.2, 0.3, 0.9]), np.array([0, 0, 1, 1], bool), bins=2)
    assert error == pytest.approx(3 / 4 * (1 / 3 - 0.2) + 1 / 4 * 0.1)


@given(data=st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40), step=st.integers(0, 19))
def test_net_benefit_is_what_counting_gives(data, step):
    probabilities, labels = np.array([one for one, _ in data]) / 20, np.array([label for _, label in data])
    threshold, count = step / 20, len(data)
    row = decision_curve(probabilities, labels, np.array([threshold])).iloc[0]
    found = sum(label and one >= threshold for one, label in zip(probabilities, labels, strict=True))
    alarms = sum(not label and one >= threshold for one, label in zip(probabilities, labels, strict=True))
    odds = threshold / (1 - threshold)
    assert row["model"] == pytest.approx(found / count - alarms / count * odds)
    assert row["treat_all"] == pytest.approx(labels.mean() - (1 - labels.mean()) * odds)
    assert row["treat_none"] == 0
    assert row["model"] <= labels.mean() + 1e-12


def test_at_the_prevalence_treating_all_is_worth_as_much_as_treating_none():
    labels = np.arange(10) < 3
    curve = decision_curve(np.where(labels, 0.8, 0.1), labels, np.array([0.0, 0.3, 0.5]))
    assert curve["treat_all"].tolist() == pytest.approx([0.3, 0, -0.4])
    assert curve["model"].tolist() == pytest.approx([0.3, 0.3, 0.3])
    assert decision_curve(*NOTHING, np.array([0.5]))[["model", "treat_all", "treat_none"]].isna().all(axis=None)
