import numpy as np
import pytest

from slicewise.errors import InputError
from slicewise.inference.montage import montage
from slicewise.inference.result import Result
from slicewise.records import Scan

ORANGE, WHITE = (230, 159, 0), (255, 255, 255)
CAPTION, GAP = 20, 4


def make_result(depth=30, shape=(40, 32), *, best=0, positive=(), values=None, spacing_mm=None, masked=True):
    """Each slice is flat, of its own gray between a black and a white pixel, so that it can be told on the sheet."""
    values = np.linspace(0.1, 0.9, depth) if values is None else np.asarray(values)
    slices = np.broadcast_to(values[:, None, None], (depth, *shape)).astype(np.float32)
    slices[:, 0, 0], slices[:, -1, -1] = 0, 1
    masks = np.zeros(slices.shape, bool)
    is_tumor = np.isin(np.arange(depth), positive)
    if masked:
        masks[is_tumor, 10:20, 10:20] = True
    probabilities = np.full(depth, 0.2)
    probabilities[list(positive)] = 0.8
    probabilities[best] = 0.9
    scan = Scan(slices, kind="array", name="scan", spacing_mm=spacing_mm)
    return Result(scan, probabilities, probabilities, is_tumor, masks, 0.5, "0123456789ab", "none")


def tiles(sheet, columns, rows, shape):
    """The pictures without their captions, in order."""
    cell = (shape[0] + CAPTION + GAP, shape[1] + GAP)
    assert sheet.shape == (rows * cell[0] - GAP, columns * cell[1] - GAP, 3)
    corners = [(row * cell[0] + CAPTION, column * cell[1]) for row in range(rows) for column in range(columns)]
    return [sheet[top : top + shape[0], left : left + shape[1]] for top, left in corners]


def grays(result, columns=6, rows=4, shape=(320, 256)):
    """The gray in the middle of each tile."""
    return [int(tile[200, 150, 0]) for tile in tiles(montage(result, columns), columns, rows, shape)]


def has_color(part, color):
    return bool((part == color).all(axis=-1).any())


def test_all_slices_of_a_short_volume_are_drawn_in_order():
    found = grays(make_result(24))
    assert found == sorted(found)
    assert len(set(found)) == 24


def test_of_a_long_volume_slices_are_chosen_evenly():
    steps = np.diff(grays(make_result(155, best=80)))
    assert (steps > 0).all()
    assert steps.max() <= 1.5 * steps.mean()


@pytest.mark.parametrize("best", [0, 1, 77, 78, 120, 154])
def test_the_most_probable_slice_is_always_there_and_framed(best):
    result = make_result(155, best=best)
    drawn = tiles(montage(result), 6, 4, (320, 256))
    (framed,) = [tile for tile in drawn if (tile[0] == WHITE).all() and (tile[:, -1] == WHITE).all()]
    expected = result.scan.slices[best, 5, 5]
    assert framed[200, 150, 0] == pytest.approx(255 * (expected - 0.1) / 0.8, abs=2)


def test_blank_slices_are_left_out_unless_all_are():
    result = make_result(40, best=20)
    result.scan.slices[:10] = result.scan.slices[35:] = 0.5
    drawn = tiles(montage(result), 6, 4, (320, 256))
    assert all(np.ptp(tile[1:-1, 1:-1].astype(int)) > 200 for tile in drawn)
    result.scan.slices[:] = 0.5
    assert len(tiles(montage(result), 6, 4, (320, 256))) == 24


def test_a_mask_is_outlined_on_its_own_slice():
    drawn = tiles(montage(make_result(6, best=2, positive=(2, 3))), 6, 1, (320, 256))
    assert [has_color(tile, ORANGE) for tile in drawn] == [False, False, True, True, False, False]
    rows, columns = np.nonzero((drawn[3] == ORANGE).all(axis=-1))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (80, 160, 80, 160)


def test_a_probability_is_orange_where_the_answer_is_tumor():
    sheet = montage(make_result(6, best=2, positive=(2, 4), masked=False))
    captions = [sheet[:CAPTION, column * 260 : column * 260 + 256] for column in range(6)]
    colored = [bool((np.ptp(caption.astype(int), axis=-1) > 100).any()) for caption in captions]
    assert colored == [False, False, True, False, True, False]
    assert all((caption[:, :60] > 150).any() and (caption[:, -50:] > 120).any() for caption in captions)
    numbers = [caption[:, :60].tobytes() for caption in captions]
    assert len(set(numbers)) == 6


def test_one_gray_window_serves_all_slices():
    found = grays(make_result(3, values=[0.2, 0.4, 0.8], best=1), columns=3, rows=1)
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((40, 40), (1.0, 2.0), (160, 320)),
        ((40, 40), (2.0, 1.0), (320, 160)),
        ((28, 240), (5.0, 1.0), (187, 320)),
        ((512, 512), None, (320, 320)),
    ],
)
def test_pixels_are_square_in_mm(shape, spacing, expected):
    tiles(montage(make_result(6, shape, spacing_mm=spacing)), 6, 1, expected)


@pytest.mark.parametrize("columns", [1, 2, 6, 7, 15, 16])
@pytest.mark.parametrize("shape", [(40, 40), (30, 90), (300, 2)])
def test_a_sheet_is_never_wider_than_2000_pixels(columns, shape):
    sheet = montage(make_result(20, shape), columns)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] <= 2000
    assert sheet.shape[1] >= columns * 110


def test_a_picture_is_a_sheet_of_one():
    (tile,) = tiles(montage(make_result(1, positive=(0,))), 1, 1, (320, 256))
    assert has_color(tile, ORANGE)


@pytest.mark.parametrize("columns", [0, -1, 17])
def test_columns_without_room_are_refused(columns):
    with pytest.raises(InputError, match=f"1 to 16 columns.*{columns}"):
        montage(make_result(3), columns)


def test_the_same_result_gives_the_same_sheet_and_stays_as_it_is():
    result = make_result(5, positive=(1,))
    before = result.scan.slices.copy(), result.masks.copy()
    assert np.array_equal(montage(result), montage(result))
    assert np.array_equal(result.scan.slices, before[0])
    assert np.array_equal(result.masks, before[1])
