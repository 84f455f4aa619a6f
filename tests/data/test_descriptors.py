import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from slicewise.data.descriptors import DESCRIPTORS, Domain, describe, fit_domain
from slicewise.data.preprocess import SIDE_PX, preprocess

NAMES = list(DESCRIPTORS)


def head(random, height=95.0, width=75.0, shift=(0, 0)):
    """An ellipse of tissue with a bright rim on black, of 256 × 256."""
    down, right = np.mgrid[:SIDE_PX, :SIDE_PX] - np.array(shift)[:, None, None] - (SIDE_PX - 1) / 2
    distance = np.hypot(down / height, right / width)
    tissue = 100 + 10 * np.sin(down / random.uniform(4, 9)) * np.cos(right / random.uniform(4, 9))
    image = np.where(distance < 1, tissue, 0) + 120 * (np.abs(distance - 1) < 0.05)
    return (image + random.normal(0, 3, image.shape)).clip(0).astype(np.float32)


def described(image):
    return dict(zip(NAMES, describe(preprocess(image)[0]), strict=True))


class Slices:
    """What a fit asks of a store."""

    def __init__(self, images, bright_shares=None, **columns):
        self.images = np.array([preprocess(image)[0] for image in images])
        facts = {"bright_share": bright_shares or [0.5] * len(images), "plane": "axial", "sequence": "flair"} | columns
        self.table = pd.DataFrame(facts, index=range(len(images)))


@pytest.fixture(scope="module")
def heads():
    return draw_heads(60, seed=0)


def draw_heads(count, seed):
    random = np.random.default_rng(seed)
    return [head(random, random.uniform(85, 105), random.uniform(65, 85), random.integers(-8, 9, 2)) for _ in range(count)]


def fit(store, train=40):
    rows = np.arange(len(store.images))
    return fit_domain(store, rows[:train], rows[train:])


@given(arrays.arrays(np.float16, (SIDE_PX, SIDE_PX), elements=st.floats(-6, 6, width=16), fill=st.floats(-6, 6, width=16)))
def test_every_slice_can_be_described(pixels):
    values = describe(pixels)
    assert values.shape == (len(DESCRIPTORS),)
    assert np.isfinite(values).all()


def test_the_shape_of_the_foreground_is_measured():
    random = np.random.default_rng(0)
    centered = described(head(random, 80, 80))
    assert np.exp(centered["foreground"]) == pytest.approx(np.pi * 84**2 / SIDE_PX**2 + 0.01, rel=0.05)  # with the rim
    assert centered["spread"] == pytest.approx(0, abs=0.02)  # a disk
    assert centered["aspect"] == pytest.approx(0, abs=0.02)
    assert np.exp(described(head(random, 90, 60))["aspect"]) == pytest.approx(1.5, rel=0.03)
    moved = described(head(random, 80, 80, (24, -32)))
    assert np.exp(moved["offset"]) == pytest.approx(40 / SIDE_PX + 0.01, rel=0.1)
    assert moved["asymmetry"] > 2 * centered["asymmetry"]


def test_what_a_head_is_not_is_measured():
    random = np.random.default_rng(0)
    image = head(random)
    plain = described(image)
    noise = described(random.uniform(0, 255, image.shape).astype(np.float32))
    assert plain["border"] < 0.2
    assert noise["border"] > 0.9
    assert plain["corner"] < 0.2 < noise["corner"]
    assert noise["contrast"] == pytest.approx(0, abs=0.1)
    assert plain["contrast"] > 1
    assert noise["fine"] > plain["fine"] + 0.5
    assert noise["entropy"] < 6.01  # 64 steps


def test_neither_unit_nor_offset_of_the_values_matters():
    image = head(np.random.default_rng(0))
    first, second = describe(preprocess(image)[0]), describe(preprocess(image * 0.25 + 1000)[0])
    np.testing.assert_allclose(first, second, atol=0.02)


def test_half_a_percent_of_validation_lies_beyond_the_limit(heads):
    store = Slices(heads)
    domain = fit(store, train=30)
    distances = np.array([domain.distance(pixels) for pixels in store.images])
    assert distances.min() >= 0
    assert np.count_nonzero(distances[30:] > domain.limit) == 1  # of 30
    assert np.count_nonzero(distances[:30] > domain.limit) <= 1


def test_the_distance_is_that_of_mahalanobis(heads):
    domain = fit(Slices(heads))
    covariance = np.linalg.inv(np.array(domain.inverse_covariance))
    root = np.linalg.cholesky(covariance)
    away = np.zeros((2, len(NAMES)))
    away[1, 0] = 3
    described = np.array(domain.mean) + away @ root.T
    np.testing.assert_allclose(domain.distances(described), [0, 9], atol=1e-6)
    assert domain.distances(described[1]) == pytest.approx(9)


def test_what_is_no_head_is_far(heads):
    domain = fit(Slices(heads))
    random = np.random.default_rng(1)
    assert np.median([domain.distance(preprocess(other)[0]) for other in draw_heads(9, seed=2)]) < domain.limit
    for image in (random.normal(size=(256, 256)), np.tile(np.arange(256.0), (256, 1)), head(random, 120, 30)):
        assert domain.distance(preprocess(image.astype(np.float32))[0]) > domain.limit


def test_a_slice_that_shows_little_has_no_distance_and_takes_no_part(heads):
    domain = fit(Slices(heads))
    tip = head(np.random.default_rng(1), 20, 20)
    assert np.isnan(domain.distance(preprocess(tip)[0]))
    assert np.isnan(domain.distance(np.zeros((SIDE_PX, SIDE_PX), np.float16)))
    noise = np.random.default_rng(2).normal(size=(256, 256)).astype(np.float32)
    more = Slices([*heads[:40], tip, noise, *heads[40:]], [*[0.5] * 41, 0.001, *[0.5] * 20])
    assert fit(more, train=42).mean == domain.mean


def test_the_same_store_gives_the_same_domain(heads):
    first, second = (fit(Slices(heads)) for _ in range(2))
    assert first.model_dump_json() == second.model_dump_json()
    assert Domain.model_validate_json(first.model_dump_json()) == first


def test_of_many_slices_some_are_measured_from_the_first_to_the_last(heads, monkeypatch):
    store = Slices(heads)
    monkeypatch.setattr("slicewise.data.descriptors._FITTED", 10)
    few = fit(store)
    monkeypatch.undo()
    places = np.linspace(0, 39, 10).astype(int)
    expected = fit_domain(store, places, 40 + np.linspace(0, 19, 10).astype(int))
    assert few.mean == expected.mean
    assert few.limit == expected.limit
    assert few.planes == {"axial": 40}


def test_planes_and_sequences_of_training_are_counted(heads):
    planes = ["axial"] * 20 + ["coronal"] * 19 + [None] + ["sagittal"] * 20
    domain = fit(Slices(heads, plane=planes, sequence=["t1"] * 10 + ["flair"] * 50))
    assert domain.planes == {"axial": 20, "coronal": 19, "unknown": 1}
    assert domain.sequences == {"flair": 30, "t1": 10}


@pytest.mark.parametrize("train", [0, 1, 60])
def test_too_few_slices_have_no_domain(heads, train):
    assert fit(Slices(heads), train) is None


def test_slices_that_are_all_alike_have_a_domain(heads):
    domain = fit(Slices([heads[0]] * 10), train=6)
    assert domain.distance(preprocess(heads[0])[0]) == pytest.approx(0, abs=1e-3)


def test_a_domain_of_other_descriptors_is_read_and_known(heads):
    values = fit(Slices(heads)).model_dump()
    assert fit(Slices(heads)).is_current
    assert not Domain(**values | {"descriptors": ("other", *NAMES[1:])}).is_current
    with pytest.raises(ValidationError, match="13 means"):
        Domain(**values | {"descriptors": tuple(NAMES[1:])})


def test_no_prediction_waits_for_what_only_a_fit_needs():
    code = "import sys, slicewise.inference.gatekeeper; print({'torch', 'sklearn', 'pandas'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
