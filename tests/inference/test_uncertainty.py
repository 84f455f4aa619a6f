import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from slicewise.errors import CheckpointError
from slicewise.inference.uncertainty import check_variance, estimate_uncertainty
from slicewise.inference.views import VIEWS, View
from slicewise.model.engine import Calibration, infer
from slicewise.model.network import MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine

SIDE = 256
AS_IT_IS = (View(),)
BOTH_SIDES = (View(), View(mirrored=True))


def make_network(tiny, dropout):
    """Untrained, but with BatchNorm that has seen slices: without, all slices look nearly the same to it."""
    torch.manual_seed(0)
    network = MultiTaskNetwork(tiny.model_copy(update={"dropout": dropout})).train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(4, 1, 64, 64))
    return network.folded()


@pytest.fixture(scope="module")
def network(tiny):
    return make_network(tiny, 0.3)


@pytest.fixture(scope="module")
def undropped(tiny):
    return make_network(tiny, 0.0)


def make_pixels(seed):
    """Noise in the middle, air around."""
    random = np.random.default_rng(seed)
    pixels = np.full((SIDE, SIDE), -2.5, np.float16)
    pixels[30:-30, 50:-50] = random.normal(size=(SIDE - 60, SIDE - 100)).clip(-2, 3)
    return pixels


def estimate(network, pixels, **settings):
    return estimate_uncertainty(network, pixels, **{"classify": True} | settings)


def test_one_view_and_no_dropout_give_the_answer_and_no_uncertainty(undropped):
    pixels = make_pixels(0)
    result, answer = (
        estimate(undropped, pixels, views=AS_IT_IS),
        infer(TorchEngine(undropped), pixels[None], segment=True, classify=True)[0],
    )
    assert result.probability == pytest.approx(answer.tumor, abs=1e-6)
    assert result.standard_deviation < 1e-7


def test_an_uncertainty_that_says_nothing_is_refused_and_either_source_of_it_is_enough(network, undropped):
    def deviations(model, views):
        return [estimate(model, make_pixels(seed), views=views).standard_deviation for seed in range(3)]

    with pytest.raises(CheckpointError, match="zero for all 3 slices"):
        check_variance(deviations(undropped, AS_IT_IS))
    check_variance(deviations(undropped, VIEWS))
    check_variance(deviations(network, AS_IT_IS))
    check_variance(deviations(network, VIEWS))


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-9, 0.0, 3e-8]])
def test_rounding_is_no_variance(values):
    with pytest.raises(CheckpointError, match=r"Expected uncertainty that varies .* got zero for all"):
        check_variance(np.array(values))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_even_once(value):
    with pytest.raises(CheckpointError, match="1 of 3 slices"):
        check_variance([0.1, value, 0.2])
    with pytest.raises(CheckpointError, match="1 of 1 slices"):
        check_variance([value])


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.01]])
def test_one_slice_proves_nothing_and_one_that_varies_is_enough(values):
    check_variance(values)


def test_the_same_slice_has_the_same_uncertainty_on_every_call(network):
    first = estimate(network, make_pixels(0))
    torch.manual_seed(99)
    estimate(network, make_pixels(1), draws=3)
    assert estimate(network, make_pixels(0)) == first


def test_the_global_generators_are_neither_read_nor_moved(network):
    torch.manual_seed(7)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the state is the point
    estimate(network, make_pixels(0))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_the_network_and_the_slice_stay_as_they_are(network):
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pixels = make_pixels(0)
    estimate(network, pixels)
    assert np.array_equal(pixels, make_pixels(0))
    assert not network.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


def test_the_logits_are_divided_by_the_temperature(undropped):
    pixels = make_pixels(0)
    with torch.inference_mode():
        logit = undropped(torch.from_numpy(pixels.astype(np.float32))[None, None]).tumor.item()
    result = estimate(undropped, pixels, views=AS_IT_IS, calibration=Calibration(temperature=0.25))
    assert result.probability == pytest.approx(1 / (1 + math.exp(-logit / 0.25)), abs=1e-6)


def test_the_temperature_scales_the_uncertainty(network):
    mild, sharp = (estimate(network, make_pixels(0), calibration=Calibration(temperature=value)) for value in (10.0, 1.0))
    assert 0 < mild.standard_deviation < sharp.standard_deviation


HALVES = Calibration(decoder_share=0.5, center=-0.5, temperature=0.75)
ALONE = HALVES._replace(decoder_share=0.0)


def test_where_the_decoder_has_a_word_the_answer_and_the_uncertainty_are_of_both_heads(undropped):
    """Without dropout the answers are those of `infer` for each view."""
    views = [view.apply(make_pixels(0)) for view in VIEWS]
    answers = infer(TorchEngine(undropped), np.stack(views), segment=False, classify=True, calibration=HALVES)
    tumor = [answer.tumor for answer in answers]
    deaf = [
        answer.tumor
        for answer in infer(TorchEngine(undropped), np.stack(views), segment=False, classify=True, calibration=ALONE)
    ]
    assert np.abs(np.subtract(tumor, deaf)).min() > 0.01
    result = estimate(undropped, make_pixels(0), calibration=HALVES)
    assert result.probability == pytest.approx(np.mean(tumor), abs=1e-6)
    assert result.standard_deviation == pytest.approx(np.std(tumor), rel=1e-3)


def test_a_head_without_a_word_makes_no_answer_uncertain(network):
    """The decoder has no dropout: of one view, its word is certain."""
    decoder = Calibration(decoder_share=1.0)
    assert estimate(network, make_pixels(0), views=AS_IT_IS, calibration=decoder).standard_deviation < 1e-7
    half, alone = (
        estimate(network, make_pixels(0), views=AS_IT_IS, calibration=Calibration(decoder_share=share)).standard_deviation
        for share in (0.5, 0.0)
    )
    assert 0 < half < alone
    (answer,) = infer(TorchEngine(network), make_pixels(0)[None], segment=True, classify=True, calibration=decoder)
    assert estimate(network, make_pixels(0), views=AS_IT_IS, calibration=decoder).probability == pytest.approx(
        answer.tumor, abs=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_slice_and_its_mirror_image_are_equally_uncertain(network, seed):
    pixels = make_pixels(seed)
    result = estimate(network, pixels, calibration=HALVES)
    assert result.standard_deviation > 0
    assert estimate(network, pixels[:, ::-1], calibration=HALVES) == pytest.approx(result, abs=1e-5)


def test_a_slice_of_which_the_views_agree_is_less_uncertain(undropped):
    """What is its own mirror image looks the same in both views."""
    lopsided = make_pixels(0)
    lopsided[100:140, 140:190] = 6
    symmetric = np.concatenate([lopsided[:, :128], lopsided[:, 127::-1]], axis=1)
    agreed, disputed = (estimate(undropped, pixels, views=BOTH_SIDES) for pixels in (symmetric, lopsided))
    assert agreed.standard_deviation < 1e-7
    assert disputed.standard_deviation > 1e-5


def test_a_model_without_classification_head_answers_with_its_most_probable_pixel_and_has_no_dropout(network):
    pixels = make_pixels(0)
    (answer,) = infer(TorchEngine(network), pixels[None], segment=True, classify=False)
    result = estimate(network, pixels, classify=False, views=AS_IT_IS)
    assert result.probability == pytest.approx(answer.tumor, abs=1e-6)
    assert result.standard_deviation == 0
    assert estimate(network, pixels, classify=False).standard_deviation > 0


def test_a_head_without_a_word_may_say_anything(network):
    decoder = Calibration(decoder_share=1.0)
    spoiled = copy.deepcopy(network)
    torch.nn.init.constant_(spoiled.classifier.layers[0].weight, math.nan)
    assert estimate(spoiled, make_pixels(0), calibration=decoder) == estimate(network, make_pixels(0), calibration=decoder)


def test_a_decoder_without_a_word_is_not_run(network, monkeypatch):
    before = estimate(network, make_pixels(0))

    def refuse(_):
        raise AssertionError("the decoder ran")

    monkeypatch.setattr(network.decoder, "forward", refuse)
    assert estimate(network, make_pixels(0)) == before


@pytest.mark.parametrize("dropout", [0.3, 0.7])
def test_draws_are_those_of_dropout_in_training(tiny, dropout):
    """Mean and spread of the logits agree with torch's own dropout, within what chance allows."""
    network = make_network(tiny, dropout)
    pixels = make_pixels(0)
    with torch.inference_mode():
        maps = network.encoder(torch.from_numpy(pixels.astype(np.float32))[None, None])
        torch.manual_seed(0)
        network.classifier.train()
        logits = network.classifier([features.expand(20_000, -1, -1, -1) for features in maps])
        network.classifier.eval()
    reference = torch.sigmoid(logits.double())
    result = estimate(network, pixels, views=AS_IT_IS, draws=20_000)
    assert result.standard_deviation == pytest.approx(reference.std().item(), rel=0.05)
    assert result.probability == pytest.approx(reference.mean().item(), abs=5 * reference.std().item() / math.sqrt(10_000))


def test_all_views_share_the_thinned_heads(network):
    """Twice the same view adds nothing: the draws differ, the views do not."""
    pixels = make_pixels(0)
    once, twice = (estimate(network, pixels, views=AS_IT_IS * count) for count in (1, 2))
    assert twice == pytest.approx(once, abs=1e-7)


def test_views_are_few_begin_with_the_slice_itself_and_come_with_their_mirror_images():
    assert VIEWS[0] == View()
    assert 4 <= len(VIEWS) <= 6
    assert len(set(VIEWS)) == len(VIEWS)
    assert {view._replace(mirrored=not view.mirrored) for view in VIEWS} == set(VIEWS)


@given(mirrored=st.booleans(), shift_px=st.integers(-20, 20), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_view_of_which_only_the_places_changed_is_undone_exactly(mirrored, shift_px, seed):
    view, pixels = View(mirrored=mirrored, shift_px=shift_px), make_pixels(seed)
    assert np.array_equal(view.undo(view.apply(pixels)), pixels)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_a_preprocessed_slice_with_the_same_order_of_intensities(view):
    pixels = make_pixels(0)
    seen = view.undo(view.apply(pixels))
    assert seen.dtype == np.float16
    order = np.argsort(pixels, axis=None, kind="stable")
    assert (np.diff(seen.ravel()[order].astype(float)) >= 0).all()
    assert seen[0, 0] == seen.min()
    foreground = seen[seen > seen.min() + 0.1 * (seen.max() - seen.min())].astype(float)
    assert foreground.mean() == pytest.approx(0, abs=0.5)
    assert np.isfinite(seen).all()


@pytest.mark.parametrize("value", [0, -2])
def test_a_blank_slice_has_views(network, value):
    pixels = np.full((SIDE, SIDE), value, np.float16)
    assert all(np.isfinite(view.apply(pixels)).all() for view in VIEWS)
    assert all(math.isfinite(number) for number in estimate(network, pixels))


def test_pooled_features_are_what_the_head_reads(network):
    maps = [torch.randn(2, width, 8, 8) for width in (4, 4, 8, 8, 8)]
    with torch.inference_mode():
        pooled = network.classifier.pool(maps)
        assert pooled.shape == (2, 32)
        assert torch.equal(F.dropout(network.classifier.layers(pooled).squeeze(1), 0), network.classifier(maps))
