"""Checklists of reporting, filled with what a run knows of itself; all else stays open for the authors, nothing is guessed.

The items are data, in ``checklists/*.yaml``: CLAIM 2024 and, of Metrics Reloaded, the decisions that concern our two tasks.
Topics are described in our own words; the sources say it in full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from jinja2 import Environment, StrictUndefined

__all__ = ["FACTS", "Checklist", "Item", "fill"]

FACTS = {
    # The run
    "title": "Name of the run.",
    "seed": "Seed that split, order, augmentation and initial weights follow from; an integer.",
    "model_id": "First digits of the SHA-256 of the weights.",
    "data_fingerprint": "SHA-256 of the slice store.",
    "software": "Packages that decide results, with versions.",
    "hardware": "Device, cores and threads.",
    "license": "License of the software.",
    "code_availability": "What software made the run, and where it can be had.",
    # The data
    "sources": "The sources by name, with what they hold.",
    "layouts": "The publishers' layouts that they were read in.",
    "subsets": "What was chosen of the sources: sequences, tasks, files left out on purpose.",
    "n_patients_train": "Patients trained on.",
    "n_patients_val": "Patients tuned on.",
    "n_patients_test": "Patients tested on.",
    "n_slices_train": "Slices of the patients trained on.",
    "n_slices_val": "Slices of the patients tuned on.",
    "n_slices_test": "Slices of the patients tested on.",
    "n_tumor_test": "Test slices with tumor that classification is scored on.",
    "n_tumor_free_test": "Test slices without tumor, alike.",
    "split_shares": "Shares of training, tuning and testing.",
    "held_out": "Names of the sources all of whose patients are tested on, or none.",
    "duplicates": "How many groups of copies were found, and what was done with them.",
    "skipped_files": "Number of files skipped because they cannot be read.",
    "unknown_annotations": "How many slices have no known label or no known mask.",
    "preprocessing": "What is done to a slice before the network sees it, with the version's name.",
    # The model and its training
    "architecture": "Kind of network, its parts, widths and depths.",
    "parameters": "Number of weights; an integer.",
    "initialization": "What the weights started from, and whose masks they learned from beside the data's.",
    "augmentation": "Random changes to training slices, with their ranges.",
    "phases": "Phases with their parts, learning rates, losses, epochs and early stopping.",
    "optimization": "Optimizer, schedule, batch size, regularization and precision.",
    "class_balance": "How draws are shared out between classes and kinds of source.",
    "selection_rule": "Figure and gate by which an epoch is kept.",
    "ensemble": "Members and how they are joined, or that there is but one network.",
    "threshold": "Probability of a slice from which the answer is tumor; a number.",
    "threshold_rule": "How the threshold was chosen on the tuning slices that decide it.",
    "mask_from": "Probability of a slice from which it gets a mask, at least the threshold; a number.",
    "sensitivity_target": "Slice sensitivity that the threshold must reach on the tuning slices that decide it; a number.",
    "mask_threshold": "Probability from which a pixel belongs to the mask; a number.",
    "decoder_share": "Weight of the mask's largest logit in a slice's logit, beside the classification head's; a number.",
    "center": "Logit of a slice at which tumor and no tumor are equally probable; a number.",
    "temperature": "What logits are divided by for calibrated probabilities, 1 for none; a number.",
    # The results on test patients: a figure is a text with value, interval and n
    "metrics": "Names of all figures reported.",
    "intervals": "Kind and level of the intervals, and what is resampled.",
    "resamples": "How many resamples the intervals come from; an integer.",
    "test_figures": "The main figures of both tasks.",
    "roc_auc": "ROC-AUC of slices.",
    "average_precision": "Average precision of slices.",
    "balanced_accuracy": "Balanced accuracy of slices.",
    "mcc": "Matthews' correlation coefficient of slices.",
    "sensitivity": "Sensitivity of slices at the threshold.",
    "specificity": "Specificity of slices at the threshold.",
    "precision": "Precision of slices at the threshold.",
    "calibration": "Figures of calibration, such as Brier score and expected calibration error.",
    "uncertainty": "How the uncertainty of a single answer is measured, and what it is worth.",
    "volume_dice": "Volume Dice.",
    "slice_dice": "Slice Dice.",
    "boundary": "Figures of the distance between outlines, with unit and tolerance.",
    "false_mask_rate": "Share of tumor-free slices in which a mask is drawn.",
    "small_tumors": "Figures by size of the tumor.",
    "patient_figures": "Figures with the patient as the unit.",
    "subgroups": "Figures by source and by other strata known to the run.",
    "failures": "Counts of misses, false alarms and false masks.",
    "explanation": "Method of the heat maps, its parameters, and how far they were checked.",
    "limits": "Warnings that the run's own numbers give.",
}
"""What a run can know of itself, by name. Texts begin and end so that they fit inside a sentence, without its full stop."""

_NAMES = ("claim_2024", "metrics_reloaded")
_FOR_AUTHORS = "For the authors."


@dataclass(frozen=True, slots=True)
class Item:
    """One item with its answer."""

    number: int
    """Its number in the checklist."""
    section: str
    """Where in a paper, or in the framework, it belongs."""
    topic: str
    """What it asks for, in our words."""
    status: Literal["filled", "open"]
    """*Open* is left to the authors. A *filled* answer may still name what they have to add."""
    answer: str
    """Plain text."""


@dataclass(frozen=True, slots=True)
class Checklist:
    """A checklist, item by item."""

    title: str
    """Its name."""
    source: str
    """The publication."""
    items: tuple[Item, ...]
    """In the order of their numbers."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An item as the YAML has it."""

    number: int
    section: str
    topic: str
    answer: str | None
    """A template over ``needs``; None where only the authors know."""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Form:
    """A checklist as the YAML has it."""

    title: str
    source: str
    entries: tuple[_Entry, ...]


def fill(facts: Mapping[str, Any]) -> list[Checklist]:
    """Answer what the facts answer.

    >>> [{item.status for item in checklist.items} for checklist in fill({})]
    [{'open'}, {'open'}]

    Args:
        facts: Plain values by the names of `FACTS`. One that is missing, None, blank or not finite is not known, and every
            item that needs it is open.

    Returns:
        CLAIM 2024 and Metrics Reloaded.

    Raises:
        ValueError: There is a fact that `FACTS` does not name.
    """
    if unknown := sorted(set(facts) - set(FACTS)):
        raise ValueError(f"Expected facts named in FACTS, got {', '.join(unknown)}.")
    known = {name: _bare(value) for name, value in facts.items() if _is_known(value)}
    forms = [_read(name) for name in _NAMES]
    return [Checklist(form.title, form.source, tuple(_answer(entry, known) for entry in form.entries)) for form in forms]


def _is_known(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _bare(value: Any) -> Any:
    """A text without the full stop that the sentence around it brings."""
    return value.strip().removesuffix(".") if isinstance(value, str) else value


def _answer(entry: _Entry, known: Mapping[str, Any]) -> Item:
    if entry.answer is None:
        return Item(entry.number, entry.section, entry.topic, "open", _FOR_AUTHORS)
    if missing := [name.replace("_", " ") for name in entry.needs if name not in known]:
        return Item(
            entry.number, entry.section, entry.topic, "open", f"{_FOR_AUTHORS} Not known here: {', '.join(missing)}."
        )
    text = _environment().from_string(entry.answer).render({name: known[name] for name in entry.needs})
    return Item(entry.number, entry.section, entry.topic, "filled", " ".join(text.split()))


@cache
def _read(name: str) -> _Form:
    form = yaml.safe_load((files("slicewise.report") / "checklists" / f"{name}.yaml").read_text(encoding="utf-8"))
    entries = tuple(_Entry(**{**entry, "needs": tuple(entry.get("needs", ()))}) for entry in form["items"])
    return _Form(form["title"], form["source"], entries)


@cache
def _environment() -> Environment:
    """Of plain text: the page that shows it escapes it."""
    return Environment(undefined=StrictUndefined)
