import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slicewise.inference.result import Result
from slicewise.inference.statistics import describe_result
from slicewise.orientation import Orientation
from slicewise.records import Scan

SHAPE = (6, 20, 24)


def make_result(slices, masks, probabilities=None, *, segmented=True, **scan):
    slices = np.asarray(slices, np.float32)
    probabilities = masks.any(axis=(1, 2)).astype(float) if probabilities is None else np.array(probabilities)
    return Result(
        Scan(slices, **{"kind": "array", "name": "scan"} | scan),
        probabilities=probabilities,
        raw_probabilities=probabilities,
        is_tumor=probabilities >= 0.5,
        masks=masks,
        threshold=0.5,
        model_id="0123456789ab",
        engine="none",
        segmented=segmented,
    )


@pytest.fixture
def head():
    """Air of 0 around a head of 100."""
    slices = np.zeros(SHAPE, np.float32)
    slices[:, 4:16, 4:20] = 100
    return slices


@pytest.fixture
def masks():
    masks = np.zeros(SHAPE, bool)
    masks[2:4, 6:10, 8:13] = True
    masks[4, 14, 18] = True
    return masks


def test_slices_are_counted_and_named(head, masks):
    told = describe_result(make_result(head, masks, [0.1, 0.2, 0.6, 0.9, 0.5, 0.4]))
    assert (told["slices"], told["positive_slices"]) == (6, 3)
    assert (told["first_positive_slice"], told["last_positive_slice"], told["most_probable_slice"]) == (2, 4, 3)


def test_the_mask_is_measured(head, masks):
    told = describe_result(make_result(head, masks, spacing_mm=(0.5, 2.0), slice_spacing_mm=4.0))
    assert (told["mask_px"], told["area_mm2"], told["volume_ml"]) == (41, None, pytest.approx(0.164))
    assert told["extent"] == {"slices": [2, 4], "rows": [6, 14], "columns": [8, 18], "size_mm": [12.0, 4.5, 22.0]}
    assert told["lesion_count"] == 2
    assert [lesion["voxels"] for lesion in told["lesions"]] == [40, 1]
    assert told["lesions"][0]["longest_mm"] == pytest.approx(math.hypot(4 * 0.5, 5 * 2))
    assert told["lesions"][0]["center_mm"] is None


def test_the_lesions_centers_are_in_the_scanners_space(head, masks):
    affine = np.diag([-2.0, -0.5, 4.0, 1.0])
    affine[:3, 3] = 11, 12, 13
    grid = (24, 20, 6)
    orientation = Orientation.of(affine, grid)
    told = describe_result(make_result(head, masks, kind="nifti", affine=affine, orientation=orientation, grid_shape=grid))
    small = np.zeros(SHAPE, bool)
    small[4, 14, 18] = True
    (index,) = np.argwhere(orientation.to_file(small))
    assert told["lesions"][1]["center"] == [4.0, 14.0, 18.0]
    assert told["lesions"][1]["center_mm"] == pytest.approx((affine @ [*index, 1])[:3])


def test_intensities_in_the_mask_and_in_the_rest_of_the_head(head, masks):
    head[masks] = 300
    head[4, 14, 18] = 100
    intensity = describe_result(make_result(head, masks))["intensity"]
    inside = np.array([300] * 40 + [100])
    assert intensity["mask"]["voxels"] == 41
    assert intensity["mask"]["mean"] == pytest.approx(inside.mean())
    assert intensity["mask"]["sd"] == pytest.approx(inside.std())
    assert intensity["mask"]["median"] == intensity["mask"]["p95"] == 300
    rest = intensity["head"]
    assert rest == {"voxels": 6 * 12 * 16 - 41, "mean": 100, "sd": 0} | dict.fromkeys(
        ("p5", "p25", "median", "p75", "p95"), 100
    )


def test_percentiles_are_those_of_the_values(masks):
    slices = np.random.default_rng(0).normal(100, 20, SHAPE)
    told = describe_result(make_result(slices, masks))["intensity"]["mask"]
    expected = np.percentile(slices[masks], [5, 25, 50, 75, 95])
    assert [told[name] for name in ("p5", "p25", "median", "p75", "p95")] == pytest.approx(expected)


def test_air_of_a_volume_that_was_z_scored_is_not_the_head(head, masks):
    brain = head > 0
    slices = np.where(brain, np.random.default_rng(0).normal(size=SHAPE), 0)
    rest = describe_result(make_result(slices, masks))["intensity"]["head"]
    assert 0.7 * brain.sum() < rest["voxels"] < brain.sum()


def test_of_no_tumor_everything_about_the_mask_is_undefined(head):
    told = describe_result(make_result(head, np.zeros(SHAPE, bool), spacing_mm=(1.0, 1.0), slice_spacing_mm=1.0))
    assert told["first_positive_slice"] is told["last_positive_slice"] is told["extent"] is None
    assert (told["positive_slices"], told["most_probable_slice"], told["mask_px"], told["volume_ml"]) == (0, 0, 0, 0.0)
    assert (told["lesion_count"], told["lesions"]) == (0, [])
    assert set(told["intensity"]["mask"].values()) == {0, None}
    assert told["intensity"]["head"]["mean"] == 100


def test_of_a_mask_that_was_not_looked_for_nothing_is_said(head):
    told = describe_result(make_result(head, np.zeros(SHAPE, bool), [0, 0, 0, 0.9, 0, 0], segmented=False))
    assert told["positive_slices"] == 1
    unknown = ("mask_px", "area_mm2", "volume_ml", "extent", "lesion_count", "lesions")
    assert [told[name] for name in unknown] == [None] * 6
    assert told["intensity"]["mask"] is None
    assert told["intensity"]["head"]["mean"] == 100
    assert set(told) == set(describe_result(make_result(head, np.zeros(SHAPE, bool))))


def test_what_the_spacing_does_not_say_is_none(head, masks):
    told = describe_result(make_result(head, masks))
    assert told["area_mm2"] is told["volume_ml"] is None
    assert told["extent"]["size_mm"] == [None, None, None]
    told = describe_result(make_result(head[:1], masks[2:3], spacing_mm=(1.0, 1.0)))
    assert told["area_mm2"] == told["lesions"][0]["area_mm2"] == 20
    assert told["extent"]["size_mm"] == [None, 4.0, 5.0]


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_of_a_flat_picture_there_is_no_head(value):
    told = describe_result(make_result(np.full((1, 5, 5), value), np.zeros((1, 5, 5), bool)))
    assert told["intensity"]["head"] == {"voxels": 0} | dict.fromkeys(("mean", "sd", "p5", "p25", "median", "p75", "p95"))


def test_intensities_at_the_ends_of_their_type_do_not_overflow(masks):
    slices = np.tile(np.array([-3e38, 3e38], np.float32), (*SHAPE[:2], SHAPE[2] // 2))
    intensity = describe_result(make_result(slices, masks))["intensity"]
    assert intensity["mask"]["sd"] == pytest.approx(3e38, rel=0.1)
    assert intensity["head"]["mean"] == pytest.approx(3e38)
    told = describe_result(make_result(slices[:1, :1, :2], np.ones((1, 1, 2), bool)))["intensity"]["mask"]
    assert (told["p25"], told["p75"]) == pytest.approx((-1.5e38, 1.5e38))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_whatever_comes_in_plain_values_come_out(data):
    shape = data.draw(st.tuples(*[st.integers(1, 4)] * 3))
    slices = data.draw(arrays.arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
    masks = data.draw(arrays.arrays(bool, shape))
    spacing = data.draw(st.none() | st.just((0.5, 1.5)))
    between = data.draw(st.none() | st.just(3.0))
    told = describe_result(make_result(slices, masks, spacing_mm=spacing, slice_spacing_mm=between))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
