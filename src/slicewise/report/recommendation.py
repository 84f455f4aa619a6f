"""What the operating point could be used for, derived from its interval and the prevalence: by rule, not by hope."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slicewise.evaluation.subgroups import FEWEST_PATIENTS
from slicewise.report.wording import behind, percent, with_interval

__all__ = ["recommend"]

RULE_OUT_NPV = 0.99
"""Lower end of the NPV from which "no tumor" could spare a reader the slice."""
RULE_IN_PPV = 0.9
"""Lower end of the PPV from which "tumor" could be acted on before a reader has seen the slice."""


def recommend(results: Mapping[str, Any]) -> list[str]:
    """Sentences for readers who would use it; the worst end of each interval decides.

    Args:
        results: Content of ``results.json``.
    """
    rows = results["predictive_values"]
    if not rows:
        return ["Without tumor and tumor-free test slices there is no operating point to recommend anything from."]
    test = results["test"]
    sentences = [
        f"At the operating point sensitivity is {with_interval(test['sensitivity'])} and specificity "
        f"{with_interval(test['specificity'])} ({behind(test['accuracy'])}). What an answer is worth follows from how "
        "frequent tumors are where it is asked:"
    ]
    sentences += [_predictive(row) for row in rows]
    sentences += _uses(rows)
    few = min(test[name]["n_patients"] for name in ("sensitivity", "specificity"))
    if few < FEWEST_PATIENTS:
        sentences.append(f"All of this rests on {few} patients of one class and is an example.")
    sentences.append(
        "These are figures of slices from public collections, read without the rest of the study. They support a reader's "
        "attention, at most; use on patients needs a prospective study and a regulator's clearance."
    )
    return sentences


def _predictive(row: Mapping[str, Any]) -> str:
    return (
        f'With {percent(row["prevalence"])} tumor slices: "tumor" is right in {_range(row["ppv"])}, '
        f'"no tumor" in {_range(row["npv"])}.'
    )


def _range(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "an undefined share"
    if figure["low"] is None or figure["high"] is None:
        return percent(figure["value"])
    return f"{percent(figure['value'])} ({percent(figure['low'])} to {percent(figure['high'])})"


def _uses(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    for name, bar, use, purpose in (
        ("npv", RULE_OUT_NPV, "Ruling out", f"NPV of at least {percent(RULE_OUT_NPV)} at the lower end of its interval"),
        ("ppv", RULE_IN_PPV, "Ruling in", f"PPV of at least {percent(RULE_IN_PPV)} at the lower end of its interval"),
    ):
        good = [row["prevalence"] for row in rows if row[name]["low"] is not None and row[name]["low"] >= bar]
        if good:
            edge = f"up to {percent(max(good))}" if name == "npv" else f"from {percent(min(good))} on"
            yield f"{use}: conceivable at prevalences {edge} ({purpose}), with every answer still seen by a reader."
        else:
            yield f"{use}: not supported at any prevalence looked at ({purpose} is not reached)."
