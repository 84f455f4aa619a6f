"""Run a model over slices of a store, through the predictor, into a table of cases and one of scans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.data.dataset import Targets
from slicewise.data.store import SliceStore
from slicewise.evaluation.cases import VOLUME_KEYS, are_outlined, make_cases, make_volumes, pixel_counts
from slicewise.evaluation.distances import measure_distances
from slicewise.inference.predictor import Predictor
from slicewise.inference.uncertainty import check_variance

__all__ = ["Evaluated", "evaluate"]

_SCAN = ["source", "patient_id", "study_id", "sequence"]
_GRID_SPACING = ["spacing_row_mm", "spacing_column_mm"]


class Evaluated(NamedTuple):
    """What a model made of some slices."""

    cases: pd.DataFrame
    """See `slicewise.evaluation.cases.CASE_COLUMNS`."""
    volumes: pd.DataFrame
    """See `slicewise.evaluation.cases.VOLUME_COLUMNS`."""


def evaluate(
    predictor: Predictor,
    store: SliceStore,
    targets: Targets,
    rows: NDArray[np.int64],
    *,
    model: str,
    split: str,
    duplicates: Mapping[str, int] | None = None,
    with_uncertainty: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluated:
    """Predict ``rows`` and count.

    Args:
        predictor: The model.
        store: The slices.
        targets: What may be scored of every row of the store.
        rows: Which slices.
        model: Name for the column ``model``.
        split: Name for the column ``split``.
        duplicates: Number of the group of each file that has copies.
        with_uncertainty: Ask again of augmented views and thinned heads, which takes several times as long.
        progress: Called with the number done and the total.

    Raises:
        CheckpointError: The uncertainty asked for does not vary.
    """
    segments = "segmentation" in predictor.description.tasks
    outcomes: list[dict[str, object]] = []
    masks: dict[int, NDArray[np.uint8]] = {}
    for row in rows:
        pixels = store.images[row]
        prediction = predictor.predict_preprocessed(pixels)
        outcome: dict[str, object] = {
            "probability": prediction.probability,
            "raw_probability": prediction.raw_probability,
            "is_tumor": prediction.is_tumor,
            "classification": bool(targets.label_known[row]),
        }
        if segments:
            decoded = prediction.tumor_probabilities >= predictor.description.mask_threshold
            outcome |= {"predicted_area_px": prediction.area_px, "decoder_area_px": int(decoded.sum())}
            if targets.mask_known[row]:
                outcome |= pixel_counts(prediction.mask, store.masks([int(row)])[0])
                masks[int(row)] = np.packbits(prediction.mask)
        if with_uncertainty:
            outcome["uncertainty"] = predictor.uncertainty(pixels)
        outcomes.append(outcome)
        progress(len(outcomes), len(rows))
    if with_uncertainty:
        check_variance([float(str(outcome["uncertainty"])) for outcome in outcomes])
    threshold = predictor.description.threshold
    cases = make_cases(store.table, rows, outcomes, duplicates=duplicates, model=model, split=split, threshold=threshold)
    return Evaluated(*_with_distances(cases, masks, store))


def _with_distances(
    cases: pd.DataFrame, masks: Mapping[int, NDArray[np.uint8]], store: SliceStore
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Outlines compared slice by slice, and scan by scan in three dimensions."""
    side = store.images.shape[1:]

    def pair(row: int) -> NDArray[np.bool_]:
        return np.array([np.unpackbits(masks[row]).reshape(side), store.masks([row])[0]], dtype=np.bool_)

    scans, measured = make_volumes(cases), {}
    counted = cases[cases["row"].isin(list(masks)) & are_outlined(cases)]
    for index, case in counted[["row", *_GRID_SPACING]].iterrows():
        prediction, reference = pair(int(case["row"]))
        if prediction.any() or reference.any():
            measured[index] = measure_distances(prediction, reference, _known(case[_GRID_SPACING]))
    by_scan = {_key(key): list(group.index) for key, group in counted.groupby(_SCAN, dropna=False)}
    volumes = []
    for scan in scans.to_dict("records"):
        slices = counted.loc[by_scan[_key(scan[name] for name in _SCAN)]]
        places = (slices["slice_index"] - slices["slice_index"].min()).to_numpy(int)
        volume = np.zeros((2, int(places.max()) + 1, *side), dtype=np.bool_)
        for place, row in zip(places, slices["row"], strict=True):
            volume[:, place] = pair(int(row))
        spacing = _known(slices[["spacing_slice_mm", *_GRID_SPACING]].iloc[0])
        key = {name: scan[name] for name in VOLUME_KEYS}
        volumes.append(key | measure_distances(volume[0], volume[1], spacing)._asdict())
    for number, name in enumerate(("hausdorff95", "surface_dice", "distance_unit")):
        values = pd.Series({index: distances[number] for index, distances in measured.items()}, dtype=object)
        cases[name] = values.reindex(cases.index).astype(cases[name].dtype)
    keys = {name: cases[name].dtype for name in VOLUME_KEYS}
    return cases, make_volumes(cases, pd.DataFrame(volumes).astype(keys) if volumes else None)


def _key(parts: Iterable[Any]) -> tuple[Any, ...]:
    """Pandas has several values for a sequence that is not named, which do not equal one another."""
    return tuple(None if pd.isna(part) else part for part in parts)


def _known(spacing: pd.Series[float]) -> list[float] | None:
    return None if spacing.isna().any() else [float(distance) for distance in spacing]
