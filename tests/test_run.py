"""A run's folder: what may be begun, gone on with, and what is left behind when the data is refused."""

import io
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from slicewise.config import Config, SourceConfig
from slicewise.console import Display
from slicewise.data import reading
from slicewise.errors import InputError, SlicewiseError, SplitError
from slicewise.run import Run


@pytest.fixture
def display():
    return Display(Console(file=io.StringIO(), width=200))


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for answer in ("yes", "no"):
        for number in range(10):
            file = tmp_path / "pictures" / answer / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (20, 24)).astype(np.uint8)).save(file)
    return tmp_path / "pictures"


@pytest.fixture
def config(pictures):
    return Config(sources={"yes_no": SourceConfig(layout="labelled_folders", path=pictures)}, workers=1)


def test_steps_leave_their_files_and_are_not_taken_twice(config, display, tmp_path):
    run = Run.begin(tmp_path / "run", config, display)
    run.ingest()
    assert {path.name for path in run.folder.iterdir()} == {"config.yaml", "environment.json", "store"}
    split = run.split()
    assert len(split) == 20
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    again = Run.begin(tmp_path / "run", config, display, resume=True)
    again.ingest()
    again.split()
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    assert Run.open(tmp_path / "run", display).config == config
    assert run.sides().value_counts().sum() == 20


def test_a_folder_that_holds_something_is_not_begun_in(config, display, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="Name another"):
        Run.begin(tmp_path / "taken", config, display)
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "new").mkdir()
    Run.begin(tmp_path / "new", config, display)


def test_going_on_with_another_configuration_is_refused(config, display, tmp_path):
    Run.begin(tmp_path / "run", config, display).ingest()
    Run.begin(tmp_path / "run", config, display, resume=True)
    with pytest.raises(InputError, match=r"config\.yaml was begun with"):
        Run.begin(tmp_path / "run", config.model_copy(update={"seed": 1}), display, resume=True)


def test_resume_begins_where_there_is_nothing_and_never_in_a_strangers_folder(config, display, tmp_path):
    Run.begin(tmp_path / "run", config, display, resume=True).ingest()
    assert Run.open(tmp_path / "run", display).config == config
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds files"):
        Run.begin(tmp_path / "taken", config, display, resume=True)
    with pytest.raises(InputError, match="is a file"):
        Run.begin(tmp_path / "taken" / "thesis.txt", config, display)


def test_the_configuration_is_on_disk_before_a_file_is_read(config, display, tmp_path, monkeypatch):
    """Whatever the moment of a kill, another configuration cannot go on from it."""

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("slicewise.run.ingest", killed)
    with pytest.raises(KeyboardInterrupt):
        Run.begin(tmp_path / "run", config, display).ingest()
    with pytest.raises(InputError, match="was begun with"):
        Run.begin(tmp_path / "run", config.model_copy(update={"seed": 1}), display, resume=True)
    monkeypatch.undo()
    assert len(Run.begin(tmp_path / "run", config, display, resume=True).ingest()) == 20


def test_refused_data_leaves_no_folder_behind_and_no_folder_touched(config, display, pictures, tmp_path):
    (pictures / "yes" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        Run.begin(tmp_path / "run", config, display).ingest(strict=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"broken\.png"):
        Run.begin(tmp_path / "mine", config, display).ingest(strict=True)
    assert list((tmp_path / "mine").iterdir()) == []


def test_strict_also_holds_for_what_was_ingested_before(config, display, pictures, tmp_path):
    (pictures / "yes" / "broken.png").write_bytes(b"no picture")
    Run.begin(tmp_path / "run", config, display).ingest()
    with pytest.raises(InputError, match=r"broken\.png"):
        Run.begin(tmp_path / "run", config, display, resume=True).ingest(strict=True)
    assert (tmp_path / "run" / "store").is_dir()


def test_a_run_whose_patients_cannot_be_divided_leaves_nothing(config, display, pictures, tmp_path):
    for file in pictures.glob("*/*.png"):
        if file.stem != "0":
            file.unlink()
    with pytest.raises(SplitError, match="patients"):
        Run.begin(tmp_path / "run", config, display).all_steps()
    assert not (tmp_path / "run").exists()


def test_a_store_whose_pixels_have_changed_is_not_trained_on(config, display, tmp_path):
    run = Run.begin(tmp_path / "run", config, display)
    run.ingest()
    run.split()
    with (run.folder / "store" / "images.f16").open("r+b") as pixels:
        pixels.seek(1000)
        pixels.write(b"?")
    with pytest.raises(InputError, match="1 slices have changed"):
        run.train()


def test_without_strict_a_broken_file_is_named_and_passed_over(config, display, pictures, tmp_path):
    (pictures / "yes" / "broken.png").write_bytes(b"no picture")
    store = Run.begin(tmp_path / "run", config, display).ingest()
    assert len(store.table) == 20
    assert "broken.png" in display.console.file.getvalue()
    assert len(store.description["skipped"]) == 1


def test_steps_out_of_order_say_what_is_missing(config, display, tmp_path):
    with pytest.raises(InputError, match="slicewise ingest"):
        Run.open(tmp_path, display)
    run = Run.begin(tmp_path / "run", config, display)
    run.ingest()
    for step in (run.train, run.evaluate, run.explain, run.report):
        with pytest.raises(SlicewiseError, match="Expected"):
            step()


def test_a_phase_that_is_finished_is_not_trained_again_unasked(config, display, tmp_path):
    run = Run.begin(tmp_path / "run", config, display)
    checkpoint = run.folder / "phases" / "joint" / "model.json"
    run.refuse_begun(only="joint")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("{}")
    run.refuse_begun()
    run.refuse_begun(only="segmentation")
    with pytest.raises(InputError, match=r"phases.joint holds one. Remove that folder"):
        run.refuse_begun(only="joint")


def test_a_reading_process_that_is_killed_is_told_and_costs_nothing(config, display, tmp_path, monkeypatch):
    class Killed:
        def __init__(self, *_, **__): ...

        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenProcessPool())
            return future

    run = Run.begin(tmp_path / "run", config.model_copy(update={"workers": 2}), display)
    with monkeypatch.context() as patched:
        patched.setattr(reading, "ProcessPoolExecutor", Killed)
        with pytest.raises(SlicewiseError, match="Set workers=1 and go on"):
            run.ingest()
    assert Run.begin(tmp_path / "run", config.model_copy(update={"workers": 2}), display, resume=True).ingest() is not None
