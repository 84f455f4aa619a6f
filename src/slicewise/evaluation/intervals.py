"""Figures with intervals, of several models: the same patients are drawn for all, so that differences are paired."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from slicewise.evaluation.metrics import METRICS, Figure, Tables, measure, rows_behind
from slicewise.evaluation.patients import assign_clusters
from slicewise.evaluation.statistics import draw_weights, percentile_interval, resample_ranks, wilson_interval
from slicewise.evaluation.terms import RATIOS, figures_of

__all__ = ["Estimate", "Resampling", "Sample"]

_CHUNK_VALUES = 4_000_000
_FEWEST_PATIENTS = 2  # one alone has no spread
_ROUNDING = 1e-9
_SIMPLE_RATES = tuple(
    name
    for name in METRICS
    if name in RATIOS and not any(word in name for word in ("dice", "iou", "hausdorff", "brier", "f1"))
)
"""Figures that count slices or patients: for them there is Wilson's interval where these are independent."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How intervals are made."""

    resamples: int = 2000
    """Of the bootstrap over patients."""
    confidence: float = 0.95
    """Of the intervals, two-sided."""
    seed: int = 0
    """The same seed, the same patients."""


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A figure, its interval, and what it was in every resample."""

    figure: Figure
    low: float
    """NaN where there is no interval: undefined, fewer than two patients, or every resample says the same."""
    high: float
    method: str | None
    """``bootstrap`` over patients or ``wilson``; None without an interval."""
    resampled: NDArray[np.float64]
    """``(resamples,)``, NaN where undefined."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``results.json``."""
        low, high = (None if math.isnan(end) else end for end in (self.low, self.high))
        plain = self.figure.to_json()
        return {"value": plain["value"], "low": low, "high": high} | plain | {"interval": self.method}


class Resampling:
    """Patients drawn once, for every model and figure.

    Args:
        cases: Rows of all models and of one side, for their patients.
        sample: How many draws, and of which seed.
    """

    def __init__(self, cases: pd.DataFrame, sample: Sample) -> None:
        self.sample = sample
        columns = ["source", "patient_id", "duplicate_group"]
        # Models that saw the same slices name the same patients: one row each is enough.
        slices = cases[columns].drop_duplicates()
        clusters = assign_clusters(slices)
        keys = [slices["source"].astype(object), slices["patient_id"].astype(object)]
        self._cluster_of = (
            pd.Series(clusters.to_numpy(), index=pd.MultiIndex.from_arrays(keys)).groupby(level=[0, 1]).first()
        )
        self.count = int(clusters.max()) + 1 if len(clusters) else 0
        self.weights = draw_weights(self.count, sample.resamples, sample.seed) if self.count else None

    def clusters(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """Each row's patient, a column of ``weights``, ``(N,)``."""
        keys = pd.MultiIndex.from_arrays([table["source"].astype(object), table["patient_id"].astype(object)])
        return self._cluster_of.reindex(keys).to_numpy(np.int64)

    def totals(self, table: pd.DataFrame, terms: pd.DataFrame) -> NDArray[np.float64]:
        """Sums of each term in every resample, ``(resamples, terms)``; the terms' rows are those of the table."""
        if self.weights is None:
            return np.zeros((self.sample.resamples, terms.shape[1]))
        places = (self.clusters(table), np.arange(len(table)))
        of_patients = csr_matrix((np.ones(len(table)), places), shape=(self.count, len(table))) @ terms.to_numpy(float)
        # The weights are bytes and the product is of floats: some resamples at a time.
        size = max(1, _CHUNK_VALUES // self.count)
        chunks = [self.weights[start : start + size] @ of_patients for start in range(0, len(self.weights), size)]
        return np.concatenate(chunks)

    def means(self, table: pd.DataFrame, values: pd.Series[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of ``values``, one a row of the table, in every resample, ``(resamples,)``; NaN where no row was drawn."""
        totals = self.totals(table, pd.DataFrame({"sum": np.asarray(values, dtype=float), "count": 1.0}))
        return np.divide(totals[:, 0], totals[:, 1], out=np.full(len(totals), np.nan), where=totals[:, 1] > 0)

    def count_patients(self, rows: pd.DataFrame) -> int:
        """Patients of the rows; those who share a copy of a slice are one."""
        return len(np.unique(self.clusters(rows[["source", "patient_id"]].drop_duplicates())))

    def are_independent(self, rows: pd.DataFrame) -> bool:
        """Is each row of a patient of its own?"""
        return self.count_patients(rows) == len(rows)

    def interval(self, resampled: NDArray[np.float64], rows: pd.DataFrame) -> tuple[float, float]:
        """Percentile interval of a figure or difference.

        Args:
            resampled: ``(resamples,)``, what it was in every resample.
            rows: What it was computed from, for its patients.

        Returns:
            Both NaN where the resamples tell nothing of other patients: fewer than two stand behind it, or it is the same
            in every resample, which would be taken for certainty.
        """
        low, high = self._percentiles(resampled, rows, self.sample.confidence)
        return (low, high) if high - low > _ROUNDING else (math.nan, math.nan)

    def rate_interval(self, rate: float, resampled: NDArray[np.float64], rows: pd.DataFrame) -> tuple[float, float]:
        """Interval of a share of ``rows``: Wilson's where each is of a patient of its own or all agree, else as `interval`.

        Args:
            rate: The share, 0..1; NaN without rows, which have no interval.
            resampled: ``(resamples,)``, what it was in every resample.
            rows: What is counted, for its patients.
        """
        return self._wilson(rate, rows) or self.interval(resampled, rows)

    def lower_bound(self, resampled: NDArray[np.float64], rows: pd.DataFrame, confidence: float) -> float:
        """Lower end of the one-sided interval, as `interval`; NaN with fewer than two patients."""
        return self._percentiles(resampled, rows, 2 * confidence - 1)[0]

    def _percentiles(self, resampled: NDArray[np.float64], rows: pd.DataFrame, confidence: float) -> tuple[float, float]:
        if self.count_patients(rows) < _FEWEST_PATIENTS:
            return math.nan, math.nan
        return percentile_interval(resampled, confidence)

    def estimate(self, tables: Tables, *, ranks: bool = True) -> dict[str, Estimate]:
        """Every figure of one model, with its interval; without ``ranks``, none for those that need cases to be sorted."""
        figures, resampled = measure(tables), self._resample(tables, ranks)
        return {name: self._with_interval(name, figures[name], resampled[name], tables) for name in METRICS}

    def _resample(self, tables: Tables, ranks: bool) -> dict[str, NDArray[np.float64]]:
        if self.weights is None:
            return dict.fromkeys(METRICS, np.full(self.sample.resamples, np.nan))
        sums: dict[str, NDArray[np.float64]] = {}
        for table, terms in (
            (tables.cases, tables.slice_terms),
            (tables.volumes, tables.volume_terms),
            (tables.patients, tables.patient_terms),
        ):
            drawn = self.totals(table, terms)
            sums |= {name: drawn[:, column] for column, name in enumerate(terms.columns)}
        resampled = figures_of(sums)
        known, patients = tables.cases[tables.slice_terms["known"].to_numpy(bool)], tables.patients
        undefined = np.full(self.sample.resamples, np.nan)
        resampled["roc_auc"], resampled["average_precision"] = self._ranks(known) if ranks else (undefined, undefined)
        resampled["patient_roc_auc"] = self._ranks(patients[patients["label"].notna()])[0] if ranks else undefined
        return resampled

    def _ranks(self, known: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.weights is None or known["label"].nunique() < 2:
            undefined = np.full(self.sample.resamples, np.nan)
            return undefined, undefined
        label, probability = known["label"].to_numpy(bool), known["probability"].to_numpy(float)
        return resample_ranks(label, probability, self.clusters(known), self.weights)

    def _with_interval(self, name: str, figure: Figure, resampled: NDArray[np.float64], tables: Tables) -> Estimate:
        if math.isnan(figure.value):
            return Estimate(figure, math.nan, math.nan, None, resampled)
        rows = rows_behind(tables, name)
        wilson = self._wilson(figure.value, rows) if name in _SIMPLE_RATES else None
        low, high = wilson or self.interval(resampled, rows)
        if name == "expected_calibration_error" and not math.isnan(low):
            low, high = _reflect(figure.value, low, high)
        return Estimate(figure, low, high, "wilson" if wilson else None if math.isnan(low) else "bootstrap", resampled)

    def _wilson(self, rate: float, rows: pd.DataFrame) -> tuple[float, float] | None:
        count = self.count_patients(rows)
        if count < _FEWEST_PATIENTS or (count < len(rows) and rate not in (0.0, 1.0)):
            return None
        # Where all slices agree a resample can only say the same: counting each patient once is what remains to be said.
        return wilson_interval(round(rate * count), count, self.sample.confidence)


def _reflect(value: float, low: float, high: float) -> tuple[float, float]:
    """The basic interval of a figure that cannot be negative, from its percentiles (Davison and Hinkley 1997, *Bootstrap
    Methods and their Application*, section 5.2); both NaN where that would be certainty, as of a value of 0.

    A mean of absolute values lies above that of all patients, and a resample's above the sample's in turn: percentiles would
    add the bias where reflecting them at the value takes it off. Where nearly all resamples lie above the value, it is the
    upper end.
    """
    low, high = max(0.0, 2 * value - high), max(value, 2 * value - low)
    return (low, high) if high - low > _ROUNDING else (math.nan, math.nan)
