"""Take the pictures of the reading room that docs/ shows: of phantoms, and of a run that has only ever seen phantoms.

    python tools/screenshots.py runs/demo

The run's model stands beside the packaged one on the page that compares, and its report is shown. Needs Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from slicewise.model.description import PACKAGED

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reading-room"
EXAMPLES = Path(__file__).resolve().parents[1] / "src" / "slicewise" / "ui" / "examples"
PORT = 8577
SIZE = {"width": 1360, "height": 940}


@contextmanager
def reading_room(options: list[str]) -> Iterator[None]:
    """While it runs."""
    command = [sys.executable, "-m", "slicewise", "ui", "--port", str(PORT), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise SystemExit("The reading room could not be started.")
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def show_slice(page: Page) -> None:
    page.get_by_text("Slice with a tumor", exact=True).click()
    page.get_by_text("Scaled to its own maximum").wait_for()


def show_warning(page: Page) -> None:
    page.get_by_text("Slice without", exact=True).click()
    page.get_by_text("Scaled to its own maximum").wait_for()


def show_volume(page: Page) -> None:
    page.get_by_text("DICOM series", exact=True).click()
    page.get_by_text("Most probable").wait_for()


def show_planes(page: Page) -> None:
    show_volume(page)
    page.get_by_role("tab", name="Three planes").click()


def show_batch(page: Page) -> None:
    page.get_by_role("link", name="Batch").click()
    page.get_by_role("heading", name="Batch").wait_for()
    page.locator("input[type=file]").set_input_files([*sorted(EXAMPLES.glob("*.jpg")), EXAMPLES / "phantom_volume.nii.gz"])
    page.get_by_text("CSV", exact=True).wait_for()


def show_comparison(page: Page) -> None:
    page.get_by_role("link", name="Compare").click()
    page.get_by_text("Slice with a tumor", exact=True).click()
    page.get_by_text("Where they differ").wait_for()


def show_model(page: Page) -> None:
    page.get_by_role("link", name="Model").click()
    page.get_by_text("volume Dice").first.wait_for()
    page.get_by_role("tab", name="Curves and limits").click()


def show_report(page: Page) -> None:
    page.get_by_role("link", name="Report").click()
    page.frame_locator("iframe").get_by_role("heading").first.wait_for()


PICTURES: dict[str, Callable[[Page], None]] = {
    "slice": show_slice,
    "slice_dark": show_slice,
    "warning": show_warning,
    "volume": show_volume,
    "planes": show_planes,
    "batch": show_batch,
    "compare": show_comparison,
    "model": show_model,
    "report": show_report,
}


def main() -> None:
    """Start it, walk through it, end it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, such as that of `make demo`")
    run = str(parser.parse_args().run)
    options = ["--model", str(PACKAGED), "--model", run, "--run", run]
    program = shutil.which("chromium") or shutil.which("google-chrome")
    FOLDER.mkdir(exist_ok=True)
    with reading_room(options), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, walk in PICTURES.items():
            page = browser.new_page(viewport=SIZE, color_scheme="dark" if name.endswith("_dark") else "light")
            page.goto(f"http://127.0.0.1:{PORT}")
            page.get_by_role("heading", name="Read a slice or a study").wait_for()
            walk(page)
            time.sleep(2)  # charts are drawn after the page is ready
            page.screenshot(path=FOLDER / f"{name}.png")
            page.close()
            print(FOLDER / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
