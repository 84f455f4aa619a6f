import numpy as np
import pytest
import torch

from slicewise.config import ModelConfig
from slicewise.data.preprocess import PREPROCESSING, SIDE_PX, preprocess
from slicewise.errors import InputError
from slicewise.inference.predictor import Predictor
from slicewise.model.checkpoint import Description
from slicewise.model.network import MultiTaskUNet

ARCHITECTURE = ModelConfig(widths=(4, 4, 8, 8, 8))


def describe(**changes):
    facts = {
        "name": "joint",
        "tasks": ("segmentation", "classification"),
        "architecture": ARCHITECTURE,
        "preprocessing": PREPROCESSING,
        "threshold": 0.5,
        "mask_threshold": 0.5,
        "parameters": 1,
        "data_fingerprint": "",
        "patients": {},
        "metrics": {},
        "history": [],
        "provenance": {},
        "weights_sha256": "0123456789abcdef",
    }
    return Description(**facts | changes)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MultiTaskUNet(ARCHITECTURE).eval()


@pytest.fixture
def image():
    """A slice of 300 × 200 with a bright head on black."""
    rows, columns = np.mgrid[:300, :200]
    head = (rows - 150) ** 2 / 120**2 + (columns - 100) ** 2 / 80**2 < 1
    return (head * (100 + 20 * np.sin(rows / 9) * np.cos(columns / 7))).astype(np.float32)


def middle_of(network, image):
    """Thresholds that cut this slice's outputs in two, so that both answers occur."""
    outputs = Predictor(network, describe()).probabilities(preprocess(image)[0])
    return outputs.tumor, float(np.median(outputs.mask))


def test_the_answer_lies_on_the_grid_of_the_input(network, image):
    tumor, pixel = middle_of(network, image)
    predictor = Predictor(network, describe(threshold=tumor, mask_threshold=pixel))
    prediction = predictor.predict(image, spacing_mm=(0.5, 2.0), file="a.png")
    assert prediction.mask.shape == prediction.tumor_probabilities.shape == (300, 200)
    assert prediction.mask.dtype == np.bool_
    assert 0 < prediction.area_px < 60_000
    assert prediction.area_mm2 == prediction.area_px
    assert (prediction.file, prediction.model_id) == ("a.png", "0123456789ab")


def test_below_the_threshold_the_mask_is_empty_and_above_it_is_the_decoders(network, image):
    tumor, pixel = middle_of(network, image)
    at = Predictor(network, describe(threshold=tumor, mask_threshold=pixel)).predict(image)
    above = Predictor(network, describe(threshold=tumor + 1e-6, mask_threshold=pixel)).predict(image)
    assert at.is_tumor
    assert np.array_equal(at.mask, at.tumor_probabilities >= pixel)
    assert not above.is_tumor
    assert not above.mask.any()
    assert np.array_equal(at.tumor_probabilities, above.tumor_probabilities)


def test_a_positive_answer_without_a_mask_is_said_as_such(network, image):
    prediction = Predictor(network, describe(threshold=0.0, mask_threshold=1.0)).predict(image)
    assert prediction.is_tumor
    assert not prediction.is_localized
    assert prediction.to_json()["is_localized"] is False


def test_a_slice_of_the_store_and_its_file_get_equal_answers(network):
    random = np.random.default_rng(0)
    image = random.normal(100, 20, size=(SIDE_PX, SIDE_PX)).astype(np.float32)
    predictor = Predictor(network, describe(threshold=0.0))
    from_file = predictor.predict(image)
    from_store = predictor.predict_preprocessed(preprocess(image)[0])
    assert from_file.probability == from_store.probability
    assert np.array_equal(from_file.tumor_probabilities, from_store.tumor_probabilities)


def test_a_model_of_one_task_answers_that_one(network, image):
    classifier = Predictor(network, describe(tasks=("classification",), threshold=0.0)).predict(image)
    assert not classifier.mask.any()
    assert np.isnan(classifier.tumor_probabilities).all()
    segmenter = Predictor(network, describe(tasks=("segmentation",))).predict(image)
    # Without a classifier the slice is as likely to show tumor as its likeliest pixel.
    assert segmenter.probability == pytest.approx(segmenter.tumor_probabilities.max(), abs=0.05)


def test_the_network_is_not_changed_by_predicting(network, image):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Predictor(network, describe()).predict(image)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("image", [np.zeros((2, 3, 4)), np.zeros((0, 5)), np.array([[1.0, np.nan]])])
def test_what_is_no_slice_is_refused(network, image):
    with pytest.raises(InputError, match="Expected"):
        Predictor(network, describe()).predict(image.astype(np.float32))
