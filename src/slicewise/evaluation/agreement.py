"""Do two measurements of the same tumors agree?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

__all__ = ["bland_altman"]

_LIMIT = 1.96


def bland_altman(patients: pd.DataFrame, confidence: float = 0.95) -> dict[str, Any] | None:
    """Bias and limits of agreement of tumor volumes (Bland and Altman 1986, https://doi.org/10.1016/S0140-6736(86)90837-8).

    Every patient of whom the volume is known takes part, those in whom rightly nothing is marked as well: with false masks
    alone the bias would be that of the errors.

    Args:
        patients: Of one model, see `slicewise.evaluation.patients.make_patients`.
        confidence: Of the intervals; the limits are those of 95 % of the differences.

    Returns:
        ``unit`` (``ml`` if known for every patient, else ``px``: pixels of the 256×256 grid, of all slices),
        ``n_patients``, ``bias`` (predicted less reference), ``lower_limit`` and ``upper_limit``, each with its interval,
        and the ``points`` (``mean``, ``difference``) that they come from. None with fewer than two patients.

    >>> volumes = {"predicted_ml": [11.0, 21.0, 33.0], "reference_ml": [10.0, 20.0, 30.0]}
    >>> agreement = bland_altman(pd.DataFrame(volumes | {"predicted_px": [1.0] * 3, "reference_px": [1.0] * 3}))
    >>> agreement["unit"], round(agreement["bias"]["value"], 3), round(agreement["upper_limit"]["value"], 3)
    ('ml', 1.667, 3.93)
    """
    measured = patients[patients["reference_px"].notna()]
    if len(measured) < 2:
        return None
    unit = "ml" if measured["reference_ml"].notna().all() else "px"
    predicted, reference = (measured[f"{kind}_{unit}"].to_numpy(float) for kind in ("predicted", "reference"))
    differences, count = predicted - reference, len(measured)
    bias, deviation = float(differences.mean()), float(differences.std(ddof=1))
    quantile = float(student.ppf((1 + confidence) / 2, count - 1))

    def with_interval(value: float, error: float) -> dict[str, float]:
        return {"value": value, "low": value - quantile * error, "high": value + quantile * error}

    # Standard errors of the bias and of a limit, as in the same article.
    of_bias, of_limit = deviation / math.sqrt(count), deviation * math.sqrt(3 / count)
    return {
        "unit": unit,
        "n_patients": count,
        "bias": with_interval(bias, of_bias),
        "lower_limit": with_interval(bias - _LIMIT * deviation, of_limit),
        "upper_limit": with_interval(bias + _LIMIT * deviation, of_limit),
        "points": [
            {"mean": float(mean), "difference": float(difference)}
            for mean, difference in zip(np.add(predicted, reference) / 2, differences, strict=True)
        ],
    }
