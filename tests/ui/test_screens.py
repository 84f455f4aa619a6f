"""The pages without a browser: what they say, drawn by Streamlit's own test harness."""

import json
import shutil
from contextlib import contextmanager

import pyarrow
import pytest
from streamlit.runtime.context import ContextProxy, StreamlitTheme
from streamlit.testing.v1 import AppTest

from service.running import KEY, archive, dicom, picture, volume, wait_until
from service.running import Service as Running
from slicewise.inference.predictor import Predictor
from slicewise.model.description import DESCRIPTION, PACKAGED, read_description
from slicewise.service.schemas import BatchLine
from slicewise.ui import session
from slicewise.ui.choosing import EXAMPLES, Chosen
from slicewise.ui.client import Service, ServiceError
from slicewise.ui.launch import APP
from slicewise.ui.screens import read
from slicewise.ui.settings import VARIABLE
from slicewise.ui.wording import COUNTED
from ui.contrast import contrast


@pytest.fixture
def enter(monkeypatch, service_url):
    """Draws a page, asking a number of services, with files chosen on it."""

    most = 0

    def close(count):
        for number in range(count):
            session.service_of(number).close()
        session.service_of.clear()

    def draw(name, files=(), urls=(service_url,), runs=(), **state):
        nonlocal most
        close(most)
        most = len(urls)
        named = [{"name": f"model {number}", "url": url, "key": KEY} for number, url in enumerate(urls)]
        monkeypatch.setenv(VARIABLE, json.dumps({"services": named, "runs": [str(run) for run in runs]}))
        page = AppTest.from_string(f"from slicewise.ui.screens import {name}\n{name}.show()", default_timeout=60)
        for key, value in state.items():
            page.session_state[key] = value
        if files:
            page.session_state[f"{name} files"] = Chosen(tuple(files), session.digest_of(files))
        page.run()
        assert not page.exception, page.exception
        return page

    yield draw
    close(most)


def write_model(folder, **facts):
    """The packaged model, as if other things were true of it."""
    shutil.copytree(PACKAGED, folder)
    (folder / DESCRIPTION).write_text(json.dumps(json.loads((folder / DESCRIPTION).read_text()) | facts))
    return folder


@contextmanager
def served(model):
    with Running(model, model.parent / "log") as started:
        yield str(started.client.base_url).rstrip("/")


@pytest.fixture(scope="module")
def other_url(tmp_path_factory):
    """A service of a model that knows nothing of what its training slices looked like."""
    with served(write_model(tmp_path_factory.mktemp("other") / "model", domain=None)) as url:
        yield url


@pytest.fixture(scope="module")
def segmenting(tmp_path_factory):
    """A model that only segments."""
    return write_model(tmp_path_factory.mktemp("segmenting") / "model", tasks=["segmentation"], domain=None)


@pytest.fixture(scope="module")
def segmenting_url(segmenting):
    with served(segmenting) as url:
        yield url


def written(figure):
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def words(page):
    return "\n".join(
        str(part.value) for kind in ("markdown", "caption", "error", "warning", "info") for part in page.get(kind)
    )


def test_a_slice_is_answered_with_its_reason(enter, example):
    page = enter("read", [("slice.jpg", example("Slice with a tumor"))])
    assert "## ▲ Tumor" in words(page)
    assert "reaches the threshold" in words(page)
    probability, extent = page.metric
    assert probability.label == "Probability of tumor"
    assert float(probability.value.removeprefix("> ")) > 0.9
    assert "the standard deviation over views" in words(page), "the uncertainty has come"
    assert extent.value.endswith(" pixels")
    assert not page.error


def test_a_model_that_only_segments_says_how_sure_it_is_and_why_it_explains_nothing(
    enter, example, segmenting, segmenting_url
):
    file = APP.parent / "examples" / EXAMPLES["Slice with a tumor"]
    expected = Predictor.from_checkpoint(segmenting).predict(file, uncertainty=True).uncertainty
    page = enter("read", [(file.name, file.read_bytes())], urls=(segmenting_url,))
    assert f"± {expected:.3f}, the standard deviation over views of the slice" in words(page)
    assert "dropout draws" not in words(page)
    assert "No Grad-CAM: it shows what spoke for tumor to the classification head" in words(page)
    page = finish(enter("read", [("volume.nii.gz", example("NIfTI volume"))], urls=(segmenting_url,)))
    assert "No Grad-CAM: it shows" in words(page)
    next(toggle for toggle in page.toggle if toggle.label == "Standard deviation of this slice").set_value(True).run()
    assert "the standard deviation over views" in words(page)
    assert any(toggle.label.startswith("Say how sure the model is") for toggle in page.toggle)


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
    assert table["concerns"].tolist()[:2] == ["", "far-from-training"]
    assert table["problem"].isna().tolist() == [True, True, False]
    assert "the bytes are none of these" in table["problem"][2]
    assert table["slice"][0].startswith("data:image/png;base64,")
    assert "1 of 2 answers are in doubt" in words(page)
    assert "1 of 3 files got no answer" in words(page)
    assert "the bytes are none of these. (1 file)" in words(page), "whole, where the table may cut it off"
    drawn = page.dataframe[0].proto
    with pyarrow.ipc.open_stream(drawn.arrow_data.styler.display_values) as stream:
        first, second, third = stream.read_pandas()["probability"]
    threshold = read_description(PACKAGED).threshold
    assert float(first.removeprefix("> ")) > threshold > float(second.removeprefix("< "))
    assert third == ""
    assert drawn.placeholder == "", "and not None, where nothing is known"


def test_two_models_are_compared_on_a_slice_and_by_their_figures(enter, example, service_url):
    page = enter("compare", [("slice.jpg", example("Slice with a tumor"))], urls=(service_url, service_url))
    assert page.metric[-1].label == "Dice of the two masks"
    assert page.metric[-1].value == "1.000", "the same model twice"
    assert page.dataframe[-1].value.loc["volume Dice"].str.contains(r"\(n = 43\)").all()
    assert COUNTED in words(page)
    assert words(page).count("the standard deviation over views") == 2, "each says how sure it is"


def test_a_model_that_draws_no_masks_is_in_no_disagreement(enter, example, service_url, monkeypatch):
    ask = Service.predict
    monkeypatch.setattr(Service, "predict", lambda *words, **options: ask(*words, segment="never", **options))
    page = enter("compare", [("slice.jpg", example("Slice with a tumor"))], urls=(service_url, service_url))
    assert "draws no masks" in words(page)
    assert "Dice of the two masks" not in [metric.label for metric in page.metric]


def test_what_was_read_as_a_volume_is_no_slice_to_compare(enter, service_url):
    files, urls = [("volume", volume())], (service_url, service_url)
    read_as_volume = enter("read", files, urls)
    assert "study" in read_as_volume.session_state
    page = enter("compare", files, urls, answers=read_as_volume.session_state["answers"])
    assert "Expected a file with one slice" in page.error[0].value


def test_one_model_is_not_compared(enter):
    assert "One model is there" in words(enter("compare"))


def test_the_model_page_has_figures_with_intervals_and_the_card(enter):
    page = enter("model")
    packaged = read_description(PACKAGED)
    assert page.metric[0].value == packaged.model_id
    trained = {source: len(patients["train"]) for source, patients in packaged.patients.items()}
    assert f"{trained['brisc']:,} (brisc), 52 (lgg), 125 (yes_no)" in words(page)
    assert words(page).count(COUNTED) == 3, "above, and under both tables"
    figures = page.dataframe[0].value.set_index("figure")
    assert figures.loc["volume Dice", "shown"] == written(packaged.metrics["test"]["volume_dice"])
    assert figures.loc["volume Dice", "n_patients"] == 43
    worth = page.dataframe[2].value
    assert worth["slices with a tumor"].tolist() == ["1.0 %", "5.0 %", "10.0 %", "30.0 %", "50.0 %"]
    assert worth.iloc[0, 1] == written(packaged.curves["predictive_values"][0]["ppv"])
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
    page = enter("read", [("slice.png", picture())], urls=("http://127.0.0.1:9",))
    assert "nobody answers there" in page.error[0].value


def finish(page):
    """Until the study that it follows is answered."""
    wait_until(lambda: page.run() and page.session_state["study"].answer is not None, 40)
    return page.run()


def test_of_several_scans_the_most_probable_is_opened_and_the_others_are_counted(enter, example):
    content = archive(**{"a.jpg": example("Slice without"), "b.jpg": example("Slice with a tumor"), "c.txt": b"text"})
    page = finish(enter("read", [("both.zip", content)]))
    assert "## ▲ Tumor" in words(page)
    assert "2 scans: 1 with a tumor, 1 in doubt" in words(page)
    labels = page.selectbox[0].options
    assert len(labels) == 2
    assert any("○ no tumor" in label and "in doubt" in label for label in labels)
    assert "could not be read" in words(page)
    assert {label.partition(":")[0] for label in labels} == {"0, entry 1 of the zip", "1, entry 2 of the zip"}
    assert "entry 3 of the zip could not be read (unknown-format)" in words(page)


def test_a_volume_says_whose_probability_it_shows(enter, example):
    page = finish(enter("read", [("volume.nii.gz", example("NIfTI volume"))]))
    predicted = Predictor.from_checkpoint(PACKAGED).predict(APP.parent / "examples" / EXAMPLES["NIfTI volume"])
    assert page.metric[0].label == f"Highest probability, of slice {predicted.probabilities.argmax()}"
    assert page.metric[1].value.endswith(" ml")
    assert "axial slices" in words(page)
    assert "from inferior to superior" in words(page)
    specificity = read_description(PACKAGED).metrics["test"]["specificity"]["value"]
    assert f"about {20 * (1 - specificity):.0f} of these 20 slices would be flagged without any tumor" in words(page)


def test_a_slice_of_a_volume_says_how_sure_its_answer_is(enter, example):
    page = finish(enter("read", [("volume.nii.gz", example("NIfTI volume"))]))
    assert "the standard deviation over views" not in words(page)
    next(toggle for toggle in page.toggle if toggle.label == "Grad-CAM of this slice").set_value(True).run()
    assert "the standard deviation over views" in words(page)


def test_the_threshold_stands_out_from_a_light_and_from_a_dark_page(enter, example):
    page = finish(enter("read", [("volume.nii.gz", example("NIfTI volume"))]))
    (chart,) = page.get("vega_lite_chart")
    (mark,) = (layer["mark"] for layer in json.loads(chart.proto.spec)["layer"] if layer["mark"]["type"] == "rule")
    color = [int(mark["color"][start : start + 2], 16) for start in (1, 3, 5)]
    for page_color in ((255, 255, 255), (23, 22, 20)):
        assert contrast(color, page_color) >= 3


@pytest.mark.parametrize("page_type", ["light", "dark"])
def test_the_words_of_a_chart_can_be_read(enter, monkeypatch, page_type):
    monkeypatch.setattr(ContextProxy, "theme", StreamlitTheme({"type": page_type}))
    charts = [json.loads(chart.proto.spec) for chart in enter("model").get("vega_lite_chart")]
    assert len(charts) == 4
    for chart in charts:
        for part in ("axis", "legend"):
            color = chart.get("config", {}).get(part, {}).get("labelColor")
            if page_type == "dark":
                assert color is None, "Streamlit's own is nearly white"
            else:
                assert contrast([int(color[start : start + 2], 16) for start in (1, 3, 5)], (255, 255, 255)) >= 4.5


def test_two_pictures_are_two_scans(enter, example):
    files = [("a.jpg", example("Slice without")), ("b.jpg", example("Slice with a tumor"))]
    page = finish(enter("read", files))
    assert "2 scans: 1 with a tumor, 1 in doubt" in words(page)


def test_scans_and_refusals_are_called_by_the_files_that_were_chosen(enter, example):
    series = [(f"IM{number}.dcm", dicom(number)) for number in range(3)]
    pictures = [("anna.jpg", example("Slice without")), ("bert.jpg", example("Slice with a tumor"))]
    page = finish(enter("read", [("[b]_1.png", picture()[:100]), *series, *pictures]))
    names = {label.partition(":")[0].partition(", ")[2] for label in page.selectbox[0].options}
    assert names == {"IM0.dcm and 2 more", "anna.jpg", "bert.jpg"}
    assert r"\[b\]\_1\.png could not be read (unreadable-file)" in words(page)


def test_a_study_that_was_cancelled_can_be_sent_again(enter, asked, example):
    page = enter("read", [("volume.nii.gz", example("NIfTI volume"))])
    asked.remove_study(page.session_state["study"].id)
    wait_until(lambda: page.run() and page.session_state["study"].ended is not None, 20)
    page.run()
    assert "The study is cancelled" in words(page)
    before = page.session_state["study"].id
    next(button for button in page.button if button.label == "Send it again").click().run()
    assert page.session_state["study"].id != before
    assert "## ▲ Tumor" in words(finish(page))


def test_a_study_that_the_service_knows_no_more_can_be_sent_again(enter, example, monkeypatch):
    def fail(*_):
        raise ServiceError("no-such-study", "No such study", "Expected the id of a study sent with this key.")

    with monkeypatch.context() as patch:
        patch.setattr(Service, "follow_study", fail)
        page = enter("read", [("volume.nii.gz", example("NIfTI volume"))])
        assert "The service was started anew" in page.error[0].value
        assert "key" not in page.error[0].value, "of which a person at a page knows nothing"
        next(button for button in page.button if button.label == "Send it again").click().run()
    assert "## ▲ Tumor" in words(finish(page))


def test_what_is_closed_is_removed_at_the_service(enter, asked, example):
    page = enter("read", [("volume.nii.gz", example("NIfTI volume"))])
    study = page.session_state["study"].id
    page.session_state["read files"] = None
    page.run()
    assert "study" not in page.session_state
    assert asked.follow_study(study).status == "cancelled"


def test_each_model_has_warnings_of_its_own(enter, example, service_url, other_url):
    for urls in ((service_url, other_url), (other_url, service_url)):
        page = enter("compare", [("slice.jpg", example("Slice without"))], urls=urls)
        assert len(page.error) == 1
        answers = [column for column in page.columns if [part.value for part in column.subheader] in (["First"], ["Second"])]
        doubtful = answers[urls.index(service_url)]
        assert "far-from-training" in doubtful.error[0].value


def test_a_batch_is_asked_again_for_what_was_not_answered(enter, example, monkeypatch):
    def fail(self, files):
        yield BatchLine(index=0, status=503, problem={"type": "urn:slicewise:problem:queue-full", "detail": "for programs"})
        raise ServiceError("unreachable", "The service does not answer", "Start it again.")

    files = [("=a.jpg", example("Slice with a tumor")), ("b.jpg", example("Slice without"))]
    with monkeypatch.context() as patch:
        patch.setattr(Service, "predict_batch", fail)
        page = enter("batch", files)
        assert "Start it again" in words(page)
    assert page.dataframe[0].value["problem"][0].startswith("Others are being answered first")
    page.run()
    page.button[-1].click().run()
    table = page.dataframe[0].value
    assert table["decision"].tolist() == ["▲ tumor", "○ no tumor"]


def test_a_batch_of_a_model_that_is_gone_is_not_shown(enter, example, monkeypatch):
    page = enter("batch", [("a.jpg", example("Slice with a tumor"))])
    first = page.session_state["batch"]
    page.run()
    assert page.session_state["batch"] is first, "asked once"
    card = Service.describe_model(session.service_of(0)).model_copy(update={"model_id": "another"})
    monkeypatch.setattr(Service, "describe_model", lambda self: card)
    page.session_state["cards"] = {}  # as when the service was away
    page.run()
    assert page.session_state["batch"] is not first


def test_an_archive_is_sent_as_a_study(enter, example):
    page = enter("read", [("series.zip", example("DICOM series"))])
    assert "study" in page.session_state, "it is followed from here on"


def test_a_defect_of_a_page_says_where_and_quotes_nothing(enter, monkeypatch, capsys):
    enter("compare")

    def fail():
        raise ValueError("PLANTED^NAME")

    monkeypatch.setattr(read, "show", fail)
    page = AppTest.from_file(str(APP), default_timeout=60).run()
    assert "ValueError at" in page.error[-1].value
    assert "PLANTED" not in words(page)
    assert "PLANTED" not in "".join(capsys.readouterr())
