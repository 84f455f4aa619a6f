"""The reading room in a real browser, as a person uses it."""

import gzip
import io
import json
import re
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from service.running import Service, wait_until
from slicewise.model.description import PACKAGED, read_description
from slicewise.ui.choosing import EXAMPLES
from slicewise.ui.launch import APP
from ui.conftest import ReadingRoom
from ui.contrast import contrast

EXAMPLE_FOLDER = APP.parent / "examples"
COLORS = """
() => [...document.querySelectorAll("[data-testid=stCaptionContainer] :is(p, code)")].map(part => {
  let opacity = 1, behind = [255, 255, 255];
  const layers = [];
  for (let box = part; box; box = box.parentElement) layers.unshift(getComputedStyle(box));
  const values = color => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const over = (color, share, below) => below.map((value, place) => share * color[place] + (1 - share) * value);
  let drawn = behind;
  for (const style of layers) {
    opacity *= style.opacity;
    const [red, green, blue, alpha = 1] = values(style.backgroundColor);
    behind = over([red, green, blue], alpha * opacity, behind);
    const [r, g, b, a = 1] = values(style.color);
    drawn = over([r, g, b], a * opacity, behind);
  }
  return [part.innerText, drawn, behind];
})
"""
"""Of each caption: its text, and the colors in which it and what is behind it are seen."""
PAGES = {"Read": "Read a slice or a study", "Batch": "Batch", "Compare": "Compare two models", "Model": "The model"}


@pytest.fixture(scope="module")
def room(browser, service_url):
    with ReadingRoom("--service", service_url) as started:
        yield started


@pytest.fixture
def page(browser, room):
    """The first page; what it fetches from elsewhere, or complains of, is a failure."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1600})
    opened.set_default_timeout(30_000)
    elsewhere, complaints = [], []
    opened.on(
        "request", lambda request: request.url.startswith((room.url, "data:", "blob:")) or elsewhere.append(request.url)
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(room.url)
    opened.get_by_role("heading", name=PAGES["Read"]).wait_for()
    yield opened
    opened.close()
    assert not elsewhere
    assert not complaints


def upload(page, *files):
    page.locator("input[type=file]").first.set_input_files(list(files))


def download(page, name):
    button = page.get_by_role("button", name=name)
    button.wait_for()
    with page.expect_download() as fetched:
        button.click()
    return fetched.value.suggested_filename, fetched.value.path().read_bytes()


def test_a_picture_is_uploaded_answered_and_downloaded(page):
    upload(page, EXAMPLE_FOLDER / EXAMPLES["Slice with a tumor"])
    page.get_by_role("heading", name="▲ Tumor", exact=True).wait_for()
    page.get_by_text("Scaled to its own maximum").wait_for()
    name, content = download(page, "Mask")
    mask = np.asarray(Image.open(io.BytesIO(content)))
    assert name == "phantom_tumor_mask.png"
    with Image.open(EXAMPLE_FOLDER / EXAMPLES["Slice with a tumor"]) as picture:
        assert mask.shape == picture.size[::-1]
    assert set(np.unique(mask)) == {0, 255}
    name, content = download(page, "JSON")
    answer = json.loads(content)
    assert answer["decision"] == "tumor"
    assert answer["mask_px"] == (mask > 0).sum()
    name, content = download(page, "Overlay")
    colors = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    assert (colors == (230, 159, 0)).all(axis=-1).any(), "the outline"


def test_the_opacity_of_the_mask_follows_the_slider(page):
    upload(page, EXAMPLE_FOLDER / EXAMPLES["Slice with a tumor"])
    page.get_by_text("Scaled to its own maximum").wait_for()
    _, before = download(page, "Overlay")
    image = page.get_by_role("img", name="pixels outlined")
    shown = image.get_attribute("src")
    slider = page.get_by_role("slider", name="Opacity of the fill")
    slider.focus()
    page.keyboard.press("End")  # by keyboard alone
    page.get_by_test_id("stSliderThumbValue").get_by_text("100 %").wait_for()
    wait_until(lambda: image.get_attribute("src") != shown)
    page.get_by_test_id("stApp").and_(page.locator("[data-test-script-state=notRunning]")).wait_for()
    _, after = download(page, "Overlay")
    orange = [
        (np.asarray(Image.open(io.BytesIO(content))).astype(int) == (230, 159, 0)).all(axis=-1).sum()
        for content in (before, after)
    ]
    assert orange[1] > 3 * orange[0]


def test_a_volume_is_read_slice_by_slice(page):
    upload(page, EXAMPLE_FOLDER / EXAMPLES["NIfTI volume"])
    page.get_by_role("heading", name="▲ Tumor", exact=True).wait_for()
    shown = page.get_by_text(re.compile(r"^Slice \d+: probability"))
    most_probable = number_of(shown)
    slider = page.get_by_role("slider", name=re.compile("^Slice"))
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text(f"Slice {most_probable + 1}: probability").wait_for()
    page.get_by_role("button", name="Previous", exact=False).first.click()
    page.get_by_text(f"Slice {most_probable}: probability").wait_for()
    page.get_by_role("button", name="Next with tumor").click()
    page.get_by_text(f"Slice {most_probable + 1}: probability").wait_for()
    page.get_by_role("heading", name=PAGES["Read"]).click()  # away from the slider, which has keys of its own
    page.keyboard.press("Home")
    page.get_by_text(f"Slice {most_probable}: probability").wait_for()
    _, content = download(page, "Mask of this slice")
    pixels = int((np.asarray(Image.open(io.BytesIO(content))) == 255).sum())
    assert pixels > 100
    page.get_by_text(re.compile(rf"^Slice {most_probable}: probability .*, {pixels:,} pixels outlined")).wait_for()
    page.get_by_role("tab", name="Three planes").click()
    for plane in ("axial", "coronal", "sagittal"):
        page.get_by_text(plane, exact=True).wait_for()
    page.get_by_role("tab", name="Montage").click()
    page.get_by_role("img", name="Slices in rows, the mask outlined").wait_for()
    _, content = download(page, "Mask (NIfTI)")
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    volume = nib.load(EXAMPLE_FOLDER / EXAMPLES["NIfTI volume"])
    assert mask.shape == volume.shape
    assert np.allclose(mask.affine, volume.affine)
    assert np.asarray(mask.dataobj).any()


def test_the_strip_of_probabilities_jumps_to_a_slice(page):
    upload(page, EXAMPLE_FOLDER / EXAMPLES["NIfTI volume"])
    shown = page.get_by_text(re.compile(r"^Slice \d+: probability"))
    before = number_of(shown)
    bar = page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").first
    bar.wait_for()
    box = bar.bounding_box()
    # The bars stand in the right five sixths of the chart: one of the first is hit, far above its low probability.
    page.mouse.click(box["x"] + box["width"] * 0.33, box["y"] + box["height"] * 0.35)
    page.wait_for_function(
        "before => !document.body.innerText.includes(`Slice ${before}: probability`)", arg=before, timeout=15_000
    )
    clicked = number_of(shown)
    assert clicked < before
    page.get_by_role("button", name="Next", exact=False).first.click()
    page.get_by_text(f"Slice {clicked + 1}: probability").wait_for()
    box = bar.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.33, box["y"] + box["height"] * 0.35)  # the same bar again
    page.get_by_text(f"Slice {clicked}: probability").wait_for()


def test_a_series_gives_a_dicom_segmentation(page, tmp_path):
    with zipfile.ZipFile(EXAMPLE_FOLDER / EXAMPLES["DICOM series"]) as archive:
        archive.extractall(tmp_path)
    upload(page, *sorted((tmp_path / "phantom").iterdir()))
    _, content = download(page, "DICOM SEG")
    segmentation = pydicom.dcmread(io.BytesIO(content))
    assert segmentation.Modality == "SEG"
    assert segmentation.PatientID == "phantom"
    _, content = download(page, "JSON")
    assert json.loads(content)["scans"][0]["slices"] == 20


def test_the_name_of_a_file_is_text_whatever_it_looks_like(page, tmp_path):
    name = "![x](https:&#47;&#47;example.invalid&#47;a.png) *b*.jpg"
    (tmp_path / name).write_bytes((EXAMPLE_FOLDER / EXAMPLES["Slice with a tumor"]).read_bytes())
    upload(page, tmp_path / name)
    page.get_by_role("heading", name="▲ Tumor", exact=True).wait_for()
    page.locator('[data-test-script-state="notRunning"]').wait_for()  # a click on a page that is still drawn can be lost
    page.get_by_role("link", name="Model").click()
    page.get_by_text("volume Dice").first.wait_for()
    page.get_by_role("link", name="Read").click()
    page.get_by_text("Still open: ![x](https:").wait_for()


def test_a_slice_that_was_gone_to_stays_while_other_pages_are_looked_at(page):
    upload(page, EXAMPLE_FOLDER / EXAMPLES["NIfTI volume"])
    at = number_of(page.get_by_text(re.compile(r"^Slice \d+: probability")))
    page.get_by_role("button", name="Next", exact=False).first.click()
    page.get_by_text(f"Slice {at + 1}: probability").wait_for()
    page.get_by_role("link", name="Model").click()
    page.get_by_text("volume Dice").first.wait_for()
    page.get_by_role("link", name="Read").click()
    page.get_by_text(f"Slice {at + 1}: probability").wait_for()


def test_a_refused_file_leaves_the_page_in_order(page, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    upload(page, tmp_path / "notes.png")
    page.get_by_text("The file cannot be read").wait_for()
    page.get_by_text("Slice with a tumor", exact=True).click()
    page.get_by_role("heading", name="▲ Tumor", exact=True).wait_for()
    assert not page.get_by_text("The file cannot be read").is_visible()


def test_a_warning_cannot_be_missed(page):
    page.get_by_text("Slice without", exact=True).click()
    warning = page.get_by_role("alert").filter(has_text="Do not trust this answer without a look")
    warning.wait_for()
    answer = page.get_by_role("heading", name="○ No tumor", exact=True)
    answer.wait_for()
    assert warning.bounding_box()["y"] < answer.bounding_box()["y"], "above the answer"
    assert warning.bounding_box()["width"] > 600


def test_on_a_phone_the_answer_comes_before_its_pictures_and_beside_them_elsewhere(page):
    page.get_by_text("Slice with a tumor", exact=True).click()
    page.get_by_text("Scaled to its own maximum").wait_for()
    answer, picture = (
        page.get_by_role("heading", name="▲ Tumor", exact=True),
        page.get_by_role("img", name="pixels outlined"),
    )
    assert answer.bounding_box()["x"] > picture.bounding_box()["x"] + picture.bounding_box()["width"]
    page.set_viewport_size({"width": 390, "height": 844})
    wait_until(lambda: answer.bounding_box()["y"] < picture.bounding_box()["y"], 5)


def test_every_page_says_what_it_must_not_be_used_for(page):
    for link, heading in (PAGES | {"Report": "The report of a run"}).items():
        page.get_by_role("link", name=link).click()
        page.get_by_role("heading", name=heading, exact=True).wait_for()
        note = page.get_by_role("note")
        assert "Research use only – not a medical device." in note.inner_text()
        assert note.bounding_box()["y"] < 120


def test_what_is_open_stays_while_other_pages_are_looked_at(page):
    upload(page, EXAMPLE_FOLDER / EXAMPLES["Slice with a tumor"])
    page.get_by_text("Scaled to its own maximum").wait_for()
    page.get_by_role("link", name="Model").click()
    page.get_by_text("volume Dice").first.wait_for()
    page.get_by_role("link", name="Read").click()
    page.get_by_text("Still open: phantom_tumor.jpg").wait_for()
    page.get_by_role("heading", name="▲ Tumor", exact=True).wait_for()
    page.get_by_role("button", name="Close").click()
    page.get_by_text("Volumes are read slice by slice").wait_for()


def test_the_first_stop_of_the_keyboard_is_reached_and_it_is_dark_where_that_is_wanted(browser, room):
    shades = {}
    for scheme in ("light", "dark"):
        opened = browser.new_page(color_scheme=scheme)
        opened.goto(room.url)
        opened.get_by_role("heading", name=PAGES["Read"]).wait_for()
        color = opened.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
        shades[scheme] = sum(int(value) for value in re.findall(r"\d+", color)[:3])
        opened.get_by_text("Slice with a tumor", exact=True).wait_for()
        names = []
        while len(names) < 40 and not any("Slice with a tumor" in name for name in names):
            opened.keyboard.press("Tab")
            names.append(opened.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''"))
        assert "Slice with a tumor" in names[-1], names
        assert any("Upload" in name for name in names), names
        opened.close()
    assert shades["light"] > 600
    assert shades["dark"] < 150


def test_small_print_can_be_read_on_a_light_and_on_a_dark_page(browser, room):
    for scheme in ("light", "dark"):
        opened = browser.new_page(color_scheme=scheme)
        opened.goto(room.url)
        opened.get_by_text("Slice with a tumor", exact=True).click()
        opened.get_by_text("Scaled to its own maximum").wait_for()
        seen = opened.evaluate(COLORS)
        assert any("The service answers" in text for text, *_ in seen)
        assert any(f"Model {read_description(PACKAGED).model_id}" in text for text, *_ in seen)
        for text, color, behind in seen:
            assert contrast(color, behind) >= 4.5, (scheme, text, color, behind)
        opened.close()


def test_a_report_is_walked_through_in_its_frame(browser, service_url, tmp_path):
    report = '<nav><a href="#data">Data</a></nav><div style="height:9000px"></div><h2 id="data">The data</h2>'
    (tmp_path / "report.html").write_text(report)
    with ReadingRoom("--service", service_url, "--run", tmp_path) as room:
        page = browser.new_page()
        page.goto(f"{room.url}/report")
        frame = page.frame_locator("iframe")
        heading = frame.get_by_role("heading", name="The data")
        frame.get_by_role("link", name="Data").click()
        wait_until(lambda: heading.evaluate("part => part.getBoundingClientRect().top < innerHeight"))
        assert page.frames[-1].url == "about:srcdoc#data", "and no reading room within it"
        assert download(page, "Report")[1].decode() == report, "as it was written"
        page.close()


def test_the_services_own_documentation_is_shown_without_a_public_network(browser, service_url):
    page, elsewhere = browser.new_page(), []
    page.on("request", lambda request: request.url.startswith((service_url, "data:")) or elsewhere.append(request.url))
    page.goto(f"{service_url}/docs")
    page.get_by_text("/v1/predict/batch").first.wait_for()
    assert not elsewhere
    page.close()


def test_a_service_that_goes_away_is_said_and_its_return_is_noticed(browser, tmp_path):
    service = Service(PACKAGED, tmp_path / "log", drain_s=1)
    with service:
        port = service.wait_for("listening")["port"]
        with ReadingRoom("--service", f"http://127.0.0.1:{port}") as room:
            page = browser.new_page(viewport={"width": 1400, "height": 1600})
            page.set_default_timeout(30_000)
            page.goto(room.url)
            upload(page, EXAMPLE_FOLDER / EXAMPLES["Slice with a tumor"])
            answer = page.get_by_role("heading", name="▲ Tumor", exact=True)
            answer.wait_for()
            page.get_by_text("Scaled to its own maximum").wait_for()
            service.stop()
            page.get_by_text("The service does not answer").first.wait_for()
            assert answer.is_visible(), "what was found stays"
            page.get_by_text("Slice without", exact=True).click()
            page.get_by_text("nobody answers there").wait_for()
            with Service(PACKAGED, tmp_path / "log again", port=port):
                page.get_by_role("heading", name="○ No tumor", exact=True).wait_for()  # without a click
                assert not page.get_by_text("nobody answers there").is_visible()
            page.close()


def number_of(shown):
    shown.wait_for()
    return int(shown.inner_text().split(":")[0].split()[1])
