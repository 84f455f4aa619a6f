import base64

import numpy as np
import pytest

from slicewise.service.schemas import Prediction
from slicewise.ui.drawing import draw_disagreement, draw_heat, draw_prediction, draw_slice, read_png, to_gray, to_png

ORANGE = np.array((230, 159, 0))


@pytest.fixture
def square():
    picture, mask = np.full((64, 64), 100, np.uint8), np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    return picture, mask


def test_png_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9), dtype=np.uint8)
    assert np.array_equal(read_png(base64.b64encode(to_png(pixels)).decode()), pixels)
    mask = pixels > 128
    assert np.array_equal(read_png(base64.b64encode(to_png(mask)).decode()), mask * np.uint8(255))


def test_an_outline_leaves_what_it_surrounds_as_it_was(square):
    drawn = draw_slice(*square, style="outline", opacity=0.9, side_px=64)
    assert drawn[32, 32].tolist() == drawn[0, 0].tolist() == [100, 100, 100]
    assert drawn[16, 32].tolist() == ORANGE.tolist()


def test_a_fill_has_its_opacity_and_no_outline(square):
    drawn = draw_slice(*square, style="fill", opacity=0.5, side_px=64)
    assert drawn[32, 32].tolist() == drawn[16, 32].tolist() == ((100 + ORANGE) / 2).round().tolist()
    assert drawn[0, 0].tolist() == [100, 100, 100]


def test_both_have_both(square):
    drawn = draw_slice(*square, style="both", opacity=0.0, side_px=64)
    assert drawn[32, 32].tolist() == [100, 100, 100]
    assert drawn[16, 32].tolist() == ORANGE.tolist()


def test_pixels_become_square(square):
    assert draw_slice(*square, spacing_mm=(3.0, 1.0), side_px=96).shape == (96, 32, 3)
    assert draw_heat(square[0], square[0], (3.0, 1.0)).shape == (640, 213, 3)


def test_letters_say_which_side_of_the_patient_is_where():
    black, nothing = np.zeros((200, 200), np.uint8), np.zeros((200, 200), bool)
    drawn = draw_slice(black, nothing, plane="axial")
    middle, edge = slice(280, 360), slice(0, 40)
    for where in ((middle, edge), (middle, slice(-40, None)), (edge, middle), (slice(-40, None), middle)):
        assert drawn[where].max() == 255, where
    assert drawn[120:520, 120:520].max() == 0, "nothing in the brain"
    assert draw_slice(black, nothing, plane="unknown").max() == 0
    # R at the left differs from A at the left.
    assert not np.array_equal(drawn[middle, edge], draw_slice(black, nothing, plane="sagittal")[middle, edge])
    assert np.array_equal(drawn[middle, edge], draw_slice(black, nothing, plane="coronal")[middle, edge])


def test_heat_of_nothing_darkens_and_of_all_warms():
    picture = np.full((8, 8), 200, np.uint8)
    cold, hot = (draw_heat(picture, np.full((8, 8), value, np.uint8), None, 0.5)[0, 0] for value in (0, 255))
    assert cold.tolist() == [100, 100, 102]
    assert hot.tolist() == [226, 228, 182]
    assert draw_heat(picture, picture, None, 0.0)[0, 0].tolist() == [200, 200, 200]


def test_masks_that_differ_are_told_apart():
    picture, first, second = np.zeros((64, 64), np.uint8), np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    first[:, :40], second[:, 20:60] = True, True
    drawn = draw_disagreement(picture, first, second, None, 1.0)
    assert drawn.shape == (640, 640, 3)
    colors = [tuple(int(value) for value in drawn[320, column]) for column in (100, 300, 500, 630)]
    assert colors == [(86, 180, 233), (240, 228, 66), (213, 94, 0), (0, 0, 0)]


def test_values_are_looked_at_through_a_window():
    values = np.array([[0, 100, 150, 200, 65535]], np.uint16)
    assert to_gray(values, np.array([100.0, 200.0])).tolist() == [[0, 0, 128, 255, 255]]
    assert to_gray(values[:, :1], np.array([0.0, 0.0])).tolist() == [[0]]


def test_a_cross_is_drawn_through_the_voxel_that_it_names():
    drawn = draw_slice(np.zeros((10, 20), np.uint8), np.zeros((10, 20), bool), side_px=200, cross=(3, 15))
    blue = (drawn == (0, 114, 178)).all(axis=-1)
    assert np.flatnonzero(blue.all(axis=1)).tolist() == [35]
    assert np.flatnonzero(blue.all(axis=0)).tolist() == [155]


def test_an_answer_is_drawn_with_its_mask_its_spacing_and_letters(square):
    picture, mask = (base64.b64encode(to_png(part)).decode() for part in square)
    answer = Prediction.model_validate(
        Prediction.model_config["json_schema_extra"]["examples"][0]
        | {"shape": [64, 64], "spacing_mm": [1.0, 0.5], "plane": "axial", "picture": picture}
        | {"mask": {"encoding": "png", "shape": [64, 64], "data": mask}}
    )
    drawn = draw_prediction(answer, style="fill", opacity=0.5)
    assert drawn.shape == (640, 320, 3), "a pixel is twice as high as wide"
    assert drawn[320, 160].tolist() == ((100 + ORANGE) / 2).round().tolist()
    assert drawn[280:360, :40].max() == 255, "R"
    thumbnail = draw_prediction(answer, style="fill", opacity=0.5, side_px=96)
    assert thumbnail.shape == (96, 48, 3)
    assert np.unique(thumbnail.reshape(-1, 3), axis=0).max() < 255, "no letters on so small a picture"
