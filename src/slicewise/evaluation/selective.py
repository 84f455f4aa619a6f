"""Leaving the uncertain cases to a reader: how wrong is the model on those that it keeps?"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["area_under_risk_coverage", "choose_referral", "risk_coverage"]


def risk_coverage(errors: NDArray[np.float64], uncertainty: NDArray[np.float64]) -> pd.DataFrame:
    """Error rate of the most certain cases, from few of them to all (Geifman and El-Yaniv 2017,
    https://arxiv.org/abs/1705.08500).

    Args:
        errors: ``(N,)``, 0..1: was the case decided wrongly, or how wrongly, such as one minus its Dice.
        uncertainty: ``(N,)``, higher where the model is less certain; any monotone scale.

    Returns:
        One row for each distinct uncertainty, rising, because no rule can part cases that are equally uncertain:
        ``uncertainty``, the highest kept; ``coverage``, the share of cases kept; ``risk``, the mean error among them.

    >>> risk_coverage(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.2, 0.9]))
       uncertainty  coverage      risk
    0          0.1      0.25  0.000000
    1          0.2      0.75  0.333333
    2          0.9      1.00  0.500000
    """
    levels, level_of = np.unique(uncertainty, return_inverse=True)
    kept = np.bincount(level_of, minlength=len(levels)).cumsum()
    wrong = np.bincount(level_of, errors, minlength=len(levels)).cumsum()
    return pd.DataFrame({"uncertainty": levels, "coverage": kept / len(errors), "risk": wrong / kept})


def area_under_risk_coverage(errors: NDArray[np.float64], uncertainty: NDArray[np.float64]) -> float:
    """Mean risk over all coverages (Geifman et al. 2019, https://arxiv.org/abs/1805.08206); lower is better.

    The risk at a case's turn is that of all cases at most as uncertain; cases equally uncertain share one. An uncertainty
    that tells nothing gives the error rate, the best one a value above 0 as long as there are errors.

    Args:
        errors: ``(N,)``, 0..1, see `risk_coverage`.
        uncertainty: ``(N,)``, higher where the model is less certain.

    Returns:
        0..1; NaN without cases.

    >>> errors = np.array([0, 0, 0, 1])
    >>> [area_under_risk_coverage(errors, np.array(order)) for order in ([1, 2, 3, 4], [1, 1, 1, 1], [4, 3, 2, 1])]
    [0.0625, 0.25, 0.5208333333333333]
    """
    if not len(errors):
        return math.nan
    curve = risk_coverage(errors, uncertainty)
    return float((curve["risk"] * curve["coverage"].diff().fillna(curve["coverage"])).sum())


def choose_referral(uncertainty: NDArray[np.float64], coverage: float) -> float:
    """The uncertainty above which a case is referred to a reader.

    Args:
        uncertainty: ``(N,)``, of validation cases.
        coverage: Least share of them that the model is to keep, above 0 up to 1.

    Returns:
        An uncertainty that occurs: a case is kept up to it and referred above. All cases as uncertain as the last one kept
        are kept, too, which may be more than asked for. At a coverage of 1 it refers what is more uncertain than any
        validation case; infinity without cases.

    >>> choose_referral(np.array([0.1, 0.4, 0.2, 0.3]), coverage=0.75)
    0.3
    >>> choose_referral(np.array([0.1, 0.2, 0.2, 0.3]), coverage=0.5)
    0.2
    """
    if not len(uncertainty):
        return math.inf
    # The small term keeps 0.56 · 100 = 56.00000000000001 from asking for one more.
    kept = max(1, math.ceil(coverage * len(uncertainty) - 1e-9))
    return float(np.sort(uncertainty)[kept - 1])
