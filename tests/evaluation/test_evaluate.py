from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from slicewise.config import SourceConfig
from slicewise.data.dataset import find_targets
from slicewise.evaluation.cases import VOLUME_COLUMNS, pixel_counts
from slicewise.evaluation.distances import measure_distances
from slicewise.evaluation.evaluate import evaluate
from slicewise.records import Prediction

from .tables import KINDS

SOURCES = {"masked": SourceConfig(layout="lgg"), "yes_no": SourceConfig(layout="labelled_folders")}


class Stub:
    """Sees what is bright, and answers as the mean brightness says: a predictor without a network."""

    def __init__(self, tasks=("segmentation", "classification"), shift=2, threshold=0.5):
        self.description = SimpleNamespace(tasks=tasks, mask_threshold=0.5, threshold=threshold)
        self.shift = shift

    def predict_preprocessed(self, pixels):
        bright = np.roll(pixels > 1.8, self.shift, axis=1)
        drawn = np.where(bright, 0.9, 0.1).astype(np.float32)
        probability = 0.8 if bright.sum() > 500 else 0.2
        is_tumor = probability >= self.description.threshold
        mask = (drawn >= 0.5) & is_tumor
        return Prediction(
            probability=probability,
            raw_probability=probability + 0.1,
            is_tumor=is_tumor,
            mask=mask,
            tumor_probabilities=drawn,
        )


@pytest.fixture(scope="module")
def found(small_store):
    rows = np.array([21, 0, 1, 5, 4])
    targets = find_targets(small_store.table, SOURCES)
    return evaluate(Stub(), small_store, targets, rows, model="joint", split="test", duplicates={}), rows, targets


def test_each_slice_is_counted_against_its_own_mask(small_store, found):
    (cases, _), rows, targets = found
    assert cases.dtypes.astype(str).to_dict() == KINDS
    assert cases["row"].tolist() == rows.tolist()
    for case, row in zip(cases.to_dict("records"), rows, strict=True):
        prediction = Stub().predict_preprocessed(small_store.images[row])
        assert case["slice_id"] == small_store.table["slice_id"][row]
        assert (case["probability"], case["is_tumor"]) == (prediction.probability, prediction.is_tumor)
        assert case["raw_probability"] == prediction.raw_probability
        assert case["predicted_area_px"] == prediction.area_px
        assert case["decoder_area_px"] == (prediction.tumor_probabilities >= 0.5).sum()
        if targets.mask_known[row]:
            expected = pixel_counts(prediction.mask, small_store.masks([int(row)])[0])
            assert {name: case[name] for name in expected} == expected
    assert (cases["model"] == "joint").all()
    assert (cases["threshold"] == 0.5).all()


def test_outlines_are_compared_slice_by_slice_and_scan_by_scan(small_store, found):
    (cases, volumes), *_ = found
    assert volumes.dtypes.astype(str).to_dict() == {name: kind for name, (kind, _) in VOLUME_COLUMNS.items()}
    assert sorted(volumes["patient_id"]) == ["p0", "p2"]
    for patient, first in (("p0", 0), ("p2", 4)):
        masks = [
            np.array([Stub().predict_preprocessed(small_store.images[row]).mask for row in (first, first + 1)]),
            small_store.masks([first, first + 1]),
        ]
        scan = volumes[volumes["patient_id"] == patient].iloc[0]
        expected = measure_distances(*masks, None)
        assert (scan["hausdorff95"], scan["surface_dice"], scan["distance_unit"]) == pytest.approx(expected)
        case = cases[cases["row"] == first].iloc[0]
        expected = measure_distances(masks[0][0], masks[1][0], None)
        assert (case["hausdorff95"], case["surface_dice"], case["distance_unit"]) == pytest.approx(expected)


def test_slices_without_a_pixel_have_no_distance(small_store, found):
    (cases, _), *_ = found
    free = cases[(cases["mask_state"] == "empty") & (cases["predicted_area_px"] == 0)]
    assert free[["hausdorff95", "surface_dice", "distance_unit"]].isna().all(axis=None)


def test_an_answer_of_no_tumor_empties_the_mask_but_not_what_the_decoder_drew(small_store):
    targets = find_targets(small_store.table, SOURCES)
    cases, _ = evaluate(Stub(threshold=0.95), small_store, targets, np.array([0]), model="m", split="val")
    case = cases.iloc[0]
    assert (case["is_tumor"], case["predicted_area_px"], case["tp"], case["split"]) == (False, 0, 0, "val")
    assert case["decoder_area_px"] > 1000
    assert case["surface_dice"] == 0
    assert np.isnan(case["hausdorff95"])


def test_a_model_that_does_not_segment_has_neither_masks_nor_scans(small_store):
    targets = find_targets(small_store.table, SOURCES)
    cases, volumes = evaluate(Stub(("classification",)), small_store, targets, np.arange(4), model="m", split="test")
    drawn = ["tp", "fp", "fn", "tn", "predicted_area_px", "decoder_area_px", "hausdorff95"]
    assert cases[drawn].isna().all(axis=None)
    assert volumes.empty


def test_no_slices_are_no_cases(small_store):
    targets = find_targets(small_store.table, SOURCES)
    cases, volumes = evaluate(Stub(), small_store, targets, np.array([], np.int64), model="m", split="test")
    assert cases.empty
    assert volumes.empty
    assert cases.dtypes.astype(str).to_dict() == KINDS


def test_progress_is_told(small_store):
    targets, told = find_targets(small_store.table, SOURCES), []
    evaluate(
        Stub(), small_store, targets, np.arange(3), model="m", split="test", progress=lambda *numbers: told.append(numbers)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_slices_are_compared_where_their_scan_is_no_volume(small_store):
    """One mask of p0 is not known: the outlined slice has distances, the scan has none."""
    targets = find_targets(small_store.table, SOURCES)
    targets = replace(targets, mask_known=targets.mask_known & (np.arange(len(small_store)) != 1))
    cases, volumes = evaluate(Stub(), small_store, targets, np.arange(4), model="m", split="test")
    assert cases["surface_dice"].notna().tolist() == [True, False, True, False]
    assert volumes["patient_id"].tolist() == ["p1"]
