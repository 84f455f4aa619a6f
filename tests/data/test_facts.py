import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slicewise.data.facts import bright_shares, describe_slice
from slicewise.records import MaskState, Slice


def make_slice(image, mask=None):
    state = MaskState.UNKNOWN if mask is None else MaskState.PRESENT if mask.any() else MaskState.EMPTY
    return Slice(image.astype(np.float32), mask, state, None, 0)


def disk(side=128, radius=40, value=200.0):
    rows, columns = np.mgrid[:side, :side] - side / 2
    return np.where(rows**2 + columns**2 < radius**2, value, 0.0)


def test_equal_pixels_have_equal_checksums_and_no_others():
    image = disk()
    other = image.copy()
    other[0, 0] = 1
    checksums = [describe_slice(make_slice(one))["pixel_checksum"] for one in (image, image.copy(), other, image.T[:, ::-1])]
    assert checksums[0] == checksums[1]
    assert checksums[0] != checksums[2]
    assert len({describe_slice(make_slice(np.zeros(shape)))["pixel_checksum"] for shape in ((2, 6), (3, 4), (12, 1))}) == 3


def test_the_border_is_measured_in_units_of_the_range():
    image = disk()
    dark = describe_slice(make_slice(image))
    assert (dark["border_mean"], dark["border_std"], dark["border_dark_share"]) == (0, 0, 1)
    framed = image.copy()
    framed[:4] = framed[-4:] = 100
    framed[:, :4] = framed[:, -4:] = 100
    bright = describe_slice(make_slice(framed))
    assert bright["border_mean"] == pytest.approx(0.5)
    assert bright["border_dark_share"] == 0
    assert describe_slice(make_slice(framed * 7 + 3))["border_mean"] == pytest.approx(0.5)


def test_pieces_specks_and_what_lies_outside_the_head_are_counted():
    image = disk(side=200, radius=60)
    mask = np.zeros(image.shape, bool)
    mask[90:110, 90:110] = True
    mask[95:105, 120:130] = True
    clean = describe_slice(make_slice(image, mask))
    assert (clean["mask_pieces"], clean["mask_speck_px"], clean["mask_outside_share"]) == (2, 0, 0)
    mask[70, 100], mask[71, 101] = True, True  # corners that touch are one region
    specked = describe_slice(make_slice(image, mask))
    assert (specked["mask_pieces"], specked["mask_speck_px"]) == (3, 2)
    mask[0:10, 0:10] = True
    assert describe_slice(make_slice(image, mask))["mask_outside_share"] == pytest.approx(100 / mask.sum())


def test_a_dark_core_is_inside_the_head():
    image = disk()
    image[54:74, 54:74] = 0
    mask = np.zeros(image.shape, bool)
    mask[56:72, 56:72] = True
    assert describe_slice(make_slice(image, mask))["mask_outside_share"] == 0


def test_a_faint_slice_is_told_by_the_others_of_its_study():
    """Alone, its noise fills its own range as a brain does."""
    noise = np.random.default_rng(0).uniform(0, 8, (128, 128))
    images = [disk() + noise, noise]
    facts = [describe_slice(make_slice(image)) for image in images]
    ranges = [(fact["intensity_low"], fact["intensity_high"]) for fact in facts]
    brain, faint = bright_shares(images, ranges)
    assert brain == pytest.approx(np.pi * 40**2 / 128**2, rel=0.05)
    assert faint == 0
    (alone,) = bright_shares([noise], ranges[1:])
    assert alone > 0.8


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-1e6, 1e6, width=32)))
def test_every_slice_can_be_described(image):
    facts = describe_slice(make_slice(image, image > 0))
    assert all(np.isfinite(value) for value in facts.values() if not isinstance(value, str))
    assert 0 <= facts["border_dark_share"] <= 1
