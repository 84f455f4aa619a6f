"""The phantom's head: fractions that add up, tissue that is pushed but never folded, growth along the white matter."""

import sys

import numpy as np
import pytest

from slicewise.errors import ConfigError
from slicewise.sources.phantom_anatomy import Head, Lesion, SmoothField, _invade, load_template, tissue_fractions


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    steps = (np.arange(80.0, -81, -4), np.arange(80.0, -121, -4), np.array([20.0]))
    return np.stack(np.meshgrid(*steps, indexing="ij"))


@pytest.fixture(scope="module")
def head() -> Head:
    return Head(np.random.default_rng(1))


@pytest.fixture(scope="module")
def lesion(head, points) -> Lesion:
    return Lesion(np.random.default_rng(2), head, points)


def test_fractions_sum_to_one_in_the_brain_and_to_zero_outside(head, lesion, points):
    spots = np.random.default_rng(0).uniform(0, 1, points.shape[1:])
    for tumor in (None, lesion):
        total = tissue_fractions(head, tumor, spots, points).sum(axis=0)
        inside = head.is_brain(points)
        assert inside.any()
        assert not inside.all()
        np.testing.assert_allclose(total[inside], 1, atol=1e-12)
        assert not total[~inside].any()


def test_center_of_the_lesion_is_in_deep_white_matter_of_a_slice_and_becomes_core(head, lesion, points):
    center = lesion.center_mm.reshape(3, 1)
    assert (points.reshape(3, -1) == center).all(axis=0).any()
    assert head.tissues(center)[0, 0] > 0.5
    assert head.depth_mm(center)[0] >= 8
    _, core, _ = lesion.coverage(center)
    assert core[0] == 1


def test_push_keeps_center_and_far_tissue_moves_the_rest_outward_and_never_folds(lesion):
    radii = np.linspace(0, 1.5 * lesion.reach_mm, 200)
    direction = np.array([0.6, -0.48, 0.64])
    ray = lesion.center_mm[:, None] + direction[:, None] * radii
    before = direction @ (lesion.pull(ray) - lesion.center_mm[:, None])
    near = (radii > 0) & (radii < lesion.reach_mm)
    assert before[0] == pytest.approx(0, abs=1e-9)
    assert (before[near] < radii[near]).all()
    assert (np.diff(before) > 0).all()
    assert np.array_equal(lesion.pull(ray)[:, radii > lesion.reach_mm], ray[:, radii > lesion.reach_mm])


def front(white_fraction: float, steps: int) -> float:
    """How far a plane of cells has spread, in voxels."""
    tissue = np.ones((80, 1, 1))
    seed = np.zeros_like(tissue)
    seed[0] = 1
    return float(_invade(seed, white_fraction * tissue, (1 - white_fraction) * tissue, steps).sum())


def test_front_advances_in_white_matter_at_the_speed_of_linear_theory():
    # Of the tails exp(-decay * voxel) that the discrete linear equation carries, the slowest sets the pace.
    diffusivity, growth, decay = 0.1, 0.15, np.linspace(0.5, 3, 1000)
    expected = (np.log(1 + growth + 2 * diffusivity * (np.cosh(decay) - 1)) / decay).min()
    speed = (front(1, 240) - front(1, 120)) / 120
    assert speed == pytest.approx(expected, rel=0.05)


def test_front_advances_less_than_half_as_fast_in_gray_matter():
    assert 0 < front(0, 240) - front(0, 120) < (front(1, 240) - front(1, 120)) / 2


def test_cells_stay_densities_and_out_of_fluid():
    white, seed = np.zeros((2, 21, 21, 21))
    white[:, 8:] = 1
    seed[10, 10, 10] = 1
    cells = _invade(seed, 1.5 * white, 0 * white, steps=60)
    assert (cells > 0.5).sum() > 100
    assert not cells[:, :8].any()
    assert cells.min() >= 0
    assert cells.max() <= 1 + 1e-9


def test_smooth_field_has_the_deviation_asked_for_and_changes_little_over_a_tenth_of_its_smoothness():
    field = SmoothField(np.random.default_rng(3), (20, 2.0))
    places = np.random.default_rng(4).uniform(-140, 140, (3, 20_000))
    assert field(places).std() == pytest.approx(2, rel=0.1)
    assert np.abs(field(places + 1.0) - field(places)).max() < 1


def test_without_nilearn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'slicewise\[phantom\]'"):
        load_template.__wrapped__()
