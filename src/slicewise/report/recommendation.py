"""What the operating point could be used for, derived from its interval and the prevalence: by rule, not by hope."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slicewise.evaluation.subgroups import FEWEST_PATIENTS
from slicewise.report.wording import behind, percent, percent_with_interval, with_interval

__all__ = ["recommend"]

RULE_OUT_NPV = 0.99
"""Lower end of the NPV from which "no tumor" could spare a reader the slice."""
RULE_OUT_FACTOR = 10
"""How many times rarer than before "no tumor" must leave tumors, by the same end: where they are rare any answer has a high
NPV. A likelihood ratio of 0.1 is what is called a large change (Jaeschke et al. 1994,
https://doi.org/10.1001/jama.1994.03510330081039)."""
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
    return "an undefined share" if figure["value"] is None else percent_with_interval(figure)


def _uses(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    seen = "with every answer still seen by a reader"
    known = sorted((row for row in rows if row["npv"]["low"] is not None), key=lambda row: float(row["prevalence"]))
    good = [row for row in known if row["npv"]["low"] >= RULE_OUT_NPV and _times_rarer(row) >= RULE_OUT_FACTOR]
    rule = (
        f'an NPV of at least {percent(RULE_OUT_NPV)} and tumors at least {RULE_OUT_FACTOR} times rarer after "no tumor" '
        "than before, by the lower end of the NPV's interval"
    )
    for row in good[-1:] or known[:1]:  # where tumors are rarest an answer comes nearest to it
        rule += f"; of {percent(row['prevalence'])} tumor slices it leaves {_times_rarer(row):.4g} times fewer"
    if good:
        yield f"Ruling out: conceivable at prevalences up to {percent(good[-1]['prevalence'])}, {seen} ({rule})."
    else:
        yield f"Ruling out: not supported at any prevalence looked at (needed: {rule})."
    purpose = f"PPV of at least {percent(RULE_IN_PPV)} at the lower end of its interval"
    good = [row for row in rows if row["ppv"]["low"] is not None and row["ppv"]["low"] >= RULE_IN_PPV]
    if good:
        edge = percent(min(row["prevalence"] for row in good))
        yield f"Ruling in: conceivable at prevalences from {edge} on, {seen} ({purpose})."
    else:
        yield f"Ruling in: not supported at any prevalence looked at ({purpose} is not reached)."


def _times_rarer(row: Mapping[str, Any]) -> float:
    """Tumors after "no tumor" than before, at the worse end."""
    return float(row["prevalence"] / (1 - row["npv"]["low"]))  # a sensitivity with an interval has a lower end below 1
