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
    decision_curve,
    expected_calibration_error,
    fit_calibration,
    fit_temperature,
    reliability,
)
from slicewise.model.engine import Calibration

NOTHING = np.zeros(0), np.zeros(0, bool)


@st.composite
def predictions(draw, fewest=1):
    """Probabilities between the ends of ten or seven bins, and labels."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(fewest, 80))
    return random.beta(0.5, 0.5, count).clip(1e-5, 1 - 1e-5), random.random(count) < draw(st.floats(0, 1))


def answer(calibration, logits):
    return np.array([calibration.apply(logit) for logit in logits])


def scaled(logits, temperature):
    return answer(Calibration(temperature=temperature), logits)


@pytest.mark.parametrize("scale", [0.5, 1, 3, 8])
def test_a_planted_temperature_is_found(scale):
    random = np.random.default_rng(0)
    logits = random.normal(scale=1.5, size=50_000)
    labels = random.random(50_000) < expit(logits)
    temperature = fit_temperature(logits * scale, labels)
    assert temperature == pytest.approx(scale, rel=0.03)
    assert expected_calibration_error(scaled(logits * scale, temperature), labels) < 0.01
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
    logits, labels = logit(data[0]), data[1]
    temperature = fit_temperature(logits, labels)
    assert 0.05 <= temperature <= 20
    if 0 < labels.sum() < len(labels):
        best = log_loss(labels, scaled(logits, temperature))
        for other in np.geomspace(0.5, 20, 50):
            assert best <= log_loss(labels, scaled(logits, other)) + 1e-6


def regress(evidence, labels, **options):
    """scikit-learn's logistic regression without a penalty: each case once with either label, as heavy as it is certain."""
    cases, both = np.tile(evidence, (2, 1)), np.repeat([True, False], len(labels))
    weights = np.concatenate([targets(labels), 1 - targets(labels)])
    return LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000, **options).fit(cases, both, sample_weight=weights)


def test_the_temperature_is_the_inverse_of_a_logistic_regression_through_the_origin():
    random = np.random.default_rng(1)
    probabilities = random.beta(0.5, 0.5, 400)
    labels = random.random(400) < 0.3 + 0.4 * probabilities
    regression = regress(logit(probabilities)[:, None], labels, fit_intercept=False)
    assert fit_temperature(logit(probabilities), labels) == pytest.approx(1 / regression.coef_.item(), rel=1e-3)


def test_a_temperature_needs_both_classes():
    logits = np.array([-2.0, 2, 30])
    assert fit_temperature(logits, np.ones(3, bool)) == 1
    assert fit_temperature(logits, np.zeros(3, bool)) == 1
    assert fit_temperature(*NOTHING) == 1


def test_what_no_temperature_mends_gets_the_highest():
    assert fit_temperature(np.array([-700.0, 700, -700, 700]), np.array([True, False, False, True])) == pytest.approx(
        20, rel=1e-3
    )


def test_what_has_no_logit_is_passed_over():
    logits, labels = np.array([-2.0, 1, -1, 3, 0.5, -3]), np.array([0, 1, 1, 1, 0, 0], bool)
    holes = np.array([math.nan, math.inf, -math.inf])
    filled, known = np.concatenate([holes, logits]), np.concatenate([[True, False, True], labels])
    assert fit_temperature(filled, known) == fit_temperature(logits, labels)
    assert fit_temperature(holes, known[:3]) == 1


def test_classes_told_apart_without_an_error_do_not_make_the_model_certain():
    labels = np.repeat([False, True], 20)
    logits = logit(np.where(labels, 0.9, 0.1))
    # The likeliest probability of a tumor that was right 20 times of 20 is Platt's target for it.
    assert scaled([logit(0.9)], fit_temperature(logits, labels)) == pytest.approx(21 / 22, abs=1e-4)


def test_a_logit_however_large_gives_a_probability():
    assert scaled([-1e6, 1e6], 4).tolist() == [0, 1]
    softened = scaled([-16.0, 16], 4)
    assert 0 < softened[0] < 0.02
    assert softened.sum() == pytest.approx(1)


@given(logits=st.lists(st.floats(-800, 800), max_size=50), center=st.floats(-20, 20), temperature=st.floats(0.05, 20))
def test_a_calibration_keeps_the_order_and_the_center_is_between_the_sides(logits, center, temperature):
    logits = np.sort(np.array(logits, float))
    probabilities = answer(Calibration(center=center, temperature=temperature), logits)
    assert (np.diff(probabilities) >= 0).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    clear = np.abs(logits - center) > 1e-9
    assert ((probabilities > 0.5) == (logits > center))[clear].all()


def test_the_default_is_the_sigmoid_of_the_classification_head():
    logits = np.random.default_rng(2).normal(scale=10, size=1000)
    joined = Calibration().join(logits, np.full(1000, math.nan))
    assert joined.tobytes() == logits.tobytes()
    assert answer(Calibration(), joined) == pytest.approx(expit(logits), rel=1e-14)


def heard(count=300, seed=0, head=1.0, peak=0.5, offset=-1.0):
    """Logits of two heads, of which labels follow with the weights given."""
    random = np.random.default_rng(seed)
    heads, peaks = random.normal(scale=2, size=count), random.normal(1, 3, size=count)
    return heads, peaks, random.random(count) < expit(head * heads + peak * peaks + offset)


def both(calibration, heads, peaks):
    return answer(calibration, calibration.join(heads, peaks))


@pytest.mark.parametrize("seed", range(3))
def test_what_both_heads_say_is_weighed_as_a_logistic_regression_does(seed):
    heads, peaks, labels = heard(seed=seed)
    fitted, reference = fit_calibration(heads, peaks, labels), regress(np.column_stack([heads, peaks]), labels)
    head, peak = reference.coef_[0]
    assert min(head, peak) > 0.1
    assert fitted.decoder_share == pytest.approx(peak / (head + peak), abs=1e-4)
    assert fitted.center == pytest.approx(-reference.intercept_.item() / (head + peak), abs=1e-3)
    assert fitted.temperature == pytest.approx(1 / (head + peak), rel=1e-3)
    assert both(fitted, heads, peaks) == pytest.approx(
        reference.predict_proba(np.column_stack([heads, peaks]))[:, 1], abs=1e-4
    )


def test_planted_weights_are_found():
    fitted = fit_calibration(*heard(count=100_000, head=0.3, peak=0.2, offset=-1.5))
    assert fitted == pytest.approx((0.4, 3.0, 2.0), rel=0.05)


@pytest.mark.parametrize(("head", "peak", "share"), [(1.0, -0.5, 0.0), (-0.5, 1.0, 1.0)])
def test_a_head_that_speaks_against_tumors_is_not_heard(head, peak, share):
    heads, peaks, labels = heard(head=head, peak=peak)
    fitted = fit_calibration(heads, peaks, labels)
    assert fitted.decoder_share == share
    alone = regress((peaks if share else heads)[:, None], labels)
    assert fitted.temperature == pytest.approx(1 / alone.coef_.item(), rel=1e-3)
    assert fitted.center == pytest.approx(-alone.intercept_.item() / alone.coef_.item(), abs=1e-3)


def test_where_both_speak_against_tumors_nothing_is_fitted():
    assert fit_calibration(*heard(head=-1.0, peak=-1.0)) == Calibration()


@pytest.mark.parametrize("slope", [0.04, 0.01, 0.003])
def test_a_loud_model_that_knows_little_gets_the_highest_temperature(slope):
    """No cliff at the end of the range; the center is the likeliest of that temperature, not that of a flatter curve."""
    random = np.random.default_rng(4)
    heads = random.normal(30, 40, size=20_000)
    labels = random.random(20_000) < expit(slope * heads - 1)
    fitted = fit_calibration(heads, np.zeros(20_000), labels)
    assert fitted.temperature == pytest.approx(20)
    assert fit_temperature(heads - fitted.center, labels) == pytest.approx(20)
    best = log_loss(labels, answer(fitted, heads))
    for center in np.linspace(-60, 120, 40):
        assert best <= log_loss(labels, answer(fitted._replace(center=center), heads)) + 1e-3
    assert best < log_loss(labels, expit(heads).clip(1e-12, 1 - 1e-12)) - 1


def test_a_calibration_needs_both_classes():
    heads, peaks, labels = heard(count=20)
    for one in (np.ones(20, bool), np.zeros(20, bool)):
        assert fit_calibration(heads, peaks, one) == Calibration()
    assert fit_calibration(NOTHING[0], *NOTHING) == Calibration()
    # One class of those that have both logits is no more.
    assert fit_calibration(np.where(labels, heads, math.nan), peaks, labels) == Calibration()


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
def test_what_lacks_either_logit_is_passed_over(hole):
    heads, peaks, labels = heard()
    holed_heads, holed_peaks = heads.copy(), peaks.copy()
    holed_heads[:40], holed_peaks[30:80] = hole, hole
    assert fit_calibration(holed_heads, holed_peaks, labels) == fit_calibration(heads[80:], peaks[80:], labels[80:])
    assert fit_calibration(heads[80:], peaks[80:], labels[80:]) != fit_calibration(heads, peaks, labels)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 300.0])
def test_heads_that_tell_the_classes_apart_without_an_error_do_not_make_the_model_certain(spread):
    labels = np.repeat([False, True], 20)
    logits = np.where(labels, spread, -spread)
    fitted = fit_calibration(logits, logits, labels)
    assert all(math.isfinite(value) for value in fitted)
    assert 0 <= fitted.decoder_share <= 1
    assert 0.05 <= fitted.temperature <= 20
    low, high = both(fitted, logits, logits)[[0, -1]]
    assert low < 0.5 < high
    if spread in (1.0, 30.0):  # within the bounds the likeliest probability is Platt's target
        assert (low, high) == pytest.approx((1 / 22, 21 / 22), abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.2, 5), shift=st.floats(-20, 20))
def test_in_whatever_units_and_from_whatever_zero_the_heads_count_the_answer_is_the_same(seed, scale, shift):
    heads, peaks, labels = heard(count=100, seed=seed)
    probabilities = both(fit_calibration(heads, peaks, labels), heads, peaks)
    for other in ((heads * scale, peaks * scale), (heads, peaks + shift)):
        assert both(fit_calibration(*other, labels), *other) == pytest.approx(probabilities, abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), head=st.floats(-1, 1), peak=st.floats(-1, 1))
def test_both_heads_together_are_never_less_likely_than_either(seed, head, peak):
    heads, peaks, labels = heard(count=60, seed=seed, head=head, peak=peak)
    fitted = fit_calibration(heads, peaks, labels)
    assert 0 <= fitted.decoder_share <= 1
    assert 0.05 <= fitted.temperature <= 20
    if fitted != Calibration():
        best = log_loss(labels, both(fitted, heads, peaks))
        for share in (0, 0.5, 1):
            for center in (fitted.center - 1, fitted.center, fitted.center + 1):
                for temperature in (0.5, 1, 2, 5, 20):
                    other = Calibration(share, center, temperature)
                    assert best <= log_loss(labels, both(other, heads, peaks).clip(1e-15, 1 - 1e-15)) + 1e-6


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
