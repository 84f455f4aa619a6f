from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slicewise.batch.inputs import Job, digest_of, files_of, find_inputs
from slicewise.errors import InputError


def draw(file, size=(20, 10)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0])).save(file)
    return file


def touch(file, content=b""):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


DICOM = b"\0" * 128 + b"DICM"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def data(tmp_path):
    return tmp_path / "in"


def test_a_folder_is_searched_to_the_bottom_and_its_structure_kept(data, out):
    files = [draw(data / name) for name in ("2.tif", "a/1.png", "a/b/1.JPG")]
    files += [touch(data / "c" / name) for name in ("v.nii", "w.NII.gz", "z.zip")]
    touch(data / "notes.txt")
    draw(data / "a" / "._1.png")
    jobs = find_inputs([data], out)
    targets = ("2", "a/1", "a/b/1", "c/v", "c/w", "c/z")
    assert {job.path: job.target.as_posix() for job in jobs} == dict(zip(files, targets, strict=True))


def test_links_to_folders_are_followed_once(data, out, tmp_path):
    draw(data / "b" / "1.png")
    draw(tmp_path / "elsewhere" / "deep" / "2.png"), touch(tmp_path / "elsewhere" / "IM0001", DICOM)
    (data / "patient").symlink_to(tmp_path / "elsewhere")
    (data / "again").symlink_to(data / "b")
    (data / "b" / "loop").symlink_to(data)
    (tmp_path / "elsewhere" / "deep" / "loop").symlink_to(data / "patient")
    targets = [job.target.as_posix() for job in find_inputs([data], out)]
    assert targets == ["b/1", "patient", "patient/deep/2"]


def test_results_behind_a_link_are_no_inputs_of_the_next_call(data, out):
    file = draw(data / "scan.png")
    draw(out / "deep" / "scan.png")
    (data / "results").symlink_to(out)
    assert [job.path for job in find_inputs([data], out)] == [file]


def test_the_dicom_files_of_a_folder_are_one_input_by_their_content(data, out):
    touch(data / "series" / "IM0001", DICOM)
    touch(data / "series" / "IM0002", DICOM)
    touch(data / "other" / "a.dcm", b"not so")
    draw(data / "series" / "key.png")
    jobs = find_inputs([data], out)
    assert jobs == [Job(data / "series" / "key.png", Path("series/key")), Job(data / "series", Path("series"))]
    assert find_inputs([data / "series"], out)[1] == Job(data / "series", Path("series"))


def test_a_file_that_is_named_is_taken_whatever_its_ending(data, out):
    assert find_inputs([touch(data / "IM0001", DICOM)], out) == [Job(data / "IM0001", Path("IM0001"))]


def test_a_pattern_that_no_shell_expanded_is_expanded(data, out, monkeypatch):
    files = [draw(data / name) for name in ("a/1.png", "a/2.png", "b/3.png")]
    assert [job.path for job in find_inputs([data / "a" / "*.png"], out)] == files[:2]
    assert [job.path for job in find_inputs([data / "**" / "*.png"], out)] == files
    monkeypatch.chdir(data)
    assert [job.path for job in find_inputs([Path("b/?.png")], out)] == [Path("b/3.png")]
    with pytest.raises(InputError, match=r"\*\.jpg"):
        find_inputs([data / "*.jpg"], out)


def test_a_name_with_brackets_is_a_name_where_it_exists(data, out):
    file = draw(data / "scan[1].png")
    assert [job.path for job in find_inputs([file], out)] == [file]


def test_a_file_given_twice_is_predicted_once(data, out):
    file = draw(data / "1.png")
    assert [job.path for job in find_inputs([file, data, file], out)] == [file]


def test_pictures_told_apart_by_their_ending_keep_it(data, out):
    draw(data / "Y1.jpg"), draw(data / "Y1.png"), draw(data / "Y2.png")
    assert [job.target.as_posix() for job in find_inputs([data], out)] == ["Y1.jpg", "Y1.png", "Y2"]


def test_a_zip_beside_the_folder_of_its_name_keeps_its_ending(data, out):
    (
        draw(data / "case" / "deep" / "a.png"),
        touch(data / "case.zip"),
        touch(data / "case" / "deep.zip"),
        touch(data / "b.zip"),
    )
    targets = {job.target.as_posix() for job in find_inputs([data], out)}
    assert targets == {"b", "case.zip", "case/deep.zip", "case/deep/a"}


def test_a_series_above_other_inputs_keeps_its_name(data, out, monkeypatch):
    touch(data / "1.2.3" / "IM0001", DICOM), draw(data / "1.2.3" / "key.png")
    monkeypatch.chdir(data / "1.2.3")
    assert find_inputs([Path()], out) == [Job(Path("key.png"), Path("key")), Job(Path(), Path("1.2.3"))]
    assert [job.target.as_posix() for job in find_inputs([data], out)] == ["1.2.3/key", "1.2.3"]


def test_a_renamed_picture_does_not_take_the_place_of_another(data, out):
    for name in ("Y1.jpg", "Y1.png", "Y1.jpg.png"):
        draw(data / name)
    with pytest.raises(InputError, match="overwrite"):
        find_inputs([data], out)


def test_a_result_never_takes_the_place_of_an_input(data):
    files = [draw(data / "scan.png"), draw(data / "scan_mask.png")]
    with pytest.raises(InputError, match=r"scan_mask\.png"):
        find_inputs(files, data)


MASKS = (
    "BraTS2021_00006_seg.nii.gz",
    "TCGA_CS_4941_1_mask.tif",
    "a-Seg.nii",
    "a-mask.PNG",
    "masks/1.png",
    "train/Labels/deep/1.png",
)
RESULTS = (
    "earlier/v_mask.nii.gz",
    "earlier/v_montage.png",
    "earlier/p_overlay.png",
    "earlier/p_gradcam.png",
    "earlier/s_seg.dcm",
)


def test_masks_and_earlier_results_in_a_folder_are_passed_over(data, out):
    scans = [draw(data / name) for name in ("TCGA_CS_4941_1.tif", "mask/segment.png", "masked.png", "train/images/1.png")]
    for name in (*MASKS, *RESULTS, "masks/notes.txt", "masks/._1.png"):
        touch(data / name, DICOM if name.endswith(".dcm") else b"")
    passed_over = []
    assert {job.path for job in find_inputs([data], out, passed_over.append)} == set(scans)
    assert {file.relative_to(data).as_posix() for file in passed_over} == {*MASKS, *RESULTS}


def test_masks_that_match_a_pattern_are_passed_over(data, out):
    scan, mask = draw(data / "1.tif"), draw(data / "1_mask.tif")
    label = draw(data / "labels" / "2.tif")
    passed_over = []
    assert [job.path for job in find_inputs([data / "**" / "*.tif", mask], out, passed_over.append)] == [scan, mask]
    assert passed_over == [label]


def test_a_folder_of_masks_or_results_that_matches_a_pattern_is_passed_over(data, out):
    scan = draw(data / "images" / "1.png")
    others = [draw(data / "masks" / "1.png"), draw(data / "out" / "1_overlay.png")]
    passed_over = []
    assert [job.path for job in find_inputs([data / "*"], data / "out", passed_over.append)] == [scan]
    assert passed_over == others
    with pytest.raises(InputError, match="called like masks"):
        find_inputs([data / "m*"], out)


def test_a_mask_that_is_named_itself_is_taken(data, out):
    file = draw(data / "masks" / "1_seg.png")
    assert [job.path for job in find_inputs([file], out)] == [file]


def test_a_folder_or_pattern_of_masks_alone_says_so(data, out):
    draw(data / "masks" / "1.png"), draw(data / "scan.png")
    for given in ([data / "masks"], [data, data / "masks"], [data / "masks" / "*.png"]):
        with pytest.raises(InputError, match=r"called like masks.*Name a file itself"):
            find_inputs(given, out)


def test_results_inside_an_input_folder_are_no_inputs_of_the_next_call(data):
    file = draw(data / "scan.png")
    draw(data / "out" / "scan_mask.png")
    draw(data / "out" / "deep" / "scan_mask.png")
    assert [job.path for job in find_inputs([data], data / "out")] == [file]


def test_a_folder_without_anything_says_what_was_looked_for(data, out):
    touch(data / "notes.txt")
    with pytest.raises(InputError, match=r"\.jpg.*\.nii.*DICOM.*found none"):
        find_inputs([data], out)
    with pytest.raises(InputError, match="Check the path"):
        find_inputs([data / "nothing"], out)


def test_the_digest_of_an_input_follows_its_bytes_and_its_files_names(data):
    job = Job(data, Path("in"))
    touch(data / "b", b"2"), touch(data / "a", b"1")
    assert files_of(job) == [data / "a", data / "b"]
    before = digest_of(job)
    (data / "a").rename(data / "c")
    assert digest_of(job) != before
    (data / "c").rename(data / "a")
    assert digest_of(job) == before
    touch(data / "a", b"3")
    assert digest_of(job) != before
    assert digest_of(Job(data / "a", Path("a"))) == "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"
