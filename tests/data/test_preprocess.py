import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from slicewise.data import preprocess as preprocess_room
from slicewise.data.preprocess import (
    SIDE_PX,
    Geometry,
    preprocess,
    preprocess_mask,
    preprocess_single,
    restore,
    robust_range,
)

sides = st.integers(1, 700)


def head(shape=(240, 200), seed=0):
    """A textured ellipse in air (0), brighter toward the right, and where it is."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    place = [(axis - (size - 1) / 2) / (0.4 * size) for axis, size in zip((rows, columns), shape, strict=True)]
    inside = np.hypot(*place) < 1
    texture = ndimage.gaussian_filter(random.normal(size=shape), 2) * 100
    return np.where(inside, 120 + 30 * place[1] + texture.clip(-30, 30), 0).astype(np.float32), inside


def disk(shape, center, radius):
    rows, columns = np.indices(shape)
    return np.hypot(rows - center[0], columns - center[1]) <= radius


@settings(deadline=None, max_examples=300)
@given(height=sides, width=sides)
@example(height=1, width=700)
@example(height=191, width=1)
@example(height=192, width=192)
@example(height=257, width=256)
def test_the_content_fits_the_grid_in_the_middle_and_keeps_its_aspect(height, width):
    geometry = Geometry.of((height, width))
    window = np.zeros((SIDE_PX, SIDE_PX))[geometry.window]
    assert geometry.shape == (height, width)
    assert window.shape == geometry.content
    for side, offset in zip(geometry.content, geometry.offset, strict=True):
        assert offset >= 0
        assert abs((SIDE_PX - side - offset) - offset) <= 1
    if 192 <= max(height, width) <= 256:
        assert geometry.content == (height, width)
    else:
        assert max(geometry.content) == SIDE_PX
        scale = SIDE_PX / max(height, width)
        for side, given_side in zip(geometry.content, (height, width), strict=True):
            assert side >= 1
            assert side == 1 or abs(side - given_side * scale) <= 0.5


spacings = st.floats(0.2, 8.0)


@settings(deadline=None, max_examples=200)
@given(height=sides, width=sides, row=spacings, column=spacings)
@example(height=250, width=250, row=1.0, column=1.009)
@example(height=1, width=700, row=8.0, column=0.2)
def test_pixels_that_are_not_square_are_made_so(height, width, row, column):
    geometry = Geometry.of((height, width), (row, column))
    assert Geometry.of((width, height), (column, row)).content == geometry.content[::-1]
    if max(row, column) / min(row, column) <= 1.01:
        assert geometry == Geometry.of((height, width))
        return
    assert max(geometry.content) <= SIDE_PX
    extent, longer = (height * row, width * column), max(height * row, width * column)
    if longer / min(row, column) < 192:
        assert max(geometry.content) == SIDE_PX
    for side, millimeters in zip(geometry.content, extent, strict=True):
        exact = millimeters / longer * max(geometry.content)
        assert side == 1 or abs(side - exact) <= 1


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "content"),
    [
        ((100, 200), (2.0, 1.0), (200, 200)),  # as it would have been acquired with square pixels, not resampled further
        ((200, 100), (1.0, 1.5), (200, 150)),
        ((512, 256), (0.5, 1.0), (256, 256)),
        ((60, 60), (4.0, 1.0), (240, 60)),
        ((240, 240), (1.0, 1.0), (240, 240)),
    ],
)
def test_a_head_has_one_shape_whatever_the_spacing(shape, spacing_mm, content):
    assert Geometry.of(shape, spacing_mm).content == content


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (2, 1), (1, 3)])
def test_a_slice_with_fewer_rows_or_columns_looks_like_the_whole_one(rows, columns):
    head = 100.0 * disk((240, 240), (100, 130), 60) + 80.0 * disk((240, 240), (90, 120), 20)
    whole = ndimage.gaussian_filter(head.astype(np.float32), 3)
    coarse = whole.reshape(240 // rows, rows, 240 // columns, columns).mean(axis=(1, 3))
    expected, _ = preprocess(whole)
    found, geometry = preprocess(coarse, (rows * 0.9, columns * 0.9))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    assert np.corrcoef(preprocess(coarse)[0].ravel(), expected.ravel())[0, 1] < 0.85  # squeezed
    assert restore(found.astype(np.float32), geometry).shape == coarse.shape


@settings(deadline=None, max_examples=40)
@given(longer=st.integers(192, 256), shorter=st.integers(1, 256), upright=st.booleans(), seed=st.integers(0, 99))
def test_a_native_slice_comes_back_untouched(longer, shorter, upright, seed):
    shape = (longer, min(shorter, longer)) if upright else (min(shorter, longer), longer)
    random = np.random.default_rng(seed)
    grid, geometry = preprocess(random.random(shape, dtype=np.float32))
    assert np.array_equal(restore(grid.astype(np.float32), geometry), grid[geometry.window].astype(np.float32))
    mask = random.random(shape) < 0.3
    on_grid = preprocess_mask(mask, geometry)
    assert on_grid.sum() == mask.sum()
    assert np.array_equal(restore(on_grid.astype(np.float32), geometry) >= 0.5, mask)


@settings(deadline=None, max_examples=40)
@given(height=sides, width=sides)
def test_a_map_comes_back_on_the_grid_of_the_input(height, width):
    geometry = Geometry.of((height, width))
    flat = restore(np.full((SIDE_PX, SIDE_PX), 0.25, np.float32), geometry)
    assert flat.shape == (height, width)
    assert flat == pytest.approx(0.25)


@pytest.mark.parametrize("shape", [(512, 300), (300, 512), (90, 120), (640, 640)])
def test_a_scaled_mask_comes_back_where_it_was(shape):
    geometry = Geometry.of(shape)
    mask = disk(shape, (0.3 * shape[0], 0.6 * shape[1]), 0.15 * min(shape))
    back = restore(preprocess_mask(mask, geometry).astype(np.float32), geometry) >= 0.5
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.97


@pytest.mark.parametrize(("shape", "scale", "offset"), [((512, 300), 0.5, (0, 53)), ((128, 64), 2.0, (0, 64))])
def test_image_and_mask_land_on_the_same_known_place(shape, scale, offset):
    center = (0.25 * shape[0], 0.7 * shape[1])
    mask = disk(shape, center, 0.1 * min(shape))
    grid, geometry = preprocess(np.where(mask, 200, 50).astype(np.float32))
    on_grid = preprocess_mask(mask, geometry)
    expected = [scale * (place + 0.5) - 0.5 + start for place, start in zip(center, offset, strict=True)]
    for found in (on_grid, grid > (grid.max() + grid.min()) / 2):
        assert ndimage.center_of_mass(found) == pytest.approx(expected, abs=0.5)
        assert found.sum() == pytest.approx(mask.sum() * scale**2, rel=0.05)


def test_a_pixel_is_tumor_where_at_least_half_of_it_is():
    blocks = np.zeros((512, 512), bool)
    blocks[0, 0] = True  # a quarter of the first pixel
    blocks[0:2, 2] = True  # half of the second
    blocks[0:2, 4:6] = blocks[1, 4] = True
    on_grid = preprocess_mask(blocks, Geometry.of((512, 512)))
    assert np.argwhere(on_grid).tolist() == [[0, 1], [0, 2]]


def test_the_grid_is_square_float16_padded_with_air():
    image, _ = head((230, 200))
    grid, geometry = preprocess(image)
    assert grid.shape == (256, 256)
    assert grid.dtype == np.float16
    outside = np.ones(grid.shape, bool)
    outside[geometry.window] = False
    assert outside.sum() == 256 * 256 - 230 * 200
    assert set(grid[outside]) == {grid[geometry.window][0, 0]} == {grid.min()}


def test_foreground_has_mean_0_and_deviation_1():
    image, inside = head()
    grid, geometry = preprocess(image)
    foreground = grid[geometry.window][inside].astype(np.float64)
    assert foreground.mean() == pytest.approx(0, abs=1e-3)
    assert foreground.std() == pytest.approx(1, abs=1e-3)


def test_the_amount_of_air_does_not_matter():
    image, inside = head((192, 192))
    wide = np.pad(image, 32)
    tight, (grid, _) = preprocess(image)[0], preprocess(wide)
    difference = np.abs(tight.astype(float) - grid.astype(float))[np.pad(inside, 32)]
    assert difference.max() < 0.1


@settings(deadline=None, max_examples=30)
@given(scale=st.floats(1e-6, 1e6), offset=st.floats(-100, 100), shape=st.sampled_from([(240, 200), (300, 210)]))
def test_the_scanners_scale_and_offset_do_not_matter(scale, offset, shape):
    image, _ = head(shape)
    expected, _ = preprocess(image)
    got, _ = preprocess(((image + np.float32(offset)) * np.float32(scale)).astype(np.float32))
    np.testing.assert_allclose(got.astype(float), expected.astype(float), atol=0.01)


@settings(deadline=None, max_examples=30)
@given(exponent=st.integers(-90, 110))
def test_a_power_of_two_changes_no_bit(exponent):
    image, _ = head()
    assert np.array_equal(preprocess(np.ldexp(image, exponent))[0], preprocess(image)[0])


@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
def test_a_constant_slice_becomes_zeros(value):
    grid, _ = preprocess(np.full((200, 220), value, np.float32))
    assert not grid.any()


@pytest.mark.parametrize("shape", [(240, 200), (512, 400)])
def test_a_skull_stripped_slice_that_was_z_scored_ends_close_to_the_same(shape):
    image, inside = head(shape)
    brain = image[inside]
    scored = np.where(inside, (image - brain.mean()) / brain.std(), 0).astype(np.float32)
    (expected, geometry), (got, _) = preprocess(image), preprocess(scored)
    window = preprocess_mask(ndimage.binary_erosion(inside, iterations=3), geometry)
    # Air is below the brain again, not in the middle of it ...
    assert got[0, 0] == got.min()
    assert got[0, 0] < np.percentile(got[window], 2)
    # ... and does not count as foreground, so the brain has the scale it would have had.
    assert np.corrcoef(expected[window].astype(float), got[window].astype(float))[0, 1] > 0.99
    assert np.abs(expected[window].astype(float) - got[window].astype(float)).mean() < 0.2


def test_a_bright_lesion_stays_the_brightest():
    image, inside = head()
    lesion = disk(image.shape, (90, 120), 12)
    image = np.where(lesion, image * 2, image)
    grid, geometry = preprocess(image)
    content = grid[geometry.window].astype(float)
    assert content[lesion].mean() > content[inside & ~lesion].mean() + 2
    assert content[lesion].min() > np.percentile(content[inside & ~lesion], 99)


def test_a_hot_pixel_does_not_darken_the_rest():
    image, inside = head()
    expected, geometry = preprocess(image)
    image[20, 20] = 1e6
    got, _ = preprocess(image)
    difference = np.abs(got.astype(float) - expected.astype(float))[geometry.window]
    assert difference[inside].max() < 0.1
    assert got.max() <= 6


values = st.floats(-(2.0**100), 2.0**100, width=32)
shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12) | st.tuples(st.just(1), st.integers(1, 300))
arrays = hnp.arrays(np.float32, shapes, elements=values) | hnp.arrays(
    np.float32, shapes, elements=st.sampled_from([0.0, 1.0]) | st.sampled_from([-(2.0**100), 2.0**100])
)


@settings(deadline=None, max_examples=150)
@given(image=arrays)
@example(image=np.array([[0, 2.0**100]], np.float32))
@example(image=np.array([[1e-45, 0, 1e-44]], np.float32))
@example(image=np.array([[2.0**24, 2.0**24 + 2]], np.float32))
def test_every_finite_slice_gives_finite_values_within_the_clip(image):
    grid, geometry = preprocess(image)
    assert np.isfinite(grid).all()
    assert np.abs(grid).max() <= 6
    assert geometry.shape == image.shape


@settings(deadline=None, max_examples=20)
@given(low=values, high=values, side=st.sampled_from([192, 256, 300]))
def test_a_two_valued_slice_keeps_its_two_values(low, high, side):
    image = np.full((side, side), min(low, high), np.float32)
    image[side // 4 : side // 2, side // 4 : side // 2] = max(low, high)
    grid, _ = preprocess(image)
    assert (grid[100, 100] > grid[0, 0]) == (image.max() > image.min())


def test_the_input_is_not_touched():
    image, _ = head()
    before = image.copy()
    image.setflags(write=False)
    preprocess(image)
    assert np.array_equal(image, before)


@settings(deadline=None, max_examples=100)
@given(
    image=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=90),
        elements=st.floats(-(2.0**90), 2.0**90, width=32) | st.integers(0, 255).map(float),
    )
)
def test_the_robust_range_is_numpys_to_the_bit(image):
    expected = [np.float32(value) for value in np.percentile(image, (0.5, 99.9))]
    assert np.array_equal(robust_range(image), expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_robust_range_of_a_whole_slice_is_numpys_to_the_bit(seed):
    image = head((256, 230), seed)[0] + np.random.default_rng(seed).normal(size=(256, 230)).astype(np.float32)
    assert np.array_equal(robust_range(image), [np.float32(value) for value in np.percentile(image, (0.5, 99.9))])


@settings(deadline=None, max_examples=300)
@given(
    values=hnp.arrays(np.float32, (4, 8), elements=st.floats(-6, 6, width=32) | st.floats(-(2.0**-13), 2.0**-13, width=32))
)
def test_rounding_to_half_precision_is_that_of_a_conversion(values):
    assert np.array_equal(preprocess_room._round_to_half(values), values.astype(np.float16).astype(np.float32))


def test_every_tie_and_its_neighbors_are_rounded_as_a_conversion_does():
    halves = np.arange(0, 0x4600, dtype=np.uint16).view(np.float16).astype(np.float32)  # 0 to 6
    ties = (halves[1:] + halves[:-1]) / 2
    values = np.concatenate([halves, ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(0))])
    for signed in (values, -values):
        assert np.array_equal(preprocess_room._round_to_half(signed), signed.astype(np.float16).astype(np.float32))


def test_single_precision_holds_the_same_values():
    image, _ = head()
    half, geometry = preprocess(image)
    single, same = preprocess_single(image)
    assert single.dtype == np.float32
    assert np.array_equal(single, half.astype(np.float32))
    assert geometry == same
