from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from slicewise.data.store import COLUMNS
from slicewise.evaluation.baselines import BASELINES, answer_blindly, source_frequencies
from slicewise.evaluation.metrics import choose_threshold, measure

from .tables import KINDS, make_table, random_cases


def make_store(count=600, seed=0):
    """Labels follow from the source in nine of ten; nothing else tells them."""
    random, rows = np.random.default_rng(seed), []
    for number in range(count):
        source = ["x", "y"][number % 2]
        label = bool((source == "x") == (random.random() < 0.9))
        row = dict.fromkeys(COLUMNS) | {"slice_id": f"{number}", "source": source, "patient_id": f"p{number}"}
        row |= {"study_id": f"p{number}", "slice_index": 0, "label": label, "mask_state": "unknown", "reference_area_px": 0}
        row |= {"height_px": 256, "width_px": 256, "file": f"{number}.png", "file_bytes": 1000, "file_format": "png"}
        row |= {"foreground_share": 1.0, "border_mean": 0.5, "border_std": 0.1, "border_dark_share": 0.2}
        rows.append(row)
    table = pd.DataFrame(rows).astype(COLUMNS)
    label = table["label"].to_numpy(bool)
    targets = SimpleNamespace(label=label, label_known=np.ones(count, bool))
    sides = pd.Series(np.repeat(["train", "val", "test"], count // 3))
    return SimpleNamespace(table=table), targets, sides


@pytest.fixture(scope="module")
def answered():
    store, targets, sides = make_store()
    return store, targets, sides, answer_blindly(store, targets, sides, sensitivity=0.9)


def test_every_shortcut_answers_every_labelled_slice_of_val_and_test(answered):
    *_, cases = answered
    assert cases.dtypes.astype(str).to_dict() == KINDS
    counts = cases.groupby(["model", "split"]).size()
    assert counts.to_dict() == {(model, side): 200 for model in BASELINES for side in ("val", "test")}
    assert cases[["tp", "predicted_area_px", "decoder_area_px"]].isna().all(axis=None)


def test_the_planted_shortcut_is_found_and_the_others_are_not(answered):
    *_, cases = answered
    test = cases[cases["split"] == "test"]
    aucs = {model: measure(test[test["model"] == model])["roc_auc"].value for model in BASELINES}
    assert aucs["source_only"] > 0.8
    assert aucs["metadata_only"] == aucs["border_only"] == 0.5


def test_thresholds_are_those_of_val(answered):
    *_, cases = answered
    for _, rows in cases.groupby("model"):
        val = rows[rows["split"] == "val"]
        expected = choose_threshold(val["label"].to_numpy(bool), val["probability"].to_numpy(), 0.9)
        assert set(rows["threshold"]) == {expected}
        assert (rows["is_tumor"] == (rows["probability"] >= expected)).all()


def test_test_labels_are_never_seen(answered):
    store, targets, sides, cases = answered
    label = targets.label.copy()
    label[(sides == "test").to_numpy()] ^= True
    turned = SimpleNamespace(label=label, label_known=targets.label_known)
    again = answer_blindly(store, turned, sides, sensitivity=0.9)
    assert again["probability"].tolist() == cases["probability"].tolist()
    assert again["threshold"].tolist() == cases["threshold"].tolist()


def test_slices_without_a_part_in_classification_are_not_answered(answered):
    store, targets, sides, _ = answered
    part = SimpleNamespace(label=targets.label, label_known=(store.table["source"] == "x").to_numpy() | (sides == "train"))
    cases = answer_blindly(store, part, sides, sensitivity=0.9)
    assert set(cases["source"]) == {"x"}


def test_one_class_in_training_answers_nothing(answered):
    store, _, sides, _ = answered
    cases = answer_blindly(
        store, SimpleNamespace(label=np.ones(600, bool), label_known=np.ones(600, bool)), sides, sensitivity=0.9
    )
    assert cases.empty
    assert list(cases) == list(KINDS)


def test_frequencies_are_those_of_the_source():
    rows = [("x", "p", True), ("x", "p", True), ("x", "q", False), ("x", "r", True), ("y", "p", False), ("x", "s", None)]
    cases = make_table([{"source": source, "patient_id": patient, "label": label} for source, patient, label in rows])
    found = source_frequencies(cases)
    assert found["probability"].tolist() == pytest.approx([3 / 4] * 4 + [0, 3 / 4])
    assert found["raw_probability"].tolist() == found["probability"].tolist()
    assert set(found["model"]) == {"source_only"}
    assert found["is_tumor"].tolist() == [True] * 4 + [False, True]
    assert found["label"].isna().tolist() == cases["label"].isna().tolist()


def test_where_labels_do_not_take_part_frequencies_do_not_count_them():
    rows = [("x", True, True), ("x", True, False), ("x", False, True), ("x", None, True), ("y", True, False)]
    cases = make_table([{"source": source, "label": label, "classification": part} for source, label, part in rows])
    assert source_frequencies(cases)["probability"].tolist() == pytest.approx([1 / 2] * 5)


def test_nothing_that_the_model_drew_is_taken_for_the_baseline():
    cases = random_cases(0).assign(cam_pointing=1.0, center_iou=0.5)
    found = source_frequencies(cases)
    assert found.dtypes.astype(str).to_dict() == KINDS
    drawn = ["tp", "fp", "fn", "tn", "predicted_area_px", "decoder_area_px", "hausdorff95", "surface_dice", "distance_unit"]
    assert found[[*drawn, "uncertainty", "cam_pointing", "center_iou"]].isna().all(axis=None)
    for name, figure in measure(found).items():
        if name.startswith(("slice_", "volume_")):
            assert figure.n_slices == 0, name
    assert (found["reference_area_px"].fillna(-1) == cases["reference_area_px"].fillna(-1)).all()
