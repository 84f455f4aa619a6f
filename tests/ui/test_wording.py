import pytest

from slicewise.service.schemas import Prediction
from slicewise.ui.wording import describe_extent, give_reason

EXAMPLE = Prediction.model_config["json_schema_extra"]["examples"][0]


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
        ({"mask_px": 5000}, ("Mask (no spacing known)", "5,000 px")),
        ({"mask_px": None}, ("Mask", "not looked for")),
    ],
)
def test_an_extent_has_the_best_unit_that_is_known(fields, extent):
    assert describe_extent(Prediction.model_validate(EXAMPLE | fields)) == extent
