import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from slicewise.errors import LabelError, UnreadableFileError
from slicewise.sources.images import read_mask, read_picture, share_of_color

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def save(folder, image, name="picture.png", **options):
    file = folder / name
    image.save(file, **options)
    return file


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK"])
def test_a_gray_picture_is_the_same_in_every_color_mode(tmp_path, mode):
    name = "picture.tif" if mode == "CMYK" else "picture.png"
    file = save(tmp_path, Image.fromarray(RAMP).convert(mode), name)
    assert np.abs(read_picture(file).image - RAMP).max() <= 1


def test_a_palette_index_is_not_a_brightness(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode=None).convert("P")
    image.putpalette([200, 200, 200, 10, 10, 10])
    image.putdata([0, 1])
    assert read_picture(save(tmp_path, image)).image.tolist() == [[200, 10]]


def test_sixteen_bits_are_kept(tmp_path):
    deep = np.array([[0, 300], [40_000, 65_535]], dtype=np.uint16)
    assert np.array_equal(read_picture(save(tmp_path, Image.fromarray(deep))).image, deep)


def test_color_becomes_luma(tmp_path):
    pure = np.zeros((1, 3, 3), dtype=np.uint8)
    pure[0, range(3), range(3)] = 255
    assert read_picture(save(tmp_path, Image.fromarray(pure))).image[0] == pytest.approx([76.245, 149.685, 29.07])


def test_what_is_transparent_is_air(tmp_path):
    pixels = np.full((1, 2, 4), 255, dtype=np.uint8)
    pixels[0, 1, 3] = 0
    assert read_picture(save(tmp_path, Image.fromarray(pixels))).image.tolist() == [[255, 0]]


def test_noted_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are columns
    file = save(tmp_path, Image.fromarray(RAMP), "turned.png", exif=exif)
    assert np.array_equal(read_picture(file).image, np.rot90(RAMP, -1))


@pytest.mark.parametrize("name", ["stack.tif", "film.gif", "film.webp", "film.png"])
def test_a_file_of_several_pictures_is_refused(tmp_path, name):
    pictures = [Image.fromarray(RAMP + step) for step in (0, 7, 9)]
    options = {"lossless": True} if name.endswith("webp") else {}
    file = save(tmp_path, pictures[0], name, save_all=True, append_images=pictures[1:], **options)
    with pytest.raises(UnreadableFileError, match=r"holds several of 4 × 3") as refusal:
        read_picture(file)
    assert refusal.value.problem == "several-pictures"
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize("name", ["alone.tif", "alone.gif", "alone.webp", "alone.png"])
def test_a_film_of_one_picture_is_a_picture(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    assert np.array_equal(read_picture(save(tmp_path, Image.fromarray(RAMP), name, save_all=True, **options)).image, RAMP)


def test_a_thumbnail_is_passed_over(tmp_path):
    thumbnail = Image.fromarray(RAMP[:2, :2])
    file = save(tmp_path, Image.fromarray(RAMP), "picture.tif", save_all=True, append_images=[thumbnail])
    assert np.array_equal(read_picture(file).image, RAMP)


@pytest.mark.parametrize(
    ("faint", "strong", "share"),
    [(0.09, 0.0, 0.0), (0.09, 0.05, 0.05), (0.5, 0.0, 0.5), (0.5, 0.05, 0.55)],
    ids=["compression", "annotation", "sequences in channels", "both"],
)
def test_a_faint_tint_is_a_color_where_it_is_no_compression(faint, strong, share):
    pixels = np.full((10, 100, 3), 90.0, np.float32)
    flat = pixels.reshape(-1, 3)
    flat[: int(1000 * faint), 1] += 20
    flat[1000 - int(1000 * strong) :, 0] += 100
    assert share_of_color(pixels) == pytest.approx(share)


def test_the_bytes_decide_not_the_ending(tmp_path):
    file = save(tmp_path, Image.fromarray(RAMP), "picture.jpg", format="PNG")
    assert np.array_equal(read_picture(file).image, RAMP)


def test_mask_softened_by_compression_is_cut_in_the_middle(tmp_path):
    file = save(tmp_path, Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8)))
    assert read_mask(file).mask.tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(np.array([[0, 1, 0, 1]], dtype=np.uint8)),
        Image.fromarray(np.array([[False, True, False, True]])),
        Image.fromarray(np.array([[0, 255, 0, 255]], dtype=np.uint8)).convert("RGB"),
    ],
    ids=["0 and 1", "one bit", "color"],
)
def test_mask_of_two_values_however_they_are_written(tmp_path, picture):
    assert read_mask(save(tmp_path, picture)).mask.tolist() == [[False, True, False, True]]


@pytest.mark.parametrize(
    "pixels", [np.array([[0, 1, 2, 4]], np.uint8), np.array([[0, 65535]], np.uint16)], ids=["classes", "16 bits"]
)
def test_mask_of_other_values_is_refused_with_its_brightest(tmp_path, pixels):
    file = save(tmp_path, Image.fromarray(pixels))
    with pytest.raises(LabelError, match=rf"{pixels.max()}\. Convert") as refusal:
        read_mask(file)
    assert str(file) in str(refusal.value)


def make_bomb(file):
    """A few bytes that declare 900 million pixels."""

    def chunk(tag, body):
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def test_broken_files_are_refused_with_their_name(tmp_path):
    whole = save(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)), "whole.png")
    broken = {
        "text.png": b"not a picture",
        "empty.png": b"",
        "cut.png": whole.read_bytes()[:2000],
        "page.png": b"%PDF-1.4",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    make_bomb(tmp_path / "bomb.png")
    for name in [*broken, "bomb.png", "absent.png"]:
        with pytest.raises(UnreadableFileError, match=name):
            read_picture(tmp_path / name)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 199), value=st.integers(0, 255))
def test_damaged_bytes_are_read_or_refused_and_nothing_else(tmp_path, place, value):
    """The first bytes hold the header and the camera's notes (EXIF), which Pillow parses with code of its own."""
    file = tmp_path / "picture.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(file, exif=exif)
    content = bytearray(file.read_bytes())
    content[place] = value
    file.write_bytes(content)
    refusal = ""
    try:
        assert read_picture(file).image.ndim == 2
    except UnreadableFileError as error:
        refusal = str(error)
    assert refusal == "" or "picture.jpg" in refusal


def test_not_finite_is_refused(tmp_path):
    file = save(tmp_path, Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)), "nan.tif")
    with pytest.raises(UnreadableFileError, match="NaN"):
        read_picture(file)


def test_every_real_picture_is_read(shared_data):
    files = [file for file in (shared_data / "brain_tumor_dataset").glob("*/*") if file.is_file()]
    assert len(files) == 253
    for file in files:
        picture = read_picture(file).image
        assert picture.ndim == 2
        assert picture.max() > picture.min()
