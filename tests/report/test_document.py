"""The report from a table of cases alone, and from what a run leaves; always the same bytes, and nothing fetched."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from slicewise.config import EvaluationConfig
from slicewise.errors import InputError
from slicewise.evaluation.facts import Facts, ModelFacts
from slicewise.evaluation.record import Record
from slicewise.report.document import write_report

PUBLISHED = [(1, 0.9)] * 136 + [(1, 0.1)] * 4 + [(0, 0.8)] * 10 + [(0, 0.2)] * 11


@pytest.fixture
def published(tmp_path):
    """Counts of a published test set, as another system would hand them in."""
    rows = [(f"s{number}", f"p{number}", "ab"[number % 2], *case) for number, case in enumerate(PUBLISHED)]
    table = pd.DataFrame(rows, columns=["slice_id", "patient_id", "source", "label", "probability"])
    table.to_csv(tmp_path / "published.csv", index=False)
    return tmp_path / "published.csv"


def test_published_counts_are_called_what_they_are(published, tmp_path):
    page = write_report(published, tmp_path / "out").read_text()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    expected = {"accuracy": 0.91304, "precision": 0.93151, "sensitivity": 0.97143, "specificity": 0.52381, "f1": 0.95105}
    assert {name: round(results["test"][name]["value"], 5) for name in expected} == expected
    assert results["constant"]["beaten"] is False
    summary = page[page.index("What the numbers say") : page.index("Figures on test patients")]
    assert "not significantly above that of a constant answer" in summary
    assert "0.870 for &#34;always tumor&#34;" in summary
    assert not (tmp_path / "out" / "model_card.md").exists()


def test_rebuilt_from_csv_or_parquet_the_bytes_are_the_same(published, tmp_path):
    first = write_report(published, tmp_path / "one").read_bytes()
    assert write_report(published, tmp_path / "two").read_bytes() == first
    pd.read_csv(published).to_parquet(tmp_path / "published.parquet")
    assert write_report(tmp_path / "published.parquet", tmp_path / "three").read_bytes() == first
    names = ("one", "two", "three")
    assert len({(tmp_path / name / "results.json").read_bytes() for name in names}) == 1


def test_nothing_is_fetched_and_nothing_runs(published, tmp_path):
    page = write_report(published, tmp_path / "out").read_text()
    assert not re.search(r"<(script|link|iframe)", page)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "url(" not in page


def test_a_name_that_is_html_is_text(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    rows = [(f"s{n}", f"p{n}", [evil, "b"][n % 2], n % 3 == 0, 0.5) for n in range(24)]
    table = pd.DataFrame(rows, columns=["slice_id", "patient_id", "source", "label", "probability"])
    table.to_csv(tmp_path / "cases.csv", index=False)
    page = write_report(tmp_path / "cases.csv", tmp_path / "out").read_text()
    assert evil not in page
    assert "&lt;img src=x" in page


def test_one_model_and_one_class_leave_a_report_that_says_so(tmp_path):
    table = pd.DataFrame({"slice_id": ["s1", "s2"], "patient_id": ["p", "p"], "source": "a", "label": 1, "probability": 0.9})
    table.to_csv(tmp_path / "cases.csv", index=False)
    page = write_report(tmp_path / "cases.csv", tmp_path / "out").read_text()
    assert "no other model in the table" in page
    assert "no operating point to recommend" in page


def test_a_table_may_score_grad_cam_alone(published, tmp_path):
    pd.read_csv(published).assign(cam_pointing=0.5).to_csv(published, index=False)
    page = write_report(published, tmp_path / "out").read_text()
    assert "center was not scored" in page


def test_a_table_that_cannot_be_used_leaves_nothing(tmp_path):
    (tmp_path / "bad.csv").write_text("patient_id,label\np1,1\n")
    with pytest.raises(InputError, match="probability"):
        write_report(tmp_path / "bad.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def run_folder(tmp_path, published):
    """What a run leaves beside its table, as far as a report reads it."""
    folder = tmp_path / "run"
    cases = Record.read(published).cases.assign(model="joint", raw_probability=lambda table: table["probability"])
    cases["uncertainty"] = np.linspace(0, 0.3, len(cases))
    model = ModelFacts(
        model_id="0123456789ab",
        threshold=0.5,
        decoder_share=0.6,
        center=5.4,
        temperature=1.2,
        parameters=7,
        epochs=3,
        duration_s=60,
        gate=None,
    )
    data = [
        {"source": "a", "layout": "lgg", "split": side, "patients": 5, "slices": 9, "tumor": 4, "tumor_free": 5}
        | {"label_unknown": 0, "mask_present": 4, "mask_empty": 5, "mask_unknown": 0}
        for side in ("train", "val", "test")
    ]
    facts = Facts(name="a run", models={"joint": model}, data=data, evaluation=EvaluationConfig(resamples=1000))
    Record(cases, Record.read(published).volumes, facts).write(folder)
    (folder / "config.yaml").write_text("name: a run\nphantom: {}\n")
    (folder / "environment.json").write_text(json.dumps({"slicewise": "0.1.0", "cores": 2, "device": "cpu"}))
    (folder / "audit").mkdir()
    finding = {"rule": "few-patients", "severity": "warning", "source": None, "message": "Few patients.", "files": []}
    audit = {"findings": [finding], "groups": [], "exact_groups": []}
    (folder / "audit" / "audit.json").write_text(json.dumps(audit))
    return folder


def test_the_report_of_a_run_needs_no_model_and_shows_what_lies_beside_the_table(run_folder, tmp_path):
    page = write_report(run_folder / "cases.parquet", run_folder).read_text()
    for part in (
        "0123456789ab",
        "few-patients",
        "decoder's share in the answer</th><td>0.600</td>",
        "temperature</th><td>1.200</td>",
        "Reliability diagram",
        "Error rate over the share",
        "phantom: {}",
    ):
        assert part in page, part
    again = write_report(run_folder / "cases.parquet", tmp_path / "elsewhere").read_text()
    assert again == page


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_rows_changes_no_byte_of_the_report(run_folder, tmp_path, seed):
    cases = pd.read_parquet(run_folder / "cases.parquet")
    other = cases.assign(model="segmentation_only", probability=cases["probability"] * 0.9)
    both = pd.concat([cases, other], ignore_index=True)
    both.to_parquet(run_folder / "cases.parquet")
    page = write_report(run_folder / "cases.parquet", tmp_path / "one").read_bytes()
    both.sample(frac=1, random_state=seed).to_parquet(run_folder / "cases.parquet")
    assert write_report(run_folder / "cases.parquet", tmp_path / "two").read_bytes() == page


def test_the_worst_slices_come_before_random_ones(run_folder):
    (run_folder / "gallery").mkdir()
    for name in ("random_01_x", "worst_02_y", "worst_01_z"):
        (run_folder / "gallery" / f"{name}.png").write_bytes(b"picture")
    page = write_report(run_folder / "cases.parquet", run_folder).read_text()
    assert page.index("worst_01_z") < page.index("worst_02_y") < page.index("random_01_x")


def test_the_model_card_has_the_header_of_the_hub_and_the_same_figures(run_folder):
    write_report(run_folder / "cases.parquet", run_folder)
    card = (run_folder / "model_card.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "apache-2.0"
    (entry,) = header["model-index"][0]["results"]
    values = {metric["name"]: metric["value"] for metric in entry["metrics"]}
    assert values["accuracy"] == 0.913
    assert "| accuracy | 0.913 (0.859 to 0.947) | n = 161 slices of 161 patients |" in card
    assert "not a medical device" in card


def test_checklists_are_filled_where_the_run_knows_and_open_where_not(run_folder):
    page = write_report(run_folder / "cases.parquet", run_folder).read_text()
    claim = page[page.index("CLAIM 2024</h3>") : page.index("Metrics Reloaded</h3>")]
    assert "OPEN." in claim
    answered = int(re.search(r"(\d+) of 44 items", claim).group(1))
    assert 10 <= answered < 30
