import math
import time
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from slicewise.evaluation.paired import delong, holm, mcnemar_exact, wilcoxon_signed_rank

NAN = math.nan
NORMAL_95 = stats.norm.ppf([0.025, 0.975])

# 113 patients with a subarachnoid hemorrhage, 72 with a good and 41 with a poor outcome (Turck et al. 2010,
# https://doi.org/10.1007/s00134-009-1641-y, data set aSAH of the R package pROC): WFNS grade, and S100β in 0.01 µg/l.
WFNS = (
    "111151221221112121134141551124112212122111121211324214115422111312244111",
    "32455552521254425552525245441442255225555",
)
S100B = (
    "13 14 10 4 47 18 10 10 4 8 4 9 11 7 17 7 11 13 19 5 16 14 34 9 50 46 16 7 43 45 11 8 9 8 6 13 10 14 15 6 5 9 4 9 8 16 "
    "9 8 33 11 28 7 10 32 7 5 24 38 10 15 8 14 10 7 4 19 15 47 17 15 50 48",
    "13 10 16 12 44 71 49 7 33 9 7 41 35 48 96 25 86 52 207 7 77 30 3 9 23 70 27 71 8 26 13 10 11 22 56 14 58 32 82 74 44",
)


@pytest.fixture(scope="module")
def hemorrhage():
    poor = np.repeat([False, True], [len(grades) for grades in WFNS])
    return poor, np.array(list("".join(WFNS)), float), np.array(" ".join(S100B).split(), float), np.arange(113)


def test_delong_gives_the_published_figures(hemorrhage):
    """Of pROC's own tests, https://github.com/xrobin/pROC, tests/testthat/test-roc.test.R and test-var.R."""
    poor, wfns, s100b, patients = hemorrhage
    result = delong(poor, wfns, s100b, patients)
    assert result.difference / result.standard_error == pytest.approx(2.20898359144091, rel=1e-12)
    assert result.p_value == pytest.approx(0.0271757822291882, rel=1e-12)
    interval = result.difference + NORMAL_95 * result.standard_error
    assert interval == pytest.approx((0.0104061769564846, 0.174214419249478), rel=1e-11)
    # Less a model that tells nothing apart, the difference varies as the area alone.
    nothing = np.zeros(113)
    assert delong(poor, wfns, nothing, patients).standard_error ** 2 == pytest.approx(0.00146991470882363, rel=1e-12)
    assert delong(poor, s100b, nothing, patients).standard_error ** 2 == pytest.approx(0.00266868245717244, rel=1e-12)


def kernel(labels, scores):
    """``(tumor, free)``: is the tumor case above the other one?"""
    difference = scores[labels][:, None] - scores[~labels][None]
    return (difference > 0) + 0.5 * (difference == 0)


def obuchowski(labels, scores_a, scores_b, clusters):
    """Difference and standard error from every pair of cases, as the paper defines them, patient by patient."""
    area_a, area_b = kernel(labels, scores_a), kernel(labels, scores_b)
    theta = area_a.mean() - area_b.mean()
    v10, v01 = (area_a - area_b).mean(axis=1), (area_a - area_b).mean(axis=0)
    patients = sorted(set(clusters))
    x = {patient: v10[clusters[labels] == patient] for patient in patients}
    y = {patient: v01[clusters[~labels] == patient] for patient in patients}
    m, n = len(v10), len(v01)
    i10, i01, i = sum(len(one) > 0 for one in x.values()), sum(len(one) > 0 for one in y.values()), len(patients)
    s10 = i10 / ((i10 - 1) * m) * sum((x[p].sum() - len(x[p]) * theta) ** 2 for p in patients)
    s01 = i01 / ((i01 - 1) * n) * sum((y[p].sum() - len(y[p]) * theta) ** 2 for p in patients)
    s11 = i / (i - 1) * sum((x[p].sum() - len(x[p]) * theta) * (y[p].sum() - len(y[p]) * theta) for p in patients)
    return theta, math.sqrt(max(0.0, s10 / m + s01 / n + 2 * s11 / (m * n)))


@st.composite
def readings(draw):
    """Two models' scores, with ties, of patients with slices of one class or both; both classes in two patients each."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(4, 40))
    labels, clusters = random.random(count) < 0.5, random.integers(0, draw(st.integers(2, 10)), count)
    labels[:4], clusters[:4] = [True, False, True, False], [0, 0, 1, 1]
    levels = draw(st.integers(2, 30))
    return labels, *random.integers(0, levels, (2, count)).astype(float), clusters


@settings(deadline=None)
@given(data=readings())
def test_clustered_errors_are_those_of_the_definition(data):
    result = delong(*data)
    assert (result.difference, result.standard_error) == pytest.approx(obuchowski(*data), abs=1e-7)
    areas = [roc_auc_score(data[0], scores) for scores in data[1:3]]
    assert result.difference == pytest.approx(areas[0] - areas[1])


@settings(deadline=None)
@given(data=readings())
def test_one_case_a_patient_is_classical_delong(data):
    labels, scores_a, scores_b, _ = data
    areas = [kernel(labels, scores) for scores in (scores_a, scores_b)]
    covariance = np.cov([area.mean(axis=1) for area in areas]) / labels.sum()
    covariance = covariance + np.cov([area.mean(axis=0) for area in areas]) / (~labels).sum()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    result = delong(labels, scores_a, scores_b, np.arange(len(labels)))
    assert result.standard_error**2 == pytest.approx(variance, rel=1e-9, abs=1e-12)
    alone = delong(labels, scores_a, np.zeros(len(labels)), np.arange(len(labels)))
    assert alone.standard_error**2 == pytest.approx(covariance[0, 0], rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(data=readings(), copies=st.integers(2, 4))
def test_copies_of_a_case_are_no_new_patients(data, copies):
    labels, scores_a, scores_b, _ = data
    once = (labels, scores_a, scores_b, np.arange(len(labels)))
    assert delong(*(np.repeat(column, copies) for column in once)) == pytest.approx(delong(*once), nan_ok=True)


@settings(deadline=None)
@given(data=readings(), seed=st.integers(0, 10**6))
def test_delong_knows_neither_order_nor_scale_nor_names(data, seed):
    labels, scores_a, scores_b, clusters = data
    result = delong(*data)
    order = np.random.default_rng(seed).permutation(len(labels))
    assert delong(*(column[order] for column in data)) == pytest.approx(result, nan_ok=True)
    assert delong(labels, np.exp(scores_a / 7) - 5, scores_b**3, clusters) == result
    assert delong(labels, scores_a, scores_b, np.array([f"p{cluster}" for cluster in clusters], object)) == result


@settings(deadline=None)
@given(data=readings())
def test_delong_is_antisymmetric(data):
    labels, scores_a, scores_b, clusters = data
    one, other = delong(*data), delong(labels, scores_b, scores_a, clusters)
    assert other == pytest.approx((-one.difference, one.standard_error, one.p_value), nan_ok=True)
    mirrored = delong(~labels, -scores_a, -scores_b, clusters)
    assert mirrored == pytest.approx(one, nan_ok=True)


@settings(deadline=None)
@given(data=readings())
def test_equal_orders_have_nothing_between_them(data):
    labels, scores, _, clusters = data
    result = delong(labels, scores, 2 * scores + 1, clusters)
    assert result == (0, 0, 1)


def test_what_cannot_be_estimated_is_nan():
    one_class, scores, patients = np.ones(4, bool), np.arange(4.0), np.arange(4)
    assert all(map(math.isnan, delong(one_class, scores, -scores, patients)))
    labels = np.array([False, False, True, True])
    always_right, always_wrong = delong(labels, scores, -scores, patients), delong(labels, -scores, scores, patients)
    assert always_right == pytest.approx((1, 0, NAN), nan_ok=True)
    assert always_wrong == pytest.approx((-1, 0, NAN), nan_ok=True)
    single_tumor_patient = delong(labels, scores, np.array([2.0, 0, 1, 3]), np.array([0, 1, 2, 2]))
    assert single_tumor_patient == pytest.approx((0.25, NAN, NAN), nan_ok=True)
    assert all(map(math.isnan, delong(np.zeros(0, bool), np.zeros(0), np.zeros(0), np.zeros(0))))


def draw_patients(random, separations, n_patients, own_effect, mixed):
    """Three tumor and four tumor-free slices a patient, or with ``mixed`` false, patients of one class; both models see the
    same patients and in part the same noise.
    """
    pattern = np.array([True] * 3 + [False] * 4)
    labels = np.tile(pattern, n_patients) if mixed else np.repeat(np.arange(n_patients) % 2 == 0, 7)
    clusters = np.repeat(np.arange(n_patients), 7)
    common = random.normal(scale=0.5, size=len(labels))
    scores = [
        distance * labels
        + random.normal(scale=own_effect, size=n_patients)[clusters]
        + common
        + random.normal(scale=math.sqrt(0.75), size=len(labels))
        for distance in separations
    ]
    return labels, *scores, clusters


def true_area(distance, n_patients, own_effect, mixed):
    """Pairs within a patient share the patient's own effect; they are one in ``n_patients``, or none."""
    within = 1 / n_patients if mixed else 0
    between = stats.norm.cdf(distance / math.sqrt(2 * (1 + own_effect**2)))
    return (1 - within) * between + within * stats.norm.cdf(distance / math.sqrt(2))


def covers(result, truth):
    """The interval of 95 % that takes the difference as normal."""
    return abs(result.difference - truth) <= NORMAL_95[1] * result.standard_error


@pytest.mark.parametrize("mixed", [True, False])
def test_intervals_cover_and_slices_are_not_taken_as_patients(mixed):
    random, distances, shape = np.random.default_rng(0), (1.6, 1.1), (50, 1.0, mixed)
    areas = [true_area(distance, *shape) for distance in distances]
    covered = []
    for _ in range(1000):
        labels, scores_a, scores_b, clusters = draw_patients(random, distances, *shape)
        right = delong(labels, scores_a, scores_b, clusters)
        wrong = delong(labels, scores_a, scores_b, np.arange(len(labels)))
        truth = areas[0] - areas[1]
        covered.append([covers(one, truth) for one in (right, wrong)])
    right, wrong = np.mean(covered, axis=0)
    assert 0.93 <= right <= 0.97
    assert wrong > 0.97 if mixed else wrong < 0.85


def test_intervals_of_independent_cases_cover():
    random, covered = np.random.default_rng(1), []
    labels, patients = np.arange(60) < 30, np.arange(60)
    areas = [stats.norm.cdf(distance / math.sqrt(2)) for distance in (1.8, 1.2)]
    for _ in range(1500):
        common = random.normal(scale=0.7, size=60)
        scores = [distance * labels + common + random.normal(scale=math.sqrt(0.51), size=60) for distance in (1.8, 1.2)]
        result = delong(labels, *scores, patients)
        covered.append(covers(result, areas[0] - areas[1]))
    assert 0.93 <= np.mean(covered) <= 0.97


def test_p_values_of_equal_models_are_uniform():
    random = np.random.default_rng(2)
    p_values = [delong(*draw_patients(random, (1.4, 1.4), 50, 0.7, mixed=True)).p_value for _ in range(1000)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.07


def test_a_hundred_thousand_cases_take_less_than_a_second():
    random = np.random.default_rng(3)
    labels = random.random(100_000) < 0.3
    scores = random.integers(0, 1000, (2, 100_000)) / 1000 + 0.1 * labels
    patients = np.array([f"patient {number}" for number in random.integers(0, 3000, 100_000)], object)
    start = time.perf_counter()
    result = delong(labels, *scores, patients)
    assert time.perf_counter() - start < 1
    assert result.difference == pytest.approx(roc_auc_score(labels, scores[0]) - roc_auc_score(labels, scores[1]))


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_the_binomial_test_of_disagreements(pairs):
    right_a, right_b = np.array(pairs, bool).reshape(-1, 2).T
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    result, swapped = mcnemar_exact(right_a, right_b), mcnemar_exact(right_b, right_a)
    assert result[:2] == (only_a, only_b)
    tail = sum(math.comb(only_a + only_b, wins) for wins in range(min(only_a, only_b) + 1)) / 2 ** (only_a + only_b)
    assert result.p_value == pytest.approx(min(1, 2 * tail))
    assert swapped.p_value == result.p_value
    assert swapped.cohens_g == pytest.approx(-result.cohens_g, nan_ok=True)
    if only_a + only_b:
        assert result.cohens_g == only_a / (only_a + only_b) - 0.5


def test_models_right_on_the_same_cases_do_not_differ():
    right = np.array([True, False, True])
    assert mcnemar_exact(right, right) == pytest.approx((0, 0, 1, NAN), nan_ok=True)


def test_wilcoxon_gives_the_published_figures():
    """Darwin's 15 pairs of corn plants, an example of https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.wilcoxon.html."""
    taller = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75.0])
    result = wilcoxon_signed_rank(taller, np.zeros(15))
    assert result == pytest.approx((24, 0.041259765625, (96 - 24) / 120))
    signs = (np.arange(2**15)[:, None] >> np.arange(15)) & 1
    assert result.p_value == pytest.approx(2 * np.mean(signs @ np.arange(1, 16) <= 24))


@settings(deadline=None, max_examples=10)
@given(data=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_wilcoxon_is_antisymmetric_and_knows_no_order(data, seed):
    a, b = np.array(data, float).T
    result, swapped = wilcoxon_signed_rank(a, b), wilcoxon_signed_rank(b, a)
    assert swapped == pytest.approx((result.rank_sum, result.p_value, -result.rank_biserial), nan_ok=True)
    order = np.random.default_rng(seed).permutation(len(a))
    assert wilcoxon_signed_rank(a[order], b[order]) == pytest.approx(result, nan_ok=True)
    assert -1 <= result.rank_biserial <= 1
    assert 0 <= result.p_value <= 1


def test_pratt_ranks_equal_pairs_and_counts_them_for_neither():
    result = wilcoxon_signed_rank(np.array([5.0, 5, 1, 2, 3]), np.array([5.0, 5, 2, 0, 0]))
    assert result.rank_sum == 3
    assert result.rank_biserial == pytest.approx((4 + 5 - 3) / (3 + 4 + 5))
    assert wilcoxon_signed_rank(np.ones(4), np.ones(4)) == pytest.approx((NAN, 1, 0), nan_ok=True)


def test_p_value_with_equal_pairs_is_that_of_signs_at_random():
    """Normal, as in larger samples with ties: each rank has either sign, those of equal pairs none."""
    differences = np.array([0, 0, 0, 0, 0, 1, 1, -1, 2, 3, -3, 4, 5, 6, -6, 7, 8, 9, 9, 10.0])
    ranks = stats.rankdata(np.abs(differences))[5:]
    z = (ranks * np.sign(differences[5:])).sum() / math.sqrt((ranks**2).sum())
    assert wilcoxon_signed_rank(differences, np.zeros(20)).p_value == pytest.approx(2 * stats.norm.sf(abs(z)))


def test_undefined_pairs_are_left_out():
    a, b = np.array([0.9, NAN, 0.5, 0.7]), np.array([0.8, 0.5, NAN, 0.4])
    assert wilcoxon_signed_rank(a, b) == wilcoxon_signed_rank(a[[0, 3]], b[[0, 3]])
    assert wilcoxon_signed_rank(a[1:3], b[1:3]) == pytest.approx((NAN, NAN, NAN), nan_ok=True)


def test_wilcoxon_p_values_of_equal_models_reject_rarely():
    random = np.random.default_rng(4)
    p_values = np.array([wilcoxon_signed_rank(*random.normal(size=(2, 25))).p_value for _ in range(1500)])
    assert 0.03 <= np.mean(p_values < 0.05) <= 0.06


def test_holm_by_hand():
    """The smallest of four times 4, the next times 3, …, and none below the one before it."""
    adjusted = holm(np.array([0.04, 0.01, 0.02, 0.9]))
    assert adjusted.tolist() == pytest.approx([0.08, 0.04, 0.06, 0.9])
    assert holm(np.array([0.5, 0.6])).tolist() == [1, 1]
    assert holm(np.array([0.03, NAN])).tolist() == pytest.approx([0.03, NAN], nan_ok=True)
    assert holm(np.zeros(0)).tolist() == []


@given(p_values=st.lists(st.floats(0, 1), max_size=12), level=st.floats(0.001, 0.999))
def test_holm_rejects_as_the_step_down_procedure_does(p_values, level):
    adjusted, rejected = holm(np.array(p_values, float)), set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(index)
    assert set(np.flatnonzero(adjusted <= level)) == rejected
    assert (adjusted >= p_values).all()


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_statsmodels(p_values):
    with patch("gc.collect"):  # which it calls every time, and which takes all of its time
        expected = multipletests(p_values, method="holm")[1]
    assert holm(np.array(p_values)) == pytest.approx(expected)
