import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, matthews_corrcoef
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_f1_score,
    binary_jaccard_index,
    binary_precision,
    binary_recall,
    binary_specificity,
)

from slicewise.evaluation.cases import pixel_counts
from slicewise.evaluation.metrics import (
    METRICS,
    SUPPORT,
    Figure,
    Tables,
    choose_mask_from,
    choose_threshold,
    dice,
    dice_by_patient,
    measure,
)

from .tables import PUBLISHED, decided, make_table, random_cases

SEGMENTATION = {name for name in METRICS if name.startswith(("slice_", "volume_"))} | {"false_mask_rate"}


def same(figure, other):
    return figure[1:] == other[1:] and figure.value == pytest.approx(other.value, nan_ok=True)


def test_every_figure_comes_in_the_order_of_reports():
    assert list(measure(make_table([{"label": True}]))) == list(METRICS)


def test_published_counts_give_the_published_figures():
    figures = measure(make_table(PUBLISHED))
    expected = {
        "accuracy": 0.913,
        "precision": 0.932,  # 136 / 146 = 0.93151; published cut off, as 0.931
        "sensitivity": 0.971,
        "specificity": 0.524,
        "f1": 0.951,
        "always_tumor_accuracy": 0.870,
    }
    assert {name: round(figures[name].value, 3) for name in expected} == expected
    assert figures["accuracy"][1:] == (161, 161)
    assert figures["precision"].n_slices == 146
    assert figures["sensitivity"].n_slices == 140
    assert figures["specificity"].n_slices == 21


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 60))
def test_classification_agrees_with_torchmetrics(seed, count):
    random = np.random.default_rng(seed)
    labels = random.random(count) < 0.6
    labels[:2] = True, False
    probabilities = random.integers(1, 20, count) / 20  # with ties
    called = probabilities >= 0.55
    called[0] = True
    cases = [
        {"label": bool(label), "is_tumor": bool(call), "probability": probability}
        for label, call, probability in zip(labels, called, probabilities, strict=True)
    ]
    figures = measure(make_table(cases))
    target, calls = torch.from_numpy(labels).int(), torch.from_numpy(called).int()
    for name, reference in {
        "accuracy": binary_accuracy,
        "precision": binary_precision,
        "sensitivity": binary_recall,
        "specificity": binary_specificity,
        "f1": binary_f1_score,
    }.items():
        assert figures[name].value == pytest.approx(reference(calls, target).item(), abs=1e-6), name
    auc = binary_auroc(torch.from_numpy(probabilities), target)
    assert figures["roc_auc"].value == pytest.approx(auc.item(), abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_segmentation_agrees_with_torchmetrics(seed):
    random = np.random.default_rng(seed)
    pairs = [(random.random((10, 10)) < 0.3, random.random((10, 10)) < 0.4) for _ in range(4)]
    counts = [pixel_counts(*pair) for pair in pairs]
    figures = measure(make_table([{"counts": (one["tp"], one["fp"], one["fn"])} for one in counts]))
    tensors = [[torch.from_numpy(mask).int() for mask in pair] for pair in pairs]
    assert figures["slice_dice"].value == pytest.approx(np.mean([binary_f1_score(*pair) for pair in tensors]), abs=1e-6)
    assert figures["slice_iou"].value == pytest.approx(np.mean([binary_jaccard_index(*pair) for pair in tensors]), abs=1e-6)


@given(tp=st.integers(0, 10**6), fp=st.integers(0, 10**6), fn=st.integers(0, 10**6))
def test_dice_is_twice_the_overlap_of_both_sizes(tp, fp, fn):
    sizes = (tp + fp) + (tp + fn)
    assert dice(tp, fp, fn) == pytest.approx(2 * tp / sizes if sizes else math.nan, nan_ok=True)


def test_both_empty_is_left_out_and_a_false_mask_counts_zero():
    figures = measure(
        make_table([{"counts": (6, 2, 2)}, {"counts": (0, 5, 0)}, {"counts": (0, 0, 0)}, {"counts": (0, 0, 4)}])
    )
    assert figures["slice_dice"] == (pytest.approx(0.75 / 3), 3, 3)
    assert figures["slice_iou"] == (pytest.approx(0.6 / 3), 3, 3)
    assert figures["false_mask_rate"] == (0.5, 2, 2)


def test_unknown_masks_are_never_scored():
    known = [{"counts": (6, 2, 2)}]
    unknown = [{"predicted_area_px": 50, "reference_area_px": 0, "label": label} for label in (True, None)]
    figures, without = measure(make_table(known + unknown)), measure(make_table(known))
    for name in SEGMENTATION - {"false_mask_rate"}:
        assert same(figures[name], without[name])
        assert figures[name].n_slices == (0 if "hausdorff" in name or "surface" in name else 1)
    assert math.isnan(figures["false_mask_rate"].value)


def test_a_volume_is_a_study_in_one_sequence_of_one_patient_of_one_source():
    same = {"patient_id": "p", "study_id": "s"}
    cases = [
        same | {"counts": (8, 0, 0)},
        same | {"counts": (0, 4, 4)},
        same | {"counts": (0, 0, 0)},  # belongs to its volume
        same | {"counts": (1, 1, 0), "sequence": "t1"},
        same | {"counts": (0, 3, 0), "source": "b"},
        {"counts": (4, 0, 0), "source": "b", "patient_id": "q"},
        same | {"counts": (0, 0, 0), "patient_id": "free"},  # a volume that is empty in both
    ]
    figure = measure(make_table(cases))["volume_dice"]
    assert figure.value == pytest.approx((16 / 24 + 2 / 3 + 0 + 1) / 4)
    assert figure[1:] == (6, 3)


def test_a_volume_of_no_named_sequence_is_a_volume():
    cases = [{"counts": (3, 1, 1), "sequence": None}, {"counts": (1, 0, 0), "sequence": None, "patient_id": "p"}]
    assert measure(make_table(cases))["volume_dice"] == (pytest.approx((0.75 + 1) / 2), 2, 2)


def test_a_source_that_outlines_no_tumor_has_no_volumes_but_false_masks():
    cases = [{"counts": (3, 1, 1)}, {"counts": (0, 0, 0)}]
    pictures = [{"counts": (0, 9, 0), "source": "yes_no"}, {"counts": (0, 0, 0), "source": "yes_no"}]
    figures = measure(make_table(cases + pictures))
    assert figures["volume_dice"] == (0.75, 1, 1)
    assert figures["false_mask_rate"] == (pytest.approx(1 / 3), 3, 3)


def test_slices_of_a_sequence_without_outlines_are_no_dice_of_0():
    """T1 slices of a source that outlines on FLAIR: its tumors are not known, and false pixels on its free slices are."""
    t1 = {"sequence": "t1", "patient_id": "p", "study_id": "p"}
    pictures = [t1 | {"label": True}, t1 | {"counts": (0, 1, 0), "label": False, "is_tumor": False}]
    cases = make_table([{"counts": (3, 1, 1)}, *pictures])
    cases = cases.assign(surface_dice=[0.9, math.nan, 0.0], distance_unit=pd.array(["px", None, "px"], "string"))
    figures = measure(cases)
    assert figures["slice_dice"] == figures["volume_dice"] == (0.75, 1, 1)
    assert figures["slice_surface_dice_px"] == (0.9, 1, 1)
    assert figures["false_mask_rate"] == (1.0, 1, 1)
    assert figures["both_right_rate"] == (0.0, 1, 1)  # the false pixel is wrong all the same
    assert dice_by_patient(cases).to_dict() == {("a", "p0"): 0.75}


def test_slice_and_volume_dice_are_two_things():
    same = {"patient_id": "p", "study_id": "s"}
    figures = measure(make_table([same | {"counts": (90, 0, 0)}, same | {"counts": (0, 0, 10)}]))
    assert figures["slice_dice"].value == pytest.approx(0.5)
    assert figures["volume_dice"].value == pytest.approx(180 / 190)
    assert figures["slice_dice"][1:] == (2, 1)


def test_equal_names_in_two_sources_are_two_patients():
    cases = [{"label": True, "source": source, "patient_id": "p", "counts": (1, 0, 0)} for source in ("a", "a", "b")]
    figures = measure(make_table(cases))
    assert figures["accuracy"] == (1.0, 3, 2)
    assert figures["slice_dice"] == (1.0, 3, 2)


def test_sources_without_a_part_in_classification_and_unknown_labels_do_not_count():
    cases = [
        {"label": True, "is_tumor": True},
        {"label": False, "is_tumor": True, "classification": False, "source": "brisc"},
        {"label": None, "is_tumor": True},
    ]
    figures = measure(make_table(cases))
    assert figures["accuracy"] == (1.0, 1, 1)
    assert figures["always_tumor_accuracy"] == (1.0, 1, 1)


@pytest.mark.parametrize(
    ("label", "defined", "undefined"), [(True, "sensitivity", "specificity"), (False, "specificity", "sensitivity")]
)
def test_one_class_leaves_the_other_undefined(label, defined, undefined):
    figures = measure(make_table(decided(label, label, 3)))
    assert figures[defined] == (1.0, 3, 3)
    for name in (undefined, "roc_auc", "slice_dice", "combined"):
        assert math.isnan(figures[name].value)
        assert figures[name][1:] == (0, 0)


def test_without_calls_precision_is_undefined_and_sensitivity_is_0():
    figures = measure(make_table(decided(True, False, 2) + decided(False, False, 1)))
    assert math.isnan(figures["precision"].value)
    assert figures["precision"].n_slices == 0
    assert figures["sensitivity"] == (0.0, 2, 2)
    assert figures["f1"] == (0.0, 3, 3)


def test_a_model_that_does_not_classify_has_no_classification_figures():
    figures = measure(make_table([{"label": True, "probability": math.nan, "counts": (1, 1, 0)}]))
    assert figures["slice_dice"].value == pytest.approx(2 / 3)
    for name in set(METRICS) - SEGMENTATION:
        assert math.isnan(figures[name].value), name


def test_no_cases_leave_everything_undefined():
    for figure in measure(make_table([])).values():
        assert math.isnan(figure.value)
        assert figure[1:] == (0, 0)


def test_combined_is_the_mean_of_dice_and_accuracy_over_all_they_saw():
    cases = [
        {"label": True, "is_tumor": True, "counts": (3, 1, 1)},
        {"label": True, "is_tumor": False},
        {"label": None, "counts": (0, 0, 0)},
        {"label": None},  # seen by neither
    ]
    figures = measure(make_table(cases))
    assert figures["combined"] == (pytest.approx((0.75 + 0.5) / 2), 3, 3)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99))
def test_the_order_of_cases_does_not_matter(seed):
    cases = make_table(
        [
            {"label": i % 2 == 0, "is_tumor": i % 3 == 0, "counts": (i % 4, i % 3, i % 5), "patient_id": f"p{i % 6}"}
            for i in range(24)
        ]
    )
    shuffled = measure(cases.sample(frac=1, random_state=seed))
    for name, figure in measure(cases).items():
        assert same(shuffled[name], figure)


def test_json_says_null_for_undefined():
    assert json.dumps(Figure(math.nan, 0, 0).to_json(), allow_nan=False) == '{"value": null, "n_slices": 0, "n_patients": 0}'
    assert Figure(0.5, 3, 2).to_json() == {"value": 0.5, "n_slices": 3, "n_patients": 2}


probabilities = st.integers(0, 1000).map(lambda number: number / 1000)


@given(
    slices=st.lists(st.tuples(st.booleans(), probabilities), min_size=1, max_size=60).filter(
        lambda slices: any(label for label, _ in slices)
    ),
    sensitivity=st.floats(0.01, 1) | st.sampled_from([0.5, 0.9, 0.95, 0.97, 1.0]),
)
def test_the_threshold_is_the_highest_that_reaches_the_sensitivity(slices, sensitivity):
    labels, values = (np.array(part) for part in zip(*slices, strict=True))

    def reached(threshold):
        return (values[labels] >= threshold).mean()

    threshold = choose_threshold(labels, values, sensitivity)
    assert reached(threshold) >= sensitivity - 1e-9
    assert threshold <= 0.5
    if threshold == 0.5:
        return
    lowest_called = values[values >= threshold].min()
    assert all(reached(higher) < sensitivity for higher in values if higher > lowest_called)
    next_lower = max([0.0, *values[values < threshold]])
    no_float_between = (lowest_called + next_lower) / 2 <= next_lower
    assert no_float_between or threshold == pytest.approx((lowest_called + next_lower) / 2)


def test_the_threshold_leaves_an_equal_margin_on_both_sides():
    labels, values = np.array([True, True, False]), np.array([0.9, 0.5, 0.2])
    assert choose_threshold(labels, values, 0.97) == pytest.approx(0.35)


def test_what_is_more_likely_tumor_than_not_is_called_however_easy_validation_was():
    labels, values = np.array([True, True, False]), np.array([0.99, 0.98, 0.9])
    assert choose_threshold(labels, values, 0.97) == 0.5


@pytest.mark.parametrize(("sensitivity", "expected"), [(0.97, 0.035), (0.56, 0.445)])
def test_97_or_56_of_100_are_enough(sensitivity, expected):
    values = np.arange(1, 101) / 100
    assert choose_threshold(np.ones(100, bool), values, sensitivity) == pytest.approx(expected)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=2, max_size=40),
    st.floats(0.05, 1),
    st.floats(0.05, 0.95),
)
def test_a_specificity_only_lowers_the_threshold_and_is_kept_where_it_does(slices, sensitivity, specificity):
    labels, values = np.array([label for label, _ in slices]), np.array([value for _, value in slices])
    alone = choose_threshold(labels, values, sensitivity)
    lowered = choose_threshold(labels, values, sensitivity, specificity)
    assert lowered <= alone
    if lowered < alone:
        assert np.mean(values[~labels] < lowered) >= specificity
        # One tumor-free slice more that is called would be one too many.
        called = np.sort(values[~labels])[: np.count_nonzero(values[~labels] < lowered)]
        assert np.mean(values[~labels] < called[-1]) < specificity


def test_masks_begin_where_no_more_tumor_free_slices_get_one_than_allowed():
    values = np.linspace(0.05, 0.95, 10)
    every = np.ones(10, bool)
    for allowed in range(10):
        start = choose_mask_from(values, every, threshold=0.0, false_mask_rate=allowed / 10)
        assert np.count_nonzero(values >= start) == allowed
    assert choose_mask_from(values, every, threshold=0.5, false_mask_rate=0.9) == 0.5
    # What the decoder does not mark needs no limit.
    assert choose_mask_from(values, values < 0.3, threshold=0.2, false_mask_rate=0.1) == 0.2


def test_without_tumor_slices_the_threshold_is_a_half():
    assert choose_threshold(np.zeros(4), np.array([0.1, 0.2, 0.8, 0.9]), 0.97) == 0.5


def test_patients_are_judged_by_their_slices():
    same_patient = {"patient_id": "q"}
    cases = [
        same_patient | {"label": True, "is_tumor": False, "probability": 0.2},
        same_patient | {"label": False, "is_tumor": True, "probability": 0.8},
        {"label": True, "is_tumor": False, "probability": 0.4},
        {"label": False, "is_tumor": False, "probability": 0.3},
        {"label": False, "is_tumor": True, "probability": 0.9},
        {"label": False, "is_tumor": False, "probability": 0.05},
    ]
    figures = measure(make_table(cases))
    assert figures["patient_sensitivity"] == (0.5, 3, 2)
    assert figures["patient_specificity"] == (pytest.approx(2 / 3), 3, 3)
    assert figures["patient_roc_auc"] == (pytest.approx((2 + 2) / 6), 6, 5)


def test_heads_that_contradict_one_another_are_counted():
    """Of five slices four were answered twice and two of these disagree; of three with a known mask one is right in both."""
    cases = [
        {"label": True, "is_tumor": True, "decoder_area_px": 0, "counts": (0, 0, 5)},
        {"label": True, "is_tumor": True, "decoder_area_px": 9, "counts": (5, 3, 2)},
        {"label": False, "is_tumor": False, "decoder_area_px": 3},
        {"label": False, "is_tumor": True, "decoder_area_px": 3, "counts": (0, 3, 0)},
        {"label": True, "is_tumor": True},
    ]
    figures = measure(make_table(cases))
    assert figures["contradiction_rate"] == (0.5, 4, 4)
    assert figures["both_right_rate"] == (pytest.approx(1 / 3), 3, 3)


def test_distances_in_mm_and_px_are_never_in_one_mean():
    cases = make_table([{"counts": (1, 1, 1)}] * 5).assign(
        hausdorff95=[1.0, 3.0, 10.0, math.nan, 5.0],
        surface_dice=[0.5, 0.7, 0.1, 0.0, 1.0],
        distance_unit=["mm", "mm", "px", "mm", None],
    )
    figures = measure(cases.astype({"distance_unit": "string"}))
    assert figures["slice_hausdorff95_mm"] == (2.0, 2, 2)
    assert figures["slice_surface_dice_mm"] == (pytest.approx(0.4), 3, 3)
    assert figures["slice_hausdorff95_px"] == (10.0, 1, 1)
    assert figures["slice_surface_dice_px"] == (pytest.approx(0.1), 1, 1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_the_rest_agrees_with_scikit_learn(seed):
    cases = random_cases(seed, patients=12)
    figures = measure(cases)
    label, called = cases["label"].to_numpy(bool), cases["is_tumor"].to_numpy(bool)
    probability = cases["probability"].to_numpy(float)
    assert figures["brier_score"].value == pytest.approx(brier_score_loss(label, probability))
    if 0 < label.sum() < len(label):
        assert figures["average_precision"].value == pytest.approx(average_precision_score(label, probability))
        assert figures["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(label, called))
        if 0 < called.sum() < len(called):
            assert figures["mcc"].value == pytest.approx(matthews_corrcoef(label, called))
    for name, figure in figures.items():
        assert math.isnan(figure.value) == (figure[1:] == (0, 0)), name
        assert figure.n_patients <= figure.n_slices <= len(cases), name


def test_every_figure_knows_what_stands_behind_it():
    assert set(SUPPORT) | {"combined", "patient_roc_auc"} == set(METRICS)


def test_volumes_that_were_measured_are_used():
    cases = make_table([{"counts": (3, 1, 1)}])
    volumes = Tables.of(cases).volumes.assign(hausdorff95=4.5, surface_dice=0.25)
    volumes["distance_unit"] = "mm"
    figures = measure(Tables.of(cases, volumes))
    assert figures["volume_hausdorff95_mm"] == (4.5, 1, 1)
    assert figures["volume_surface_dice_mm"] == (0.25, 1, 1)
    assert math.isnan(figures["volume_hausdorff95_px"].value)


def test_dice_of_a_patient_is_the_mean_of_its_scans():
    same_patient = {"patient_id": "p"}
    cases = make_table(
        [
            same_patient | {"counts": (1, 1, 0), "study_id": "s1"},
            same_patient | {"counts": (1, 0, 1), "study_id": "s1"},
            same_patient | {"counts": (4, 0, 0), "study_id": "s2"},
            {"counts": (0, 1, 0), "patient_id": "q"},
        ]
    )
    assert dice_by_patient(cases).to_dict() == {("a", "p"): pytest.approx((4 / 6 + 1) / 2), ("a", "q"): 0.0}
