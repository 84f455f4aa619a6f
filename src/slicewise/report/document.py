"""``report.html``: rendered from the run's files alone; equal files give equal bytes, and nothing is fetched to show it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from slicewise.charts import draw_curves
from slicewise.errors import InputError
from slicewise.evaluation.metrics import METRICS
from slicewise.files import write_atomically
from slicewise.report.conclusion import conclude
from slicewise.report.figures import draw_roc, draw_volume_dice

__all__ = ["Example", "write_report"]

_NEEDED = ("config.yaml", "environment.json", "history.csv", "cases.parquet", "results.json")


class Example(NamedTuple):
    """One picture of the section of examples."""

    kind: str
    """``best``, ``worst`` or ``random``."""
    title: str
    """What it shows."""
    png: bytes
    """The picture."""


def write_report(folder: Path, examples: Sequence[Example]) -> Path:
    """Render the report of a run.

    Args:
        folder: The run's.
        examples: Pictures of test slices.

    Returns:
        ``report.html`` in the folder.

    Raises:
        InputError: A file that the report is made from is missing.
    """
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"Expected {', '.join(missing)} in {folder} to report on, found none. Run the earlier steps first.")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    cases = pd.read_parquet(folder / "cases.parquet")
    history = pd.read_csv(folder / "history.csv")
    charts = {
        "curves": draw_curves(history),
        "volume_dice": draw_volume_dice(cases),
        "roc": draw_roc(cases),
    }
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            models=_models(results),
            metrics=METRICS,
            sentences=conclude(results, cases),
            charts=charts,
            examples=examples,
            explanations=[(file.stem, file.read_bytes()) for file in sorted((folder / "explanations").glob("*.png"))],
            config=(folder / "config.yaml").read_text(encoding="utf-8"),
            environment=json.loads((folder / "environment.json").read_text(encoding="utf-8")),
        )
    )
    write_atomically(folder / "report.html", page)
    return folder / "report.html"


def _models(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Every model's results by the name that tables show."""
    named = {f"{name} phase" if name != "joint" else "joint": result for name, result in results["phases"].items()}
    return named | {f"{name} alone": result for name, result in results.get("single_task", {}).items()}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("slicewise.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["embed"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    environment.filters["figure"] = _format
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    return environment


def _format(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "–"
    interval = f" ({figure['low']:.3f} to {figure['high']:.3f})" if figure.get("low") is not None else ""
    return f"{figure['value']:.3f}{interval}"
