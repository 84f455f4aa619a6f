"""An audit: every rule on one survey, and what it leaves on disk.

::

    OUT/
      audit.json     findings, groups of duplicates, shortcuts, counts
      audit.html     the same to look at
      groups.csv     file, group: read by the split, which keeps a group on one side
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slicewise.audit.balance import check_balance, tabulate
from slicewise.audit.copies import Copies, check_copies, find_copies
from slicewise.audit.findings import Finding, Severity
from slicewise.audit.integrity import check_integrity, is_blank
from slicewise.audit.labels import check_labels
from slicewise.audit.leakage import check_names, check_published_sides, check_sides
from slicewise.audit.masks import check_masks
from slicewise.audit.predictability import Predictability
from slicewise.audit.shortcuts import check_shortcuts, measure_shortcuts
from slicewise.audit.survey import Survey
from slicewise.data.split import group_patients
from slicewise.files import write_atomically

__all__ = ["Audit", "audit", "write_audit"]

_ORDER = list(Severity)


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """What was found, worst first."""

    findings: tuple[Finding, ...]
    copies: Copies
    shortcuts: Mapping[str, Predictability]
    """How well each thing that is no tumor predicts the label."""
    counts: list[dict[str, Any]]
    """Slices and patients by source and label."""

    def summary(self) -> str:
        """How many findings of each level, in a sentence."""
        counts = Counter(finding.severity for finding in self.findings)
        parts = [
            f"{counts[level]} {level}{'' if level is Severity.INFO or counts[level] == 1 else 's'}" for level in Severity
        ]
        return f"{', '.join(parts)}."

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``audit.json``."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "exact_groups": self.copies.exact,
            "groups": self.copies.groups,
            "shortcuts": {name: {"roc_auc": shortcut.to_json()} for name, shortcut in self.shortcuts.items()},
            "counts": self.counts,
        }


def audit(survey: Survey, split: pd.DataFrame | None = None, ignored: frozenset[str] = frozenset()) -> Audit:
    """Apply every rule.

    Args:
        survey: What to judge.
        split: A division of the patients to check as well.
        ignored: Names of rules to leave out.
    """
    table = survey.table
    copies = find_copies(survey)
    patients = group_patients(table, copies.group_of)
    groups = table[["source", "patient_id"]].merge(patients, on=["source", "patient_id"], how="left")["group"].to_numpy()
    heads = (~is_blank(table)).to_numpy(bool)
    teaches = table["source"].map(dict(survey.sources)).to_numpy(bool)
    judged = heads & teaches & table["label"].notna().to_numpy(bool)
    labelled, judged_groups = table[judged], groups[judged]
    shortcuts = measure_shortcuts(labelled, judged_groups)
    findings = [
        *check_integrity(survey),
        *check_masks(survey),
        *check_copies(copies),
        *check_names([*table["file"].dropna(), *table["mask_file"].dropna()]),
        *check_published_sides(table, copies.groups),
        *([] if split is None else check_sides(table, copies.groups, split)),
        *check_shortcuts(labelled, shortcuts),
        *check_balance(table[heads]),
        *check_labels(labelled, survey.thumbnails[judged], judged_groups),
    ]
    kept = [finding for finding in findings if finding.rule not in ignored]
    kept.sort(key=lambda finding: _ORDER.index(finding.severity))
    return Audit(tuple(kept), copies, shortcuts, tabulate(table))


def write_audit(result: Audit, survey: Survey, folder: Path) -> None:
    """Write ``audit.json``, ``audit.html`` and ``groups.csv``.

    Args:
        result: What was found.
        survey: What it was found in, for the pictures.
        folder: Made where missing.
    """
    from slicewise.audit.page import render

    write_atomically(folder / "audit.html", render(result, survey))
    groups = pd.DataFrame(result.copies.group_of.items(), columns=["file", "group"])
    write_atomically(folder / "groups.csv", groups.to_csv(index=False, lineterminator="\n"))
    # Last, because whoever finds it takes the others to be there.
    write_atomically(folder / "audit.json", json.dumps(result.to_json(), indent=2, allow_nan=False))
