"""Do predicted probabilities mean what they say, how they are made to, and what a decision by them is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from slicewise.evaluation.statistics import wilson_interval
from slicewise.model.engine import Calibration

__all__ = ["decision_curve", "expected_calibration_error", "fit_calibration", "fit_temperature", "reliability"]

_SLOPES = (0.05, 20.0)
"""Of the probability's logit: the inverses of the highest and the lowest temperature."""


def fit_calibration(heads: NDArray[np.float64], peaks: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    """How the labels follow likeliest from what the two heads say: logistic regression on both logits.

    The second level of a stack (Wolpert 1992, https://doi.org/10.1016/S0893-6080(05)80023-1). A weight cannot be negative: a
    head that speaks for tumor never counts against it. The loss is convex: there is one minimum. Temperature and center are
    then those at which the labels are likeliest for the heads so joined.

    Args:
        heads: ``(N,)``, logits of the classification head for cases the model was not trained on.
        peaks: ``(N,)``, largest logits of their masks. Cases where either is not finite are passed over.
        labels: ``(N,)``, is there a tumor?

    Returns:
        With a temperature of 0.05..20. The default where there are no cases or one class only, or where neither head tells
        them apart.

    >>> labels = np.array([False, True] * 100)
    >>> deaf, plain = np.zeros(200), np.where(labels, 9.0, 3.0)
    >>> fitted = fit_calibration(deaf, plain, labels)
    >>> round(fitted.decoder_share, 2), round(fitted.center, 1)
    (1.0, 6.0)
    """
    finite = np.isfinite(heads) & np.isfinite(peaks)
    labels = labels[finite]
    if labels.all() or not labels.any():
        return Calibration()
    evidence = np.column_stack([heads[finite], peaks[finite]])
    constant, unbounded = np.ones(len(labels)), (None, None)
    head, peak, _ = _regress(np.column_stack([evidence, constant]), labels, [(0, None), (0, None), unbounded])
    if head + peak == 0:
        return Calibration()
    share = peak / (head + peak)
    joined = evidence @ [1 - share, share]
    slope, offset = _regress(np.column_stack([joined, constant]), labels, [_SLOPES, unbounded])
    return Calibration(float(share), float(-offset / slope), float(1 / slope))


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """The temperature at which the labels are likeliest (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    The loss is convex in the temperature's inverse: there is one minimum.

    Args:
        logits: ``(N,)``, of cases the model was not trained on; NaN is passed over.
        labels: ``(N,)``, is there a tumor?

    Returns:
        0.05..20; above 1 where the model was too sure. 1 where there are no cases or one class only, for these cannot tell.

    >>> too_sure = np.array([4.6, 4.6, 4.6, -4.6, -4.6, -4.6] * 100)
    >>> round(fit_temperature(too_sure, np.array([True, True, False, False, False, True] * 100)), 1)
    6.7
    """
    finite = np.isfinite(logits)
    logits, labels = logits[finite], labels[finite]
    if labels.all() or not labels.any():
        return 1.0
    return float(1 / _regress(logits[:, None], labels, [_SLOPES])[0])


def _regress(
    evidence: NDArray[np.float64], labels: NDArray[np.bool_], bounds: Sequence[tuple[float | None, float | None]]
) -> NDArray[np.float64]:
    """Weights of the columns of ``evidence``, within ``bounds``, at which the labels are likeliest.

    Labels are taken as not quite certain, (P + 1) / (P + 2) for P tumors and 1 / (N + 2) for N others, as Platt (1999) does:
    where the two classes are told apart without an error the likeliest weights would otherwise be infinite.
    """
    tumors, others = np.count_nonzero(labels), np.count_nonzero(~labels)
    targets = np.where(labels, (tumors + 1) / (tumors + 2), 1 / (others + 2))

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = evidence @ weights
        entropy = targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)
        return float(entropy.mean()), evidence.T @ (expit(logits) - targets) / len(targets)

    start = np.zeros(evidence.shape[1])
    found: NDArray[np.float64] = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12).x
    return found


def reliability(
    probabilities: NDArray[np.float64], labels: NDArray[np.bool_], bins: int = 10, confidence: float = 0.95
) -> pd.DataFrame:
    """How often there is a tumor where the model says how probable one is.

    Args:
        probabilities: ``(N,)``, of a tumor, 0..1.
        labels: ``(N,)``, is there a tumor?
        bins: Of equal width, each without its lower and with its upper end; 0 is in the first.
        confidence: Of the intervals.

    Returns:
        One row a bin: ``low`` and ``high``, its ends; ``n``, its cases; ``mean_probability``; ``tumor_share``; ``share_low``
        and ``share_high``, the share's interval by Wilson, which takes the cases as independent. NaN where empty.

    >>> reliability(np.array([0.1, 0.2, 0.6, 0.8]), np.array([False, True, True, True]), bins=2).round(2)
       low  high  n  mean_probability  tumor_share  share_low  share_high
    0  0.0   0.5  2              0.15          0.5       0.09        0.91
    1  0.5   1.0  2              0.70          1.0       0.34        1.00
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], probabilities)
    n, tumors = np.bincount(bin_of, minlength=bins), np.bincount(bin_of, labels, minlength=bins)
    counts = np.where(n, n, np.nan)
    intervals = [
        wilson_interval(int(found), int(count), confidence) if count else (math.nan, math.nan)
        for found, count in zip(tumors, n, strict=True)
    ]
    low, high = np.array(intervals).T
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "n": n,
            "mean_probability": np.bincount(bin_of, probabilities, minlength=bins) / counts,
            "tumor_share": tumors / counts,
            "share_low": low,
            "share_high": high,
        }
    )


def expected_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.bool_], bins: int = 10) -> float:
    """Mean gap between probability and share of tumors over the bins of `reliability`, weighted by their cases.

    Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602, in the binary form: of the probability of a tumor, not of
    the predicted class. The expectation over a sample is above that of the model, the more so the fewer cases a bin has.

    Args:
        probabilities: ``(N,)``, of a tumor, 0..1.
        labels: ``(N,)``, is there a tumor?
        bins: Of equal width.

    Returns:
        0..1; NaN without cases.

    >>> expected_calibration_error(np.array([0.25, 0.25, 0.75, 0.75]), np.array([False, False, True, True]), bins=2)
    0.25
    """
    table = reliability(probabilities, labels, bins)
    gaps = table["n"] * (table["mean_probability"] - table["tumor_share"]).abs()
    return float(gaps.sum() / len(probabilities)) if len(probabilities) else math.nan


def decision_curve(
    probabilities: NDArray[np.float64], labels: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> pd.DataFrame:
    """Net benefit of acting on the model (Vickers and Elkin 2006, https://doi.org/10.1177/0272989X06295361).

    Who acts from a probability of t on takes (1 - t) / t false alarms for one tumor found. In units of tumors found:
    TP / N - FP / N · t / (1 - t). A model is worth having at thresholds where it is above both other columns.

    Args:
        probabilities: ``(N,)``, of a tumor, 0..1, calibrated.
        labels: ``(N,)``, is there a tumor?
        thresholds: ``(T,)``, 0..1 without 1; a case is acted on from the threshold on.

    Returns:
        One row a threshold: ``threshold``, and the net benefit of acting on the ``model``, on all (``treat_all``) and on
        nobody (``treat_none``, 0). NaN without cases.

    >>> decision_curve(np.array([0.1, 0.3, 0.6, 0.9]), np.array([False, False, True, True]), np.array([0.2, 0.5]))
       threshold   model  treat_all  treat_none
    0        0.2  0.4375      0.375         0.0
    1        0.5  0.5000      0.000         0.0
    """
    count = len(labels) or math.nan
    tumor, free = np.sort(probabilities[labels.astype(bool)]), np.sort(probabilities[~labels.astype(bool)])
    odds = thresholds / (1 - thresholds)
    found = len(tumor) - np.searchsorted(tumor, thresholds)
    alarms = len(free) - np.searchsorted(free, thresholds)
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "model": (found - alarms * odds) / count,
            "treat_all": (len(tumor) - len(free) * odds) / count,
            "treat_none": 0.0 / count,
        }
    )
