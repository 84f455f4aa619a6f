"""What the documents say is what the code does."""

import json
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from slicewise.audit.findings import RULES
from slicewise.evaluation.cases import CASE_COLUMNS, VOLUME_COLUMNS
from slicewise.evaluation.schema import Results
from slicewise.evaluation.table import REQUIRED, read_cases
from slicewise.inference.gatekeeper import RULES as CONCERNS
from slicewise.inference.record import InputRecord

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_the_audit_is_documented(name):
    rule = RULES[name]
    row = f"| `{name}` | {rule.severity} | {rule.why} | {rule.remedy} |"
    assert row in (DOCS / "audit.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("table", "columns"), [("cases", CASE_COLUMNS), ("volumes", VOLUME_COLUMNS)])
def test_every_column_of_an_evaluation_is_documented_and_no_other(table, columns):
    text = (DOCS / "cases.md").read_text(encoding="utf-8")
    section = text.split(f"## Columns of `{table}.parquet`")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in columns.items()]


def test_the_example_of_a_table_of_cases_has_what_is_needed_and_is_read(tmp_path):
    example = (DOCS / "cases.md").read_text(encoding="utf-8").split("```csv\n")[1].split("```")[0]
    assert example.splitlines()[0] == ",".join(REQUIRED)
    assert len(example.splitlines()) == 3
    (tmp_path / "cases.csv").write_text(example, encoding="utf-8")
    cases = read_cases(tmp_path / "cases.csv")
    assert cases["label"].tolist() == [True, False]
    assert cases["probability"].tolist() == [0.93, 0.08]


def test_the_published_schema_is_the_one_results_are_checked_against():
    assert json.loads((DOCS / "results.schema.json").read_text(encoding="utf-8")) == Results.model_json_schema()


def test_the_published_schema_of_predictions_is_the_one_they_are_written_by():
    schema = json.loads((DOCS / "predictions.schema.json").read_text(encoding="utf-8"))
    assert schema == TypeAdapter(list[InputRecord]).json_schema()


def test_every_rule_of_the_gatekeeper_is_documented_and_no_other():
    text = (DOCS / "prediction.md").read_text(encoding="utf-8").split("## The gatekeeper")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {meaning} |" for name, meaning in CONCERNS.items()]


def test_every_page_of_the_reading_room_has_a_picture_and_every_picture_is_shown():
    text = (DOCS / "reading-room.md").read_text(encoding="utf-8")
    pictures = {file.name for file in (DOCS / "reading-room").iterdir()}
    assert set(re.findall(r"\(reading-room/(\w+\.png)\)", text)) == pictures
    assert {f"{page}.png" for page in ("slice", "volume", "batch", "compare", "model", "report")} <= pictures
