import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from slicewise.inference.preview import preview
from slicewise.inference.result import Result
from slicewise.records import Scan

ORANGE = (230, 159, 0)


def make_result(shape=(60, 60), *, depth=3, best=1, masked=True, spacing_mm=None):
    """Dark on the left, bright on the right; the other slices are blank."""
    slices = np.zeros((depth, *shape), np.float32)
    slices[best] = np.linspace(0, 100, shape[1])
    masks = np.zeros(slices.shape, bool)
    if masked:
        masks[best, shape[0] // 2 :, : shape[1] // 3] = True
    probabilities = np.full(depth, 0.1)
    probabilities[best] = 0.876
    scan = Scan(slices, kind="array", name="scan", spacing_mm=spacing_mm)
    return Result(scan, probabilities, probabilities, probabilities >= 0.5, masks, 0.5, "0123456789ab", "none")


def cells(text):
    """Of each line, the color of the upper and of the lower pixel of each character, as a terminal shows them."""
    console, lines = Console(), []
    for line in text.split("\n")[:-1]:
        shown = Text.from_ansi(line)
        colors = []
        for place in range(len(shown)):
            style = shown.get_style_at_offset(console, place)
            colors.append((tuple(style.color.triplet), tuple(style.bgcolor.triplet)))
        lines.append(colors)
    return lines


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    columns=st.integers(1, 80),
    color=st.booleans(),
    spacing=st.sampled_from([None, (5.0, 1.0), (1.0, 4.0)]),
)
def test_no_line_is_longer_than_asked_and_the_picture_is_whole(shape, columns, color, spacing):
    text = preview(make_result(shape, spacing_mm=spacing), color=color, columns=columns)
    lines = [Text.from_ansi(line).plain for line in text.split("\n")]
    assert max(map(len, lines)) <= columns
    assert len({len(line) for line in lines[:-1]}) == 1
    assert 1 <= len(lines[:-1]) <= 40


def test_a_square_slice_fills_80_columns_and_40_lines():
    lines = preview(make_result(), color=False).split("\n")
    assert (len(lines) - 1, len(lines[0])) == (40, 80)
    assert lines[-1] == "slice 1, probability 0.876"


def test_characters_show_the_slice_in_square_pixels():
    lines = preview(make_result((40, 40), spacing_mm=(1.0, 2.0)), color=False).split("\n")
    assert (len(lines) - 1, len(lines[0])) == (20, 80)


def test_without_color_there_is_nothing_but_ascii():
    text = preview(make_result(), color=False)
    assert text.isascii()
    assert "\x1b" not in text
    upper, lower = text.split("\n")[0], text.split("\n")[39]
    assert list(dict.fromkeys(upper)) == list(" .:-=+*%"), "denser from the dark to the bright side"
    assert "@" not in upper
    assert lower.startswith("@" * 26)
    assert lower.count("@") in (26, 27)


def test_in_color_each_block_shows_two_pixels():
    text = preview(make_result())
    lines = cells(text)
    assert (len(lines), len(lines[0])) == (40, 80)
    assert set(re.sub(r"\x1b\[[\d;]*m", "", text.split("\n")[0])) == {"▀"}
    top = lines[0]
    assert all(upper == lower and len(set(upper)) == 1 for upper, lower in top), "gray"
    assert [upper[0] for upper, _ in top] == sorted(upper[0] for upper, _ in top)
    assert (top[0][0][0], top[-1][0][0]) == (0, 255)
    outline = {pixel for line in lines for pair in line for pixel in pair if pixel == ORANGE}
    assert outline == {ORANGE}
    assert lines[20][5][0] == ORANGE != lines[20][5][1], "the edge of the mask is in the upper pixel alone"


def test_every_line_ends_without_color():
    assert all(line.endswith("\x1b[0m") for line in preview(make_result()).split("\n")[:-1])


def test_a_small_lesion_is_seen():
    result = make_result((500, 500), masked=False)
    result.masks[1, 251, 303] = True
    assert preview(result, color=False).count("@") == 1
    assert "230;159;0" in preview(result)


def test_no_tumor_has_no_mark():
    result = make_result(masked=False)
    assert "@" not in preview(result, color=False)
    assert "230;159;0" not in preview(result)


def test_grays_are_those_of_the_volume():
    result = make_result(masked=False)
    result.scan.slices[0] = 1000
    assert set(preview(result, color=False).split("\n")[0]) == {" "}
