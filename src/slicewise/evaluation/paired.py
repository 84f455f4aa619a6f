"""Two models on the same cases: do they differ by more than chance, and by how much?

Every test comes with the size of what it tests: with many slices a p-value is small for differences that do not matter.
Undefined is NaN.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

__all__ = ["DeLong", "McNemar", "Wilcoxon", "delong", "holm", "mcnemar_exact", "wilcoxon_signed_rank"]

_FEWEST_CLUSTERS = 2  # one alone has no spread


class McNemar(NamedTuple):
    """Which of two models is right where the other is wrong?"""

    n_only_a: int
    """Cases that only the first model decides rightly."""
    n_only_b: int
    """Cases that only the second does."""
    p_value: float
    """Two-sided, exact; 1 where the models are right on the same cases."""
    cohens_g: float
    """Share of the first model in these cases minus 0.5, -0.5..0.5; NaN where there are none."""


class DeLong(NamedTuple):
    """Areas under the ROC curves of two models."""

    difference: float
    """The first's less the second's, -1..1; NaN with one class only."""
    standard_error: float
    """Of the difference; NaN with one class only, or where one patient alone has all cases of a class."""
    p_value: float
    """Two-sided, that the areas are equal."""


class Wilcoxon(NamedTuple):
    """Paired values of two models."""

    rank_sum: float
    """The smaller of those in favor of either model; NaN where no pair differs."""
    p_value: float
    """Two-sided, that differences are symmetric about 0."""
    rank_biserial: float
    """-1..1: share of the rank sum in favor of the first model minus the share in favor of the second."""


def mcnemar_exact(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> McNemar:
    """Compare how often two models are right.

    Only cases on which they disagree tell them apart: under equality each falls to either with probability 0.5 (McNemar
    1947, https://doi.org/10.1007/BF02295996, with binomial probabilities instead of his chi-square). The effect is Cohen's g
    (Cohen 1988, *Statistical Power Analysis*, chapter 5). The cases have to be independent: give one a patient, for several
    slices of a patient make the p-value too small.

    Args:
        right_a: ``(N,)``, did the first model decide the case rightly?
        right_b: ``(N,)``, did the second?

    >>> first, second = np.array([True] * 9 + [False]), np.array([True] * 3 + [False] * 6 + [True])
    >>> mcnemar_exact(first, second)
    McNemar(n_only_a=6, n_only_b=1, p_value=0.125, cohens_g=0.3571428571428571)
    """
    only_a, only_b = int(np.count_nonzero(right_a & ~right_b)), int(np.count_nonzero(right_b & ~right_a))
    discordant = only_a + only_b
    if not discordant:
        return McNemar(0, 0, 1.0, math.nan)
    p_value = float(stats.binomtest(only_a, discordant).pvalue)
    return McNemar(only_a, only_b, p_value, only_a / discordant - 0.5)


def delong(
    labels: NDArray[np.bool_], scores_a: NDArray[np.float64], scores_b: NDArray[np.float64], clusters: NDArray[Any]
) -> DeLong:
    """Compare the areas under two correlated ROC curves (DeLong et al. 1988, https://doi.org/10.2307/2531595).

    The area is the share of pairs of a tumor and a tumor-free case in which the tumor has the higher score, ties half. Each
    case has a structural component: its own share of such pairs. They come from midranks, which needs no pair to be looked
    at (Sun and Xu 2014, https://doi.org/10.1109/LSP.2014.2337313), and are summed within patients (Obuchowski 1997,
    https://doi.org/10.2307/2533958), whose slices may be of one class or both. Let d(i) be what the tumor cases of patient i
    add to the difference of the areas beyond what as many average tumor cases would, e(i) the same of tumor-free cases, and
    P(d), P(e), P the numbers of patients with tumor cases, with tumor-free cases, and of all:

        variance = P(d)/(P(d) - 1) · Σ d² + P(e)/(P(e) - 1) · Σ e² + 2 · P/(P - 1) · Σ d·e

    Where every case is a patient of its own, d or e is 0 for each, P(d) and P(e) are the numbers of cases of the two
    classes, and this is the variance of DeLong et al. exactly.

    The p-value takes the difference as normal, which with few patients makes it too small, the more so the nearer the areas
    are to 1.

    Args:
        labels: ``(N,)``, is there a tumor?
        scores_a: ``(N,)``, of the first model, higher where a tumor is likelier; any monotone scale.
        scores_b: ``(N,)``, of the second model, on a scale of its own.
        clusters: ``(N,)``, the patient of each case, of any type that can be told apart.

    Returns:
        Where both models put the cases in the same order: a p-value of 1. Where all patients differ alike, as where one
        model is always right and the other always wrong, nothing is known of their spread: standard error 0, no p-value.

    >>> labels = np.array([True, True, True, False, False, False])
    >>> result = delong(labels, np.array([6, 5, 3, 4, 2, 1]), np.array([6, 2, 3, 4, 5, 1]), np.arange(6))
    >>> round(result.difference, 3), round(result.standard_error, 3), round(result.p_value, 3)
    (0.333, 0.272, 0.221)
    """
    positive = labels.astype(bool)
    # What cancels out in the difference of the components is then 0 and no rounding error.
    wins = _wins(positive, scores_a) - _wins(positive, scores_b)
    pairs = np.count_nonzero(positive) * np.count_nonzero(~positive)
    difference = float(wins[positive].sum() / pairs) if pairs else math.nan
    error = _standard_error(positive, wins, clusters)
    if error == 0:
        return DeLong(difference, 0.0, math.nan if difference else 1.0)
    return DeLong(difference, error, float(2 * stats.norm.sf(abs(difference) / error)))


def wilcoxon_signed_rank(a: NDArray[np.float64], b: NDArray[np.float64]) -> Wilcoxon:
    """Compare paired values, such as patients' Dice (Wilcoxon 1945, https://doi.org/10.2307/3001968).

    Equal values take part in the ranking and then fall to neither side (Pratt 1959,
    https://doi.org/10.1080/01621459.1959.10501526). The effect is the matched-pairs rank-biserial correlation (Kerby 2014,
    https://doi.org/10.2466/11.IT.3.1) of the pairs that differ: 1 where the first model is ahead in all of them. The pairs
    have to be independent: one a patient.

    Args:
        a: ``(N,)``, of the first model; NaN where undefined.
        b: ``(N,)``, of the second model. Pairs with a NaN are left out.

    >>> wilcoxon_signed_rank(np.array([0.9, 0.8, 0.7, 0.5]), np.array([0.5, 0.6, 0.7, 0.6])).rank_biserial
    0.5555555555555556
    >>> wilcoxon_signed_rank(np.ones(3), np.ones(3))
    Wilcoxon(rank_sum=nan, p_value=1.0, rank_biserial=0.0)
    """
    differences = a - b
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return Wilcoxon(math.nan, math.nan, math.nan)
    if not differences.any():
        return Wilcoxon(math.nan, 1.0, 0.0)
    found = stats.wilcoxon(differences, zero_method="pratt")
    ranks = stats.rankdata(np.abs(differences)) * np.sign(differences)
    return Wilcoxon(float(found.statistic), float(found.pvalue), float(ranks.sum() / np.abs(ranks).sum()))


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values for their number, step by step (Holm 1979, https://www.jstor.org/stable/4615733).

    Whatever is called significant at 0.05 afterwards, the chance that any of it is an error is at most 0.05, however the
    tests depend on one another.

    Args:
        p_values: ``(n,)``, 0..1; NaN for a test that could not be made: it stays NaN and does not count.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN is sorted to the end
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)))
    return adjusted


def _wins(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each case, in how many pairs with the other class the order is right, ties half: the structural components,
    not yet divided, because halves add up without rounding.
    """
    wins = stats.rankdata(scores)
    wins[positive] -= stats.rankdata(scores[positive])
    wins[~positive] = np.count_nonzero(positive) - (wins[~positive] - stats.rankdata(scores[~positive]))
    return wins


def _standard_error(positive: NDArray[np.bool_], wins: NDArray[np.float64], clusters: NDArray[Any]) -> float:
    """Of a difference of areas, by Obuchowski's clustered variance; see `delong`."""
    cluster = pd.factorize(clusters)[0]
    excesses, corrections = [], []
    for of_class in (positive, ~positive):
        sizes, sums = np.bincount(cluster, of_class), np.bincount(cluster, wins * of_class)
        n_with, count = np.count_nonzero(sizes), np.count_nonzero(of_class)
        if n_with < _FEWEST_CLUSTERS or count == len(wins):
            return math.nan
        # One fraction, with halves above: patients who do not differ come out as 0, not as a rounding error.
        excesses.append((sums * count - sizes * sums.sum()) / (count**2 * (len(wins) - count)))
        corrections.append(n_with / (n_with - 1))
    (tumor, free), n_all = excesses, len(sizes)
    variance = corrections[0] * (tumor @ tumor) + corrections[1] * (free @ free) + 2 * n_all / (n_all - 1) * (tumor @ free)
    return math.sqrt(max(0.0, variance))  # below 0 by rounding only: the corrections of the squares are never the smaller
