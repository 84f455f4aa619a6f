import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from slicewise.evaluation import statistics
from slicewise.evaluation.intervals import Resampling, Sample
from slicewise.evaluation.statistics import (
    bootstrap_means,
    draw_weights,
    percentile_interval,
    resample_ranks,
    wilson_interval,
)


@given(count=st.integers(1, 300), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_as_many_patients_are_drawn_as_there_are(count, seed):
    weights = draw_weights(count, 20, seed)
    assert weights.shape == (20, count)
    assert (weights.sum(axis=1, dtype=int) == count).all()
    assert (weights == draw_weights(count, 20, seed)).all()
    if count > 5:
        assert (weights != draw_weights(count, 20, seed + 1)).any()


def test_every_patient_is_drawn_once_on_average_and_independently():
    weights = draw_weights(20, 20_000, 0).astype(float)
    assert weights.mean(axis=0) == pytest.approx(np.ones(20), abs=0.04)
    assert weights.var(axis=0) == pytest.approx(np.full(20, 0.95), abs=0.06)
    assert np.corrcoef(weights.T)[0, 1:].mean() == pytest.approx(-1 / 19, abs=0.01)


def test_bootstrap_means_have_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).normal(size=50)
    means = bootstrap_means(values, 20_000, seed=1)
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)
    assert means.std() == pytest.approx(values.std() / math.sqrt(50), rel=0.03)


@st.composite
def clustered(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, patients = draw(st.integers(2, 40)), draw(st.integers(1, 6))
    labels = random.random(count) < draw(st.sampled_from([0.2, 0.5, 0.8]))
    labels[:2] = True, False
    scores = random.integers(0, draw(st.sampled_from([3, 1000])), count) / 10  # with many ties, or few
    return labels, scores, random.integers(0, patients, count), draw_weights(patients, 12, draw(st.integers(0, 99)))


@settings(deadline=None, max_examples=40)
@given(data=clustered())
def test_ranks_are_those_of_scikit_learn_with_every_patient_copied(data):
    labels, scores, clusters, weights = data
    aucs, precisions = resample_ranks(*data)
    for row, auc, precision in zip(weights, aucs, precisions, strict=True):
        times = row[clusters]
        copied, copied_scores = np.repeat(labels, times), np.repeat(scores, times)
        if len(set(copied)) < 2:
            assert math.isnan(auc)
            assert math.isnan(precision)
            continue
        assert auc == pytest.approx(roc_auc_score(copied, copied_scores))
        assert auc == pytest.approx(roc_auc_score(labels, scores, sample_weight=times))
        assert precision == pytest.approx(average_precision_score(copied, copied_scores))
        assert precision == pytest.approx(average_precision_score(labels, scores, sample_weight=times))


def test_a_resample_is_the_same_in_chunks(monkeypatch):
    random = np.random.default_rng(3)
    data = (
        random.random(60) < 0.5,
        random.integers(0, 9, 60).astype(float),
        random.integers(0, 9, 60),
        draw_weights(9, 50, 0),
    )
    whole = resample_ranks(*data)
    monkeypatch.setattr(statistics, "_CHUNK_VALUES", 60 * 7)
    for parts, at_once in zip(resample_ranks(*data), whole, strict=True):
        assert parts.tolist() == at_once.tolist()


def test_an_interval_leaves_out_the_tails():
    assert percentile_interval(np.arange(1001.0), 0.95) == pytest.approx((25, 975))
    assert percentile_interval(np.array([np.nan, 1, 2, 3]), 0.5) == pytest.approx((1.5, 2.5))


def test_where_half_of_the_resamples_are_undefined_there_is_no_interval():
    assert percentile_interval(np.array([np.nan, 1.0]), 0.9) == pytest.approx((1, 1))
    for resampled in (np.array([np.nan, np.nan, 1.0]), np.full(4, np.nan), np.zeros(0)):
        assert all(math.isnan(end) for end in percentile_interval(resampled, 0.9))


@given(count=st.integers(1, 500), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_where_the_score_test_turns(count, share, confidence):
    """Its ends are the rates from which the observed one lies just z standard errors away."""
    successes = round(share * count)
    observed, z = successes / count, norm.ppf((1 + confidence) / 2)
    for end in wilson_interval(successes, count, confidence):
        assert abs(observed - end) == pytest.approx(z * math.sqrt(end * (1 - end) / count), abs=1e-6)


def test_published_counts_have_these_intervals():
    z, expected = norm.ppf(0.975), {}
    for name, successes, count in (("accuracy", 147, 161), ("sensitivity", 136, 140), ("specificity", 11, 21)):
        share = successes / count
        middle, reach = share + z**2 / (2 * count), z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
        expected[name] = ((middle - reach) / (1 + z**2 / count), (middle + reach) / (1 + z**2 / count))
        assert wilson_interval(successes, count, 0.95) == pytest.approx(expected[name])
    assert np.round(expected["accuracy"], 3).tolist() == [0.859, 0.947]
    assert np.round(expected["sensitivity"], 3).tolist() == [0.929, 0.989]
    assert np.round(expected["specificity"], 3).tolist() == [0.324, 0.717]


def coverage(patients, datasets, *, by_slice=False, slices=8, truth=0.75):
    """Share of simulated test sets whose interval holds the truth, with as many resamples as a run has.

    Accuracies of patients vary around the truth, so that slices of one say nearly the same; patients differ in size.
    """
    random, sample = np.random.default_rng(7), Sample()
    names = np.arange(patients * slices) if by_slice else np.repeat(np.arange(patients), slices)
    table = pd.DataFrame({"source": "a", "patient_id": pd.array(names.astype(str), "string")})
    resampling = Resampling(table.assign(duplicate_group=pd.array([pd.NA] * len(table), "Int64")), sample)
    assert resampling.count == len(set(names))
    hits = 0
    for start in range(0, datasets, 300):
        count = min(300, datasets - start)
        rates = random.beta(truth * 3, (1 - truth) * 3, (count, patients, 1))
        known = random.random((count, patients, slices)) < 0.7
        right = (random.random(known.shape) < rates) & known
        # All datasets at once: each is two columns of terms, which are summed over the same patients drawn.
        terms = np.concatenate([right, known]).reshape(2 * count, -1).T.astype(float)
        drawn = resampling.totals(table, pd.DataFrame(terms))
        for accuracies in (drawn[:, :count] / drawn[:, count:]).T:
            low, high = percentile_interval(accuracies, sample.confidence)
            hits += low <= truth <= high
    return hits / datasets


def test_patients_cover_what_slices_taken_as_independent_do_not():
    """6000 datasets: the error of the simulation is 0.003, so that it does not decide."""
    assert 0.93 <= coverage(60, 6000) <= 0.97
    assert coverage(60, 300, by_slice=True) < 0.85


def test_few_patients_cover_less_as_the_documentation_says():
    assert 0.90 <= coverage(20, 3000) <= 0.94
    assert 0.86 <= coverage(10, 3000) <= 0.91
