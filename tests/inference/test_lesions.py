import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slicewise.errors import InputError
from slicewise.inference.lesions import find_lesions, remove_small

UNIT = (1.0, 1.0)


def lone(mask):
    return np.asarray(mask, bool)[None]


def diameters(mask, spacing_mm=UNIT):
    (lesion,) = find_lesions(lone(mask), spacing_mm, None)
    return lesion.longest_mm, lesion.perpendicular_mm


def draw(inside, side=101, spacing_mm=UNIT):
    """The pixels whose center, in mm from the middle, is inside."""
    rows, columns = np.mgrid[:side, :side] - side // 2
    return inside(rows * spacing_mm[0], columns * spacing_mm[1])


def brute_force(mask, spacing_mm):
    """The longest diameter over all corners, and the longest chord across it through any corner, over all edges of the hull.

    The hull is found as the pairs of corners that have all others on one side.
    """
    pixels = np.argwhere(mask)
    corners = np.unique(np.concatenate([pixels + step for step in itertools.product((0, 1), repeat=2)]), axis=0)
    turns = (corners[None] - corners[:, None]).astype(float)
    sides = turns[:, :, None, 0] * turns[:, None, :, 1] - turns[:, :, None, 1] * turns[:, None, :, 0]
    edges = [pair for pair in zip(*np.nonzero((sides >= 0).all(axis=2)), strict=True) if pair[0] != pair[1]]
    points = corners * np.array(spacing_mm)
    lengths = np.linalg.norm(points[:, None] - points, axis=2)
    longest, widest = lengths.max(), 0.0
    for first, second in np.argwhere(lengths >= longest * (1 - 1e-9)):
        direction = (points[second] - points[first]) / longest
        normal = np.array([-direction[1], direction[0]])
        for level in points @ direction:
            crossed = []
            for start, end in (points[list(edge)] for edge in edges):
                low, high = start @ direction - level, end @ direction - level
                if abs(low - high) > 1e-12 and min(low, high) <= 1e-9 and max(low, high) >= -1e-9:
                    crossed.append((start + (end - start) * low / (low - high)) @ normal)
                elif max(abs(low), abs(high)) <= 1e-9:
                    crossed += [start @ normal, end @ normal]
            widest = max(widest, np.ptp(crossed))
    return longest, widest


def test_a_lone_pixel_is_as_long_as_its_diagonal():
    mask = np.zeros((5, 5), bool)
    mask[2, 3] = True
    assert diameters(mask) == pytest.approx((math.sqrt(2), math.sqrt(2)))
    # Of a rectangle of 3 by 4: the diagonal, and across it from one corner to the longer side.
    assert diameters(mask, (3.0, 4.0)) == pytest.approx((5.0, 3.75))


@pytest.mark.parametrize("length", [2, 7, 40])
def test_a_line_is_as_long_as_its_pixels_in_every_direction(length):
    mask = np.zeros((50, 50), bool)
    mask[3, 5 : 5 + length] = True
    assert diameters(mask)[0] == diameters(mask.T)[0] == pytest.approx(math.hypot(length, 1))
    diagonal = np.eye(50, dtype=bool)
    diagonal[length:] = False
    assert diameters(diagonal) == pytest.approx((length * math.sqrt(2), math.sqrt(2)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.5), (0.9, 1.3)])
@pytest.mark.parametrize("radius", [5.0, 13.5, 30.0])
def test_a_disk_is_twice_its_radius_and_at_most_a_diagonal_more(radius, spacing):
    longest, perpendicular = diameters(draw(lambda y, x: np.hypot(y, x) <= radius, 161, spacing), spacing)
    pixel = math.hypot(*spacing)
    assert 2 * radius - pixel / 2 <= perpendicular <= longest <= 2 * radius + pixel


@pytest.mark.parametrize("degrees", [0, 15, 30, 45, 60, 80, 90])
def test_a_rectangle_at_any_angle_is_its_diagonal_long(degrees):
    length, width = 80.0, 20.0
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    mask = draw(lambda y, x: (abs(x * cosine + y * sine) <= length / 2) & (abs(y * cosine - x * sine) <= width / 2))
    longest, perpendicular = diameters(mask)
    assert longest == pytest.approx(math.hypot(length, width), abs=1.5)
    # Across the diagonal, from one long side to the other.
    assert perpendicular == pytest.approx(width * math.hypot(length, width) / length, abs=1.5)


def test_a_diameter_is_measured_in_mm_along_rows_and_columns():
    mask = np.zeros((20, 20), bool)
    mask[2:10, 5] = True
    assert diameters(mask, (2.0, 0.5))[0] == pytest.approx(math.hypot(16, 0.5))
    assert diameters(mask, (0.5, 2.0))[0] == pytest.approx(math.hypot(4, 2))


def test_a_dent_does_not_shorten_a_diameter():
    full = draw(lambda y, x: (abs(y) <= 20) & (abs(x) <= 20))
    ring = full & draw(lambda y, x: (abs(y) > 15) | (abs(x) > 15))
    horseshoe = ring & draw(lambda y, x: (x > -15) | (abs(y) > 15))
    assert diameters(ring) == diameters(horseshoe) == diameters(full)


def test_of_diameters_that_tie_the_one_with_the_wider_perpendicular_counts():
    mask = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1], [1, 1, 0, 1, 0]], bool)
    expected = pytest.approx((math.hypot(5, 3), 4.664761516))
    assert diameters(mask) == diameters(mask[::-1]) == diameters(mask[:, ::-1]) == diameters(mask.T) == expected


@settings(deadline=None, max_examples=60)
@given(
    mask=arrays.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 3.0])] * 2),
)
def test_diameters_are_those_of_the_hull_by_brute_force(mask, spacing):
    for part in components(lone(mask)):
        alone = np.zeros_like(mask)
        alone[tuple(np.array(list(part)).T[1:])] = True
        assert diameters(alone, spacing) == pytest.approx(brute_force(alone, spacing), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(mask=arrays.arrays(bool, (7, 9), elements=st.booleans()), spacing=st.sampled_from([(1.0, 1.0), (0.7, 1.9)]))
def test_a_mirrored_or_turned_mask_has_the_same_lesions(mask, spacing):
    def measures(turned, distances):
        lesions = find_lesions(lone(turned), distances, None)
        return np.array(sorted((one.voxels, one.longest_mm, one.perpendicular_mm) for one in lesions))

    expected = measures(mask, spacing)
    for turned in (mask[::-1], mask[:, ::-1], mask[::-1, ::-1]):
        assert np.allclose(measures(turned, spacing), expected)
        assert np.allclose(measures(turned.T, spacing[::-1]), expected)


def components(masks):
    """Connected parts as sets of (slice, row, column), found by walking from neighbor to neighbor."""
    left = set(map(tuple, np.argwhere(masks).tolist()))
    parts = []
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            voxel = edge.pop()
            part.add(voxel)
            near = {tuple(np.add(voxel, step).tolist()) for step in itertools.product((-1, 0, 1), repeat=3)} & left
            left -= near
            edge |= near
        parts.append(part)
    return parts


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(bool, st.tuples(*[st.integers(1, 5)] * 3)))
def test_lesions_are_the_parts_that_touch_by_a_face_an_edge_or_a_corner(masks):
    lesions = find_lesions(masks, UNIT, 1.0)
    assert [lesion.voxels for lesion in lesions] == sorted((lesion.voxels for lesion in lesions), reverse=True)
    expected = sorted((len(part), *np.mean(sorted(part), axis=0).round(9)) for part in components(masks))
    assert sorted((lesion.voxels, *np.round(lesion.center, 9)) for lesion in lesions) == expected


def test_a_volume_has_milliliters_and_a_lone_slice_square_millimeters():
    masks = np.zeros((6, 10, 10), bool)
    masks[1:4, 2:6, 3:8] = True
    (lesion,) = find_lesions(masks, (0.5, 2.0), 5.0)
    assert (lesion.volume_ml, lesion.area_mm2) == (60 * 5 / 1000, None)
    assert (lesion.slices, lesion.center) == ((1, 3), (2.0, 3.5, 5.0))
    (lesion,) = find_lesions(masks[2:3], (0.5, 2.0), 5.0)
    assert (lesion.volume_ml, lesion.area_mm2, lesion.slices) == (None, 20.0, (0, 0))


def test_what_the_spacing_does_not_say_is_none():
    masks = np.ones((2, 3, 3), bool)
    (lesion,) = find_lesions(masks, None, None)
    assert (lesion.volume_ml, lesion.area_mm2, lesion.longest_mm, lesion.perpendicular_mm) == (None,) * 4
    assert lesion.center_mm is None
    (lesion,) = find_lesions(masks, UNIT, None)
    assert (lesion.volume_ml, lesion.area_mm2) == (None, None)
    assert lesion.longest_mm == pytest.approx(3 * math.sqrt(2))


def test_the_center_is_said_in_the_scanners_space():
    masks = np.zeros((4, 5, 6), bool)
    masks[1:3, 2, 4] = True
    affine = np.array([[0, 0, -2.0, 10], [0, -1.0, 0, 20], [3.0, 0, 0, 30], [0, 0, 0, 1]])
    (lesion,) = find_lesions(masks, (1.0, 2.0), 3.0, affine)
    assert lesion.center == (1.5, 2.0, 4.0)
    assert lesion.center_mm == pytest.approx((10 - 8, 20 - 2, 30 + 4.5))


def test_the_diameters_are_those_of_the_slice_with_the_longest():
    masks = np.zeros((3, 40, 40), bool)
    masks[0, 9:29, 5:25] = True  # its diagonal is shorter than the line of the next slice
    masks[1, 10, 2:38] = True
    masks[2, 9:12, 5:8] = True
    (lesion,) = find_lesions(masks, UNIT, 1.0)
    assert lesion.longest_mm == pytest.approx(math.hypot(36, 1))
    assert lesion.perpendicular_mm < 1.1


def test_of_slices_that_tie_the_wider_counts_in_either_order():
    masks = np.zeros((2, 12, 12), bool)
    masks[0, 1, 1:11] = True
    masks[0, 2, 1:11] = True
    masks[1] = masks[0]
    masks[1, 3, 5:7] = True
    ends = [find_lesions(part, UNIT, 1.0)[0] for part in (masks, masks[::-1])]
    assert ends[0].perpendicular_mm == ends[1].perpendicular_mm
    (narrow,) = find_lesions(masks[:1], UNIT, None)
    assert ends[0].perpendicular_mm > narrow.perpendicular_mm


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4)])
def test_an_empty_mask_has_no_lesions(shape):
    assert find_lesions(np.zeros(shape, bool), UNIT, 1.0) == ()


def test_plain_values_for_a_file():
    masks = np.zeros((2, 3, 3), bool)
    masks[1, 1, 1] = True
    (lesion,) = find_lesions(masks, UNIT, 2.0, np.eye(4))
    told = lesion.to_json()
    assert told["slices"] == [1, 1]
    assert told["center"] == told["center_mm"] == [1.0, 1.0, 1.0]
    assert told["volume_ml"] == 0.002


@pytest.fixture
def three_parts():
    masks = np.zeros((4, 12, 12), bool)
    masks[0, 0, 0] = True
    masks[1:3, 3:5, 3:5] = True
    masks[:, 8:, 8:] = True
    return masks


@pytest.mark.parametrize(
    ("smallest", "counts"), [(0, (64, 8, 1)), (3.0, (64, 8, 1)), (3.1, (64, 8)), (24.0, (64, 8)), (25.0, (64,)), (1e9, ())]
)
def test_parts_below_a_volume_are_removed_and_the_others_left_alone(three_parts, smallest, counts):
    before = three_parts.copy()
    kept = remove_small(three_parts, smallest, (1.0, 1.5), 2.0)
    assert kept.dtype == np.bool_
    assert tuple(lesion.voxels for lesion in find_lesions(kept, None, None)) == counts
    assert not (kept & ~three_parts).any()
    assert np.array_equal(three_parts, before)


def test_rounding_does_not_take_a_part_that_is_as_large_as_asked():
    assert 5 * (0.3 * 0.3) < 0.45
    assert remove_small(np.ones((1, 1, 5), bool), 0.45, (0.3, 0.3), 1.0).all()


@pytest.mark.parametrize(
    ("spacing", "between", "what"), [(None, 1.0, "pixels"), (UNIT, None, "slices"), (None, None, "pixels")]
)
def test_without_a_spacing_nothing_can_be_called_small(three_parts, spacing, between, what):
    with pytest.raises(InputError, match=f"does not say that of its {what}.*NIfTI"):
        remove_small(three_parts, 10, spacing, between)


@pytest.mark.parametrize("smallest", [-1.0, math.nan, math.inf])
def test_an_impossible_volume_is_refused(three_parts, smallest):
    with pytest.raises(InputError, match="0 mm³ or more"):
        remove_small(three_parts, smallest, UNIT, 1.0)
