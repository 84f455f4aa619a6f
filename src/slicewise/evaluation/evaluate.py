"""Run a model over slices of a store, through the predictor, into a table of cases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.data.dataset import Targets
from slicewise.data.store import SliceStore
from slicewise.evaluation.cases import make_cases, pixel_counts
from slicewise.inference.predictor import Predictor

__all__ = ["evaluate"]


def evaluate(
    predictor: Predictor,
    store: SliceStore,
    targets: Targets,
    rows: NDArray[np.int64],
    *,
    model: str,
    split: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Predict ``rows`` and count.

    Args:
        predictor: The model.
        store: The slices.
        targets: What may be scored of every row of the store.
        rows: Which slices.
        model: Name for the column ``model``.
        split: Name for the column ``split``.
        progress: Called with the number done and the total.

    Returns:
        A table of cases, see `slicewise.evaluation.cases.CASE_COLUMNS`.
    """
    segments = "segmentation" in predictor.description.tasks
    outcomes: list[dict[str, object]] = []
    for row in rows:
        prediction = predictor.predict_preprocessed(store.images[row])
        outcome: dict[str, object] = {
            "probability": prediction.probability,
            "is_tumor": prediction.is_tumor,
            "classification": bool(targets.label_known[row]),
        }
        if segments:
            outcome["predicted_area_px"] = prediction.area_px
            if targets.mask_known[row]:
                outcome |= pixel_counts(prediction.mask, store.masks([int(row)])[0])
        outcomes.append(outcome)
        progress(len(outcomes), len(rows))
    return make_cases(store.table, rows, outcomes, model=model, split=split, threshold=predictor.description.threshold)
