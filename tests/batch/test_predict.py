"""The whole call: what stands on the screen, and in the files of all inputs."""

import io
import json
import zipfile

import pydicom
import pytest
from rich.console import Console

from slicewise.batch import batch
from slicewise.batch.batch import Options
from slicewise.batch.command import predict_inputs
from slicewise.console import Display
from slicewise.errors import CheckpointError, InputError
from slicewise.inference.record import ScanRecord


@pytest.fixture
def call(checkpoint, tmp_path):
    """Predicts into ``out``; gives what came of it, and what stood on the screen."""

    def predict(*inputs, engine="cpu", model=checkpoint, **options):
        screen = io.StringIO()
        run = predict_inputs(
            inputs,
            model,
            tmp_path / "out",
            Options(**options),
            engine=engine,
            device="cpu",
            workers=None,
            preview=False,
            display=Display(Console(file=screen, width=1000)),
        )
        return run, screen.getvalue()

    return predict


@pytest.fixture
def written(tmp_path):
    """A file of the whole call, as it reads."""
    return lambda name: json.loads((tmp_path / "out" / name).read_text())


def test_what_is_passed_over_is_counted_on_the_screen_and_in_the_manifest(data, call, written):
    for name in ("picture_mask.png", "picture-seg.png"):
        (data / name).write_bytes((data / "picture.png").read_bytes())
    run, screen = call(data)
    assert run.inputs == len(written("results.json")) == 4
    assert "masks or results: 2, such as" in screen
    assert "picture-seg.png" in screen
    assert written("manifest.json")["passed_over"] == 2
    assert "Passed over" not in call(data / "picture.png")[1]


def test_what_is_passed_over_in_a_zip_stands_below_its_answer_and_costs_nothing_again(data, call, written):
    with zipfile.ZipFile(data / "both.zip", "a") as archive:
        archive.write(data / "picture.png", "b/volume_seg.png")
    run, _ = call(data / "both.zip")
    a, volume, note = run.lines
    assert "both.zip, a: tumor" in a
    assert "both.zip, volume: tumor" in volume
    assert "1 of its 3 files are called like them: volume_seg.png" in note
    assert (written("manifest.json")["notes"], written("manifest.json")["refusals"]) == ([note.strip()], [])
    stamp = (data.parent / "out" / "both_result.json").stat().st_mtime_ns
    assert call(data / "both.zip")[0].lines == run.lines
    assert (data.parent / "out" / "both_result.json").stat().st_mtime_ns == stamp


def test_a_name_cannot_color_the_terminal(data, call):
    picture = (data / "picture.png").rename(data / "x\x1b[31m\n.png")
    (data / "x\x1b[31m_mask.png").write_bytes(picture.read_bytes())
    run, screen = call(data)
    assert "x_[31m_.png: tumor" in "".join(run.lines)
    assert "x_[31m_mask.png" in screen
    assert "\x1b" not in "".join(run.lines) + screen


def test_the_line_of_a_tiny_lesion_does_not_say_none(data, call, monkeypatch):
    tiny = ScanRecord.of

    def shrink(*arguments):
        return tiny(*arguments).model_copy(update={"mask_px": 1, "volume_ml": 0.00243})

    monkeypatch.setattr(ScanRecord, "of", shrink)
    run, _ = call(data / "deep" / "volume.nii.gz")
    assert "4 of 4 slices, < 0.01 ml)" in run.lines[0]


def test_where_every_input_is_refused_no_earlier_answer_stays(data, call, written):
    call(data / "picture.png")
    model_id = written("manifest.json")["model_id"]
    (data / "picture.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"picture\.png"):
        call(data / "picture.png")
    assert written("results.json") == []
    manifest = written("manifest.json")
    assert (manifest["model_id"], manifest["inputs"], len(manifest["refusals"])) == (model_id, {}, 1)
    assert sorted(file.name for file in (data.parent / "out").iterdir()) == ["manifest.json", "results.csv", "results.json"]
    assert len((data.parent / "out" / "results.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["results.csv", "results.json", "manifest.json"])
def test_a_table_of_something_else_is_not_overwritten(data, call, name):
    file = data.parent / "out" / name
    file.parent.mkdir()
    file.write_text("[1]")
    with pytest.raises(InputError, match=f"{name}.*--out"):
        call(data / "picture.png")
    assert [file.name for file in file.parent.iterdir()] == [name]
    assert file.read_text() == "[1]"


def test_a_call_that_was_interrupted_between_its_tables_is_taken_up(data, call, written, monkeypatch):
    real = batch.write_atomically

    def interrupt(file, content):
        if file.name == "results.csv":
            raise KeyboardInterrupt
        real(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(batch, "write_atomically", interrupt)
        with pytest.raises(KeyboardInterrupt):
            call(data / "picture.png")
    call(data / "picture.png")
    assert len(written("results.json")) == 1


def test_what_is_missing_of_an_input_stands_below_its_answer_and_in_the_manifest(data, call, written):
    with zipfile.ZipFile(data / "both.zip", "a") as archive:
        archive.writestr("c.png", b"\x89PNG\r\n\x1a\n")
    for file in (data / "series").iterdir():
        header = pydicom.dcmread(file)
        del header.FrameOfReferenceUID
        header.save_as(file)
    run, _ = call(data / "both.zip", data / "series")
    assert run.refusals == []
    a, b, broken, series, note = run.lines
    assert ["both.zip, a" in a, "both.zip, volume" in b, "series: tumor" in series] == [True] * 3
    assert (broken[:10], note[:10]) == ("  Expected",) * 2
    assert "c.png" in broken
    assert "FrameOfReferenceUID" in note
    manifest = written("manifest.json")
    assert (manifest["refusals"], manifest["notes"]) == ([broken.strip()], [note.strip()])


def test_a_model_that_cannot_be_explained_costs_no_earlier_results(data, call, tmp_path, save_alarmist):
    call(data / "picture.png")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    model = save_alarmist(tmp_path / "model", name="segmentation", tasks=("segmentation",))
    with pytest.raises(CheckpointError, match="Use the joint"):
        call(data / "picture.png", model=model, explain=True)
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
