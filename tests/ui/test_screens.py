"""The pages without a browser: what they say, drawn by Streamlit's own test harness."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from service.running import KEY, dicom, picture
from slicewise.ui import frame
from slicewise.ui.launch import _APP
from slicewise.ui.screens import read
from slicewise.ui.settings import VARIABLE


@pytest.fixture
def enter(monkeypatch, service_url):
    """Draws a page, asking a number of services, with files chosen on it."""

    most = 0

    def draw(name, files=(), services=1, url=service_url, runs=()):
        nonlocal most
        most = services
        named = [{"name": f"model {number}", "url": url, "key": KEY} for number in range(services)]
        monkeypatch.setenv(VARIABLE, json.dumps({"services": named, "runs": [str(run) for run in runs]}))
        page = AppTest.from_string(f"from slicewise.ui.screens import {name}\n{name}.show()", default_timeout=60)
        if files:
            page.session_state[f"{name} files"] = list(files)
        page.run()
        assert not page.exception, page.exception
        return page

    yield draw
    for number in range(most):
        frame.service_of(number).close()
    frame.service_of.clear()


def words(page):
    return "\n".join(
        str(part.value) for kind in ("markdown", "caption", "error", "warning", "info") for part in page.get(kind)
    )


def test_a_slice_is_answered_with_its_reason(enter, example):
    page = enter("read", [("slice.jpg", example("Slice with a tumor"))])
    assert "## ▲ Tumor" in words(page)
    assert "reaches the threshold" in words(page)
    (probability, extent) = page.metric[-2:]
    assert probability.label == "Probability of tumor"
    assert probability.value == "> 0.999"
    assert "the standard deviation over views" in words(page), "the uncertainty has come"
    assert extent.value.endswith(" px")
    assert not page.error


def test_a_warning_of_the_gatekeeper_stands_before_the_answer(enter, example):
    page = enter("read", [("slice.jpg", example("Slice without"))])
    assert "Do not trust this answer without a look" in page.error[0].value
    assert "far-from-training" in page.error[0].value
    text = words(page)
    assert "## ○ No tumor" in text
    assert "The mask is left empty" in text


def test_a_dicom_slice_can_be_read_as_a_series(enter):
    page = enter("read", [("slice.dcm", dicom())])
    assert [toggle.label for toggle in page.toggle][-1] == "Read as a series, which gives a DICOM SEG"


def test_a_batch_is_a_table_with_every_file(enter, example):
    files = [("a.jpg", example("Slice with a tumor")), ("b.jpg", example("Slice without")), ("c.txt", b"no picture")]
    page = enter("batch", files)
    table = page.dataframe[0].value
    assert table["file"].tolist() == ["a.jpg", "b.jpg", "c.txt"]
    assert table["decision"].tolist()[:2] == ["▲ tumor", "○ no tumor"]
    assert table["concerns"].tolist() == ["", "far-from-training", ""]
    assert table["problem"].tolist()[:2] == ["", ""]
    assert "the bytes are none of these" in table["problem"][2]
    assert table["slice"][0].startswith("data:image/png;base64,")
    assert "1 of 3 answers are in doubt" in words(page)
    assert "1 of 3 files got no answer" in words(page)


def test_two_models_are_compared_on_a_slice_and_by_their_figures(enter, example):
    page = enter("compare", [("slice.jpg", example("Slice with a tumor"))], services=2)
    assert page.metric[-1].label == "Dice of the two masks"
    assert page.metric[-1].value == "1.000", "the same model twice"
    assert page.dataframe[-1].value.loc["volume Dice"].str.contains(r"\(n = [\d,]+ patients\)").all()


def test_one_model_is_not_compared(enter):
    assert "One model is there" in words(enter("compare"))


def test_the_model_page_has_figures_with_intervals_and_the_card(enter):
    page = enter("model")
    assert page.metric[0].value == "ab1a02aa5a13"
    figures = page.dataframe[0].value.set_index("figure")
    assert figures.loc["volume Dice", "shown"] == "0.649 (0.598 to 0.702)"
    assert figures.loc["volume Dice", "n_patients"] == 197
    worth = page.dataframe[2].value
    assert worth["slices with a tumor"].tolist() == ["1.0 %", "5.0 %", "10.0 %", "30.0 %", "50.0 %"]
    assert worth.iloc[0, 1] == "0.036 (0.030 to 0.043)"
    text = words(page)
    assert "# production" in text
    assert "license_name" not in text, "the header is for machines"


def test_a_report_is_shown_locked_in(enter, tmp_path):
    (tmp_path / "report.html").write_text("<h1>The report</h1><script>alert(1)</script>")
    page = enter("report", runs=[tmp_path])
    (shown,) = page.get("iframe")
    assert shown.proto.srcdoc.startswith('<meta http-equiv="Content-Security-Policy" content="default-src \'none\'')


def test_a_report_that_went_away_is_said(enter, tmp_path):
    assert "cannot be read (No such file or directory)" in words(enter("report", runs=[tmp_path]))


def test_a_refused_file_is_one_sentence_with_its_request(enter):
    page = enter("read", [("notes.txt", b"no picture")])
    assert page.error[0].value.startswith("**The file cannot be read.** Expected a picture, NIfTI, DICOM or zip file")
    assert "request `" in page.error[0].value


def test_a_service_that_is_away_is_said_and_nothing_breaks(enter):
    page = enter("read", [("slice.png", picture())], url="http://127.0.0.1:9")
    assert "nobody answers there" in page.error[0].value


def test_an_archive_is_sent_as_a_study(enter, example):
    page = enter("read", [("series.zip", example("DICOM series"))])
    assert "study" in page.session_state, "it is followed from here on"


def test_a_defect_of_a_page_says_where_and_quotes_nothing(enter, monkeypatch, capsys):
    enter("compare")

    def fail():
        raise ValueError("PLANTED^NAME")

    monkeypatch.setattr(read, "show", fail)
    page = AppTest.from_file(str(_APP), default_timeout=60).run()
    assert "ValueError at" in page.error[-1].value
    assert "PLANTED" not in words(page)
    assert "PLANTED" not in "".join(capsys.readouterr())
