"""Each source left out once: which runs are taken, on what data, and whose figures stand where. No network is trained."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from slicewise.config import Config, EvaluationConfig, PhantomConfig, SourceConfig, SplitConfig
from slicewise.config_file import load_config
from slicewise.console import Display
from slicewise.cross_source import leave_one_source_out
from slicewise.data.store import COLUMNS, StoreWriter
from slicewise.errors import ConfigError, InputError, StoppedError
from slicewise.evaluation.cases import make_cases, make_volumes
from slicewise.evaluation.facts import Facts, ModelFacts
from slicewise.evaluation.metrics import METRICS
from slicewise.evaluation.record import Record
from slicewise.run import Run

PATIENTS = 8
STATES = {"brats": "present", "lgg": "present", "brisc": "present", "labelled_folders": "unknown"}
MODEL = ModelFacts(
    model_id="0123456789ab",
    threshold=0.5,
    decoder_share=0.6,
    center=5.4,
    temperature=1,
    parameters=1,
    epochs=1,
    duration_s=1,
    gate=None,
)
SOURCES = {"a": SourceConfig(layout="lgg"), "b": SourceConfig(layout="brisc"), "c": SourceConfig(layout="labelled_folders")}


@pytest.fixture
def display():
    return Display(Console(file=io.StringIO(), width=200))


@pytest.fixture
def config():
    return Config(sources=SOURCES, evaluation=EvaluationConfig(resamples=1000), workers=1)


def write_store(folder, sources):
    """Patients with a slice with tumor and one without; nobody looks at them, but no two are equal."""
    writer, pixels = StoreWriter(folder, plan="test"), np.zeros((2, 256, 256))
    patients = [(source, f"p{number}") for source in sources for number in range(PATIENTS)]
    for number, (source, patient) in enumerate(patients):
        images = pixels.astype(np.float16)
        images[:, 0, 0] = 2 * number + 1, 2 * number + 2
        common = {"source": source, "patient_id": patient, "study_id": patient, "sequence": "flair", "reference_area_px": 0}
        common |= {"foreground_share": 1.0, "height_px": 256, "width_px": 256}
        rows = [
            dict.fromkeys(COLUMNS)
            | common
            | {"slice_id": f"{source}/{patient}/{index}", "slice_index": index, "file": f"{source}/{patient}/{index}.png"}
            | {"label": index == 0, "mask_state": "empty" if index else state}
            for index, state in enumerate([STATES[sources[source].layout]] * 2)
        ]
        writer.append(source, patient, images, pixels.astype(bool), rows, [])
    writer.finish(patients)


def predict(row, held_out):
    """Worse on a source held out: a Dice of 0.5 in place of 0.9, and every slice called."""
    unseen = row["source"] in held_out
    outcome = {"probability": 0.9 if unseen or row["label"] else 0.1, "is_tumor": unseen or row["label"]}
    if row["mask_state"] == "present":
        right = 50 if unseen else 90
        outcome |= {"tp": right, "fp": 100 - right, "fn": 100 - right, "tn": 0}
    elif row["mask_state"] == "empty":
        outcome |= {"tp": 0, "fp": 0, "fn": 0, "tn": 100}
    return outcome | {"classification": True}


@pytest.fixture
def steps(monkeypatch):
    """Which steps were taken: what reads, audits, trains and predicts is replaced, what divides and computes is not."""
    taken = []

    def read(run, strict):
        taken.append("read")
        write_store(run.folder / "store", run.sources())

    def audit(run):
        if not (run.folder / "audit").is_dir():
            taken.append("audit")
            (run.folder / "audit").mkdir()
            (run.folder / "audit" / "groups.csv").write_text("file,group\n")

    def all_steps(run):
        taken.append(run.folder.name)
        run.ingest()
        run.split()
        table = run.store().table
        rows = np.flatnonzero(run.sides() == "test")
        outcomes = [predict(table.iloc[row], run.config.split.held_out) for row in rows]
        test = make_cases(table, rows, outcomes, model="joint", split="test", threshold=0.5)
        others = [test.assign(split="val", fp=9 * test["fp"]), test.assign(model="segmentation", fp=9 * test["fp"])]
        cases = pd.concat([*others, test], ignore_index=True)
        Record(cases, make_volumes(cases), Facts(models={"joint": MODEL})).write(run.folder)
        (run.folder / "report.html").write_text("")

    monkeypatch.setattr(Run, "_read_sources", read)
    monkeypatch.setattr(Run, "audit", audit)
    monkeypatch.setattr(Run, "all_steps", all_steps)
    return taken


def test_every_source_is_left_out_once_and_the_data_is_read_once(config, display, steps, tmp_path):
    leave_one_source_out(config, tmp_path / "out", display, resume=False)
    assert steps == ["read", "audit", "without_a", "without_b", "without_c"]
    names = {"all_sources", "without_a", "without_b", "without_c", "leave_one_source_out.json", "leave_one_source_out.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in "abc":
        folder = tmp_path / "out" / f"without_{name}"
        assert load_config(folder / "config.yaml").split.held_out == (name,)
        split = Run.open(folder, display).split()
        assert set(split.loc[split["source"] == name, "split"]) == {"test"}
        assert set(split.loc[split["source"] != name, "split"]) == {"train", "val", "test"}
        for file in ("store/images.f16", "audit/groups.csv"):
            assert (folder / file).samefile(tmp_path / "out" / "all_sources" / file)


def test_figures_of_a_source_left_out_stand_beside_those_of_the_others(config, display, steps, tmp_path):
    table = leave_one_source_out(config, tmp_path / "out", display, resume=False)
    results = json.loads((tmp_path / "out" / "leave_one_source_out.json").read_text())
    assert list(results["sources"]) == ["a", "b", "c"]
    entry = results["sources"]["a"]
    assert (entry["run"], entry["model"], entry["model_id"]) == ("without_a", "joint", "0123456789ab")
    unseen, seen = entry["left_out"], entry["seen"]
    assert (unseen["sources"], unseen["n_slices"], unseen["n_patients"]) == (["a"], 16, 8)
    assert seen["sources"] == ["b", "c"]
    assert set(unseen["figures"]) == set(seen["figures"]) == set(METRICS)
    dice = {"low": None, "high": None, "interval": None}  # all patients have the same
    assert unseen["figures"]["volume_dice"] == {"value": pytest.approx(0.5), "n_slices": 16, "n_patients": 8} | dice
    assert seen["figures"]["volume_dice"]["value"] == pytest.approx(0.9)
    assert unseen["figures"]["specificity"]["value"] == 0
    assert unseen["figures"]["specificity"]["high"] > 0.2  # Wilson's, of eight patients
    assert seen["figures"]["specificity"]["value"] == 1
    # A source without outlines says nothing of the Dice.
    assert results["sources"]["c"]["left_out"]["figures"]["volume_dice"]["value"] is None
    lines = table.read_text().splitlines()
    seen_patients = seen["figures"]["volume_dice"]["n_patients"]
    assert (
        f"| a | volume Dice | 0.500, 16 slices, 8 patients | 0.900, {2 * seen_patients} slices, {seen_patients} patients |"
    ) in lines
    assert any(line.startswith("| c | volume Dice | undefined | 0.900") for line in lines)


def test_a_source_that_training_needs_is_passed_over_and_the_reason_said(display, steps, config, tmp_path):
    config = config.model_copy(update={"sources": {"a": SOURCES["a"], "c": SOURCES["c"]}})
    table = leave_one_source_out(config, tmp_path / "out", display, resume=False)
    results = json.loads((tmp_path / "out" / "leave_one_source_out.json").read_text())
    assert list(results["sources"]) == ["c"]
    [skipped] = results["skipped"]
    assert skipped["source"] == "a"
    assert "outlined tumors" in skipped["reason"]
    assert "- a was not left out. Expected outlined tumors" in table.read_text()
    assert "a is not left out: Expected outlined tumors" in display.console.file.getvalue()
    assert steps == ["read", "audit", "without_c"]


def test_a_source_that_is_not_scored_is_passed_over(display, steps, config, tmp_path):
    silent = SOURCES["c"].model_copy(update={"segmentation": False, "classification": False})
    config = config.model_copy(update={"sources": {"a": SOURCES["a"], "b": SOURCES["b"], "c": silent}})
    leave_one_source_out(config, tmp_path / "out", display, resume=False)
    assert steps == ["read", "audit", "without_a", "without_b"]


def test_a_phantom_has_two_sources_one_of_which_can_be_left_out(display, steps, tmp_path, monkeypatch):
    config = Config(phantom=PhantomConfig(), evaluation=EvaluationConfig(resamples=1000))
    leave_one_source_out(config, tmp_path / "out", display, resume=False)
    results = json.loads((tmp_path / "out" / "leave_one_source_out.json").read_text())
    assert list(results["sources"]) == ["phantom_pictures"]
    assert [item["source"] for item in results["skipped"]] == ["phantom_studies"]


def test_what_was_interrupted_is_gone_on_with(config, display, steps, tmp_path, monkeypatch):
    whole, stopped = Run.all_steps, []

    def stopping(run):
        if run.folder.name == "without_b" and not stopped:
            stopped.append(run)
            raise StoppedError("Stopped.")
        return whole(run)

    monkeypatch.setattr(Run, "all_steps", stopping)
    with pytest.raises(StoppedError):
        leave_one_source_out(config, tmp_path / "out", display, resume=False)
    assert not list((tmp_path / "out").glob("leave_one*"))
    (tmp_path / "out" / ".without_c" / "store").mkdir(parents=True)  # killed while the data was linked
    with pytest.raises(InputError, match="--resume"):
        leave_one_source_out(config, tmp_path / "out", display, resume=False)
    table = leave_one_source_out(config, tmp_path / "out", display, resume=True)
    assert steps == ["read", "audit", "without_a", "without_b", "without_c"]
    assert not list((tmp_path / "out").glob(".*"))
    leave_one_source_out(config, tmp_path / "uninterrupted", display, resume=False)
    assert table.read_bytes() == (tmp_path / "uninterrupted" / table.name).read_bytes()
    with pytest.raises(InputError, match="was begun with"):
        leave_one_source_out(config.model_copy(update={"seed": 1}), tmp_path / "out", display, resume=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sources": {"a": SOURCES["a"]}}, InputError, "at least two sources to leave one out, got a"),
        ({"split": SplitConfig(held_out=("a",))}, ConfigError, "no split.held_out.* got a"),
    ],
    ids=["one source", "held out already"],
)
def test_what_cannot_be_left_out_is_refused_before_anything_is_read(
    config, display, steps, tmp_path, change, error, message
):
    with pytest.raises(error, match=message):
        leave_one_source_out(config.model_copy(update=change), tmp_path / "out", display, resume=False)
    assert not (tmp_path / "out").exists()
    assert steps == []


def test_where_no_source_can_be_left_out_each_reason_is_said(config, display, steps, tmp_path):
    config = config.model_copy(update={"sources": {"c": SOURCES["c"], "d": SOURCES["c"]}})
    with pytest.raises(InputError, match=r"none of c, d is\. c: Expected outlined tumors.* d: Expected outlined tumors"):
        leave_one_source_out(config, tmp_path / "out", display, resume=False)
    assert steps == ["read", "audit"]
