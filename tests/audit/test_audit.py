"""From a folder to what is on disk, and from there into a run."""

import io
import json
import shutil
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from slicewise.audit.audit import audit, write_audit
from slicewise.audit.clean import clean, read_excluded
from slicewise.cli import app
from slicewise.config import AuditConfig, Config, SourceConfig
from slicewise.console import Display
from slicewise.errors import AuditError, ConfigError, InputError
from slicewise.run import Run

from .conftest import survey_of

PICTURES = "labelled_folders"


@pytest.fixture
def flawed(make_set):
    """A copy under another label, one under the same, and a broken file."""
    folder = make_set(PICTURES)
    shutil.copy(folder / "yes/4.png", folder / "no/copy.png")
    shutil.copy(folder / "yes/5.png", folder / "yes/copy.png")
    (folder / "yes/6.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def display():
    return Display(Console(file=io.StringIO(), width=200))


def command(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments), "--workers", "1"])


def test_exit_code_and_lines_follow_from_the_findings(flawed, make_set, tmp_path):
    bad = command(flawed, "--out", tmp_path / "bad")
    assert bad.exit_code == 1
    assert [line.split(":")[:2] for line in bad.stdout.splitlines()] == [
        ["error", " duplicate-across-labels"],
        ["warning", " unreadable-file"],
        ["warning", " duplicate-bytes"],
    ]
    good = command(make_set("lgg"), "--out", tmp_path / "good")
    assert (good.exit_code, good.stdout) == (0, "")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--ignore", "duplicate-across-labels"], 0),
        (["--ignore", "duplicate-across-labels", "--fail-on", "warning"], 1),
        (["--fail-on", "never"], 0),
    ],
)
def test_what_counts_can_be_chosen(flawed, tmp_path, options, code):
    assert command(flawed, "--out", tmp_path / "out", *options).exit_code == code


@pytest.mark.parametrize(
    ("options", "mentions"),
    [(["--ignore", "shortcut"], "'shortcut'"), (["--fail-on", "panic"], "'panic'")],
)
def test_unknown_names_are_refused_with_the_known_ones(flawed, tmp_path, options, mentions):
    done = command(flawed, "--out", tmp_path / "out", *options)
    assert isinstance(done.exception, InputError)
    assert mentions in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_and_an_unknown_layout_are_refused(tmp_path):
    (tmp_path / "strange").mkdir()
    for name in ("absent", "strange"):
        done = command(tmp_path / name, "--out", tmp_path / "out")
        assert isinstance(done.exception, InputError)
        assert name in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_folders_of_one_name_stay_apart(make_set, tmp_path):
    first, second = make_set(PICTURES, "a/images"), make_set("lgg", "b/images")
    command(first, second, "--out", tmp_path / "out")
    counts = json.loads((tmp_path / "out/audit.json").read_text())["counts"]
    assert {row["source"] for row in counts} == {"images", "b/images"}


def test_the_page_stands_alone_and_shows_what_was_found(flawed, tmp_path):
    survey = survey_of(flawed, PICTURES)
    write_audit(audit(survey), survey, tmp_path / "out")
    page = (tmp_path / "out/audit.html").read_text()
    links = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attributes):
            links.extend(value for name, value in attributes if name in ("src", "href"))

    Links().feed(page)
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "duplicate-across-labels" in page
    again = tmp_path / "again"
    write_audit(audit(survey), survey, again)
    assert [(again / name).read_bytes() for name in ("audit.html", "audit.json", "groups.csv")] == [
        (tmp_path / "out" / name).read_bytes() for name in ("audit.html", "audit.json", "groups.csv")
    ]


def test_what_is_left_out_is_what_harms(flawed):
    survey = survey_of(flawed, PICTURES)
    table = clean(audit(survey), survey)
    left_out = {
        file[len(str(flawed)) + 1 :]: reason for file, reason, keep in table[["file", "reason", "keep"]].values if not keep
    }
    assert left_out == {
        "no/copy.png": "duplicate-across-labels",
        "yes/4.png": "duplicate-across-labels",
        "yes/copy.png": f"duplicate of {flawed / 'yes/5.png'}",
        "yes/6.png": "unreadable-file",
    }
    assert len(table) == 32


@pytest.mark.parametrize("shared", [1, 4], ids=["one slice", "the whole file"])
def test_volumes_with_slices_in_common_do_not_contradict_each_other(make_set, shared):
    """Each holds slices with and without tumor; those in common have the same label in both."""
    folder = make_set("brats")
    first, second = (folder / f"BraTS2021_0000{number}" / f"BraTS2021_0000{number}" for number in (3, 4))
    for part in ("flair", "seg"):
        kept, changed = (nib.load(f"{place}_{part}.nii.gz") for place in (first, second))
        voxels = np.asarray(changed.dataobj).copy()
        voxels[..., :shared] = np.asarray(kept.dataobj)[..., :shared]
        nib.save(nib.Nifti1Image(voxels, changed.affine), f"{second}_{part}.nii.gz")
    if shared == 4:
        for part in ("flair", "seg"):
            shutil.copy(f"{first}_{part}.nii.gz", f"{second}_{part}.nii.gz")
    survey = survey_of(folder, "brats")
    result = audit(survey)
    assert result.copies.groups
    assert result.copies.conflicting == []
    left_out = clean(result, survey).query("not keep")
    assert left_out["file"].tolist() == ([f"{second}_flair.nii.gz"] if shared == 4 else [])


def test_the_cleaned_table_is_what_a_run_ingests(flawed, display, tmp_path, monkeypatch):
    command(flawed, "--out", tmp_path / "out", "--write-clean")
    assert len(read_excluded(tmp_path / "out/clean.csv")) == 4
    monkeypatch.chdir(flawed.parent)
    source = SourceConfig(layout=PICTURES, path=flawed.relative_to(flawed.parent))
    config = Config(sources={"s": source}, clean=tmp_path / "out/clean.csv", workers=1)
    run = Run.begin(tmp_path / "run", config, display)
    assert len(run.ingest()) == 28
    run.split()
    findings = json.loads((run.folder / "audit/audit.json").read_text())["findings"]
    assert not [item for item in findings if "duplicate" in item["rule"]]
    moved = config.model_copy(update={"sources": {"s": source.model_copy(update={"path": tmp_path / "elsewhere"})}})
    shutil.copytree(flawed, tmp_path / "elsewhere")
    with pytest.raises(InputError, match="found none of 4"):
        Run.begin(tmp_path / "run2", moved, display).ingest()


@pytest.mark.parametrize("content", [None, "", "file\na.png\n", "file,keep\na.png,perhaps\n"])
def test_a_table_that_is_none_is_refused(tmp_path, content):
    file = tmp_path / "clean.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=r"clean\.csv"):
        read_excluded(file)


def test_a_run_stops_at_errors_until_they_are_accepted(flawed, display, tmp_path):
    config = Config(sources={"s": SourceConfig(layout=PICTURES, path=flawed)}, workers=1)
    run = Run.begin(tmp_path / "run", config, display)
    run.ingest()
    with pytest.raises(AuditError, match=r"duplicate-across-labels.*audit\.accept=\[duplicate-across-labels\]"):
        run.split()
    assert not (run.folder / "split.csv").exists()
    accepting = config.model_copy(update={"audit": AuditConfig(accept=("duplicate-across-labels",))})
    run = Run.begin(tmp_path / "run", accepting, display, resume=True)
    split = run.split().set_index("patient_id")["split"]
    assert split["yes/4.png"] == split["no/copy.png"]
    assert split["yes/5.png"] == split["yes/copy.png"]
    assert Run.open(tmp_path / "run", display).config == accepting
    assert command(tmp_path / "run", "--out", tmp_path / "out").exit_code == 1


def test_a_rule_that_does_not_exist_cannot_be_accepted(flawed, display, tmp_path):
    source = SourceConfig(layout=PICTURES, path=flawed)
    config = Config(sources={"s": source}, audit=AuditConfig(accept=("shortcuts",)))
    with pytest.raises(ConfigError, match="'shortcuts'"):
        Run.begin(tmp_path / "run", config, display)


def test_groups_hold_every_copy_once(flawed, tmp_path):
    survey = survey_of(flawed, PICTURES)
    write_audit(audit(survey), survey, tmp_path / "out")
    groups = pd.read_csv(tmp_path / "out/groups.csv")
    assert groups["file"].is_unique
    assert groups.groupby("group").size().tolist() == [2, 2]
