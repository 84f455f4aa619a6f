import dataclasses
import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pydicom
import pytest
from PIL import Image

from slicewise.errors import InputError, UnreadableFileError
from slicewise.inference import decoding
from slicewise.inference.decoding import Decoder
from slicewise.records import Scan
from slicewise.sources.scans import PIXEL_LIMIT, read_scans

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from hostile import measure_hostile, peak_memory_mb, valid_files

HEADER = {
    "shape": [1, 1, 2],
    "kind": "picture",
    "name": "a",
    "files": [],
    "plane": "unknown",
    "modality": "unknown",
    "spacing_mm": None,
    "slice_spacing_mm": None,
    "orientation": None,
    "grid_shape": [1, 2],
    "affine": None,
    "color_share": 0.0,
    "concerns": [],
}
TURN = {"plane": "axial", "axes": [2, 1, 0], "reversed": [False, True, True], "spacing_mm": [1.0, 1.0, 1.0]}
REFUSAL = {"error": "FileError", "message": "no", "problem": "unreadable-file", "files": []}
PIXELS = np.array([1.5, 2.5], "<f4").tobytes()


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(np.array([[0, 300], [40_000, 65_535]], np.uint16)).save(file)
    return file


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A few hundred kilobytes that take seconds to inflate."""
    file = tmp_path_factory.mktemp("slow") / "slow.nii.gz"
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.float64), np.eye(4)).to_bytes()[:352]
    content = bytearray(header)
    content[42:48] = np.array([500, 500, 500], np.int16).tobytes()
    block = gzip.compress(bytes(2**24), 1)
    file.write_bytes(gzip.compress(bytes(content)) + block * (500**3 * 8 // 2**24 + 1))
    return file


@pytest.fixture
def stub(monkeypatch):
    """A child that becomes ready as it should and then answers a request with given bytes."""

    def install(answer=b"", then="sys.stdin.read()"):
        lines = (
            "import os, sys, time, struct",
            "def say(content): os.write(1, content)",
            "ready = b'{\"found\": []}'",
            "say(struct.pack('<I', len(ready)) + ready)",
            "os.read(0, 65536)",
            f"say({answer!r})",
            then,
        )
        monkeypatch.setattr(decoding, "_COMMAND", (sys.executable, "-S", "-E", "-c", "\n".join(lines)))

    return install


def framed(*found, pixels=PIXELS):
    header = json.dumps({"found": found}).encode()
    return struct.pack("<I", len(header)) + header + pixels


def refusal_of(found):
    (error,) = found
    assert isinstance(error, UnreadableFileError), error
    return error


def assert_equal(one, other):
    for field in dataclasses.fields(Scan):
        here, there = getattr(one, field.name), getattr(other, field.name)
        if isinstance(there, np.ndarray):
            assert here.dtype == there.dtype
            assert np.array_equal(here, there), field.name
        else:
            assert here == there, field.name


@pytest.mark.parametrize("axes", [3, 4, 5, 6, 7])
def test_a_volume_may_have_all_the_axes_of_nifti_if_three_are_longer_than_one(decoder, tmp_path, axes):
    file = tmp_path / "volume.nii.gz"
    voxels = np.arange(120, dtype=np.float32).reshape(4, 5, 6, *(1,) * (axes - 3))
    nib.Nifti1Image(voxels, np.eye(4)).to_filename(file)
    (scan,) = decoder.read(file, timeout_s=60)
    assert scan.grid_shape == voxels.shape
    assert np.array_equal(scan.to_grid(scan.slices), voxels)


@pytest.mark.parametrize("name", list(valid_files()))
def test_scans_are_those_read_directly(decoder, tmp_path, name):
    for number, content in enumerate(valid_files()[name]):
        file = tmp_path / f"{number}.{name}"
        file.write_bytes(content)
        here, there = decoder.read(file, timeout_s=60, scratch=tmp_path), read_scans(file, tmp_path)
        assert len(here) == len(there) > 0
        for one, other in zip(here, there, strict=True):
            if name == "zip":  # extracted under other random names
                assert [path.read_bytes() for path in one.files] == [path.read_bytes() for path in other.files]
                one, other = dataclasses.replace(one, files=()), dataclasses.replace(other, files=())
            assert_equal(one, other)


def test_an_oblique_volume_comes_with_its_affine_to_the_last_bit(decoder, tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] * np.array([0.7, 1 / 3, np.pi])
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.float32), affine), tmp_path / "oblique.nii")
    (here,), (there,) = decoder.read(tmp_path / "oblique.nii"), read_scans(tmp_path / "oblique.nii")
    assert_equal(here, there)
    assert np.array_equal(here.slice_affine, there.slice_affine)


def test_sixteen_bits_are_kept(decoder, picture):
    (scan,) = decoder.read(picture)
    assert scan.slices.tolist() == [[[0, 300], [40_000, 65_535]]]
    scan.slices[0, 0, 0] = 1  # a memory of its own


def test_refusals_are_those_of_reading_directly(decoder, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(bytes(400)))
    Image.fromarray(np.array([[0.0, np.nan]], np.float32)).save(tmp_path / "nan.tif")
    undecodable = os.fsdecode(b"a\xff.png")
    for name in ("pipe.png", "text.png", "cut.nii.gz", "nan.tif", "absent.png", "a\0b.png", undecodable):
        here, there = refusal_of(decoder.read(tmp_path / name)), refusal_of(read_scans(tmp_path / name))
        assert (str(here), here.problem, here.file) == (str(there), there.problem, there.file)
        assert here.files == there.files


def test_a_refusal_of_several_files_names_all(decoder, tmp_path):
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("a.txt", "text"), archive.writestr("b.txt", "text")
    error = refusal_of(decoder.read(tmp_path / "texts.zip", scratch=tmp_path / "scratch"))
    assert error.file is None
    assert [file.name for file in error.files] == ["00000", "00001"]


def test_a_path_is_taken_from_where_the_parent_is(decoder, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(picture.parent)
    (scan,) = decoder.read(Path(picture.name))
    assert scan.files == (Path(picture.name),)
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    above = Path(os.path.relpath(picture))
    assert decoder.read(above)[0].files == (above,)
    assert "absent.png. Check" in str(refusal_of(decoder.read(Path("absent.png"))))


def test_what_is_extracted_stays_until_the_next_file(tmp_path, picture):
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.writestr("a.png", picture.read_bytes())
    with Decoder() as decoder:
        (scan,) = decoder.read(tmp_path / "scans.zip")
        (extracted,) = scan.files
        assert extracted.read_bytes() == picture.read_bytes()
        decoder.read(picture)
        assert not extracted.exists()
        (scan,) = decoder.read(tmp_path / "scans.zip", scratch=tmp_path)
        decoder.read(picture)
        assert scan.files[0].is_relative_to(tmp_path)
        folder = extracted.parents[1]
        assert folder.exists()
    assert scan.files[0].exists()
    assert not folder.exists()


def test_too_slow_a_file_is_refused_and_the_next_one_read(slow, picture):
    with Decoder() as decoder:
        decoder.read(picture)
        before, started = decoder.pid, time.monotonic()
        error = refusal_of(decoder.read(slow, timeout_s=0.5))
        assert 0.5 <= time.monotonic() - started < 2
        assert (error.problem, error.file) == ("decoder-timeout", slow)
        assert f"Expected {slow} to be decoded within 0.5 s" in str(error)
        assert not psutil.pid_exists(before)
        assert decoder.read(picture)[0].slices.max() == 65_535


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_dies_over_a_file_refuses_that_file_alone(slow, picture, number):
    with Decoder() as decoder:
        decoder.read(picture)
        threading.Timer(0.3, os.kill, (decoder.pid, number)).start()
        error = refusal_of(decoder.read(slow, timeout_s=60))
        assert (error.problem, error.file) == ("decoder-crash", slow)
        assert number.name in str(error)
        assert isinstance(decoder.read(picture)[0], Scan)


def test_a_child_that_dies_while_idle_refuses_nothing(picture):
    with Decoder() as decoder:
        decoder.read(picture)
        os.kill(decoder.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(decoder.pid)], timeout=0.2)
        assert isinstance(decoder.read(picture)[0], Scan)


def test_an_interruption_leaves_no_answer_for_the_next_file(picture, slow, monkeypatch):
    def interrupt(self, *_):
        raise KeyboardInterrupt

    with Decoder() as decoder:
        decoder.read(picture)
        with monkeypatch.context() as patch:
            patch.setattr(decoding._Child, "receive", interrupt)
            with pytest.raises(KeyboardInterrupt):
                decoder.read(slow)
        assert decoder.pid is None
        assert decoder.read(picture)[0].name == "picture"


def test_bombs_are_refused_before_they_swell(decoder, tmp_path):
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(bytes(10**7))}
    body = b"".join(struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks.items())
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    volume = bytearray(valid_files()["nifti"][0])
    volume[42:48] = np.array([2000, 2000, 2000], np.int16).tobytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(volume) + bytes(10**7)))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.nii", bytes(30 * 2**20))
    for name in ("bomb.png", "bomb.nii.gz", "bomb.zip"):
        started = time.monotonic()
        assert name in str(refusal_of(decoder.read(tmp_path / name, timeout_s=60)))
        assert time.monotonic() - started < 5
    assert peak_memory_mb(decoder.pid) < 300


def limited(**limits):
    changes = "; ".join(f"decoding.{name} = {value}" for name, value in limits.items())
    return (sys.executable, "-P", "-c", f"from slicewise.inference import decoding; {changes}; decoding._serve()")


def test_more_memory_than_allowed_is_refused_and_the_next_file_read(tmp_path, picture, slow, monkeypatch):
    monkeypatch.setattr(decoding, "_COMMAND", limited(_MEMORY_BYTES=400 * 2**20))
    Image.fromarray(np.zeros((7000, 9000), np.uint8)).save(tmp_path / "large.png", compress_level=1)
    with Decoder() as decoder:
        for file in (slow, tmp_path / "large.png"):
            error = refusal_of(decoder.read(file))
            assert error.problem in ("unreadable-file", "decoder-memory")
            assert str(file) in str(error)
        process = decoder.pid
        assert isinstance(decoder.read(picture)[0], Scan)
        assert decoder.pid == process


def test_memory_that_no_reader_asked_for_is_refused_as_well(picture, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(decoding, "read_scans", fail)
    request = {"path": str(picture), "folder": None, "scratch": "/", "timeout_s": 1}
    (found,) = decoding._decode(request | {"allow_burned_in": False, "slice_pixels": None})
    assert found.problem == "decoder-memory"


def volume_of(shape, kind=nib.Nifti1Image, order="<"):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.uint8)
    return kind(np.zeros(shape, np.uint8), np.eye(4), header).to_bytes()


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", "<>")
def test_a_volume_is_refused_by_its_header_where_a_slice_is_wanted(tmp_path, kind, order):
    file = tmp_path / "volume"
    file.write_bytes(gzip.compress(volume_of((512, 512, 250), kind, order)))
    assert file.stat().st_size < 500_000
    with Decoder() as decoder:
        decoder.read(tmp_path)
        idle = peak_memory_mb(decoder.pid)
        assert refusal_of(decoder.read(file, slice_pixels=2**24)).problem == "not-one-slice"
        assert peak_memory_mb(decoder.pid) < idle + 20


def test_one_slice_is_decoded_where_one_is_wanted(decoder, tmp_path):
    file = tmp_path / "slice.nii"
    for shape, rows in (((20, 30, 1), (30, 20)), ((1, 20, 30), (30, 20)), ((20, 30), None), ((20, 30, 1, 1), (30, 20))):
        file.write_bytes(volume_of(shape))
        found = decoder.read(file, slice_pixels=600)
        if rows is None:
            assert refusal_of(found).problem == "unreadable-file"  # as without: it is the reader's to refuse
            continue
        assert found[0].slices.shape == (1, *rows)
        assert refusal_of(decoder.read(file, slice_pixels=599)).problem == "too-many-pixels"


def test_frames_are_refused_by_their_header_where_a_slice_is_wanted(decoder, tmp_path):
    file, frames = tmp_path / "frames.dcm", pydicom.Dataset()
    frames.file_meta = pydicom.dataset.FileMetaDataset()
    frames.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    frames.file_meta.MediaStorageSOPClassUID = frames.SOPClassUID = pydicom.uid.EnhancedMRImageStorage
    frames.file_meta.MediaStorageSOPInstanceUID = frames.SOPInstanceUID = pydicom.uid.generate_uid()
    frames.NumberOfFrames, frames.Rows, frames.Columns = 3, 20, 30
    frames.save_as(file, enforce_file_format=True)  # without pixels, whose absence would be said first
    assert refusal_of(decoder.read(file, slice_pixels=2**24)).problem == "not-one-slice"
    assert refusal_of(decoder.read(file)).problem != "not-one-slice"


def test_what_a_zip_holds_is_not_sent_on_where_a_slice_is_wanted(decoder, picture, tmp_path):
    file = tmp_path / "scans.zip"
    for content, problem in ((volume_of((4, 5, 6)), "not-one-slice"), (picture.read_bytes(), "too-many-pixels")):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("scan", content)
        assert refusal_of(decoder.read(file, slice_pixels=3)).problem == problem
    assert isinstance(decoder.read(file, slice_pixels=4)[0], Scan)


def test_a_child_is_ended_with_the_group_that_it_shares(slow, picture, tmp_path):
    program = f"""
from pathlib import Path
from slicewise.inference.decoding import Decoder
decoder = Decoder(shares_group=True)
decoder.read(Path({str(picture)!r}))
print(decoder.pid, flush=True)
decoder.read(Path({str(slow)!r}), timeout_s=60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.2)
        os.killpg(parent.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs([child], timeout=1)
    assert not alive or child.status() == psutil.STATUS_ZOMBIE


def test_a_child_that_outlives_its_parent_is_ended_by_its_own_clock(slow, picture, monkeypatch):
    monkeypatch.setattr(decoding, "_COMMAND", limited(_GRACE_S=-59.5))
    with Decoder() as decoder:
        assert "SIGALRM" in str(refusal_of(decoder.read(slow, timeout_s=60)))


def test_an_idle_child_ends_with_its_parent(picture, tmp_path):
    program = f"""
from pathlib import Path
from slicewise.inference.decoding import Decoder
import os, sys
decoder = Decoder()
decoder.read(Path({str(picture)!r}))
print(decoder.pid, "torch" in sys.modules, flush=True)
os._exit(1)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    child, has_torch = done.stdout.split()
    assert has_torch == "False"
    for _ in range(100):
        if not psutil.pid_exists(int(child)):
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(int(child))


def test_the_child_is_limited_and_knows_nothing_it_need_not(decoder, picture, monkeypatch):
    decoder.read(picture)
    facts = Path(f"/proc/{decoder.pid}")
    limits = {line[:25].strip(): line[26:].split()[:2] for line in (facts / "limits").read_text().splitlines()}
    assert limits["Max address space"] == [str(4 * 2**30)] * 2
    assert limits["Max file size"] == [str(2 * 2**30)] * 2
    assert limits["Max core file size"] == ["0", "0"]
    assert "NoNewPrivs:\t1" in (facts / "status").read_text()
    names = {line.partition(b"=")[0].decode() for line in (facts / "environ").read_bytes().split(b"\0") if line}
    assert names <= {"PYTHONUTF8", "OPENBLAS_NUM_THREADS", "TMPDIR", *decoding._INHERITED}
    assert {(facts / "fd" / str(number)).readlink() for number in range(3)} == {Path("/dev/null")}
    assert os.getsid(decoder.pid) == decoder.pid  # Ctrl-C in a terminal reaches the parent alone
    assert "libtorch" not in (facts / "maps").read_text()


def test_threads_get_their_own_answers(decoder, tmp_path):
    for number in range(8):
        Image.fromarray(np.full((3 + number, 4), number, np.uint8)).save(tmp_path / f"{number}.png")
    wrong = []

    def read(number):
        for _ in range(20):
            (scan,) = decoder.read(tmp_path / f"{number}.png", timeout_s=60)
            if scan.slices.shape != (1, 3 + number, 4) or (scan.slices != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_child_that_does_not_start_is_no_fault_of_the_file(picture, monkeypatch):
    monkeypatch.setattr(decoding, "_COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with Decoder() as decoder, pytest.raises(InputError, match=r"did not start \(status 3\)"):
        decoder.read(picture)


def test_an_honest_stub_is_believed(stub, picture):
    """What the tests of dishonest ones change one field of."""
    place = {"files": [str(picture)], "concerns": [{"rule": "r", "message": "m", "value": None}]}
    stub(
        framed(
            HEADER | place,
            REFUSAL,
            HEADER | {"grid_shape": [2, 1, 1], "orientation": TURN, "kind": "nifti"},
            pixels=PIXELS * 2,
        )
    )
    with Decoder() as decoder:
        scan, refusal, volume = decoder.read(picture)
    assert scan.slices.tolist() == volume.slices.tolist() == [[[1.5, 2.5]]]
    assert scan.files == (picture,)
    assert str(refusal) == "no"


LIES = {
    "garbage": b"\xff" * 1000,
    "nothing": b"",
    "half a length": b"\0",
    "a long header": struct.pack("<I", 2**31),
    "no JSON": struct.pack("<I", 4) + b"{]{]",
    "deep JSON": struct.pack("<I", 10**5) + b"[" * 10**5,
    "another object": framed({"found": 1}),
    "a pickle": framed(HEADER | {"files": [{"py/object": "os.system"}]}),
    "missing pixels": framed(HEADER, pixels=PIXELS[:5]),
    "too many pixels": framed(HEADER | {"shape": [1, 2, PIXEL_LIMIT], "grid_shape": [2, PIXEL_LIMIT]}),
    "too many scans": framed(*[HEADER | {"shape": [1, 1, PIXEL_LIMIT], "grid_shape": [1, PIXEL_LIMIT]}] * 2),
    "overflowing sizes": framed(HEADER | {"shape": [2**62, 2**62, 4], "grid_shape": [1, 2]}),
    "a size of zero": framed(HEADER | {"shape": [1, 0, 2], "grid_shape": [0, 2]}),
    "a negative size": framed(HEADER | {"shape": [-1, -1, 2]}),
    "a size in words": framed(HEADER | {"shape": ["1", 1, 2]}),
    "another grid": framed(HEADER | {"grid_shape": [2, 2]}),
    "pixels that are no numbers": framed(HEADER, pixels=np.array([np.nan, 0], "<f4").tobytes()),
    "another kind": framed(HEADER | {"kind": "array"}),
    "an unknown field": framed(HEADER | {"more": 1}),
    "a name that leads away": framed(HEADER | {"name": "../a"}),
    "a name of dots": framed(HEADER | {"name": ".."}),
    "a name that colors the terminal": framed(HEADER | {"name": "\x1b[31m"}),
    "a file elsewhere": framed(HEADER | {"files": ["/etc/passwd"]}),
    "an unknown plane": framed(HEADER | {"plane": "upright"}),
    "a spacing of zero": framed(HEADER | {"spacing_mm": [0.0, 1.0]}),
    "an infinite spacing": framed(HEADER | {"slice_spacing_mm": float("inf")}),
    "an affine that is none": framed(HEADER | {"affine": [[float("nan")] * 4] * 4}),
    "a flat affine": framed(HEADER | {"affine": [[1.0] * 3] * 4}),
    "a color that is no share": framed(HEADER | {"color_share": 2.0}),
    "an axis twice": framed(HEADER | {"grid_shape": [2, 1, 1], "orientation": TURN | {"axes": [1, 1, 0]}}),
    "an orientation to elsewhere": framed(HEADER | {"grid_shape": [1, 2, 1], "orientation": TURN}),
    "an error of another tree": framed(REFUSAL | {"error": "SystemExit"}),
    "a problem in prose": framed(REFUSAL | {"problem": "Hello World"}),
    "an endless message": framed(REFUSAL | {"message": "a" * 30_000}),
    "a refusal of elsewhere": framed(REFUSAL | {"files": ["/etc/passwd"]}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_child_that_lies_is_not_believed(stub, picture, lie):
    stub(LIES[lie], then="sys.exit()")
    with Decoder() as decoder:
        error = refusal_of(decoder.read(picture))
    assert (error.problem, error.file) == ("decoder-crash", picture)
    ends_early = lie in ("nothing", "half a length", "missing pixels")
    assert f"Expected {picture} to be decoded, its decoder" in str(error)
    assert ("was ended by status 0" if ends_early else "answer makes no sense") in str(error)


def test_a_path_out_of_an_allowed_folder_is_not_believed(stub, picture):
    stub(framed(HEADER | {"files": [f"{picture.parent}/../elsewhere"]}))
    with Decoder() as decoder:
        assert refusal_of(decoder.read(picture.parent)).problem == "decoder-crash"


def test_a_message_cannot_color_the_terminal(stub, picture):
    stub(framed(REFUSAL | {"message": "\x1b[31mred\n"}))
    with Decoder() as decoder:
        (error,) = decoder.read(picture)
    assert str(error) == "_[31mred_"


def test_a_child_that_waits_is_killed(stub, picture):
    stub(framed(HEADER, pixels=b"")[:30], then="time.sleep(60)")
    with Decoder() as decoder:
        assert refusal_of(decoder.read(picture, timeout_s=0.2)).problem == "decoder-timeout"


def test_an_answer_too_many_is_not_taken_for_the_next_file(stub, picture):
    stub(framed(HEADER) + framed(HEADER | {"name": "wrong"}))
    with Decoder() as decoder:
        assert [scan.name for scan in decoder.read(picture)] == ["a"]
        process = decoder.pid
        assert [scan.name for scan in decoder.read(picture)] == ["a"]
        assert decoder.pid != process


def test_damaged_files_crash_and_hang_nothing():
    figures = measure_hostile(40)
    assert figures["mutated_files"].value == 400
    assert (figures["crashes"].value, figures["hangs"].value) == (0, 0)
    assert 0 < figures["decoder_peak_memory"].value < 2000
    for name in valid_files():
        decoded, refused = (figures[f"{name}_{what}"].value for what in ("decoded", "refused"))
        assert decoded + refused == 40
        assert decoded > 0
        assert refused > 0


def test_a_crash_counts_as_one(stub, capsys):
    stub(then="sys.exit()")
    figures = measure_hostile(1)
    assert (figures["crashes"].value, figures["hangs"].value) == (10, 0)
    assert "png 0: Expected" in capsys.readouterr().err
