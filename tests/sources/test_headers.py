import hashlib

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from slicewise.sources.headers import read_header

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize(
    ("name", "mode", "format_", "bits"),
    [
        ("a.png", "L", "PNG", 8),
        ("b.JPG", "RGB", "JPEG", 8),
        ("c.tif", "I;16", "TIFF", 16),
        ("d.png", "P", "PNG", 8),
        ("e.png", "1", "PNG", 1),
        ("f.tiff", "F", "TIFF", 32),
        ("g.png", "RGBA", "PNG", 8),
    ],
)
def test_a_picture_says_what_it_is(tmp_path, name, mode, format_, bits):
    file = tmp_path / name
    pixels = PIXELS.astype(np.uint16) if mode == "I;16" else PIXELS
    image = Image.fromarray(pixels)
    (image if mode == "I;16" else image.convert(mode)).save(file)
    header = read_header(file)
    assert header[2:] == (format_, mode, bits, "")
    assert header[:2] == (len(file.read_bytes()), hashlib.sha256(file.read_bytes()).hexdigest())


def test_the_bytes_decide_the_format_and_a_noted_turn_is_told(tmp_path):
    file = tmp_path / "really_a_jpeg.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(file, format="JPEG", exif=exif)
    assert (read_header(file).file_format, read_header(file).orientation) == ("JPEG", "EXIF 6")
    Image.fromarray(PIXELS).save(file, format="PNG", exif=exif)
    assert (read_header(file).file_format, read_header(file).orientation) == ("PNG", "EXIF 6")


@pytest.mark.parametrize(("diagonal", "axes"), [((1, 1, 1), "RAS"), ((-1, -1, 1), "LPS")])
def test_a_volume_says_type_and_axes(tmp_path, diagonal, axes):
    file = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.diag([*diagonal, 1])), file)
    assert read_header(file)[2:] == ("NIfTI", "int16", 16, axes)
