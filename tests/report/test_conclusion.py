"""Sentences are chosen by the numbers: the same results with one number changed must say something else."""

import copy

import pandas as pd
import pytest

from slicewise.report.conclusion import conclude


def figure(value, low=None, high=None, n_slices=600, n_patients=40):
    return {"value": value, "low": low, "high": high, "n_slices": n_slices, "n_patients": n_patients}


def figures(**changes):
    values = {
        "volume_dice": 0.81,
        "slice_dice": 0.79,
        "false_mask_rate": 0.02,
        "roc_auc": 0.96,
        "accuracy": 0.9,
        "sensitivity": 0.93,
    }
    values |= {"specificity": 0.88, "contradiction_rate": 0.04, "both_right_rate": 0.85}
    return {name: figure(value, value - 0.01, value + 0.01) for name, value in values.items()} | changes


def model(**changes):
    return {"test": figures(**changes), "val": {"sensitivity": figure(0.95)}, "threshold": 0.42, "parameters": 2_000_000}


def against(other, p_adjusted=0.001, **differences):
    pairs = {name: figure(*ends) for name, ends in differences.items()}
    tests = [{"metric": name, "test": "a test", "p_adjusted": p_adjusted} for name in differences]
    return {"against": other, "differences": pairs, "tests": tests}


@pytest.fixture
def results():
    constant = {"answer": "no tumor", "accuracy": 0.7, "p_value": 1e-9, "beaten": True}
    return {
        "model": "joint",
        "test": figures(),
        "phases": {"joint": model()},
        "single_task": {},
        "models": {},
        "baselines": {},
        "constant": constant,
        "comparisons": [],
        "calibration": None,
        "uncertainty": None,
        "subgroups": [],
        "worst_subgroups": [],
        "explanations": None,
        "data": [],
        "skipped": [],
    }


@pytest.fixture
def patients():
    return pd.DataFrame({"source": [], "patient_id": [], "volume_dice": [], "reference_px": []})


def texts(results, patients, kind=None):
    return [sentence.text for sentence in conclude(results, patients) if kind in (None, sentence.kind)]


def the_one(sentences, part):
    (found,) = [text for text in sentences if part in text]
    return found


def change(results, **changes):
    changed = copy.deepcopy(results)
    changed["test"] |= changes
    return changed


def test_each_figure_is_said_with_its_interval_and_n(results, patients):
    said = texts(results, patients)
    assert "0.810 (0.800 to 0.820); n = 600 slices of 40 patients" in the_one(said, "mean volume Dice")
    assert "2.0 % (1.0 % to 3.0 %) of the tumor-free slices; n = 600" in the_one(said, "mask is drawn")
    assert "0.960 (0.950 to 0.970); n = 600" in the_one(said, "ROC-AUC")
    assert "sensitivity is 0.930 (0.920 to 0.940) and specificity 0.880" in the_one(said, "On test,")
    assert "threshold 0.420 chosen on validation, where sensitivity is 0.950" in the_one(said, "On test,")
    assert not texts(results, patients, "warning")


def test_a_dice_of_nine_patients_is_an_example_and_of_ten_is_not(results, patients):
    nine = texts(change(results, volume_dice=figure(0.81, n_patients=9)), patients, "warning")
    assert "(9): an example" in the_one(nine, "The Dice comes from")
    assert not texts(change(results, volume_dice=figure(0.81, n_patients=10)), patients, "warning")


def test_without_a_wholly_known_scan_the_dice_is_that_of_slices(results, patients):
    said = texts(change(results, volume_dice=figure(None, n_slices=0, n_patients=0)), patients)
    assert "a mean slice Dice of 0.790 (0.780 to 0.800)" in the_one(said, "where tumors are outlined")
    assert not any("nothing about where" in text for text in said)


def test_accuracy_is_held_against_a_constant_answer(results, patients):
    said = the_one(texts(results, patients, "finding"), "significantly more often")
    assert '0.900 (0.890 to 0.910) against 0.700 for always answering "no tumor"' in said
    results["constant"] |= {"answer": "tumor", "accuracy": 0.87, "p_value": 0.118, "beaten": False}
    said = the_one(texts(results, patients, "warning"), "not significantly above")
    assert '0.870 for "always tumor" (exact McNemar p = 0.118, n = 600 slices of 40 patients)' in said
    results["constant"] |= {"p_value": None, "difference": 0.03, "low": -0.01, "high": 0.07}
    said = the_one(texts(results, patients, "warning"), "not significantly above")
    assert '"always tumor" (difference +0.030 (-0.010 to +0.070), n = 600 slices of 40 patients)' in said


@pytest.mark.parametrize(("low", "kind"), [(0.01, "finding"), (-0.01, "warning")])
def test_a_classifier_that_never_sees_the_brain_is_named_where_it_is_not_beaten(results, patients, low, kind):
    results["comparisons"] = [against("border_only", roc_auc=(0.1, low, 0.2))]
    said = the_one(texts(results, patients, kind), "border alone")
    assert "ROC-AUC of 0.860" in said
    assert ("not significantly more" in said) == (kind == "warning")


@pytest.mark.parametrize(
    ("difference", "p_adjusted", "kind", "says"),
    [
        ((0.06, 0.02, 0.1), 0.001, "finding", "differs by +0.060 (+0.020 to +0.100): a difference that is significant"),
        ((0.06, 0.02, 0.1), 0.2, "finding", "no significant difference"),
        ((0.06, -0.02, 0.1), 0.001, "finding", "no significant difference"),
        ((-0.04, -0.06, -0.02), 0.001, "warning", "a difference that is significant"),
        ((-0.04, -0.09, 0.01), 0.2, "warning", "no significant difference"),
    ],
)
def test_a_loss_against_another_model_is_not_hidden(results, patients, difference, p_adjusted, kind, says):
    results["comparisons"] = [against("segmentation", p_adjusted, volume_dice=difference)]
    assert says in the_one(texts(results, patients, kind), "the segmentation phase")


def test_holm_is_named_where_there_is_a_p_value(results, patients):
    results["comparisons"] = [against("segmentation", 0.2, volume_dice=(0.06, 0.02, 0.1))]
    said = the_one(texts(results, patients), "the segmentation phase")
    assert said.endswith("(n = 600 slices of 40 patients, a test p = 0.2, adjusted by Holm).")
    results["comparisons"][0]["tests"] = []
    assert the_one(texts(results, patients), "the segmentation phase").endswith("(n = 600 slices of 40 patients).")


def test_each_rate_of_the_heads_has_an_interval_and_n_of_its_own(results, patients):
    said = texts(change(results, both_right_rate=figure(0.85, 0.8, 0.9, 325, 31)), patients)
    said = the_one(said, "Answer and decoder contradict each other")
    assert "in 4.0 % (3.0 % to 5.0 %) of the slices, n = 600 slices of 40 patients;" in said
    assert "in 85.0 % (80.0 % to 90.0 %), n = 325 slices of 31 patients." in said


def test_one_model_is_held_against_two(results, patients):
    assert not any("million" in text for text in texts(results, patients))
    results["single_task"] = {"segmentation": model(), "classification": model()}
    # Not that it does so as well: that is what the comparisons say.
    said = the_one(texts(results, patients), "One model of 2.00 million parameters answers both questions")
    assert "those trained for one each have 4.00 million together, it has 50.0 % of that" in said


def test_what_was_not_measured_is_said_and_nothing_is_made_up(results, patients):
    for metric in results["test"]:
        results["test"][metric] = figure(None, n_slices=0, n_patients=0)
    results["constant"] = None
    assert texts(results, patients, "finding") == []
    warnings = texts(results, patients, "warning")
    assert "nothing about where" in the_one(warnings, "No test slice has an outlined tumor")
    assert "nothing about whether" in the_one(warnings, "No test slice has a known label")


def test_the_worst_patient_is_one_with_a_tumor(results):
    patients = pd.DataFrame(
        {
            "source": "lgg",
            "patient_id": ["p1", "p2", "p3", "p4"],
            "volume_dice": [0.5, 0.2, 0.0, None],
            "reference_px": [20.0, 45.0, 0.0, 7.0],
        }
    )
    sentence = the_one(texts(results, patients), "worst test patient")
    assert "p2 of lgg, with a Dice of 0.200; 1 of 2 are below 0.5" in sentence


def group(name, value, low, high):
    accuracy = figure(value, low, high, n_patients=12 if name == "axial" else 11)
    return {"dimension": "plane", "name": name, "n_patients": 20, "figures": {"accuracy": accuracy}}


@pytest.mark.parametrize(("high", "overlap"), [(0.85, False), (0.93, True)])
def test_the_worst_subgroup_is_named_with_its_uncertainty(results, patients, high, overlap):
    results["subgroups"] = [group("axial", 0.95, 0.9, 0.99), group("coronal", 0.8, 0.7, high)]
    results["worst_subgroups"] = [{"dimension": "plane", "name": "coronal", "metric": "accuracy", "best": "axial"}]
    said = the_one(texts(results, patients), "By plane, coronal is lowest")
    assert f"0.800 (0.700 to {high:.3f}) of 11 patients" in said
    assert "for axial of 12" in said
    assert ("intervals overlap" in said) == overlap


@pytest.mark.parametrize(("low", "kind", "says"), [(0.1, "finding", "tells more than"), (-0.1, "warning", "not shown")])
def test_grad_cam_is_held_against_the_center_of_the_brain(results, patients, low, kind, says):
    pointing = {"pointing": {"value": 0.6}}
    above = {"pointing": {"value": 0.2, "low": low, "high": 0.5}}
    results["explanations"] = {"cam": pointing, "center": {"pointing": {"value": 0.4}}, "above_center": above}
    results["explanations"] |= {"randomized_similarity": 0.05, "n_slices": 50, "n_patients": 12}
    said = the_one(texts(results, patients, kind), "Grad-CAM")
    assert "60.0 % of the slices with one; pointing at the brain's center does in 40.0 %" in said
    assert says in said
    assert "weights is 0.05." in said
    results["explanations"]["randomized_similarity"] = None
    assert "correlation" not in the_one(texts(results, patients, kind), "Grad-CAM")


def test_grad_cam_that_was_held_against_nothing_is_a_warning(results, patients):
    blank = {"pointing": {"value": None, "low": None, "high": None}}
    results["explanations"] = {"cam": {"pointing": {"value": 0.6}}, "center": blank, "above_center": blank}
    results["explanations"] |= {"randomized_similarity": None, "n_slices": 50, "n_patients": 12}
    said = the_one(texts(results, patients, "warning"), "Grad-CAM")
    assert "60.0 % of the slices with one; pointing at the brain's center was not scored" in said
    assert said.endswith("(n = 50 slices of 12 patients).")


@pytest.mark.parametrize(("area", "kind"), [(0.02, "finding"), (0.2, "warning")])
def test_an_uncertainty_that_tells_nothing_is_called_so(results, patients, area, kind):
    share = {"value": 0.05}
    results["uncertainty"] = {"coverage": 0.9, "kept": share, "referred": {"value": 0.5}, "error_rate": 0.1}
    results["uncertainty"]["area_under_risk_coverage"] = area
    said = the_one(texts(results, patients, kind), "referred to a reader (10.0 % on test)")
    assert "5.0 % of the answers that remain are wrong, in place of 10.0 %; of those referred 50.0 %" in said
    results["uncertainty"] |= {"coverage": 0.0, "kept": {"value": None}}
    said = the_one(texts(results, patients, kind), "referred to a reader (100.0 % on test)")
    assert "no answer remains; of all 10.0 % are wrong; of those referred 50.0 %" in said


def test_a_source_of_one_class_is_warned_of(results, patients):
    entry = {"source": "brats", "split": "train", "tumor": 10, "tumor_free": 0}
    results["data"] = [entry, entry | {"source": "lgg", "tumor_free": 5}]
    results["subgroups"] = [
        {"dimension": "source", "name": name, "figures": {"accuracy": figure(0.9)}} for name in ("brats", "lgg")
    ]
    assert "has only 'tumor' slices" in the_one(texts(results, patients, "warning"), "Source brats")


def test_files_left_out_are_counted(results, patients):
    results["skipped"] = [{"file": "a.png"}, {"file": "b.png"}]
    assert the_one(texts(results, patients, "warning"), "2 files could not be read")


def verdict(low, n_patients=12):
    return {"difference": 0.013, "low": low, "margin": 0.01, "confidence": 0.95, "n_patients": n_patients}


def test_the_gates_verdict_stands_in_the_report(results, patients):
    assert not any("gate" in text for text in texts(results, patients))
    joint = results["phases"]["joint"]
    joint["gate"] = {"accepted": True, "kept": "joint", "attempts": [verdict(-0.004)]}
    passed = the_one(texts(results, patients, "finding"), "gate is passed")
    assert "difference +0.013, at least -0.004 with 95.0 % confidence, 12 patients; margin 0.01" in passed
    joint["gate"] = {"accepted": False, "kept": "classification", "attempts": [verdict(-0.03), verdict(-0.02)]}
    refused = the_one(texts(results, patients, "warning"), "gate refused")
    assert "in 2 of 2 attempts" in refused
    assert "at least -0.020" in refused
    assert "model of the classification phase is kept" in refused
    joint["gate"]["attempts"].reverse()
    assert "(best: mean difference +0.013, at least -0.020" in the_one(texts(results, patients, "warning"), "gate refused")
    joint["gate"]["attempts"] = [verdict(None, 0)]
    assert "no patient could be compared" in the_one(texts(results, patients, "warning"), "gate refused")
