import math

import numpy as np
import pytest
import torch

from slicewise.model.engine import Calibration, Outputs, infer
from slicewise.model.network import MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine


class Told:
    """An engine that answers what it is told."""

    name = "told"

    def __init__(self, logits, masks, batch):
        self.logits, self.masks, self.batch = np.array(logits, float), np.array(masks, np.float32), batch
        self.done = 0

    def run(self, pixels):
        first, self.done = self.done, self.done + len(pixels)
        logits = self.masks[first : self.done].astype(np.float64)
        masks = (1 / (1 + np.exp(-logits))).astype(np.float32)
        return Outputs(self.logits[first : self.done], logits.max(axis=(1, 2)), masks)


LOGITS = [-2.0, 3.0, 0.5, -1.0, 1.0]
MASKS = np.arange(5, dtype=np.float32)[:, None, None] - np.ones((2, 2), np.float32)
PIXELS = np.zeros((5, 2, 2), np.float16)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_every_slice_gets_its_own_answer_whatever_the_batch(batch):
    outputs = infer(
        Told(LOGITS, MASKS, batch), PIXELS, segment=True, classify=True, calibration=Calibration(temperature=2.0)
    )
    for output, logit, mask in zip(outputs, LOGITS, MASKS, strict=True):
        assert output.tumor == pytest.approx(sigmoid(logit / 2), rel=1e-12)
        assert output.raw_tumor == pytest.approx(sigmoid(logit), rel=1e-12)
        assert output.mask == pytest.approx(np.vectorize(sigmoid)(mask), rel=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_slice_has_a_mask_only_where_it_would_be_kept(batch):
    outputs = infer(Told(LOGITS, MASKS, batch), PIXELS, segment=True, classify=True, mask_from=0.5)
    assert [output.mask is not None for output in outputs] == [False, True, True, False, True]
    assert outputs[2].mask == pytest.approx(np.full((2, 2), sigmoid(1.0)), rel=1e-6)


def test_a_probability_at_the_limit_keeps_its_mask():
    assert infer(Told([0.0], MASKS[:1], 1), PIXELS[:1], segment=True, classify=True, mask_from=0.5)[0].mask is not None


@pytest.mark.parametrize("batch", [1, 4])
def test_a_model_without_classification_head_answers_with_its_most_probable_pixel(batch):
    masks = MASKS.copy()
    masks[:, 1, 1] += 0.25
    outputs = infer(
        Told(LOGITS, masks, batch),
        PIXELS,
        segment=True,
        classify=False,
        calibration=Calibration(temperature=2.0),
        mask_from=0.99,
    )
    for output, mask in zip(outputs, masks, strict=True):
        assert output.raw_tumor == pytest.approx(sigmoid(mask[1, 1]), rel=1e-6)
        assert output.tumor == pytest.approx(sigmoid(mask[1, 1] / 2), rel=1e-6)


def test_what_is_nearly_certain_still_has_an_order():
    lower, higher = infer(Told([30.0, 31.0], MASKS[:2], 1), PIXELS[:2], segment=False, classify=True)
    assert 0.999 < lower.tumor < higher.tumor < 1


def test_what_is_nearly_certain_still_has_an_order_by_its_pixels_too():
    lower, higher = infer(Told(LOGITS[:2], [[[30.0]], [[31.0]]], 1), PIXELS[:2], segment=True, classify=False)
    assert lower.tumor < higher.tumor


def test_a_model_that_only_classifies_has_no_mask():
    outputs = infer(Told(LOGITS, MASKS, 1), PIXELS, segment=False, classify=True)
    assert all(output.mask is None for output in outputs)
    assert [output.tumor for output in outputs] == pytest.approx([sigmoid(logit) for logit in LOGITS], rel=1e-12)


def test_joined_logits_are_the_mean_weighted_by_the_share():
    joined = Calibration(decoder_share=0.25).join(np.array([4.0, -8.0]), np.array([-4.0, 4.0]))
    assert joined.tolist() == [2.0, -5.0]


@pytest.mark.parametrize(("share", "joined"), [(0.0, [1.0, 2.0]), (1.0, [3.0, 4.0])])
def test_a_word_without_weight_may_be_unknown(share, joined):
    known, unknown = np.array(joined), np.full(2, math.nan)
    heads, peaks = (unknown, known) if share else (known, unknown)
    assert Calibration(decoder_share=share).join(heads, peaks).tolist() == joined


def test_a_word_with_weight_that_is_unknown_leaves_the_answer_unknown():
    one, unknown = np.ones(1), np.full(1, math.nan)
    for heads, peaks in ((one, unknown), (unknown, one)):
        assert np.isnan(Calibration(decoder_share=0.5).join(heads, peaks)).all()
    assert math.isnan(Calibration().apply(math.nan))


def test_at_the_center_both_answers_are_equally_probable():
    calibration = Calibration(center=5.0, temperature=2.0)
    assert calibration.apply(5.0) == 0.5
    assert calibration.apply(9.0) == pytest.approx(sigmoid(2.0), rel=1e-12)
    assert calibration.apply(1.0) == pytest.approx(sigmoid(-2.0), rel=1e-12)


SHARED = Calibration(decoder_share=0.75, center=1.0, temperature=2.0)
PEAKED = MASKS + np.array([[0.0, 0.5], [0.0, 0.0]], np.float32)
"""Their largest logits are -0.5, 0.5, 1.5, 2.5, 3.5."""
JOINED = [-0.875, 1.125, 1.25, 1.625, 2.875]
"""A quarter of `LOGITS` and three quarters of those."""


@pytest.mark.parametrize("batch", [1, 3])
def test_where_the_decoder_has_a_word_its_peak_moves_the_answer(batch):
    engine = Told(LOGITS, PEAKED, batch)
    outputs = infer(engine, PIXELS, segment=True, classify=True, calibration=SHARED, mask_from=0.55)
    for output, head, mask, logit in zip(outputs, LOGITS, PEAKED, JOINED, strict=True):
        assert (output.head, output.peak) == (head, mask.max())
        assert output.tumor == pytest.approx(sigmoid((logit - 1) / 2), rel=1e-12)
        assert output.raw_tumor == pytest.approx(sigmoid(logit), rel=1e-12)
    # Above 0.55 are only the last two, by logits above 1.4; of both the mask is its own.
    assert [output.mask is not None for output in outputs] == [False, False, False, True, True]
    for place in (3, 4):
        assert outputs[place].mask == pytest.approx(np.vectorize(sigmoid)(PEAKED[place]), rel=1e-6)


@pytest.mark.parametrize("batch", [1, 8])
def test_where_no_mask_is_wanted_the_decoder_keeps_its_word(batch):
    engine = Told(LOGITS, PEAKED, batch)
    outputs = infer(engine, PIXELS, segment=False, classify=True, calibration=SHARED)
    assert [output.tumor for output in outputs] == pytest.approx([sigmoid((logit - 1) / 2) for logit in JOINED], rel=1e-12)
    assert all(output.mask is None for output in outputs)


def test_without_a_word_of_the_decoder_the_head_decides():
    calibration = Calibration(center=1.0, temperature=2.0)
    outputs = infer(Told(LOGITS, PEAKED, 5), PIXELS, segment=True, classify=True, calibration=calibration, mask_from=0.5)
    assert [output.tumor for output in outputs] == pytest.approx([sigmoid((logit - 1) / 2) for logit in LOGITS], rel=1e-12)
    assert [output.mask is not None for output in outputs] == [False, True, False, False, True]
    assert [output.head for output in outputs] == LOGITS


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_model_that_does_not_classify_has_the_decoders_word_alone_whatever_the_share(share):
    calibration = Calibration(decoder_share=share, center=1.0, temperature=2.0)
    untrained = [100.0, math.nan, -100.0, math.inf, 0.0]
    outputs = infer(Told(untrained, PEAKED, 2), PIXELS, segment=True, classify=False, calibration=calibration, mask_from=0.9)
    expected = [sigmoid((mask.max() - 1) / 2) for mask in PEAKED]
    assert [output.tumor for output in outputs] == pytest.approx(expected, rel=1e-12)
    assert all(output.mask is not None for output in outputs)


@pytest.fixture(scope="module")
def network(tiny):
    torch.manual_seed(0)
    network = MultiTaskNetwork(tiny).train()
    with torch.no_grad():
        network(torch.randn(4, 1, 64, 64))  # BatchNorm that is not the identity
    return network.eval()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).normal(size=(3, 256, 256)).astype(np.float16)


def test_torch_answers_with_the_logits_of_the_network(network, pixels):
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels.astype(np.float32))[:, None])
    for place, output in enumerate(infer(TorchEngine(network), pixels, segment=True, classify=True)):
        assert output.tumor == pytest.approx(torch.sigmoid(logits.tumor[place]).item(), rel=1e-5)
        assert np.allclose(output.mask, torch.sigmoid(logits.mask[place, 0]).numpy(), atol=1e-5)


def test_torch_in_batches_gives_every_slice_its_own_answer(network, pixels):
    alone = infer(TorchEngine(network), pixels, segment=True, classify=True)
    engine = TorchEngine(network)
    engine.batch = 2
    for one, other in zip(alone, infer(engine, pixels, segment=True, classify=True), strict=True):
        assert one.tumor == pytest.approx(other.tumor, abs=1e-6)
        assert one.peak == pytest.approx(other.peak, abs=1e-5)
        assert np.allclose(one.mask, other.mask, atol=1e-5)


def test_torch_gives_the_same_bits_again_whatever_stands_beside_a_slice(network, pixels):
    engine = TorchEngine(network)
    (first,), *_ = (
        infer(engine, pixels[:1], segment=True, classify=True),
        infer(engine, pixels[1:], segment=True, classify=True),
    )
    again = infer(engine, pixels[::-1], segment=True, classify=True)[-1]
    assert first.tumor == again.tumor
    assert np.array_equal(first.mask, again.mask)


def test_the_network_is_left_as_it_was(network, pixels):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    infer(TorchEngine(network), pixels[:1], segment=True, classify=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
