import numpy as np
import pytest

from slicewise.inference.writers import fit_shape, gray_window, overlay, resize_slice

ORANGE = (230, 159, 0)


@pytest.fixture
def image():
    return np.tile(np.linspace(0, 1000, 60, dtype=np.float32), (40, 1))


@pytest.fixture
def mask():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    return mask


def test_outside_the_mask_the_picture_stays_gray(image, mask):
    drawn = overlay(image, mask)
    assert drawn.shape == (40, 60, 3)
    assert drawn.dtype == np.uint8
    outside = drawn[~mask].astype(int)
    assert (np.ptp(outside, axis=1) == 0).all()
    assert (drawn[0, 0], drawn[0, -1]) == (pytest.approx(0), pytest.approx(255))


def test_the_outline_is_orange_and_the_inside_can_be_seen_through(image, mask):
    drawn = overlay(image, mask)
    assert tuple(drawn[10, 35]) == tuple(drawn[29, 35]) == tuple(drawn[20, 20]) == tuple(drawn[20, 49]) == ORANGE
    inside = drawn[20, 22:48, 0].astype(int)
    assert (np.diff(inside) > 0).all(), "the gradient of the picture shows through the fill"


def test_an_outline_at_the_border_of_the_picture_is_drawn(image):
    everywhere = overlay(image, np.ones((40, 60), bool))
    assert tuple(everywhere[0, 30]) == ORANGE


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_a_flat_picture_is_drawn(value):
    drawn = overlay(np.full((5, 6), value, np.float32), np.zeros((5, 6), bool))
    assert (drawn == drawn[0, 0]).all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e38])
def test_a_picture_in_any_unit_is_drawn_alike(image, mask, scale):
    scaled = (image / image.max() * scale).astype(np.float32)
    assert np.allclose(overlay(scaled, mask).astype(int), overlay(image, mask), atol=1)
    around_zero = ((image / image.max() - np.float32(0.5)) * 6 * scale).astype(np.float32)
    assert np.allclose(overlay(around_zero, mask).astype(int), overlay(image, mask), atol=1)


def test_a_picture_as_wide_as_its_type_is_drawn():
    ends = np.array([[-3e38, 3e38]], np.float32)
    assert overlay(ends, np.zeros((1, 2), bool))[0, :, 0].tolist() == [0, 255]


def test_slices_of_one_window_share_their_grays(image):
    volume = np.stack([image, image / 2])
    window = gray_window(volume)
    bright, dark = (overlay(part, np.zeros_like(part, bool), window)[0, :, 0].astype(int) for part in volume)
    assert np.allclose(bright[:-1] / 2, dark[:-1], atol=1)
    assert bright[-1] == 255
    assert overlay(image / 2, np.zeros_like(image, bool))[0, -1, 0] == 255, "without one, each slice has its own"


@pytest.mark.parametrize(
    ("shape", "spacing", "limits", "expected"),
    [
        ((240, 240), None, (320, 320), (320, 320)),
        ((240, 200), (1.0, 1.0), (320, 160), (192, 160)),
        ((28, 240), (5.0, 1.0), (320, 240), (140, 240)),
        ((100, 100), (0.5, 2.0), (80, 80), (20, 80)),
        ((1, 900), (1.0, 1.0), (80, 80), (1, 80)),
        ((900, 1), None, (80, 80), (80, 1)),
    ],
)
def test_a_slice_is_fitted_with_square_pixels(shape, spacing, limits, expected):
    assert fit_shape(shape, spacing, limits) == expected


@pytest.mark.parametrize("shape", [(40, 60), (10, 15), (7, 60), (160, 90)])
def test_not_one_pixel_of_a_mask_vanishes_at_another_size(image, shape):
    mask = np.zeros_like(image, bool)
    mask[33, 17] = True
    resized, marked = resize_slice(image, mask, shape)
    assert resized.shape == marked.shape == shape
    rows, columns = (np.argwhere(marked).mean(axis=0) + 0.5) / shape
    assert (rows * 40, columns * 60) == (pytest.approx(33.5, abs=4), pytest.approx(17.5, abs=4))
    assert 1 <= marked.sum() <= 4 * max(1, shape[0] * shape[1] / 2400)


def test_at_its_own_size_a_slice_stays_as_it_is(image, mask):
    resized, marked = resize_slice(image, mask, image.shape)
    assert np.array_equal(resized, image)
    assert np.array_equal(marked, mask)
