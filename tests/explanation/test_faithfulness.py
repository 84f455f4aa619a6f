import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from slicewise.data.preprocess import PREPROCESSING
from slicewise.errors import CheckpointError
from slicewise.explanation.faithfulness import (
    EXPLANATION_COLUMNS,
    center_heat,
    randomized,
    score_explanations,
    score_heat,
    similarity,
)
from slicewise.explanation.gradcam import explain
from slicewise.inference.predictor import Predictor
from slicewise.model.description import Description
from slicewise.model.network import MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine

SIDE = 256

masks = st.integers(1, 2**30 - 1).map(lambda bits: np.array([bits >> place & 1 for place in range(30)], bool).reshape(5, 6))
heats = st.lists(st.integers(0, 9), min_size=30, max_size=30).map(lambda tenths: np.float32(tenths).reshape(5, 6) / 9)


def make_predictor(network, architecture, tasks=("segmentation", "classification")):
    facts = {"name": "joint", "threshold": 0.5, "mask_threshold": 0.5, "parameters": 1, "data_fingerprint": ""}
    facts |= {"patients": {}, "metrics": {}, "history": [], "provenance": {}, "weights_sha256": "0" * 64}
    return Predictor(
        TorchEngine(network), Description(architecture=architecture, preprocessing=PREPROCESSING, tasks=tasks, **facts)
    )


@pytest.fixture(scope="module")
def network(tiny):
    """Folded, as a predictor holds it, after some steps of training that made its BatchNorm its own."""
    torch.manual_seed(3)
    network = MultiTaskNetwork(tiny).train()
    for _ in range(3):
        network(torch.randn(4, 1, 64, 64))
    return network.folded()


@pytest.fixture
def cases(small_store):
    table = small_store.table[["slice_id", "mask_state", "reference_area_px"]]
    return table.assign(row=pd.array(range(len(table)), dtype="Int64"))


def is_close(scores, expected):
    return scores == pytest.approx(expected, abs=1e-6, nan_ok=True)


@given(mask=masks)
def test_heat_on_the_tumor_and_nowhere_else_scores_one(mask):
    assert score_heat(mask.astype(np.float32), mask) == (1, 1, 1)


@given(mask=masks, level=st.floats(0.01, 1))
def test_heat_everywhere_scores_the_share_of_the_area(mask, level):
    share = mask.mean()
    scores = score_heat(np.full(mask.shape, level, np.float32), mask)
    assert is_close(scores, (share, share, share / (2 - share)))  # of the area's pixels, that share is inside


@given(heat=heats, mask=masks)
def test_turning_or_mirroring_both_alike_changes_nothing(heat, mask):
    scores = score_heat(heat, mask)
    for turns in range(4):
        assert is_close(score_heat(np.rot90(heat, turns), np.rot90(mask, turns)), scores)
    assert is_close(score_heat(heat[:, ::-1], mask[:, ::-1]), scores)


@given(heat=heats, mask=masks, factor=st.sampled_from([2.0**-20, 2.0**20]))
def test_the_scale_of_the_heat_does_not_matter_and_of_its_values_only_the_order(heat, mask, factor):
    scores, squared = score_heat(heat, mask), score_heat(heat**2, mask)
    assert is_close(score_heat(heat * np.float32(factor), mask), scores)
    assert is_close((squared.pointing, squared.iou_at_area), (scores.pointing, scores.iou_at_area))


@given(heat=heats, mask=masks)
def test_every_score_is_a_share(heat, mask):
    assert all(0 <= score <= 1 for score in score_heat(heat, mask))


@given(order=st.permutations(range(1, 31)), mask=masks)
def test_without_ties_the_hottest_are_those_that_sorting_finds(order, mask):
    heat = np.float32(order).reshape(5, 6)
    hottest = np.zeros(30, bool)
    hottest[np.argsort(-heat, axis=None)[: mask.sum()]] = True
    hottest = hottest.reshape(5, 6)
    scores = score_heat(heat, mask)
    assert scores.iou_at_area == pytest.approx((hottest & mask).sum() / (hottest | mask).sum())
    assert scores.pointing == mask.ravel()[heat.argmax()]


def test_many_equally_hot_pixels_count_by_the_fraction_that_there_is_place_for():
    heat = np.array([[1.0, 0.5, 0.5, 0.5, 0.0]], np.float32)
    mask = np.array([[True, True, False, False, False]])
    # The hottest, and a third of each of the next three: 1 + 1/3 of 2 are tumor.
    assert is_close(score_heat(heat, mask), (1, 1.5 / 2.5, (4 / 3) / (4 - 4 / 3)))


def test_a_peak_that_is_shared_points_in_part():
    heat = np.array([[1.0, 1.0, 1.0, 0.2]], np.float32)
    assert score_heat(heat, np.array([[True, False, False, True]])).pointing == pytest.approx(1 / 3)


def test_a_map_that_shows_less_than_the_tumor_is_not_filled_up_with_what_it_does_not_show():
    heat, mask = np.zeros((8, 8), np.float32), np.zeros((8, 8), bool)
    heat[0, :4], mask[0] = 1, True
    assert score_heat(heat, mask) == (1, 1, 4 / 8)
    assert score_heat(heat[::-1], mask) == (0, 0, 0)


def test_a_map_that_shows_nothing_has_found_nothing():
    assert score_heat(np.zeros((4, 4), np.float32), np.eye(4, dtype=bool)) == (0, 0, 0)


def test_without_a_tumor_there_is_nothing_to_score():
    assert all(math.isnan(score) for score in score_heat(np.ones((4, 4), np.float32), np.zeros((4, 4), bool)))


def test_heat_beside_the_tumor_scores_zero():
    heat, mask = np.zeros((8, 8), np.float32), np.zeros((8, 8), bool)
    heat[:4], mask[5:] = 1, True
    assert score_heat(heat, mask) == (0, 0, 0)


def make_brain(row, column, height, width):
    """An ellipse in noisy air, brighter to the right, with a dark hole left of its middle."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    brain = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 < 1
    hole = (rows - row) ** 2 + (columns - column + width / 3) ** 2 < (width / 2.5) ** 2
    noise = np.random.default_rng(0).random((SIDE, SIDE)) * 0.2
    return np.where(brain & ~hole, 2 + (columns - column) / width, -2 + noise).astype(np.float16)


def test_the_baseline_peaks_in_the_middle_of_the_brain_and_is_as_wide():
    heat = center_heat(make_brain(100, 140, 80, 40))
    assert heat.dtype == np.float32
    assert heat.shape == (SIDE, SIDE)
    assert np.unravel_index(heat.argmax(), heat.shape) == (100, 140)
    assert heat.max() == 1
    # One standard deviation, half a semi-axis of an ellipse, from the center.
    assert heat[140, 140] == pytest.approx(math.exp(-0.5), abs=0.01)
    assert heat[100, 160] == pytest.approx(math.exp(-0.5), abs=0.01)


@pytest.mark.parametrize(("row", "found"), [(100, 1.0), (160, 0.0)])
def test_the_baseline_finds_a_tumor_only_where_the_center_lies_in_it(row, found):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[row - 10 : row + 10, 130:150] = True
    assert score_heat(center_heat(make_brain(100, 140, 80, 40)), mask).pointing == found


def test_the_baseline_turns_with_the_slice():
    pixels = make_brain(90, 150, 60, 30)
    np.testing.assert_allclose(center_heat(np.rot90(pixels)), np.rot90(center_heat(pixels)), atol=1e-5)


@pytest.mark.parametrize("value", [0, 3])
def test_a_blank_slice_has_its_middle_where_the_picture_has(value):
    heat = center_heat(np.full((SIDE, SIDE), value, np.float16))
    assert np.argwhere(heat == 1).mean(axis=0) == pytest.approx([127.5, 127.5])


def test_a_brain_of_one_pixel_has_a_baseline():
    pixels = np.zeros((SIDE, SIDE), np.float16)
    pixels[7, 9] = 1
    heat = center_heat(pixels)
    assert np.isfinite(heat).all()
    assert heat[7, 9] == heat.max() == 1


def test_a_randomized_network_has_the_same_weights_in_other_places(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shuffled = randomized(network, seed=0)
    for name, weight in shuffled.named_parameters():
        assert torch.equal(weight.flatten().sort().values, before[name].flatten().sort().values)
        assert len(before[name].unique()) == 1 or not torch.equal(weight, before[name]), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not shuffled.training


def test_randomizing_follows_from_the_seed_alone(network):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = randomized(network, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = randomized(network, seed=5).state_dict(), randomized(network, seed=6).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_a_randomized_network_answers_and_shows_something_else(network):
    pixels = make_brain(120, 120, 90, 70)
    shuffled = randomized(network, seed=0)
    image = torch.from_numpy(pixels.astype(np.float32))[None, None]
    with torch.inference_mode():
        assert not torch.allclose(network(image).tumor, shuffled(image).tumor)
    first, other = explain(network, pixels), explain(shuffled, pixels)
    assert first.any()
    assert other.any()
    assert similarity(first, other) < 0.9


def test_similarity_is_that_of_ranks():
    heat = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    assert similarity(heat, heat) == pytest.approx(1)
    assert similarity(heat, heat**3) == pytest.approx(1)
    assert similarity(heat, 1 - heat) == pytest.approx(-1)


@given(seeds=st.tuples(st.integers(0, 99), st.integers(100, 199)))
@settings(max_examples=10, deadline=None)
def test_similarity_of_unrelated_maps_is_near_zero_whichever_comes_first(seeds):
    heat, other = (np.random.default_rng(seed).random((SIDE, SIDE)).astype(np.float32) for seed in seeds)
    assert abs(similarity(heat, other)) < 0.08  # 5 standard deviations of 4,096 blocks
    assert similarity(heat, other) == pytest.approx(similarity(other, heat))


def test_similarity_looks_at_blocks():
    coarse = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    heat = np.kron(coarse, np.ones((4, 4), np.float32))
    within = np.kron(np.ones((64, 64)), np.diag([0.3, -0.3, 0.3, -0.3])).astype(np.float32)
    assert similarity(heat, heat + within) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_similarity_with_a_map_that_is_the_same_everywhere_is_undefined(level):
    heat = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
    flat = np.full((SIDE, SIDE), level, np.float32)
    assert math.isnan(similarity(heat, flat))
    assert math.isnan(similarity(flat, heat))


def test_every_outlined_slice_has_its_scores_and_no_other(network, tiny, small_store, cases):
    seen = []
    predictor = make_predictor(MultiTaskNetwork(tiny), tiny)
    predictor.engine.network = network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shown = cases.sample(frac=1, random_state=0)
    scores = score_explanations(predictor, small_store, shown, progress=lambda *counts: seen.append(counts))
    outlined = shown[shown["mask_state"] == "present"]
    assert dict(scores.dtypes.astype(str)) == EXPLANATION_COLUMNS
    assert list(scores["slice_id"]) == list(outlined["slice_id"])
    assert list(scores["row"]) == list(outlined["row"])
    assert seen == [(number, 10) for number in range(1, 11)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    pd.testing.assert_frame_equal(score_explanations(predictor, small_store, shown), scores)
    row = int(scores["row"][3])
    pixels, reference = np.asarray(small_store.images[row]), small_store.masks([row])[0]
    assert tuple(scores.loc[3, ["cam_pointing", "cam_mass_in_mask", "cam_iou"]]) == score_heat(
        explain(network, pixels), reference
    )
    assert tuple(scores.loc[3, ["center_pointing", "center_mass_in_mask", "center_iou"]]) == score_heat(
        center_heat(pixels), reference
    )
    chance = explain(randomized(network, seed=0), pixels)
    assert tuple(scores.loc[3, ["randomized_pointing", "randomized_mass_in_mask", "randomized_iou"]]) == score_heat(
        chance, reference
    )
    assert scores.loc[3, "randomized_similarity"] == similarity(explain(network, pixels), chance) < 0.9


class BrightPlaces(torch.nn.Module):
    """An encoder without weights: what is bright, and nothing deeper."""

    def forward(self, images):
        bright = F.avg_pool2d(F.relu(images - 1.5), 16)
        return [bright, *self.deepen(bright, below=1)]

    def deepen(self, features, below):
        return [torch.zeros(len(features), 1, 8, 8)]


class TotalOf(torch.nn.Module):
    def forward(self, maps):
        return maps[-2].mean(dim=(1, 2, 3))


def test_a_map_that_ignores_the_weights_is_told_by_its_similarity(tiny, small_store, cases):
    """It finds every tumor of this store, which are bright squares, and would pass for faithful without the check."""
    network = MultiTaskNetwork(tiny).eval()
    network.encoder, network.classifier = BrightPlaces(), TotalOf()
    scores = score_explanations(make_predictor(network, tiny), small_store, cases)
    assert (scores["cam_pointing"] == 1).all()
    assert (scores["cam_mass_in_mask"] > 0.5).all()
    assert (scores["center_pointing"] < 1).any()
    assert (scores["randomized_similarity"] > 0.999).all()


class FlatMaps(BrightPlaces):
    def forward(self, images):
        return [torch.ones(len(images), 1, 16, 16), torch.ones(len(images), 1, 8, 8)]


def test_heat_is_not_cut_to_a_mask_before_it_is_scored(tiny, small_store, cases):
    """Heat everywhere lies on the tumor by the tumor's share; any masking would show as more."""
    network = MultiTaskNetwork(tiny).eval()
    network.encoder, network.classifier = FlatMaps(), TotalOf()
    scores = score_explanations(make_predictor(network, tiny), small_store, cases)
    share = 40 * 40 / SIDE**2
    assert scores["cam_pointing"].tolist() == pytest.approx([share] * 10)
    assert scores["cam_mass_in_mask"].tolist() == pytest.approx([share] * 10)
    assert scores["randomized_similarity"].isna().all()


def test_no_outlined_slice_leaves_an_empty_table(network, tiny, small_store, cases):
    scores = score_explanations(
        make_predictor(MultiTaskNetwork(tiny), tiny), small_store, cases[cases["mask_state"] == "empty"]
    )
    assert scores.empty
    assert dict(scores.dtypes.astype(str)) == EXPLANATION_COLUMNS


def test_an_untrained_classification_head_is_not_scored(tiny, small_store, cases):
    predictor = make_predictor(MultiTaskNetwork(tiny), tiny, tasks=("segmentation",))
    with pytest.raises(CheckpointError, match="classifies"):
        score_explanations(predictor, small_store, cases)
