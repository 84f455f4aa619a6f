import pytest

from slicewise.inference.record import ScanRecord
from slicewise.service.schemas import ModelCard, Prediction, StudyResult
from slicewise.ui.wording import (
    COUNTED,
    describe_extent,
    describe_lack,
    describe_rule,
    describe_slice,
    describe_training,
    give_reason,
)

EXAMPLE = Prediction.model_config["json_schema_extra"]["examples"][0]
(RECORD,) = StudyResult.model_config["json_schema_extra"]["examples"][0]["scans"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"decision": "tumor"}, "outlined 2 pixels"),
        ({"decision": "tumor", "mask_px": None}, "No mask was looked for"),
        ({"decision": "tumor, not localized", "mask_px": 0}, "The empty mask does not mean a clear slice"),
        ({"decision": "no tumor", "mask_px": 0}, "is below the threshold of 0.412"),
        ({"decision": "abstained"}, "No answer is given"),
    ],
)
def test_every_decision_has_its_reason(fields, words):
    assert words in give_reason(Prediction.model_validate(EXAMPLE | fields))


@pytest.mark.parametrize(
    ("fields", "extent"),
    [
        ({"area_mm2": 1234.4}, ("Area of the mask", "1,234 mm²")),
        ({"mask_px": 5000}, ("Mask (no spacing known)", "5,000 pixels")),
        ({"mask_px": None}, ("Mask", "not looked for")),
    ],
)
def test_an_extent_has_the_best_unit_that_is_known(fields, extent):
    assert describe_extent(Prediction.model_validate(EXAMPLE | fields)) == extent


@pytest.mark.parametrize(
    ("mask_px", "volume_ml", "words"),
    [(0, 0.0, "0.00 ml"), (4, 0.0049, "< 0.01 ml"), (5, 0.005, "0.01 ml"), (812, 2.436, "2.44 ml")],
)
def test_a_tiny_volume_is_not_none(mask_px, volume_ml, words):
    record = ScanRecord.model_validate(RECORD | {"mask_px": mask_px, "volume_ml": volume_ml})
    assert describe_extent(record) == ("Volume of the mask", words)


@pytest.mark.parametrize(
    ("fields", "number", "pixels", "words"),
    [
        ({}, 1, 812, "probability 0.993, 812 pixels outlined"),
        ({}, 0, 0, "probability 0.010, 0 pixels outlined"),
        (
            {},
            1,
            0,
            "probability 0.993, 0 pixels outlined; it reaches the threshold, but no outline is sure enough to be shown",
        ),
        ({"decision": "abstained"}, 1, 0, "probability 0.993, 0 pixels outlined"),
        ({"mask_px": None}, 1, 0, "probability 0.993, no mask was looked for"),
    ],
)
def test_an_empty_mask_of_a_slice_has_its_reason(fields, number, pixels, words):
    assert describe_slice(ScanRecord.model_validate(RECORD | fields), number, pixels) == words


def test_of_many_slices_some_are_flagged_without_any_tumor():
    figures = {"val": {"specificity": {"value": 0.5}}, "test, a t1": {"specificity": {"value": 0.4}}}
    said = describe_rule(20, figures | {"test": {"specificity": {"value": 0.9}}})
    assert "specificity of 90.0 % on test slices, all sequences together, about 2 of these 20 slices" in said
    for without in (figures, figures | {"test": {"specificity": {"value": None}}}):
        assert describe_rule(20, without) == said.partition(" At the model's")[0]


@pytest.mark.parametrize(
    ("can_explain", "can_tell_uncertainty", "words"),
    [
        (True, True, "None"),
        (False, True, "No Grad-CAM: it shows what spoke for tumor to the classification head, and this model only segments"),
        (False, False, "No Grad-CAM and no standard deviation: both need torch"),
    ],
)
def test_what_a_service_cannot_say_has_its_reason(can_explain, can_tell_uncertainty, words):
    card = ModelCard.model_validate(
        ModelCard.model_config["json_schema_extra"]["examples"][0]
        | {"can_explain": can_explain, "can_tell_uncertainty": can_tell_uncertainty}
    )
    assert str(describe_lack(card)).startswith(words)


def test_what_a_model_was_trained_on_is_told_by_source():
    told = describe_training({"a": {"train": 52, "val": 7}, "b": {"train": 1830}, "c": {"test": 3}})
    assert told == f"Trained on: n = 52 (a), 1,830 (b); {COUNTED}"
