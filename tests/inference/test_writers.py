import numpy as np
import pytest
from PIL import Image

from slicewise.inference.writers import output_files, overlay, write_picture_outputs
from slicewise.records import Prediction

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


def test_files_hold_the_mask_as_0_and_255_on_its_own_grid(image, mask, tmp_path):
    prediction = Prediction(0.9, 0.8, True, mask, mask.astype(np.float32), threshold=0.5, model_id="m")
    write_picture_outputs(image, prediction, tmp_path / "sub" / "scan.v2")
    written = output_files(tmp_path / "sub" / "scan.v2")
    assert [file.name for file in written] == ["scan.v2_mask.png", "scan.v2_overlay.png"]
    with Image.open(written[0]) as file:
        assert file.mode == "L"
        assert np.array_equal(np.asarray(file), mask * np.uint8(255))
    with Image.open(written[1]) as file:
        assert file.size == (60, 40)
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == [file.name for file in written]
