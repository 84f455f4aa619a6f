import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from slicewise.records import MaskState, Prediction, Study


def predict(**changes):
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    values = {
        "probability": 0.9,
        "raw_probability": 0.95,
        "is_tumor": True,
        "mask": mask,
        "tumor_probabilities": mask.astype(np.float32),
        "threshold": 0.4,
        "model_id": "0123456789ab",
    }
    return Prediction(**(values | changes))


def test_area_is_in_mm_only_where_the_spacing_is_known():
    assert predict().area_px == 6
    assert predict().area_mm2 is None
    assert predict(spacing_mm=(0.5, 2.0)).area_mm2 == 6.0
    assert predict(spacing_mm=(0.5, 0.5)).area_mm2 == 1.5


@pytest.mark.parametrize(
    ("is_tumor", "has_mask", "is_localized"), [(True, True, True), (True, False, False), (False, False, True)]
)
def test_a_positive_decision_without_a_mask_is_not_localized(is_tumor, has_mask, is_localized):
    mask = np.full((4, 6), has_mask)
    assert predict(is_tumor=is_tumor, mask=mask).is_localized is is_localized


def test_json_holds_everything_but_the_arrays():
    prediction = predict(spacing_mm=(0.5, 2.0), duration_s=0.25, file="a/b.png")
    assert json.loads(json.dumps(prediction.to_json(), allow_nan=False)) == {
        "file": "a/b.png",
        "probability": 0.9,
        "raw_probability": 0.95,
        "is_tumor": True,
        "is_localized": True,
        "area_px": 6,
        "area_mm2": 6.0,
        "threshold": 0.4,
        "model_id": "0123456789ab",
        "duration_s": 0.25,
    }


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        predict().probability = 0.1


def test_a_study_can_be_a_key():
    first, same = (Study("lgg", "lgg", "s", "p", (Path("a"),), options=(("sequences", ("t1",)),)) for _ in range(2))
    assert {first: 1}[same] == 1


def test_mask_states_are_the_words_of_the_label_contract():
    assert [str(state) for state in MaskState] == ["present", "empty", "unknown"]
