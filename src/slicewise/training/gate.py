"""The gate: a joint model whose segmentation is inferior to that of the segmentation phase is not kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from slicewise.config import GateConfig
from slicewise.evaluation.statistics import bootstrap_means

__all__ = ["Gate", "Verdict"]

_FEWEST_PATIENTS = 2  # one alone has no spread


@dataclass(frozen=True, slots=True)
class Verdict:
    """Is a model's segmentation not inferior?"""

    accepted: bool
    """``low`` is at least minus ``margin``."""
    difference: float | None
    """Mean over patients of volume Dice, the model's less the reference's; None with fewer than two."""
    low: float | None
    """Lower end of its one-sided interval."""
    margin: float
    """The largest loss that is taken."""
    confidence: float
    """Of the interval."""
    n_patients: int
    """Validation patients compared."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """Compares with the segmentation phase, patient by patient.

    The patients are the unit: their slices are not independent. Non-inferiority is shown, not assumed: few patients or a
    wide spread of differences close the gate, as they should.
    """

    reference: pd.Series[float]
    """Volume Dice of the segmentation phase by validation patient, see `slicewise.evaluation.metrics.dice_by_patient`."""
    config: GateConfig
    """Margin, confidence, resamples."""
    seed: int
    """Of the bootstrap."""

    def judge(self, dice: pd.Series[float]) -> Verdict:
        """Judge a model by its volume Dice by patient."""
        config = self.config
        both = pd.concat([dice, self.reference], axis=1, keys=["model", "reference"]).dropna(how="all")
        # Dice is undefined where nothing is outlined and nothing was drawn: that is right, and a mask there is wrong.
        both = both.fillna(1.0)
        if len(both) < _FEWEST_PATIENTS:
            return Verdict(False, None, None, config.margin, config.confidence, len(both))
        differences = (both["model"] - both["reference"]).to_numpy(float)
        means = bootstrap_means(differences, config.resamples, self.seed)
        low = float(np.quantile(means, 1 - config.confidence))
        # Two equal models differ by rounding alone.
        accepted = low >= -config.margin - 1e-12
        return Verdict(accepted, float(differences.mean()), low, config.margin, config.confidence, len(both))
