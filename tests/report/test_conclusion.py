"""Sentences are chosen by the numbers: the same results with one number changed must say something else."""

import copy

import pandas as pd
import pytest

from slicewise.evaluation.cases import CASE_COLUMNS
from slicewise.report.conclusion import conclude


def figure(value, n_slices=600, n_patients=40):
    return {"value": value, "n_slices": n_slices, "n_patients": n_patients}


def model(**changes):
    figures = {"volume_dice": figure(0.81), "false_mask_rate": figure(0.02), "roc_auc": figure(0.96)}
    figures |= {"accuracy": figure(0.9), "always_tumor_accuracy": figure(0.3)}
    figures |= {"sensitivity": figure(0.93), "specificity": figure(0.88)}
    return {
        "test": figures | changes,
        "val": {"sensitivity": figure(0.95)},
        "by_source": {},
        "threshold": 0.42,
        "parameters": 2_000_000,
    }


@pytest.fixture
def results():
    return {
        "phases": {"segmentation": model(volume_dice=figure(0.75)), "classification": model(), "joint": model()},
        "data": [],
        "skipped": [],
    }


@pytest.fixture
def cases():
    return pd.DataFrame(columns=list(CASE_COLUMNS)).astype(CASE_COLUMNS)


def texts(results, cases, kind=None):
    return [sentence.text for sentence in conclude(results, cases) if kind in (None, sentence.kind)]


def the_one(sentences, part):
    (found,) = [text for text in sentences if part in text]
    return found


def change(results, metric, value):
    changed = copy.deepcopy(results)
    changed["phases"]["joint"]["test"][metric] = value
    return changed


def test_each_figure_is_said_with_its_n(results, cases):
    said = texts(results, cases)
    assert "0.810 (n = 600 slices of 40 patients)" in the_one(said, "mean volume Dice")
    assert "2.0 % of the tumor-free slices (n = 600" in the_one(said, "draws a mask")
    assert "0.960 (n = 600" in the_one(said, "ranks tumor slices")
    assert not texts(results, cases, "warning")


def test_a_dice_of_nine_patients_is_an_example_and_of_ten_is_not(results, cases):
    nine = texts(change(results, "volume_dice", figure(0.81, 90, 9)), cases, "warning")
    assert "9 patients: an example" in the_one(nine, "The Dice comes from")
    assert not texts(change(results, "volume_dice", figure(0.81, 90, 10)), cases, "warning")


@pytest.mark.parametrize(
    ("accuracy", "share_of_tumor", "kind", "says"),
    [
        (0.9, 0.3, "finding", '0.900 against 0.700 for always answering "no tumor"'),
        (0.9, 0.8, "finding", '0.900 against 0.800 for always answering "tumor"'),
        (0.7, 0.3, "warning", "does not beat a constant answer"),
        (0.75, 0.8, "warning", '0.750 against 0.800 for always answering "tumor"'),
    ],
)
def test_accuracy_is_held_against_the_better_constant_answer(results, cases, accuracy, share_of_tumor, kind, says):
    changed = change(change(results, "accuracy", figure(accuracy)), "always_tumor_accuracy", figure(share_of_tumor))
    assert the_one(texts(changed, cases, kind), says)


@pytest.mark.parametrize(
    ("before", "kind", "says"),
    [
        (0.75, "finding", "gains 0.060 volume Dice"),
        (0.8149, "finding", "loses 0.005 volume Dice"),
        (0.85, "warning", "loses 0.040 volume Dice"),
        (0.8104, "finding", "equals the segmentation phase before it"),
    ],
)
def test_a_loss_against_the_phase_before_is_not_hidden(results, cases, before, kind, says):
    results["phases"]["segmentation"]["test"]["volume_dice"] = figure(before)
    sentence = the_one(texts(results, cases, kind), "Joint training")
    assert says in sentence
    assert "not tested for significance" in sentence


def test_one_model_is_held_against_two(results, cases):
    assert not any("alone" in text for text in texts(results, cases))
    results["single_task"] = {
        "segmentation": model(volume_dice=figure(0.83)),
        "classification": model(roc_auc=figure(0.95)),
    }
    assert "loses 0.020 volume Dice" in the_one(texts(results, cases, "warning"), "segmentation alone")
    assert "gains 0.010 ROC-AUC" in the_one(texts(results, cases, "finding"), "classification alone")
    assert "2.00 million parameters does what the two do with 4.00 million (50.0 %)" in the_one(
        texts(results, cases), "One model"
    )


def test_what_was_not_measured_is_said_and_nothing_is_made_up(results, cases):
    for metric in results["phases"]["joint"]["test"]:
        results["phases"]["joint"]["test"][metric] = figure(None, 0, 0)
    assert texts(results, cases, "finding") == []
    warnings = texts(results, cases, "warning")
    assert "nothing about where" in the_one(warnings, "No test slice has an outlined tumor")
    assert "nothing about whether" in the_one(warnings, "No test slice has a known label")


def test_the_worst_patient_is_found_by_the_sum_of_its_slices(results):
    rows = [
        # p1: 10 + 10 of 40 → Dice 0.5; p2: one perfect and one large missed slice → 2·5 / (2·5 + 40) = 0.2
        {"patient_id": "p1", "tp": 10, "fp": 10, "fn": 10},
        {"patient_id": "p2", "tp": 5, "fp": 0, "fn": 0},
        {"patient_id": "p2", "tp": 0, "fp": 0, "fn": 40},
        # p3 has no tumor, p4 belongs to another model or side
        {"patient_id": "p3", "tp": 0, "fp": 99, "fn": 0},
        {"patient_id": "p4", "tp": 0, "fp": 0, "fn": 9, "model": "segmentation"},
        {"patient_id": "p4", "tp": 0, "fp": 0, "fn": 9, "split": "val"},
    ]
    rows = [{"model": "joint", "split": "test", "source": "lgg"} | row for row in rows]
    cases = pd.DataFrame(rows, columns=list(CASE_COLUMNS)).astype(CASE_COLUMNS)
    sentence = the_one(texts(results, cases), "worst test patient")
    assert "p2 of lgg, with a Dice of 0.200; 1 of 2 are below 0.5" in sentence


def test_a_source_with_one_answer_only_is_warned_of(results, cases):
    results["data"] = [
        {"source": "a", "split": "train", "tumor": 50, "tumor_free": 0},
        {"source": "b", "split": "train", "tumor": 20, "tumor_free": 30},
        {"source": "c", "split": "train", "tumor": 0, "tumor_free": 60},
        {"source": "d", "split": "train", "tumor": 9, "tumor_free": 0},
        {"source": "b", "split": "test", "tumor": 5, "tumor_free": 0},
    ]
    results["phases"]["joint"]["by_source"] = {
        "a": {"accuracy": figure(0.99, 20, 20)},
        "b": {"accuracy": figure(0.8, 50, 50)},
        "c": {"accuracy": figure(1.0, 6, 6)},
        "d": {"accuracy": figure(None, 0, 0)},  # takes no part in classification
    }
    warnings = texts(results, cases, "warning")
    assert len(warnings) == 2
    assert "only 'tumor' slices" in the_one(warnings, "Source a")
    assert "only 'no tumor' slices" in the_one(warnings, "Source c")
    assert "a 0.990 (n = 20 slices of 20 patients), b 0.800" in the_one(texts(results, cases), "Accuracy by source")


def test_files_left_out_are_counted(results, cases):
    results["skipped"] = [{"file": "a.png"}, {"file": "b.png"}]
    assert the_one(texts(results, cases, "warning"), "2 files could not be read")


def verdict(low, n_patients=12):
    return {"difference": 0.013, "low": low, "margin": 0.01, "confidence": 0.95, "n_patients": n_patients}


def test_the_gates_verdict_stands_in_the_report(results, cases):
    assert not any("gate" in text for text in texts(results, cases))
    joint = results["phases"]["joint"]
    joint["gate"] = {"accepted": True, "kept": "joint", "attempts": [verdict(-0.004)]}
    passed = the_one(texts(results, cases, "finding"), "gate is passed")
    assert "difference +0.013, at least -0.004 with 95.0 % confidence, 12 patients; margin 0.01" in passed
    joint["gate"] = {"accepted": False, "kept": "classification", "attempts": [verdict(-0.03), verdict(-0.02)]}
    refused = the_one(texts(results, cases, "warning"), "gate refused")
    assert "in 2 of 2 attempts" in refused
    assert "at least -0.020" in refused
    assert "model of the classification phase is kept" in refused
    joint["gate"]["attempts"] = [verdict(None, 0)]
    assert "no patient could be compared" in the_one(texts(results, cases, "warning"), "gate refused")
