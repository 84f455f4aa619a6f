"""The command as a person uses it: all the way on a tiny cohort, and what it says to bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from slicewise.cli import app
from slicewise.errors import SlicewiseError
from slicewise.inference.predictor import Predictor

CONFIG = """
name: <b>tiny</b>
phantom: {patients: 9, pictures: 16, slices: 6}
split: {train: 0.5, val: 0.25}
model: {widths: [4, 4, 8, 8], blocks: [1, 1, 1, 1], decoder_width: 4}
training: {batch_size: 8, epoch_slices: 32, accelerator: cpu}
phases:
  segmentation: {epochs: 2}
  classification: {epochs: 1}
  joint: {epochs: 1}
"""


def slicewise(*arguments, cwd=None):
    code = "from slicewise.cli import main; main()"
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=environment
    )


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "tiny.yaml").write_text(CONFIG)
    done = slicewise("run", folder / "tiny.yaml", "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "run" / "report.html")
    return folder / "run"


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "scan.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 90), dtype=np.uint8)).save(file)
    return file


def test_a_run_leaves_everything_it_knows(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert {"config.yaml", "environment.json", "history.csv", "cases.parquet", "results.json", "report.html"} <= names
    for phase in ("segmentation", "classification", "joint"):
        assert (finished_run / "phases" / phase / "model.safetensors").is_file()
        assert not (finished_run / "phases" / phase / "states").exists()
    assert (finished_run / "curves.png").is_file()
    assert list((finished_run / "tensorboard").rglob("events.*"))
    cases = pd.read_parquet(finished_run / "cases.parquet")
    shown = len(list((finished_run / "explanations").glob("*.png")))
    assert shown == min(16, cases[(cases["model"] == "joint") & (cases["split"] == "test")]["label"].notna().sum())


def test_every_figure_has_its_n_and_follows_from_the_cases(finished_run):
    results = json.loads((finished_run / "results.json").read_text())
    cases = pd.read_parquet(finished_run / "cases.parquet")
    for phase in ("segmentation", "classification", "joint"):
        test = cases[(cases["model"] == phase) & (cases["split"] == "test")]
        figures = results["phases"][phase]["test"]
        known = test[test["label"].notna()]
        assert figures["accuracy"]["value"] == pytest.approx((known["label"] == known["is_tumor"]).mean())
        assert figures["accuracy"]["n_slices"] == len(known)
        assert all(figure["value"] is None or figure["n_patients"] > 0 for figure in figures.values())


def test_every_model_is_judged_on_the_same_patients_none_of_them_trained_on(finished_run):
    cases = pd.read_parquet(finished_run / "cases.parquet")
    test = cases[cases["split"] == "test"]
    patients = {model: set(zip(of["source"], of["patient_id"], strict=True)) for model, of in test.groupby("model")}
    assert len(patients) == 8  # three phases, two single tasks, three baselines
    assert len({frozenset(of_model) for of_model in patients.values()}) == 1
    split = pd.read_csv(finished_run / "split.csv")
    trained = split[split["split"] != "test"]
    assert not patients["joint"] & set(zip(trained["source"], trained["patient_id"], strict=True))


def test_the_report_stands_alone_and_comes_out_the_same_twice(finished_run):
    report = (finished_run / "report.html").read_text()
    assert "Research software, not a medical device" in report
    assert "http" not in report.split("<body")[0]
    assert 'src="http' not in report
    assert "<b>tiny</b>" not in report, "a name is text, not markup"
    assert slicewise("report", finished_run).returncode == 0
    assert (finished_run / "report.html").read_text() == report


def test_rebuilt_from_its_table_without_model_or_store_the_report_is_the_same(finished_run, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(finished_run, bare, ignore=shutil.ignore_patterns("phases", "single_task", "store", "phantom"))
    done = slicewise("report", "--from", bare / "cases.parquet", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").read_bytes() == (finished_run / "report.html").read_bytes()
    assert (tmp_path / "out" / "results.json").read_bytes() == (finished_run / "results.json").read_bytes()


def test_a_run_is_not_compared_with_itself(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "copy")
    done = slicewise("evaluate", finished_run, tmp_path / "copy", "--out", tmp_path / "seeds.json")
    assert done.returncode == 2
    assert "Error: Expected" in done.stderr
    assert not (tmp_path / "seeds.json").exists()


@pytest.fixture(scope="session")
def prepared_run(finished_run, tmp_path_factory):
    """Ingested, audited and divided, but not trained."""
    folder = tmp_path_factory.mktemp("prepared") / "run"
    kept = shutil.ignore_patterns(
        "phases", "single_task", "explanations", "examples", "tensorboard", "*.csv", "*.png", "*.html"
    )
    shutil.copytree(finished_run, folder, ignore=kept)
    for name in ("split.csv", "audit/groups.csv"):
        shutil.copy(finished_run / name, folder / name)
    for file in (*folder.glob("*.parquet"), folder / "results.json", folder / "facts.json", folder / "model_card.md"):
        file.unlink()
    return folder


@pytest.fixture
def run(prepared_run, tmp_path):
    return shutil.copytree(prepared_run, tmp_path / "run")


@pytest.mark.parametrize(
    "awaited", ["states/attempt_1/step_000000004.state", "model.safetensors"], ids=["between epochs", "between phases"]
)
def test_a_run_that_is_killed_goes_on_to_the_same_cases(finished_run, run, tmp_path, awaited):
    arguments = ["run", finished_run.parent / "tiny.yaml", "--out", run, "--resume"]
    command = [sys.executable, "-c", "from slicewise.cli import main; main()", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        while killed.poll() is None and not (tmp_path / "run" / "phases" / "segmentation" / awaited).exists():
            time.sleep(0.002)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "results.json").exists()
    done = slicewise(*arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "split.csv").read_bytes() == (finished_run / "split.csv").read_bytes()
    cases, uninterrupted = (pd.read_parquet(run / "cases.parquet") for run in (tmp_path / "run", finished_run))
    pd.testing.assert_frame_equal(cases, uninterrupted, check_exact=True)
    history, whole = (pd.read_csv(run / "history.csv") for run in (tmp_path / "run", finished_run))
    timing = ["slices_per_s", "duration_s"]
    pd.testing.assert_frame_equal(history.drop(columns=timing), whole.drop(columns=timing), check_exact=True)
    assert not list((tmp_path / "run").rglob("*.state"))
    for phase in ("segmentation", "classification", "joint"):
        models = [
            json.loads((run / "phases" / phase / "model.json").read_text()) for run in (tmp_path / "run", finished_run)
        ]
        assert models[0]["provenance"]["state_sha256"] == models[1]["provenance"]["state_sha256"]


def test_a_dry_run_prints_the_plan_and_changes_nothing(run, finished_run):
    before = sorted(run.rglob("*"))
    distilled = ("phases.joint.distillation_weight=1", f"training.teacher={finished_run / 'phases/joint'}")
    done = slicewise("train", run, "phases.joint.epochs=7", *distilled, "--dry-run")
    assert done.returncode == 0, done.stderr
    for word in (
        "segmentation",
        "classification_only",
        "7 epochs of 4 steps",
        "frozen",
        "million parameters",
        "early stopping",
        f"teacher      {finished_run / 'phases/joint'}",
    ):
        assert word in done.stdout
    assert sorted(run.rglob("*")) == before
    only = slicewise("train", run, "--phase", "segmentation", "--dry-run")
    assert "joint" not in only.stdout
    own = slicewise("train", run, "--phase", "joint", distilled[0], "--dry-run")
    assert "teacher      segmentation\n" in own.stdout


def test_one_phase_is_trained_from_given_weights_with_other_settings(run, finished_run):
    done = slicewise(
        "train", run, "training.batch_size=4", "--phase", "segmentation", "--init-from", finished_run / "phases/joint"
    )
    assert done.returncode == 0, done.stderr
    assert [folder.name for folder in (run / "phases").iterdir()] == ["segmentation"]
    assert "batch_size: 4" in (run / "config.yaml").read_text()
    too_soon = slicewise("train", run, "--phase", "joint")
    assert too_soon.returncode == 2
    assert "Expected the checkpoint of phase classification" in too_soon.stderr


def test_a_signal_ends_a_training_and_resume_goes_on(run, finished_run):
    command = [sys.executable, "-m", "slicewise", "train", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as stopped:
        while not (run / "phases/segmentation/states/attempt_1").exists():
            time.sleep(0.002)
        stopped.send_signal(signal.SIGTERM)
        _, said = stopped.communicate()
    assert stopped.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM" in said
    assert "Traceback" not in said
    again = slicewise("train", run)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert slicewise("train", run, "--resume").returncode == 0
    for phase in ("segmentation", "joint"):
        weights = [(folder / "phases" / phase / "model.safetensors").read_bytes() for folder in (run, finished_run)]
        assert weights[0] == weights[1]


def test_two_processes_train_one_model(run):
    done = slicewise("train", run, "--devices", 2, "--phase", "segmentation")
    assert done.returncode == 0, done.stderr
    model = json.loads((run / "phases/segmentation/model.json").read_text())
    assert model["provenance"]["processes"] == 2
    assert len(model["history"]) == 2


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["split.train=0.4"], "split"),
        (["training.batch_size=0"], "batch_size"),
        (["--phase", "warmup"], "segmentation, classification, joint"),
        (["--precision", "8-bit"], "precision"),
        (["--devices", "3"], "multiple of devices"),
        (["--init-from", "absent"], "absent"),
        (["--nodes", "2"], "torchrun"),
    ],
)
def test_a_training_that_cannot_be_is_refused(run, arguments, mentions):
    done = CliRunner().invoke(app, ["train", str(run), *arguments])
    assert isinstance(done.exception, SlicewiseError)
    assert mentions in str(done.exception)
    assert not (run / "phases").exists()


def test_the_report_of_a_run_goes_nowhere_else(tmp_path):
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--out", str(tmp_path / "x")])
    assert isinstance(done.exception, SlicewiseError)
    assert "--out with --from alone" in str(done.exception)


def test_a_finished_run_is_not_overwritten(finished_run):
    before = (finished_run / "results.json").read_bytes()
    done = slicewise("run", finished_run.parent / "tiny.yaml", "--out", finished_run)
    assert done.returncode == 2
    assert "--resume" in done.stderr
    assert (finished_run / "results.json").read_bytes() == before


def test_predict_writes_a_mask_on_the_grid_of_the_picture(finished_run, picture, tmp_path):
    done = slicewise("predict", picture, "--model", finished_run, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with (
        Image.open(tmp_path / "out" / "scan_mask.png") as mask,
        Image.open(tmp_path / "out" / "scan_overlay.png") as overlay,
    ):
        assert mask.size == overlay.size == (90, 120)
        assert set(np.unique(np.asarray(mask))) <= {0, 255}
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["file"] == str(picture)
    (scan,) = record["scans"]
    assert 0 <= scan["probability"] <= 1
    assert done.stdout.startswith(f"{picture}: {scan['decision']} (probability {scan['probability']:.3f}")


def test_a_broken_picture_among_good_ones_is_named_and_the_rest_predicted(finished_run, picture, tmp_path):
    broken = picture.with_name("broken.png")
    broken.write_bytes(b"no picture")
    done = slicewise("predict", picture.parent, "--model", finished_run, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "broken.png" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "results.csv",
        "results.json",
        "scan_mask.png",
        "scan_overlay.png",
        "scan_result.json",
    ]


def test_pictures_of_one_name_are_refused_before_one_overwrites_the_other(finished_run, picture, tmp_path):
    twin = tmp_path / "other" / picture.name
    twin.parent.mkdir()
    twin.write_bytes(picture.read_bytes())
    done = slicewise("predict", picture, twin, "--model", finished_run, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "overwrite" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_exported_run_gives_the_masks_of_the_class(finished_run, picture, tmp_path):
    exported = slicewise("export", finished_run)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.strip() == str(finished_run / "phases" / "joint" / "cpu")
    done = slicewise("predict", picture, "--model", finished_run, "-o", tmp_path / "out", "--statistics")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["engine"] == "openvino"
    result = Predictor.from_checkpoint(finished_run).predict(picture)
    assert record["scans"][0]["probability"] == result.probability
    with Image.open(tmp_path / "out" / "scan_mask.png") as mask:
        assert np.array_equal(np.asarray(mask) > 0, result.mask)


def test_the_network_is_not_loaded_for_help():
    code = "import sys; from slicewise.cli import app; sys.exit(any(name in sys.modules for name in ('torch', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["predict", "absent.png", "--model", "run", "-o", "x"], "absent.png"),
        (["predict", "empty", "--model", "run", "-o", "x"], "empty"),
        (["predict", "scan.jpg", "--model", "absent", "-o", "x"], "absent"),
        (["predict", "scan.jpg", "--model", "run", "-o", "x", "--format", "tiff"], "tiff"),
        (["predict", "scan.jpg", "--model", "run", "-o", "x", "--abstain-on", "mood"], "inverted"),
        (["predict", "scan.jpg", "--model", "run", "-o", "x", "--engine", "abacus"], "abacus"),
        (["export", "absent"], "absent"),
        (["run", "typo.yaml"], "trainning"),
        (["run", "absent.yaml"], "absent.yaml"),
        (["run", "folder.yaml", "--out", "x"], "nowhere"),
        (["run", "folder.yaml", "sources.a.path=empty", "--out", "x"], "empty"),
        (["report", "empty"], "empty"),
        (["report"], "--from"),
        (["report", "--from", "absent.csv", "--out", "x"], "absent.csv"),
        (["report", "--from", "empty"], "--out"),
        (["evaluate", "absent", "empty"], "absent"),
        (["leave-one-source-out", "folder.yaml", "--out", "x"], "source"),
        (["train", "absent"], "absent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, picture, arguments, mentions):
    (tmp_path / "empty").mkdir()
    (tmp_path / "typo.yaml").write_text("trainning: {}\n")
    (tmp_path / "folder.yaml").write_text("sources: {a: {layout: lgg, path: nowhere}}\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = slicewise(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert mentions in line
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_cannot_be_predicted_is_said_in_a_sentence_that_colors_nothing(picture, tmp_path):
    named = picture.rename(tmp_path / "scan\x1b[31m.jpg")
    named.write_bytes(b"")
    refused = slicewise("predict", named, "--out", tmp_path / "out")
    assert (refused.returncode, "\x1b" in refused.stderr, "scan_[31m.jpg is empty" in refused.stderr) == (2, False, True)
    absent = slicewise("predict", tmp_path / "no\x1b[31m.jpg", "--out", tmp_path / "out")
    assert (absent.returncode, "\x1b" in absent.stderr, "no_[31m.jpg" in absent.stderr) == (2, False, True)
    assert slicewise("predict", named, "--out", tmp_path / "out", "--timeout-s", "1e99").returncode == 2
