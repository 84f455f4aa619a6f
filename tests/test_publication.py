"""The model that comes with slicewise, and how one is made."""

import importlib.metadata
import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from slicewise.cli import app
from slicewise.errors import InputError
from slicewise.evaluation.table import read_cases
from slicewise.inference.predictor import Predictor
from slicewise.model.checkpoint import load_checkpoint, save_checkpoint
from slicewise.model.description import CARD, PACKAGED, read_description
from slicewise.model.network import MultiTaskNetwork
from slicewise.publication import publish

ROOT = Path(__file__).parents[1]


def figure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n_slices": 9, "n_patients": 3, "interval": "bootstrap"}


@pytest.fixture
def run(tmp_path, tiny, small_store):
    """A run with figures and a card, as `slicewise report` leaves it."""
    torch.manual_seed(0)
    network = MultiTaskNetwork(tiny).train()
    with torch.no_grad():
        network(torch.randn(4, 1, 64, 64))
    tiny_run = tmp_path / "run"
    save_checkpoint(
        tiny_run / "phases" / "joint",
        network.eval(),
        name="joint",
        tasks=("segmentation", "classification"),
        architecture=tiny,
        threshold=0.4,
        mask_threshold=0.5,
        parameters=network.count_parameters(),
        data_fingerprint="",
        patients={},
        metrics={"val": {}},
        history=[],
        provenance={},
    )
    model_id = read_description(tiny_run).model_id
    # Three patients whose masks are right to two, four and six tenths.
    cases = pd.DataFrame(
        [
            {"slice_id": f"{patient}/{number}", "patient_id": patient, "source": "lgg", "sequence": "flair", "label": tumor}
            | {"probability": 0.9 if tumor else 0.1, "threshold": 0.4, "mask_state": "present" if tumor else "empty"}
            | {"model": "joint", "split": "test", "tp": hit, "fp": tumor * 0, "fn": (10 - hit) * tumor, "tn": 65536}
            for hit, patient in ((2, "a"), (4, "b"), (6, "c"))
            for number, (tumor, hit) in enumerate([(True, hit), (False, 0)])
        ]
    )
    cases.to_csv(tmp_path / "given.csv", index=False)
    read_cases(tmp_path / "given.csv").to_parquet(tiny_run / "cases.parquet", index=False)
    calibration = {"before": {"bins": [{"n": 1}]}, "after": {"bins": [{"n": 2}]}}
    results = {"model_id": model_id, "model": "joint", "test": {"volume_dice": figure(0.75)}}
    results |= {"calibration": calibration, "decision_curve": [{"threshold": 0.1}], "predictive_values": []}
    (tiny_run / "results.json").write_text(json.dumps(results))
    (tiny_run / "model_card.md").write_text("# a card\n")
    (tiny_run / "store").symlink_to(small_store.folder)
    return tiny_run


def test_how_the_recipe_travels_stands_in_the_card(run, tmp_path):
    table = tmp_path / "leave_one_source_out.md"
    table.write_text("# a run: each source left out once\n\nFigures.\n\n| left out | figure |\n|---|---|\n| lgg | 0.5 |\n")
    publish(run, tmp_path / "model", "By hand.", table)
    card = (tmp_path / "model" / CARD).read_text()
    title, told = card.split("\n## a run: each source left out once\n")
    assert title.index("## How it was made") > 0
    assert "not this model" in told
    assert told.rstrip().endswith("| lgg | 0.5 |")


@pytest.mark.parametrize("text", [None, "# a card\n\nwith text\n"], ids=["missing", "another file"])
def test_what_is_no_such_table_is_refused_and_leaves_nothing(run, tmp_path, text):
    table = tmp_path / "table.md"
    if text is not None:
        table.write_text(text)
    with pytest.raises(InputError, match="leave-one-source-out"):
        publish(run, tmp_path / "model", left_out=table)
    assert not (tmp_path / "model").exists()


def test_a_published_model_has_its_figures_its_card_and_an_engine_that_agrees(run, tmp_path):
    parity = publish(run, tmp_path / "model", "By hand, in an afternoon.")
    assert parity.probability <= 1e-3
    assert parity.dice >= 0.999
    description = read_description(tmp_path / "model")
    assert description.metrics["test"]["volume_dice"]["value"] == 0.75
    assert description.curves == {"calibration": [{"n": 2}], "decision_curve": [{"threshold": 0.1}]}
    dice = description.metrics["test, lgg flair"]["volume_dice"]
    assert dice["value"] == pytest.approx(np.mean([4 / 12, 8 / 14, 12 / 16]))
    assert dice["n_patients"] == 3
    assert 4 / 12 <= dice["low"] < dice["value"] < dice["high"] <= 12 / 16
    assert description.weights_sha256 == read_description(run).weights_sha256
    card = (tmp_path / "model" / CARD).read_text()
    assert card.startswith("# a card\n")
    assert "| lgg flair | 0.552 (" in card
    assert card.endswith("By hand, in an afternoon.\n")
    assert Predictor.from_checkpoint(tmp_path / "model").engine.name == "openvino"


def test_figures_of_other_weights_are_refused_and_nothing_is_left(run, tmp_path):
    results = json.loads((run / "results.json").read_text()) | {"model_id": "0123456789ab"}
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=r"holds those of 0123456789ab.*slicewise evaluate"):
        publish(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_run_without_a_report_is_refused(run, tmp_path):
    (run / "model_card.md").unlink()
    with pytest.raises(InputError, match="slicewise report"):
        publish(run, tmp_path / "model")
    assert list(tmp_path.glob("model*")) == []


def test_nothing_is_written_over(run, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="exists"):
        publish(run, tmp_path / "model")


def test_the_packaged_model_is_small_and_says_what_it_is():
    network, description = load_checkpoint(PACKAGED)
    assert network.count_parameters() == description.parameters <= 2_500_000
    assert (PACKAGED / "model.safetensors").stat().st_size <= 8_000_000
    assert {side: len(names) for side, names in description.patients["lgg"].items()}["test"] >= 16
    assert not set(description.patients["lgg"]["test"]) & set(
        description.patients["lgg"]["train"] + description.patients["lgg"]["val"]
    )
    for side in ("test", "test, lgg flair"):
        for name in ("sensitivity", "specificity", "roc_auc"):
            given = description.metrics[side][name]
            assert given["low"] <= given["value"] <= given["high"]
    card = (PACKAGED / CARD).read_text()
    for words in (
        "not a medical device",
        "lgg flair",
        description.model_id,
        "CC BY 3.0",
        "CC BY-NC-SA 4.0",
        "BRISC 2025, CC BY 4.0",
    ):
        assert words in card


def test_the_packaged_model_is_part_of_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["slicewise"]
    files = {file.relative_to(PACKAGED.parents[1]).as_posix() for file in PACKAGED.rglob("*") if file.is_file()}
    assert files
    assert {file for file in files for pattern in patterns if Path(file).match(pattern)} == files


def test_the_packaged_engine_answers_as_its_weights_do():
    random = np.random.default_rng(0)
    image = random.normal(size=(200, 256)).astype(np.float32)
    one, other = (Predictor.from_checkpoint(PACKAGED, engine=engine).predict(image) for engine in ("cpu", "torch"))
    assert one.probability == pytest.approx(other.probability, abs=1e-3)


def test_without_a_model_named_the_packaged_one_predicts(tmp_path, monkeypatch):
    monkeypatch.delenv("SLICEWISE_MODEL", raising=False)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 90), dtype=np.uint8)).save(tmp_path / "scan.png")
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "scan.png"), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["model_id"] == read_description(PACKAGED).model_id


def test_info_tells_of_the_model(monkeypatch):
    monkeypatch.delenv("SLICEWISE_MODEL", raising=False)
    described = json.loads(CliRunner().invoke(app, ["info", "--json"]).stdout)
    description = read_description(PACKAGED)
    assert described["slicewise"] == importlib.metadata.version("slicewise")
    assert described["model"]["id"] == description.model_id
    assert described["model"]["parameters"] == description.parameters
    assert described["model"]["threshold"] == description.threshold
    assert described["model"]["splits"]["lgg"]["test"] == description.patients["lgg"]["test"]
    assert described["model"]["metrics"]["test"] == description.metrics["test"]
    lines = CliRunner().invoke(app, ["info"]).stdout
    assert f"{description.threshold:.3f}" in lines
    assert "test, lgg flair: volume_dice" in lines
