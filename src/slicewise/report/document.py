"""``report.html``: rendered from a table of cases and what lies beside it; equal files give equal bytes, and nothing is
fetched to show it. No model is needed."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from slicewise.charts import draw_curves
from slicewise.evaluation.metrics import METRICS
from slicewise.evaluation.patients import make_patients
from slicewise.evaluation.record import Record
from slicewise.files import write_atomically
from slicewise.report.checklists import fill
from slicewise.report.conclusion import conclude
from slicewise.report.figures import (
    draw_agreement,
    draw_decision_curve,
    draw_reliability,
    draw_risk_coverage,
    draw_roc,
    draw_volume_dice,
)
from slicewise.report.known import gather_facts, licences_of
from slicewise.report.model_card import write_model_card
from slicewise.report.recommendation import recommend

__all__ = ["write_report"]


def write_report(table: Path, out: Path) -> Path:
    """Compute ``results.json`` from a table of cases and render ``report.html`` and ``model_card.md`` from it.

    What lies beside the table of a run is shown, too: its history, audit, pictures, configuration and environment.

    Args:
        table: ``cases.parquet`` of a run, or any table of cases in CSV or Parquet.
        out: Where all three go.

    Returns:
        ``report.html``.

    Raises:
        InputError: As `slicewise.evaluation.record.Record.read`.
    """
    record, beside = Record.read(table), table.parent
    results = record.write_results(out)
    of_run = bool(record.facts.models)
    config = _text(beside / "config.yaml") if of_run else None
    environment = json.loads(_text(beside / "environment.json") or "{}") if of_run else {}
    audit = json.loads(_text(beside / "audit" / "audit.json") or "{}") if of_run else {}
    history = beside / "history.csv"
    patients = make_patients(record.cases, record.volumes)
    of_main = patients[(patients["model"] == results["model"]) & (patients["split"] == "test")]
    sentences = conclude(results, of_main)
    facts = gather_facts(results, record.facts, config, environment, audit, sentences)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            models=_models(results),
            metrics=_shown(results),
            sentences=sentences,
            recommendations=recommend(results),
            checklists=fill(facts),
            charts={
                "curves": draw_curves(pd.read_csv(history)) if of_run and history.is_file() else None,
                "volume_dice": draw_volume_dice(patients),
                "roc": draw_roc(record.cases),
                "reliability": draw_reliability(results["calibration"]),
                "decision_curve": draw_decision_curve(results["decision_curve"]),
                "risk_coverage": draw_risk_coverage(results["uncertainty"]),
                "agreement": draw_agreement(results["tumor_volume"]),
            },
            gallery=_pictures(beside / "gallery") if of_run else [],
            explanations=_pictures(beside / "explanations") if of_run else [],
            audit=audit,
            config=config,
            environment=environment,
        )
    )
    if of_run:
        write_model_card(results, facts, sentences, licences_of(config), out / "model_card.md")
    write_atomically(out / "report.html", page)  # last: a run with a report is finished
    return out / "report.html"


def _models(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Every model's results by the name that tables show."""
    named = {f"{name} phase" if name != "joint" else "joint": result for name, result in results["phases"].items()}
    named |= {f"{name} alone": result for name, result in results["single_task"].items()}
    named |= dict(results["models"]) | {name.replace("_", " "): result for name, result in results["baselines"].items()}
    return {name: result for name, result in named.items() if "test" in result}


def _shown(results: Mapping[str, Any]) -> dict[str, str]:
    """The metrics that are defined for a model, in the order of reports."""
    tested = [result["test"] for result in _models(results).values()]
    return {name: title for name, title in METRICS.items() if any(test[name]["value"] is not None for test in tested)}


def _pictures(folder: Path) -> list[tuple[str, bytes]]:
    files = sorted(folder.glob("*.png"), key=lambda file: (not file.name.startswith("worst"), file.name))
    return [(file.stem, file.read_bytes()) for file in files]


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("slicewise.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["embed"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    environment.filters["figure"] = _format
    environment.filters["value"] = lambda figure: "–" if figure["value"] is None else f"{figure['value']:.3f}"
    environment.filters["interval"] = _interval
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.3g}"
    return environment


def _format(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "–"
    interval = _interval(figure)
    return f"{figure['value']:.3f} ({interval})" if interval else f"{figure['value']:.3f}"


def _interval(figure: Mapping[str, Any]) -> str:
    if figure.get("low") is None or figure.get("high") is None:
        return ""
    return f"{figure['low']:.3f} to {figure['high']:.3f}"
