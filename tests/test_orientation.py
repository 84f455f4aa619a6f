import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicewise.orientation import Orientation

TURNS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def turned(turn, spacing, shape):
    """Affine and coordinates of a volume whose array axes follow the body's in another order and direction."""
    axes, signs = turn
    affine = np.zeros((4, 4))
    for place, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, place] = sign * spacing[axis]
        affine[axis, 3] = 0 if sign > 0 else spacing[axis] * (shape[axis] - 1)
    affine[3, 3] = 1
    stored = tuple(shape[axis] for axis in axes)
    index = np.stack([*np.indices(stored), np.ones(stored)], axis=-1)
    return affine, stored, (index @ affine.T)[..., :3]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    ("spacing", "shape", "plane"),
    [
        ((1, 1, 1), (4, 5, 6), "axial"),
        ((1, 1, 5), (4, 5, 6), "axial"),
        ((1, 5, 1), (4, 5, 6), "coronal"),
        ((5, 1, 1), (4, 5, 6), "sagittal"),
        ((1.2, 0.9, 0.9), (4, 5, 6), "axial"),
        ((1, 1, 1), (4, 1, 6), "coronal"),
        ((1, 1, 5), (1, 5, 6), "sagittal"),
    ],
)
def test_slices_look_as_radiologists_expect_however_the_volume_is_stored(turn, spacing, shape, plane):
    affine, stored, places = turned(turn, spacing, shape)
    orientation = Orientation.of(affine, stored)
    assert orientation.plane == plane
    x, y, z = (orientation.to_slices(places[..., axis]) for axis in range(3))
    # Right, anterior and superior are positive. What runs from slice to slice, from row to row, from column to column:
    runs = {
        "axial": ((z, 1), (y, -1), (x, -1)),
        "coronal": ((y, -1), (z, -1), (x, -1)),
        "sagittal": ((x, -1), (z, -1), (y, -1)),
    }[plane]
    body = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}[plane]
    for axis, ((coordinate, sign), of_body) in enumerate(zip(runs, body, strict=True)):
        steps = np.diff(coordinate, axis=axis)
        assert np.allclose(steps, sign * spacing[of_body])
        assert orientation.spacing_mm[axis] == pytest.approx(spacing[of_body])


@pytest.mark.parametrize("turn", TURNS)
def test_the_way_back_is_exact(turn):
    affine, stored, places = turned(turn, (1, 2, 4), (3, 4, 5))
    orientation = Orientation.of(affine, stored)
    values = np.random.default_rng(0).normal(size=stored)
    slices = orientation.to_slices(values)
    assert np.array_equal(orientation.to_file(slices), values)
    to_place = affine @ orientation.affine(slices.shape)
    expected = [orientation.to_slices(places[..., axis])[1, 2, 0] for axis in range(3)]
    assert np.allclose((to_place @ [1, 2, 0, 1])[:3], expected)


@given(angles=st.tuples(*[st.floats(-0.6, 0.6)] * 3))
def test_an_oblique_volume_goes_to_the_nearest_axes(angles):
    """Turned by less than 35° about each axis in turn, the order of the axes can change, but never the way back."""
    affine = np.eye(4)
    for (first, second), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
        turn = np.eye(4)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        affine = turn @ affine
    orientation = Orientation.of(affine, (3, 4, 5))
    assert sorted(orientation.axes) == [0, 1, 2]
    values = np.arange(60).reshape(3, 4, 5)
    assert np.array_equal(orientation.to_file(orientation.to_slices(values)), values)
