import json

import numpy as np
import pytest
from PIL import Image

from slicewise.errors import InputError
from slicewise.inference.folder import Job, find_inputs, predict_files
from slicewise.records import Prediction


def draw(file, size=(20, 10)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0])).save(file)
    return file


class Brightness:
    """Stands in for the predictor: the answer is what the file's own pixels say."""

    def predict(self, image, *, file):
        mask = image > image.mean()
        return Prediction(float(image.max()) / 255, 0.5, True, mask, mask.astype(np.float32), 0.5, "m", file=file)


def test_a_folder_is_searched_to_the_bottom_and_its_structure_kept(tmp_path):
    files = [draw(tmp_path / name) for name in ("a/1.png", "a/b/1.JPG", "2.tif")]
    (tmp_path / "notes.txt").write_text("no picture")
    draw(tmp_path / "a" / "._1.png")
    jobs = find_inputs([tmp_path])
    assert {job.file: job.target.as_posix() for job in jobs} == dict(zip(files, ("a/1", "a/b/1", "2"), strict=True))


def test_a_file_given_twice_is_predicted_once(tmp_path):
    file = draw(tmp_path / "in" / "1.png")
    assert [job.file for job in find_inputs([file, tmp_path / "in", file])] == [file]


def test_pictures_told_apart_by_their_ending_keep_it(tmp_path):
    draw(tmp_path / "Y1.jpg"), draw(tmp_path / "Y1.png"), draw(tmp_path / "Y2.png")
    assert [job.target.as_posix() for job in find_inputs([tmp_path])] == ["Y1.jpg", "Y1.png", "Y2"]


def test_a_renamed_picture_does_not_take_the_place_of_another(tmp_path):
    for name in ("Y1.jpg", "Y1.png", "Y1.jpg.png"):
        draw(tmp_path / name)
    with pytest.raises(InputError, match="overwrite"):
        find_inputs([tmp_path])


def test_results_are_on_disk_and_name_each_input(tmp_path):
    jobs = [Job(draw(tmp_path / "1.png"), tmp_path / "1"), Job(draw(tmp_path / "2.png", (30, 40)), tmp_path / "2")]
    jobs = [Job(job.file, job.target.relative_to(tmp_path)) for job in jobs]
    steps = []
    told, refusals = predict_files(Brightness(), jobs, tmp_path / "out", lambda done, of: steps.append((done, of)))
    assert refusals == []
    assert steps == [(1, 2), (2, 2)]
    records = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [record["file"] for record in records] == [str(job.file) for job in jobs]
    assert records == told
    with Image.open(tmp_path / "out" / "2_mask.png") as mask:
        assert mask.size == (30, 40)


def test_a_result_never_takes_the_place_of_an_input(tmp_path):
    draw(tmp_path / "scan.png")
    annotated = draw(tmp_path / "scan_mask.png")
    before = annotated.read_bytes()
    with pytest.raises(InputError, match=r"overwrite the input .*scan_mask\.png"):
        predict_files(Brightness(), find_inputs([tmp_path]), tmp_path)
    assert annotated.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.png", "scan_mask.png"]


def test_what_cannot_be_read_is_named_and_leaves_nothing(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    good = draw(tmp_path / "good.png")
    _, (refusal,) = predict_files(Brightness(), find_inputs([broken, good]), tmp_path / "out")
    assert "broken.png" in refusal
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "good_mask.png",
        "good_overlay.png",
        "results.json",
    ]
    with pytest.raises(InputError, match=r"broken\.png"):
        predict_files(Brightness(), find_inputs([broken]), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_without_pictures_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match=r"\.jpg.*found none"):
        find_inputs([tmp_path])
