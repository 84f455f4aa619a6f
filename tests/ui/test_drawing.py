import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicewise.orientation import Orientation
from slicewise.ui.drawing import cut_volume, draw_disagreement, draw_heat, draw_slice, read_png, to_png

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
    cold, hot = (draw_heat(picture, np.full((8, 8), value, np.uint8), 0.5)[0, 0] for value in (0, 255))
    assert cold.tolist() == [100, 100, 102]
    assert hot.tolist() == [226, 228, 182]
    assert draw_heat(picture, picture, 0.0)[0, 0].tolist() == [200, 200, 200]


def test_masks_that_differ_are_told_apart():
    picture, first, second = np.zeros((64, 64), np.uint8), np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    first[:, :40], second[:, 20:60] = True, True
    drawn = draw_disagreement(picture, first, second, 1.0)
    assert drawn.shape == (640, 640, 3)
    colors = [tuple(int(value) for value in drawn[320, column]) for column in (100, 300, 500, 630)]
    assert colors == [(86, 180, 233), (240, 228, 66), (213, 94, 0), (0, 0, 0)]


def body():
    """RAS+ array (right, anterior, superior), every voxel of another value."""
    return np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)


# Right to left is falling x, anterior to posterior falling y, superior to inferior falling z.
AXIAL, CORONAL, SAGITTAL = (
    lambda z: body()[::-1, ::-1, z].T,
    lambda y: body()[::-1, y, ::-1].T,
    lambda x: body()[x, ::-1, ::-1].T,
)


@given(
    place=st.tuples(*(st.integers(0, size - 1) for size in (4, 5, 6))),
    plane=st.sampled_from(["axial", "coronal", "sagittal"]),
)
def test_three_planes_are_those_of_a_radiologist_whatever_the_slices_are(place, plane):
    # Thick along the axis that the plane lies across.
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    spacing = np.ones(3)
    spacing[axis] = 2.0
    orientation = Orientation.of(np.diag([*spacing, 1.0]), body().shape)
    assert orientation.plane == plane
    slices = orientation.to_slices(body())
    index = tuple(int(where[0]) for where in np.where(slices == body()[place]))
    cuts = cut_volume(slices, slices % 2 == 0, np.array(orientation.spacing_mm), plane, index)
    assert cuts[0].plane == plane
    found = {cut.plane: cut for cut in cuts}
    x, y, z = place
    expected = {"axial": AXIAL(z), "coronal": CORONAL(y), "sagittal": SAGITTAL(x)}
    assert found.keys() == expected.keys()
    for name, cut in found.items():
        assert np.array_equal(cut.picture, expected[name]), name
        assert np.array_equal(cut.mask, expected[name] % 2 == 0), name
    assert found["axial"].spacing_mm == (spacing[1], spacing[0])
    assert found["coronal"].spacing_mm == (spacing[2], spacing[0])
    assert found["sagittal"].spacing_mm == (spacing[2], spacing[1])


def test_unknown_spacing_and_plane_are_not_made_up():
    volume = np.zeros((3, 4, 5), np.uint8)
    cuts = cut_volume(volume, volume > 0, np.array([np.nan, 1.0, 1.0]), "unknown", (0, 0, 0))
    assert [cut.plane for cut in cuts] == ["unknown", "across rows", "across columns"]
    assert [cut.spacing_mm for cut in cuts] == [(1.0, 1.0), None, None]
