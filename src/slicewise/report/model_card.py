"""``model_card.md`` in Hugging Face's format, from the same numbers as the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from slicewise.evaluation.metrics import METRICS
from slicewise.files import write_atomically
from slicewise.report.conclusion import Sentence
from slicewise.report.recommendation import recommend
from slicewise.report.wording import behind, with_interval

__all__ = ["write_model_card"]

_SHOWN = ("volume_dice", "slice_dice", "roc_auc", "accuracy", "sensitivity", "specificity", "false_mask_rate", "brier_score")
_TYPES = {"volume_dice": "dice", "slice_dice": "dice", "roc_auc": "roc_auc", "accuracy": "accuracy", "sensitivity": "recall"}


def write_model_card(
    results: Mapping[str, Any],
    facts: Mapping[str, Any],
    sentences: Iterable[Sentence],
    licences: Mapping[str, str],
    file: Path,
) -> None:
    """Render the card.

    Args:
        results: Content of ``results.json``.
        facts: Of `slicewise.report.known.gather_facts`.
        sentences: The report's conclusions.
        licences: Attribution and licence of the data, by source.
        file: Where it goes.
    """
    figures = {name: results["test"][name] for name in _SHOWN if results["test"][name]["value"] is not None}
    environment = Environment(
        loader=PackageLoader("slicewise.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    card = environment.get_template("model_card.md.j2").render(
        header=yaml.safe_dump(_header(results, licences, figures), sort_keys=False, allow_unicode=True).strip(),
        results=results,
        facts=facts,
        licences=licences,
        sentences=sentences,
        figures=[(METRICS[name], with_interval(figure), behind(figure)) for name, figure in figures.items()],
        recommendations=recommend(results),
    )
    write_atomically(file, card)


def _header(
    results: Mapping[str, Any], licences: Mapping[str, str], figures: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The metadata that the hub reads."""
    metrics = [
        {"type": _TYPES.get(name, name), "name": METRICS[name], "value": round(figure["value"], 4)}
        for name, figure in figures.items()
    ]
    sources = ", ".join(dict.fromkeys(entry["source"] for entry in results["data"]))
    entry = {
        "task": {"type": "image-segmentation"},
        "dataset": {"type": "brain-mri", "name": f"{sources} (test patients)"},
        "metrics": metrics,
    }
    # The code's licence says nothing about weights whose data have terms of their own.
    terms = {"license": "other", "license_name": "terms-of-the-data"} if licences else {"license": "apache-2.0"}
    return {
        **terms,
        "library_name": "slicewise",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical", "MRI", "brain-tumor", "segmentation", "classification", "multi-task"],
        "model-index": [{"name": results["name"], "results": [entry]}],
    }
