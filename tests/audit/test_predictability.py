"""Known answers of the cross-validated ROC-AUC and its interval."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from slicewise.audit.predictability import FOLDS, folds, predictability, with_interval


def test_what_gives_the_label_away_is_found():
    labels = np.arange(60) % 2 == 0
    for features in (
        pd.DataFrame({"size": labels * 10.0}),
        pd.DataFrame({"mode": np.where(labels, "L", "RGB").astype(object)}),
    ):
        found = predictability(features, labels, np.arange(60))
        assert found.value == found.low == found.high == 1.0
        assert (found.n_slices, found.n_groups, found.reason) == (60, 60, "")


def test_what_says_nothing_is_not():
    random = np.random.default_rng(0)
    found = predictability(pd.DataFrame({"x": random.normal(size=300)}), random.random(300) < 0.5, np.arange(300))
    assert found.low < 0.5 < found.high


def test_copies_do_not_answer_for_each_other():
    """A number of its own for each group tells the label only to who has seen the group."""
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 6)
    labels = (random.random(40) < 0.5)[groups]
    features = pd.DataFrame({"id": random.normal(size=40)[groups]})
    assert predictability(features, labels, groups).low < 0.5
    assert predictability(features, labels, np.arange(240)).low > 0.75


@pytest.mark.parametrize("tumors", [0, 1, FOLDS - 1])
def test_too_few_groups_give_a_reason_and_no_figure(tumors):
    labels = np.arange(30) < tumors
    found = predictability(pd.DataFrame({"x": np.arange(30.0)}), labels, np.arange(30))
    assert found.value is found.low is found.high is None
    assert f"has {tumors}" in found.reason


def test_gaps_and_categories_never_seen_are_taken():
    features = pd.DataFrame({"x": [np.nan, 1.0] * 20, "mode": [f"m{number}" for number in range(40)]}).astype(
        {"mode": object}
    )
    assert predictability(features, np.arange(40) % 2 == 0, np.arange(40)).value == 1.0


@settings(deadline=None, max_examples=8)
@given(
    scores=st.lists(st.integers(0, 4), min_size=12, max_size=40),
    seed=st.integers(0, 99),
)
def test_the_interval_is_that_of_resampled_groups(scores, seed):
    """Against the plain way: copy the drawn groups and let scikit-learn compute."""
    random = np.random.default_rng(seed)
    labels = np.arange(len(scores)) % 2 == 0
    groups = random.integers(0, 6, len(scores))
    scores = np.array(scores, dtype=float)
    found = with_interval(labels, scores, groups)
    numbers = np.unique(groups, return_inverse=True)[1]
    generator, drawn = np.random.default_rng(0), []
    for _ in range(1000):
        rows = np.concatenate(
            [np.flatnonzero(numbers == group) for group in generator.integers(0, numbers.max() + 1, numbers.max() + 1)]
        )
        if len(np.unique(labels[rows])) == 2:
            drawn.append(roc_auc_score(labels[rows], scores[rows]))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    assert found.value == pytest.approx(roc_auc_score(labels, scores))


def test_groups_are_never_divided():
    labels = np.arange(100) % 3 == 0
    groups = np.arange(100) // 4
    parts = folds(labels, groups, seed=0)
    assert len(parts) == FOLDS
    assert sorted(np.concatenate([judged for _, judged in parts])) == list(range(100))
    for fitted, judged in parts:
        assert not set(groups[fitted]) & set(groups[judged])
