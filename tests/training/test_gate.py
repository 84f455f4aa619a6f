"""The gate opens where segmentation was kept, and only there."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicewise.config import GateConfig
from slicewise.training.gate import Gate


def dice(values):
    index = pd.MultiIndex.from_product([["lgg"], [f"p{number}" for number in range(len(values))]])
    return pd.Series(values, index=index, dtype=float)


def judge(model, reference, **config):
    return Gate(dice(reference), GateConfig(**config), seed=1).judge(dice(model))


def test_an_equal_model_passes():
    verdict = judge([0.8, 0.7, 0.9], [0.8, 0.7, 0.9])
    assert (verdict.accepted, verdict.difference, verdict.low, verdict.n_patients) == (True, 0, 0, 3)


@pytest.mark.parametrize(("loss", "accepted"), [(0.009, True), (0.01, True), (0.011, False)])
def test_the_margin_is_where_it_is_said(loss, accepted):
    assert judge(np.full(8, 0.8 - loss), np.full(8, 0.8)).accepted is accepted


def test_the_same_mean_with_a_wide_spread_does_not_pass():
    """Nothing was lost on average, but eight patients cannot show it."""
    spread = np.array([0.1, -0.1] * 4)
    assert not judge(0.7 + spread, np.full(8, 0.7)).accepted
    assert judge(np.tile(0.7 + spread, 100), np.full(800, 0.7)).accepted


def test_the_lower_end_is_that_of_the_normal_distribution_for_many_patients():
    differences = np.random.default_rng(0).normal(0.02, 0.05, 400)
    verdict = judge(0.5 + differences, np.full(400, 0.5))
    expected = differences.mean() - 1.645 * differences.std(ddof=1) / 20
    assert verdict.low == pytest.approx(expected, abs=4e-4)
    assert verdict.difference == pytest.approx(differences.mean())


def test_patients_are_matched_by_name():
    reference = dice([0.5, 0.6, 0.8])
    verdict = Gate(reference, GateConfig(), seed=0).judge(reference.iloc[::-1])
    assert (verdict.accepted, verdict.difference, verdict.n_patients) == (True, 0, 3)


def test_a_mask_where_there_was_rightly_none_counts_as_lost():
    """Nothing outlined and nothing drawn: undefined for the reference, and 0 for the model that draws something."""
    verdict = judge([0.8, 0.0, np.nan], [0.8, np.nan, np.nan])
    assert verdict.difference == pytest.approx(-1 / 2)
    assert not verdict.accepted


@pytest.mark.parametrize("values", [[], [0.5]])
def test_with_fewer_than_two_patients_the_gate_stays_closed(values):
    verdict = judge(values, values)
    assert (verdict.accepted, verdict.difference, verdict.low, verdict.n_patients) == (False, None, None, len(values))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0, 0.2))
def test_a_better_model_never_does_worse(values, gain):
    worse, better = (judge(np.array(values) - loss, values, resamples=1000) for loss in (0.2, 0.2 - gain))
    assert better.low >= worse.low - 1e-9
