"""Copies are found whatever was done to them; what merely looks alike is left in peace."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from slicewise.audit.duplicates import TRANSFORMS, _signatures, find_near_duplicates
from slicewise.audit.thumbnail import make_thumbnail

from .conftest import draw_head


def heads(count, seed=0, side=200):
    random = np.random.default_rng(seed)
    return [draw_head(random, side=side)[0].astype(np.float32) for _ in range(count)]


def pairs_of(images, studies=None):
    thumbnails = np.array([make_thumbnail(image.astype(np.float32)) for image in images])
    numbers = np.arange(len(images)) if studies is None else np.array(studies)
    return find_near_duplicates(thumbnails, numbers)


def jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), dtype=np.float32)


def resize(image, height, width):
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


CHANGES = {
    "recompressed": lambda image: jpeg(image, 60),
    "smaller": lambda image: resize(image, 110, 110),
    "of another aspect": lambda image: resize(image, 180, 240),
    "brighter": lambda image: image * 1.3 + 12,
    "of another gamma": lambda image: 255 * (image.clip(0) / 255) ** 0.75,
    "in a frame": lambda image: np.pad(image, ((30, 12), (5, 44))),
    "cropped close to the head": lambda image: image[18:-18, 26:-26],
    "noisy": lambda image: (image + np.random.default_rng(5).normal(scale=3, size=image.shape)).clip(0),
    "a little turned": lambda image: ndimage.rotate(image, 1.0, reshape=False, order=1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_changed_copy_is_found_in_all_eight_positions(change, transform):
    images = heads(12)
    changed = CHANGES[change](images[4])
    images.append(TRANSFORMS[transform](changed[None])[0])
    found = pairs_of(images)
    assert [(pair.first, pair.second) for pair in found] == [(4, 12)]
    assert 0.95 < found[0].correlation <= 1


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_no_symmetry_of_the_square_moves_a_signature(transform):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64)).astype(np.uint8)
    np.testing.assert_allclose(_signatures(TRANSFORMS[transform](noise)), _signatures(noise), atol=1e-5)


def test_the_transform_undoes_what_was_done():
    images = heads(5)
    images.append(images[1][:, ::-1])
    (pair,) = pairs_of(images)
    assert pair.transform == "mirrored left to right"


def test_other_heads_of_the_same_shape_are_no_copies():
    assert pairs_of(heads(300, seed=7, side=96)) == []


def test_slices_of_one_study_are_not_compared():
    image = heads(1)[0]
    assert pairs_of([image, image + 1, *heads(3, seed=1)], studies=[0, 0, 1, 2, 3]) == []
    assert len(pairs_of([image, image + 1, *heads(3, seed=1)], studies=[0, 9, 1, 2, 3])) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_small_sets(count):
    images = heads(count)
    assert find_near_duplicates(np.zeros((0, 64, 64), np.uint8), np.zeros(0, np.int64)) == []
    assert pairs_of(images) == [] if images else True
    assert len(pairs_of([*images, *images])) == count if images else True


def test_blank_slices_are_no_copies_of_each_other():
    assert pairs_of([np.zeros((50, 50)), np.zeros((60, 50)), np.full((50, 50), 9.0), *heads(2)]) == []


def test_a_crowd_of_equals_is_linked_without_comparing_all_with_all():
    image = heads(1)[0]
    found = pairs_of([image] * 200 + heads(20, seed=3))
    assert [(pair.first, pair.second) for pair in found] == [(0, number) for number in range(1, 200)]


@settings(deadline=None, max_examples=15)
@given(order=st.permutations(range(10)))
def test_the_order_of_slices_does_not_matter(order):
    images = heads(8)
    images += [CHANGES["recompressed"](images[2]), images[5][::-1]]
    found = {frozenset((order[pair.first], order[pair.second])) for pair in pairs_of([images[place] for place in order])}
    assert found == {frozenset((2, 8)), frozenset((5, 9))}
