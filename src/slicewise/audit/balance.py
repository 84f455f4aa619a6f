"""Who is in the data, how often, and what stands out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from slicewise.audit.findings import Finding

__all__ = ["check_balance", "tabulate"]

_RARE_SHARE = 0.1
_FEW_PATIENTS = 10
_DOMINANT_SHARE = 0.25
_OUTLIER_DEVIATIONS = 8.0
_POSITIONS = 5


def check_balance(table: pd.DataFrame) -> Iterator[Finding]:
    """Findings about classes, patients and intensities, each within its source.

    Args:
        table: One row a slice; blank ones left out.
    """
    for source, slices in table.groupby("source"):
        yield from _classes(slices.dropna(subset="label"), str(source))
        yield from _patients(slices, str(source))
        yield from _intensities(slices, str(source))


def tabulate(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Slices and patients by source, label and position in the study (fifths from the first slice to the last).

    Args:
        table: One row a slice.
    """
    place = table.groupby(["source", "study_id", "sequence"])["slice_index"].rank(pct=True)
    fifth = np.ceil(place * _POSITIONS).clip(1, _POSITIONS).astype(int)
    lone = table.groupby(["source", "study_id"])["slice_index"].transform("nunique") < _POSITIONS
    rows = []
    for source, slices in table.groupby("source"):
        for label in (True, False, None):
            of_label = slices[slices["label"].isna()] if label is None else slices[slices["label"].eq(label).fillna(False)]
            if of_label.empty:
                continue
            positions = fifth[of_label.index][~lone[of_label.index]].value_counts()
            rows.append(
                {
                    "source": str(source),
                    "label": label,
                    "slices": len(of_label),
                    "patients": int(of_label["patient_id"].nunique()),
                    "by_position": [int(positions.get(number, 0)) for number in range(1, _POSITIONS + 1)],
                }
            )
    return rows


def _classes(labelled: pd.DataFrame, source: str) -> Iterator[Finding]:
    counts = labelled["label"].value_counts()
    if len(counts) < 2:  # the shortcut rules say that
        return
    rarer = bool(counts.idxmin())
    share = counts.min() / counts.sum()
    if share < _RARE_SHARE:
        yield Finding.of(
            "class-imbalance",
            f"{counts.min()} of {counts.sum()} slices ({100 * share:.1f} %) are {'tumor' if rarer else 'tumor-free'}.",
            source=source,
        )


def _patients(slices: pd.DataFrame, source: str) -> Iterator[Finding]:
    labelled = slices.dropna(subset="label")
    for label, of_label in labelled.groupby(labelled["label"].astype(bool)):
        patients = of_label["patient_id"].nunique()
        if patients < _FEW_PATIENTS:
            words = "tumor" if label else "tumor-free"
            yield Finding.of("few-patients", f"{patients} patients have {words} slices.", source=source)
    counts = slices["patient_id"].value_counts()
    share = counts.iloc[0] / counts.sum()
    if len(counts) >= _FEW_PATIENTS and share > _DOMINANT_SHARE:
        yield Finding.of(
            "dominant-patient",
            f"Patient {counts.index[0]} gives {counts.iloc[0]} of {counts.sum()} slices ({100 * share:.0f} %).",
            source=source,
        )


def _intensities(slices: pd.DataFrame, source: str) -> Iterator[Finding]:
    """Distance from the median in units of the median absolute deviation, of figures that do not depend on the unit."""
    span = (slices["intensity_high"] - slices["intensity_low"]).clip(lower=1e-12)
    brightness = (slices["intensity_mean"] - slices["intensity_low"]) / span
    contrast = slices["intensity_std"] / span
    far = pd.Series(0.0, index=slices.index)
    for figure in (brightness, contrast):
        deviation = (figure - figure.median()).abs()
        scale = 1.4826 * deviation.median()
        if scale > 0:
            far = far.combine(deviation / scale, max)
    outliers = slices[far > _OUTLIER_DEVIATIONS].loc[far[far > _OUTLIER_DEVIATIONS].sort_values(ascending=False).index]
    if len(outliers):
        yield Finding.of(
            "intensity-outlier",
            f"{len(outliers)} of {len(slices)} slices lie more than {_OUTLIER_DEVIATIONS:g} deviations from the median "
            "brightness or contrast of their source.",
            outliers["file"].dropna(),
            source=source,
        )
