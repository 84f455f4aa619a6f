import math

import numpy as np
import pytest
import torch

from slicewise.model.infer import infer
from slicewise.model.network import MultiTaskUNet


@pytest.fixture(scope="module")
def network(tiny):
    torch.manual_seed(0)
    return MultiTaskUNet(tiny).eval()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).normal(size=(256, 256)).astype(np.float16)


def test_probabilities_are_the_sigmoid_of_the_logits(network, pixels):
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels.astype(np.float32))[None, None])
    result = infer(network, pixels, segment=True, classify=True)
    assert result.tumor == pytest.approx(1 / (1 + math.exp(-logits.tumor.item())), rel=1e-5)
    assert np.allclose(result.mask, 1 / (1 + np.exp(-logits.mask[0, 0].numpy())), atol=1e-5)


def test_a_model_without_classification_head_answers_with_its_most_probable_pixel(network, pixels):
    result = infer(network, pixels, segment=True, classify=False)
    assert result.tumor == result.mask.max()


def test_a_model_that_only_classifies_has_no_mask(network, pixels):
    assert infer(network, pixels, segment=False, classify=True).mask is None


def test_network_without_batch_statistics_gives_the_same_bits_again(network, pixels):
    first, second = (infer(network, pixels, segment=True, classify=True) for _ in range(2))
    assert first.tumor == second.tumor
    assert np.array_equal(first.mask, second.mask)
