"""A run's joint model made ready to be given to others: its figures, its card and a CPU engine in one folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from slicewise.data.store import SliceStore
from slicewise.errors import CheckpointError, InputError
from slicewise.evaluation.intervals import Resampling, Sample
from slicewise.evaluation.metrics import METRICS, Tables
from slicewise.evaluation.record import Record
from slicewise.files import write_atomically
from slicewise.inference.cpu_engine import CpuEngine
from slicewise.inference.export import DICE_FLOOR, PROBABILITY_TOLERANCE, Parity, compare_engines, export
from slicewise.model.checkpoint import load_checkpoint, save_checkpoint
from slicewise.model.description import CARD, find_checkpoint
from slicewise.model.torch_engine import TorchEngine
from slicewise.report.wording import behind, with_interval

__all__ = ["publish"]

_COMPARED = 200
_SHOWN = (
    "volume_dice",
    "slice_dice",
    "roc_auc",
    "sensitivity",
    "specificity",
    "false_mask_rate",
    "expected_calibration_error",
)


def publish(run: Path, out: Path, note: str = "", left_out: Path | None = None) -> Parity:
    """Write a folder with all that users of a model need: weights, description with test figures, card, CPU engine.

    Args:
        run: Folder of a run that has its report.
        out: Must not exist; appears when it is complete.
        note: For the card: what the run's configuration does not say of how the model was made.
        left_out: For the card: the table that `slicewise.cross_source.leave_one_source_out` has written, in Markdown.

    Returns:
        How the CPU engine compares with the weights on slices of the run's store.

    Raises:
        InputError: ``out`` exists, the run was not evaluated with the weights that it has, or ``left_out`` is no such table.
        CheckpointError: The CPU engine does not answer as the weights do.
    """
    if out.exists():
        raise InputError(f"Expected a new folder for the published model, {out} exists. Remove it or name another.")
    checkpoint = find_checkpoint(run)
    network, description = load_checkpoint(checkpoint)
    results, card = _read(run, "results.json"), _read(run, CARD)
    figures: dict[str, Any] = json.loads(results)
    if figures["model_id"] != description.model_id:
        raise InputError(
            f"Expected figures of the weights {description.model_id}, {run / 'results.json'} holds those of "
            f"{figures['model_id']}. Run `slicewise evaluate` and `slicewise report` again."
        )
    metrics = description.metrics | {"test": figures["test"]} | _by_sequence(run / "cases.parquet", figures["model"])
    facts = description.model_dump(exclude={"format", "preprocessing", "weights_sha256", "domain"})
    told = [f"## How it was made\n\n{note}"] if note else []
    if left_out is not None:
        told.append(_read_left_out(left_out))
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        told_by_figures = {"metrics": metrics, "curves": _curves(figures), "domain": description.domain}
        published = save_checkpoint(partial, network, **facts | told_by_figures)
        write_atomically(partial / CARD, "\n\n".join([card.rstrip("\n"), _tabulate(metrics), *told]) + "\n")
        export(partial)
        store = SliceStore(run / "store")
        rows = np.unique(np.linspace(0, len(store) - 1, _COMPARED).astype(int))
        engines = TorchEngine(network), CpuEngine(partial, published)
        parity = compare_engines(*engines, store.images[rows], description)
        if not (parity.probability <= PROBABILITY_TOLERANCE and parity.dice >= DICE_FLOOR):
            raise CheckpointError(
                f"Expected the CPU engine to answer as the weights of {checkpoint} do on {len(rows)} slices, probabilities "
                f"differ by up to {parity.probability:.1e} and masks agree at Dice {parity.dice:.4f}. Nothing was published."
            )
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return parity


def _curves(figures: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What of the results is drawn; what is not defined, of a model that does not classify, is left out."""
    calibration = figures["calibration"] or {}
    curves = {
        # Of what is answered: scaled, where a temperature was fitted.
        "calibration": (calibration.get("after") or calibration.get("before") or {}).get("bins"),
        "decision_curve": figures["decision_curve"],
        "predictive_values": figures["predictive_values"],
    }
    return {name: points for name, points in curves.items() if points}


def _by_sequence(table: Path, model: str) -> dict[str, dict[str, Any]]:
    """Test figures with intervals of each source and sequence: pooled, easy ones would hide hard ones."""
    record = Record.read(table)
    options = record.facts.evaluation
    sample = Sample(resamples=options.resamples, confidence=options.confidence)
    cases = record.cases[(record.cases["model"] == model) & (record.cases["split"] == "test")]
    groups = {}
    for (source, sequence), group in cases.groupby(["source", "sequence"]):
        estimates = Resampling(group, sample).estimate(Tables.of(group))
        groups[f"test, {source} {sequence}"] = {name: estimates[name].to_json() for name in _SHOWN}
    return groups


def _tabulate(metrics: dict[str, dict[str, Any]]) -> str:
    lines = ["## By source and sequence", "", f"| test slices | {' | '.join(METRICS[name] for name in _SHOWN)} |"]
    lines.append("|---" * (len(_SHOWN) + 1) + "|")
    for side, figures in metrics.items():
        if side.startswith("test, "):
            cells = [
                f"{with_interval(figures[name])}, {behind(figures[name])}" if figures[name]["value"] is not None else ""
                for name in _SHOWN
            ]
            lines.append(f"| {side.removeprefix('test, ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _read_left_out(file: Path) -> str:
    """Its title becomes one of the card's; the paragraph of the model that it is not of is ours."""
    text = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    title, _, rest = text.partition("\n")
    if not title.startswith("# ") or "| left out |" not in rest:
        raise InputError(
            f"Expected a table of `slicewise leave-one-source-out`, {file} is none. Name its leave_one_source_out.md."
        )
    told = "Of models of their own, each trained without one of the sources: how the recipe travels, not this model."
    return f"#{title}\n\n{told}\n\n{rest.strip()}"


def _read(run: Path, name: str) -> str:
    try:
        return (run / name).read_text(encoding="utf-8")
    except OSError:
        raise InputError(
            f"Expected {name} in {run}, found none. Run `slicewise evaluate` and `slicewise report` first."
        ) from None
