import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, generate_binary_structure
from scipy.spatial.distance import cdist, directed_hausdorff

from slicewise.evaluation.distances import TOLERANCE, measure_distances


def outline(mask, spacing):
    inside = binary_erosion(mask, generate_binary_structure(mask.ndim, 1))
    return np.argwhere(mask & ~inside) * np.array(spacing)


def by_brute_force(prediction, reference, spacing):
    """All distances between all points of both outlines."""
    pairs = cdist(outline(prediction, spacing), outline(reference, spacing))
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    within = np.count_nonzero(there <= TOLERANCE) + np.count_nonzero(back <= TOLERANCE)
    return max(np.percentile(there, 95), np.percentile(back, 95)), within / (len(there) + len(back))


def blobs(random, shape):
    return [random.random(shape) < share for share in random.uniform(0.02, 0.5, 2)]


@pytest.mark.parametrize("shape", [(12, 14), (5, 8, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_all_pairs(shape, seed):
    random = np.random.default_rng(seed)
    masks = blobs(random, shape)
    for spacing in (None, [0.5 + place for place in range(len(shape))]):
        found = measure_distances(*masks, spacing)
        expected = by_brute_force(*masks, spacing or [1.0] * len(shape))
        assert found[:2] == pytest.approx(expected, abs=1e-5)
        assert found.distance_unit == ("px" if spacing is None else "mm")


def test_single_points_lie_as_far_apart_as_scipy_says():
    masks = np.zeros((2, 20, 20), bool)
    masks[0, 3, 4] = masks[1, 11, 10] = True
    points = [np.argwhere(mask) for mask in masks]
    assert directed_hausdorff(*points)[0] == 10
    assert measure_distances(*masks, None) == (10, 0, "px")
    assert measure_distances(*masks, (0.1, 0.1))[:2] == pytest.approx((1, 1))


def test_equal_masks_touch_everywhere_also_at_the_border():
    mask = np.zeros((10, 10), bool)
    mask[:4, :6] = True
    assert measure_distances(mask, mask, None) == (0, 1, "px")


def test_a_tail_of_5_percent_does_not_count():
    """A line of 100 points; one far off is below the 95th percentile, ten are not."""
    reference = np.zeros((40, 100), bool)
    reference[0] = True
    prediction = reference.copy()
    prediction[30, 0] = True
    assert measure_distances(prediction, reference, None).hausdorff95 == 0
    prediction[30, :10] = True
    assert measure_distances(prediction, reference, None).hausdorff95 == pytest.approx(30)


def test_empty_masks():
    empty, full = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    for masks in ((empty, full), (full, empty)):
        found = measure_distances(*masks, (1.0, 1.0))
        assert math.isnan(found.hausdorff95)
        assert found[1:] == (0, "mm")
    both = measure_distances(empty, empty, None)
    assert math.isnan(both.hausdorff95)
    assert math.isnan(both.surface_dice)


def test_directions_are_not_confused():
    """Rows 3 mm apart, columns 0.5 mm."""
    masks = np.zeros((2, 16, 16), bool)
    masks[0, 4, 4] = masks[1, 6, 4] = True
    assert measure_distances(*masks, (3.0, 0.5)).hausdorff95 == pytest.approx(6)
    assert measure_distances(*masks.transpose(0, 2, 1), (3.0, 0.5)).hausdorff95 == pytest.approx(1)
