"""`results.json` from a table of cases whose every figure is known by hand."""

import numpy as np
import pandas as pd
import pytest

from slicewise.config import ModelConfig, SourceConfig
from slicewise.data.preprocess import PREPROCESSING
from slicewise.data.store import COLUMNS, StoreWriter
from slicewise.evaluation.cases import CASE_COLUMNS
from slicewise.evaluation.metrics import METRICS
from slicewise.evaluation.results import summarize
from slicewise.model.checkpoint import Description

SOURCES = {"lgg": SourceConfig(layout="lgg"), "yes_no": SourceConfig(layout="labelled_folders")}


@pytest.fixture
def store(tmp_path):
    writer = StoreWriter(tmp_path / "store", plan="test")
    slices = [
        ("lgg", "p1", ["present", "empty"]),
        ("lgg", "p2", ["present", "empty", "empty"]),
        ("yes_no", "q1", ["unknown"]),
        ("yes_no", "q2", ["empty"]),
    ]
    for source, patient, states in slices:
        rows = [
            dict.fromkeys(COLUMNS)
            | {"slice_id": f"{source}/{patient}/{index}", "source": source, "patient_id": patient, "study_id": patient}
            | {"slice_index": index, "label": state != "empty", "mask_state": state, "reference_area_px": 0}
            | {"foreground_share": 1.0, "height_px": 256, "width_px": 256}
            for index, state in enumerate(states)
        ]
        pixels = np.zeros((len(states), 256, 256))
        skipped = [{"file": "broken.png", "reason": "no picture"}] if patient == "q2" else []
        writer.append(source, patient, pixels.astype(np.float16), pixels.astype(bool), rows, skipped)
    return writer.finish([(source, patient) for source, patient, _ in slices])


def describe(name, tasks, threshold):
    facts = {"name": name, "tasks": tasks, "architecture": ModelConfig(), "preprocessing": PREPROCESSING}
    facts |= {"threshold": threshold, "mask_threshold": 0.5, "parameters": 12, "data_fingerprint": "", "patients": {}}
    facts |= {"metrics": {}, "history": [{}, {}], "provenance": {"duration_s": 3.5}, "weights_sha256": f"{name:0<64}"}
    return Description(**facts)


def case(model, split, source, patient, label, called, counts=None):
    row = {"model": model, "split": split, "source": source, "patient_id": patient, "study_id": patient}
    row |= {"label": label, "is_tumor": called, "classification": True, "probability": 0.9 if called else 0.1}
    row |= {"mask_state": "unknown" if counts is None else "present" if counts[0] + counts[2] else "empty"}
    if counts is not None:
        row |= dict(zip(("tp", "fp", "fn"), counts, strict=True)) | {"tn": 0, "predicted_area_px": counts[0] + counts[1]}
    return row


@pytest.fixture
def results(store):
    rows = [
        case("joint", "test", "lgg", "p2", True, True, (3, 1, 1)),  # Dice 6 / 8
        case("joint", "test", "lgg", "p2", False, True, (0, 2, 0)),  # a false mask
        case("joint", "test", "lgg", "p2", False, False, (0, 0, 0)),
        case("joint", "test", "yes_no", "q1", True, False),
        case("joint", "val", "yes_no", "q2", False, False, (0, 0, 0)),
        case("segmentation_only", "test", "lgg", "p2", True, True, (4, 0, 0)),
    ]
    cases = pd.DataFrame(rows, columns=list(CASE_COLUMNS)).astype(CASE_COLUMNS)
    descriptions = {
        ("phases", "joint"): describe("joint", ("segmentation", "classification"), 0.4),
        ("single_task", "segmentation"): describe("segmentation_only", ("segmentation",), 0.5),
    }
    sides = pd.Series(["train", "train", "test", "test", "test", "test", "val"])
    return summarize("a name", SOURCES, store, sides, cases, descriptions)


def test_every_figure_stands_where_it_is_promised(results):
    test = results["phases"]["joint"]["test"]
    assert tuple(test) == METRICS
    assert test["slice_dice"] == {"value": pytest.approx((6 / 8 + 0) / 2), "n_slices": 2, "n_patients": 1}
    assert test["volume_dice"] == {"value": pytest.approx(2 * 3 / (2 * 3 + 3 + 1)), "n_slices": 3, "n_patients": 1}
    assert test["accuracy"] == {"value": pytest.approx(2 / 4), "n_slices": 4, "n_patients": 2}
    assert test["false_mask_rate"] == {"value": pytest.approx(1 / 2), "n_slices": 2, "n_patients": 1}


def test_validation_is_not_mixed_into_test(results):
    val = results["phases"]["joint"]["val"]
    assert val["specificity"] == {"value": 1.0, "n_slices": 1, "n_patients": 1}
    assert val["sensitivity"] == {"value": None, "n_slices": 0, "n_patients": 0}


def test_sources_are_told_apart(results):
    by_source = results["phases"]["joint"]["by_source"]
    assert by_source["lgg"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert by_source["yes_no"]["accuracy"] == {"value": 0.0, "n_slices": 1, "n_patients": 1}


def test_each_model_keeps_its_own_cases_and_facts(results):
    assert results["single_task"]["segmentation"]["test"]["slice_dice"]["value"] == 1.0
    assert results["phases"]["joint"]["threshold"] == 0.4
    assert results["phases"]["joint"]["epochs"] == 2
    assert results["phases"]["joint"]["duration_s"] == 3.5
    assert (results["name"], results["model_id"]) == ("a name", "joint0000000")


def test_the_data_is_counted_by_source_and_side(results):
    counts = {(entry["source"], entry["split"]): entry for entry in results["data"]}
    assert len(counts) == 6
    test = counts["lgg", "test"]
    assert (test["patients"], test["slices"], test["tumor"], test["tumor_free"]) == (1, 3, 1, 2)
    assert (test["mask_present"], test["mask_empty"], test["mask_unknown"]) == (1, 2, 0)
    assert counts["yes_no", "test"]["mask_unknown"] == 1
    assert counts["yes_no", "train"]["slices"] == 0
    assert [item["file"] for item in results["skipped"]] == ["broken.png"]
