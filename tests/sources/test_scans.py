import gzip
import io
import os
import stat
import struct
import time
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from slicewise.errors import InputError, UnreadableFileError
from slicewise.records import Scan
from slicewise.sources import scans as module
from slicewise.sources.images import read_picture
from slicewise.sources.nifti import read_volume
from slicewise.sources.scans import read_scans, scan_of_array

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def png(pixels=RAMP):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def nifti(shape=(5, 6, 4), kind=nib.Nifti1Image):
    voxels = np.random.default_rng(0).integers(0, 900, shape, dtype=np.int16)
    return kind(voxels, np.diag([-1.0, 2.0, 3.0, 1.0])).to_bytes()


def write(file, content):
    file.write_bytes(content)
    return file


def write_zip(file, members, **options):
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


def refusal_of(path, scratch=None):
    (error,) = read_scans(path, scratch)
    assert isinstance(error, UnreadableFileError), error
    return str(error)


@pytest.fixture
def fake_dicom(monkeypatch):
    """Files that begin as DICOM's do become one scan, as of a series."""

    def read(files, name, *, allow_burned_in=False):
        return [Scan(np.zeros((len(files), 2, 2), np.float32), kind="dicom", name=name, files=tuple(files))]

    monkeypatch.setattr("slicewise.sources.dicom.read_dicom", read)
    return bytes(128) + b"DICM"


@pytest.mark.parametrize("name", ["scan.png", "scan.nii", "scan", "scan.dcm"])
def test_a_picture_whatever_it_is_called(tmp_path, name):
    file = write(tmp_path / name, png(RAMP.astype(np.uint16) * 300))
    (scan,) = read_scans(file)
    assert (scan.kind, scan.name, scan.files) == ("picture", "scan", (file,))
    assert np.array_equal(scan.slices, RAMP[np.newaxis].astype(np.uint16) * 300)
    assert scan.to_grid(scan.slices).shape == (3, 4)
    assert scan.color_share == read_picture(file).color_share


def test_several_pages_are_not_answered_from_the_first(tmp_path):
    pages = [Image.fromarray(RAMP + page) for page in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert "holds several" in refusal_of(tmp_path / "pages.tif")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["case.1.nii", "case.1.nii.gz", "case.1.png", "case.1.img"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_volume_whatever_it_is_called(tmp_path, kind, name, pack):
    right = write(tmp_path / ("right.nii.gz" if pack is gzip.compress else "right.nii"), pack(nifti(kind=kind)))
    file = write(tmp_path / name, right.read_bytes())
    (scan,), expected = read_scans(file), read_volume(right)
    assert (scan.kind, scan.name, scan.files) == ("nifti", "case.1", (file,))
    assert np.array_equal(scan.slices, expected.slices)
    assert np.array_equal(scan.affine, expected.affine)
    assert (scan.orientation, scan.grid_shape) == (expected.orientation, expected.grid_shape)


def test_a_damaged_volume_is_refused_under_its_own_name(tmp_path):
    file = write(tmp_path / "volume.scan", gzip.compress(nifti())[:-30])
    assert str(file) in refusal_of(file)
    assert "tmp" not in refusal_of(file).replace(str(tmp_path), "")


def test_dicom_files_of_a_folder_are_one_series_and_nothing_else_is_of_it(tmp_path, fake_dicom):
    folder = tmp_path / "series"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b", "a", ".hidden", "deeper/c", "a_mask.dcm", "a_seg"):
        write(folder / name, fake_dicom)
    write(folder / "readme.txt", b"text")
    write(folder / "picture.png", png())
    (scan,) = read_scans(folder)
    assert (scan.kind, scan.name, scan.files) == ("dicom", "series", (folder / "a", folder / "b"))
    (alone,) = read_scans(folder / "a")
    assert (alone.name, alone.files) == ("a", (folder / "a",))


def test_a_folder_without_dicom_is_refused(tmp_path):
    write(tmp_path / "picture.png", png())
    assert "found none" in refusal_of(tmp_path)


@pytest.mark.parametrize(  # with no time in the packed text: a test's name is the same in every process
    "content",
    [b"", b"text", b"%PDF-1.4", gzip.compress(b"text", mtime=0), b"\x1f\x8b damaged", nifti()[:344] + b"ni1\0" + bytes(99)],
)
def test_other_files_are_refused_with_their_name(tmp_path, content):
    file = write(tmp_path / "file.png", content)
    assert str(file) in refusal_of(file)


def test_what_cannot_be_opened_is_refused_and_nothing_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    started = time.monotonic()
    assert "pipe or a device" in refusal_of(module.Path("/dev/zero"))
    assert "pipe or a device" in refusal_of(tmp_path / "pipe.png")
    assert "nothing at" in refusal_of(tmp_path / "absent")
    assert "symbolic link" in refusal_of(tmp_path / "loop")
    assert "too long" in refusal_of(tmp_path / ("x" * 300))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("name", ["a\0b.png", os.fsdecode(b"a\xff.png")])
def test_a_name_that_is_no_text_is_refused_in_text(tmp_path, name):
    refusal_of(tmp_path / name).encode()


def test_a_zip_is_read_in_order_and_its_files_stay(tmp_path, fake_dicom):
    members = [("p/two.nii", nifti()), ("p/", b""), ("one.png", png()), ("d/1", fake_dicom), ("d/2", fake_dicom)]
    members += [("__MACOSX/._one.png", b"x"), (".DS_Store", b"x")]
    file, scratch = write_zip(tmp_path / "scans.zip", members), tmp_path / "scratch"
    scratch.mkdir()
    volume, picture, series = read_scans(file, scratch)
    assert [scan.name for scan in (volume, picture, series)] == ["two", "one", "scans"]
    assert volume.files[0].read_bytes() == nifti()
    assert picture.files[0].read_bytes() == png()
    assert len(series.files) == 2
    assert all(path.is_relative_to(scratch) for scan in (volume, picture, series) for path in scan.files)


def test_without_a_folder_for_it_nothing_stays_of_a_zip(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (scan,) = read_scans(write_zip(tmp_path / "scans.zip", [("one.nii", nifti())]))
    assert scan.files == ()
    assert np.array_equal(scan.slices, read_volume(write(tmp_path / "one.nii", nifti())).slices)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.nii", "scans.zip"]


def test_scans_of_a_zip_have_names_of_their_own(tmp_path):
    file = write_zip(tmp_path / "scans.zip", [("a/x.png", png()), ("b/x.png", png()), ("y.png", png())])
    assert [scan.name for scan in read_scans(file)] == ["001_x", "002_x", "003_y"]


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/evil.png", "..\\evil.png", "C:\\evil.png", "a/../../evil.png", "a/ ..", "x\x1b[1m"]
)
def test_names_in_a_zip_lead_nowhere(tmp_path, name):
    scratch = tmp_path / "deep" / "scratch"
    scratch.mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if path != scratch}
    file = write_zip(tmp_path / "scans.zip", [(name, png())])
    (scan,) = read_scans(file, scratch)
    assert {path for path in tmp_path.rglob("*") if scratch not in (path, *path.parents)} == before | {file}
    assert scan.name.isprintable()
    assert not {"/", "\\"} & set(scan.name)
    assert scan.name.strip(". ")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK])
def test_links_and_devices_in_a_zip_are_passed_over(tmp_path, mode):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (mode | 0o777) << 16
    file, scratch = write_zip(tmp_path / "scans.zip", [(link, b"/etc/passwd"), ("one.png", png())]), tmp_path / "scratch"
    scratch.mkdir()
    (scan,) = read_scans(file, scratch)
    assert scan.name == "one"
    assert [path.read_bytes() for path in scratch.rglob("*") if path.is_file()] == [png()]
    assert not any(path.is_symlink() for path in scratch.rglob("*"))


def test_what_is_wrong_with_one_file_of_a_zip_leaves_the_others(tmp_path):
    broken = [("broken.png", png()[:-40]), ("inner.zip", b"PK\x03\x04"), ("viewer.exe", b"MZ"), ("one.png", png())]
    file = write_zip(tmp_path / "scans.zip", broken)
    content = bytearray(write_zip(tmp_path / "other.zip", [("damaged.png", png()), *broken]).read_bytes())
    content[60] ^= 255
    write(file, content)
    found = read_scans(file)
    assert [scan.name for scan in found if isinstance(scan, Scan)] == ["one"]
    messages = [str(error) for error in found if not isinstance(error, Scan)]
    assert [
        name for name in ("damaged.png", "broken.png", "inner.zip") if any(f"({name})" in line for line in messages)
    ] == [
        "damaged.png",
        "broken.png",
        "inner.zip",
    ]
    assert any("no zip in a zip" in message for message in messages)
    assert "1 of its 4 files" in messages[-1]
    assert all(str(file) in message and "tmp" not in message.replace(str(tmp_path), "") for message in messages)
    assert {error.file for error in found if not isinstance(error, Scan)} == {file}


@pytest.mark.parametrize(
    ("count", "named"), [(2, "0.txt, 1.txt"), (3, "0.txt, 1.txt, 2.txt"), (5, "0.txt, 1.txt, 2.txt and 2 more")]
)
def test_files_of_a_zip_that_are_no_scans_are_counted_and_the_first_named(tmp_path, count, named):
    members = [(f"viewer/{number}.txt", b"text") for number in range(count)]
    file, scratch = write_zip(tmp_path / "scans.zip", [*members, ("one.png", png())]), tmp_path / "scratch"
    scan, refusal = read_scans(file, scratch)
    assert isinstance(scan, Scan)
    assert f"{count} of its {count + 1} files are none of them: {named}. Convert" in str(refusal)
    assert [int(file.name) for file in refusal.files] == list(range(count))
    assert read_scans(file)[1].files == (file,)


def test_masks_and_results_in_a_zip_are_passed_over_and_named(tmp_path):
    names = ("case/t1.nii", "case/case_seg.nii", "Masks/deep/1.nii", "labels\\2.nii", "out/t1_montage.png", "masked.png")
    members = [(name, nifti() if name.endswith("nii") else png()) for name in names]
    file = write_zip(tmp_path / "scans.zip", members)
    passed_over, *scans = read_scans(file, tmp_path / "scratch")
    assert [scan.name for scan in scans] == ["t1", "masked"]
    assert (passed_over.problem, [path.name for path in passed_over.files]) == (
        "passed-over",
        [f"{n:05}" for n in range(1, 5)],
    )
    assert f"in {file}, 4 of its 6 files are called like them: case_seg.nii, 1.nii, 2.nii and 1 more." in str(passed_over)


def test_a_zip_of_masks_alone_says_so_and_nothing_else(tmp_path):
    file = write_zip(tmp_path / "scans.zip", [("a_mask.png", png())])
    assert "1 of its 1 files are called like them: a_mask.png" in refusal_of(file)
    assert read_scans(file)[0].problem == "passed-over"


def test_a_damaged_zip_is_not_said_to_hold_nothing(tmp_path):
    content = bytearray(write_zip(tmp_path / "scans.zip", [("one.png", png())]).read_bytes())
    content[60] ^= 255
    assert "could not unpack" in refusal_of(write(tmp_path / "scans.zip", content))


def test_a_zip_with_a_password_or_of_another_method_is_refused(tmp_path):
    file = write_zip(tmp_path / "scans.zip", [("one.png", png())])
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert "password" in refusal_of(write(tmp_path / "locked.zip", content))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "another way" in refusal_of(write_zip(file, [("one.png", png())], compression=method))


@pytest.mark.parametrize("members", [[], [("readme.txt", b"text")]])
def test_a_zip_without_scans_is_refused(tmp_path, members):
    assert f"{len(members)} of its {len(members)} files" in refusal_of(write_zip(tmp_path / "scans.zip", members))


def test_a_zip_that_inflates_without_end_is_refused_by_what_it_inflates_to(tmp_path, monkeypatch):
    """The sizes in its lists are lies: they say one byte."""
    monkeypatch.setattr(module, "_RATIO_FREE", 2**20)
    whole = write_zip(tmp_path / "bomb.zip", [("a", bytes(2**19)), ("b", bytes(2**24))], compression=zipfile.ZIP_DEFLATED)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert "MiB" in refusal_of(whole, scratch)
    assert list(scratch.iterdir()) == []
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    refusal_of(whole, scratch)
    assert sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()) < 2**22
    lie = whole.read_bytes().replace(struct.pack("<I", 2**24), struct.pack("<I", 1))
    found = read_scans(write(whole, lie), scratch)
    assert all(isinstance(error, UnreadableFileError) for error in found)


def test_many_files_are_refused_before_any_is_extracted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FILE_LIMIT", 3)
    file, scratch = write_zip(tmp_path / "scans.zip", [(f"{n}.png", png()) for n in range(4)]), tmp_path / "scratch"
    scratch.mkdir()
    assert "at most 3 files" in refusal_of(file, scratch)
    assert list(scratch.iterdir()) == []


def test_the_pixels_of_all_scans_together_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIXEL_LIMIT", 30)
    assert len(read_scans(write_zip(tmp_path / "two.zip", [(f"{n}.png", png()) for n in range(2)]))) == 2
    assert "at most 30 pixels" in refusal_of(write_zip(tmp_path / "three.zip", [(f"{n}.png", png()) for n in range(3)]))


def test_bombs_are_refused_by_their_headers(tmp_path):
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert "pixels" in refusal_of(
        write(tmp_path / "bomb.png", b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + bytes(99))
    )
    volume = bytearray(nifti())
    volume[42:48] = np.array([2000, 2000, 2000], np.int16).tobytes()
    assert "voxels" in refusal_of(write(tmp_path / "bomb.nii.gz", gzip.compress(bytes(volume))))


def test_an_array_is_a_scan(tmp_path):
    image = np.arange(24).reshape(2, 3, 4)
    scan = scan_of_array(image, (0.5, 2.0), 3.0)
    assert np.array_equal(scan.slices, image)
    assert scan.slices.dtype == np.float32
    assert (scan.kind, scan.spacing_mm, scan.slice_spacing_mm, scan.grid_shape) == ("array", (0.5, 2.0), 3.0, (2, 3, 4))
    flat = scan_of_array(image[0] > 3)
    assert flat.slices.shape == (1, 3, 4)
    assert flat.to_grid(flat.slices).shape == (3, 4)


@pytest.mark.parametrize(
    ("image", "spacing"),
    [
        (np.zeros(3), None),
        (np.zeros((1, 2, 3, 4)), None),
        (np.zeros((0, 5)), None),
        (np.zeros((2, 2), complex), None),
        (np.array([["a"]]), None),
        (np.array([[1.0, np.nan]]), None),
        (np.array([[1e300, 0.0]]), None),
        (np.zeros((2, 2)), (1.0, 0.0)),
        (np.zeros((2, 2)), (np.inf, 1.0)),
    ],
)
def test_an_array_that_is_no_scan_is_refused(image, spacing):
    with pytest.raises(InputError, match="Expected"):
        scan_of_array(image, spacing)
    with pytest.raises(InputError, match="spacing"):
        scan_of_array(np.zeros((2, 2, 2)), None, -1.0)
