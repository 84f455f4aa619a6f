import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicewise.evaluation.selective import area_under_risk_coverage, choose_referral, risk_coverage

cases = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=1, max_size=40)


def unzip(data):
    errors, uncertainty = zip(*data, strict=True)
    return np.array(errors, float), np.array(uncertainty, float)


def test_risk_by_hand():
    curve = risk_coverage(np.array([1, 0, 0, 1, 0]), np.array([0.9, 0.1, 0.5, 0.5, 0.3]))
    assert curve["uncertainty"].tolist() == [0.1, 0.3, 0.5, 0.9]
    assert curve["coverage"].tolist() == pytest.approx([1 / 5, 2 / 5, 4 / 5, 1])
    assert curve["risk"].tolist() == pytest.approx([0, 0, 1 / 4, 2 / 5])


def test_area_by_hand():
    """Each case counts the risk of all cases at most as uncertain: 0, 0, twice a quarter, two fifths."""
    area = area_under_risk_coverage(np.array([1, 0, 0, 1, 0]), np.array([0.9, 0.1, 0.5, 0.5, 0.3]))
    assert area == pytest.approx((0 + 0 + 1 / 4 + 1 / 4 + 2 / 5) / 5)


@given(data=cases)
def test_area_is_the_mean_over_cases(data):
    errors, uncertainty = unzip(data)
    risks = [errors[uncertainty <= level].mean() for level in uncertainty]
    assert area_under_risk_coverage(errors, uncertainty) == pytest.approx(np.mean(risks))


@given(data=cases)
def test_curve_ends_with_all_cases(data):
    errors, uncertainty = unzip(data)
    curve = risk_coverage(errors, uncertainty)
    assert curve["coverage"].iloc[-1] == 1
    assert curve["risk"].iloc[-1] == pytest.approx(errors.mean())
    assert (curve["coverage"].diff().dropna() > 0).all()


@given(data=cases)
def test_no_order_is_better_than_the_errors_themselves(data):
    errors, uncertainty = unzip(data)
    perfect = np.argsort(np.argsort(errors, kind="stable"))
    least = area_under_risk_coverage(errors, perfect)
    assert least <= area_under_risk_coverage(errors, uncertainty) + 1e-12
    wrong, count = int(errors.sum()), len(errors)
    expected = sum(rank / (count - wrong + rank) for rank in range(1, wrong + 1)) / count
    assert least == pytest.approx(expected)


@given(data=cases, seed=st.integers(0, 999))
def test_area_knows_neither_order_nor_scale(data, seed):
    errors, uncertainty = unzip(data)
    area = area_under_risk_coverage(errors, uncertainty)
    order = np.random.default_rng(seed).permutation(len(errors))
    assert area_under_risk_coverage(errors[order], uncertainty[order]) == pytest.approx(area)
    assert area_under_risk_coverage(errors, np.exp(uncertainty) - 3) == area


def test_orders_that_tell_nothing_give_the_error_rate():
    errors = np.array([1.0, 0, 0, 1, 0, 0])
    assert area_under_risk_coverage(errors, np.zeros(6)) == pytest.approx(errors.mean())
    areas = [area_under_risk_coverage(errors, np.array(order)) for order in itertools.permutations(range(6))]
    assert np.mean(areas) == pytest.approx(errors.mean())
    random = np.random.default_rng(0)
    many = random.random(100_000) < 0.2
    assert area_under_risk_coverage(many, random.random(100_000)) == pytest.approx(0.2, abs=0.01)


def test_without_cases_nothing_is_known():
    assert math.isnan(area_under_risk_coverage(np.zeros(0), np.zeros(0)))
    assert risk_coverage(np.zeros(0), np.zeros(0)).empty
    assert choose_referral(np.zeros(0), 0.8) == math.inf


@given(uncertainty=st.lists(st.integers(0, 12), min_size=1, max_size=40), percent=st.integers(1, 100))
def test_referral_is_the_lowest_that_keeps_the_share(uncertainty, percent):
    values = np.array(uncertainty, float)
    threshold = choose_referral(values, percent / 100)
    assert threshold in values
    assert 100 * np.count_nonzero(values <= threshold) >= percent * len(values)
    assert 100 * np.count_nonzero(values < threshold) < percent * len(values)


def test_referral_by_hand():
    uncertainty = np.array([0.5, 0.1, 0.4, 0.3, 0.2])
    assert [choose_referral(uncertainty, coverage) for coverage in (0.2, 0.4, 0.41, 0.8, 1)] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert choose_referral(np.arange(100.0), 0.56) == 55
