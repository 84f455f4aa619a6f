"""The table of cases: one row a slice and model, additive counts only; every figure is computed from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["CASE_COLUMNS", "make_cases", "pixel_counts"]

CASE_COLUMNS = {
    "model": "string",
    "split": "string",
    "slice_id": "string",
    "study_id": "string",
    "patient_id": "string",
    "source": "string",
    "sequence": "string",
    "plane": "string",
    "slice_index": "Int64",
    "label": "boolean",
    "mask_state": "string",
    "classification": "boolean",
    "probability": "float64",
    "threshold": "float64",
    "is_tumor": "boolean",
    "tp": "Int64",
    "fp": "Int64",
    "fn": "Int64",
    "tn": "Int64",
    "predicted_area_px": "Int64",
    "reference_area_px": "Int64",
    "spacing_row_mm": "float64",
    "spacing_column_mm": "float64",
    "row": "Int64",
}
"""Columns and their pandas types. ``tp`` to ``tn`` and both areas are pixels of the network's 256×256 grid; counts are
missing where the mask is not known or the model does not segment. ``classification``: the source's labels take part.
``row`` is the slice's row in the store."""

_FROM_STORE = (
    "slice_id",
    "study_id",
    "patient_id",
    "source",
    "sequence",
    "plane",
    "slice_index",
    "label",
    "mask_state",
    "reference_area_px",
    "spacing_row_mm",
    "spacing_column_mm",
)


def pixel_counts(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> dict[str, int]:
    """True and false positives and negatives of one slice, in pixels.

    >>> mask = np.array([[True, True, False, False]])
    >>> pixel_counts(mask, np.array([[True, False, True, False]]))
    {'tp': 1, 'fp': 1, 'fn': 1, 'tn': 1}
    """
    tp = int(np.count_nonzero(prediction & reference))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    return {"tp": tp, "fp": fp, "fn": fn, "tn": prediction.size - tp - fp - fn}


def make_cases(
    table: pd.DataFrame, rows: NDArray[np.int64], outcomes: list[dict[str, object]], **constants: Any
) -> pd.DataFrame:
    """Join what the store knows of slices with what a model said of them.

    Args:
        table: The store's table.
        rows: The slices, as rows of the store.
        outcomes: For each, the columns that the model decides.
        **constants: Columns equal in all rows, such as ``model`` and ``split``.
    """
    cases = table.iloc[rows][list(_FROM_STORE)].reset_index(drop=True)
    cases = cases.join(pd.DataFrame(outcomes)).assign(row=rows, **constants)
    return cases.reindex(columns=list(CASE_COLUMNS)).astype(CASE_COLUMNS)
