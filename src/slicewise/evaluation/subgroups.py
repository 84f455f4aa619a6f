"""The main model in parts of the test set: who is served worst?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from slicewise.evaluation.intervals import Estimate, Resampling, Sample
from slicewise.evaluation.metrics import Tables

__all__ = ["FEWEST_PATIENTS", "SHOWN", "Subgroup", "assess_subgroups", "name_worst"]

FEWEST_PATIENTS = 10
"""A figure from fewer is an example."""
SHOWN = ("slice_dice", "accuracy", "sensitivity", "specificity", "roc_auc", "false_mask_rate")
"""Figures of a subgroup, by which the worst is named: the first that both groups have."""

_SIZES = ("small", "medium", "large")
_THIRDS = ("first third", "middle third", "last third")


class Subgroup(NamedTuple):
    """Some of the test slices."""

    dimension: str
    """What they are told apart by."""
    name: str
    """Which of its values they have."""
    estimates: dict[str, Estimate]
    """`SHOWN` figures."""
    n_slices: int
    n_patients: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``results.json``."""
        figures = {name: self.estimates[name].to_json() for name in SHOWN}
        plain = {"dimension": self.dimension, "name": self.name, "n_slices": self.n_slices, "n_patients": self.n_patients}
        return plain | {"figures": figures}


def assess_subgroups(cases: pd.DataFrame, sample: Sample) -> list[Subgroup]:
    """Figures of every subgroup with at least two values to compare.

    Args:
        cases: Test rows of one model.
        sample: How intervals are made.
    """
    # Whether tumors are outlined at all is asked of the whole side: a false mask in a group without any is wrong as well.
    # `SHOWN` are figures of slices, so that scans and patients need not be divided.
    whole, resampling = Tables.of(cases), Resampling(cases, sample)
    groups = []
    for dimension, values in _dimensions(cases):
        names = [name for name in dict.fromkeys(values.dropna()) if name]
        if len(names) < 2:
            continue
        for name in sorted(names, key=_order):
            rows = (values == name).fillna(False).to_numpy(bool)
            of_group = cases[rows]
            estimates = resampling.estimate(whole._replace(cases=of_group, slice_terms=whole.slice_terms[rows]))
            n_patients = len(of_group[["source", "patient_id"]].drop_duplicates())
            groups.append(
                Subgroup(dimension, str(name), {shown: estimates[shown] for shown in SHOWN}, len(of_group), n_patients)
            )
    return groups


def name_worst(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each dimension, the group with the lowest figure among the figures of at least `FEWEST_PATIENTS` patients.

    Args:
        groups: `Subgroup.to_json` of all.

    Returns:
        ``dimension``, ``name``, ``metric``, and the ``best`` group's name to compare with.
    """
    worst = []
    for dimension in dict.fromkeys(group["dimension"] for group in groups):
        of_dimension = [group for group in groups if group["dimension"] == dimension]
        for metric in SHOWN[:-1]:
            # Of a group's patients few may stand behind a figure; behind an undefined one there is none.
            enough = [group for group in of_dimension if group["figures"][metric]["n_patients"] >= FEWEST_PATIENTS]
            if len(enough) < 2:
                continue
            ranked = sorted(enough, key=lambda group: group["figures"][metric]["value"])
            worst.append({"dimension": dimension, "name": ranked[0]["name"], "metric": metric, "best": ranked[-1]["name"]})
            break
    return worst


def _dimensions(cases: pd.DataFrame) -> Iterator[tuple[str, pd.Series[str]]]:
    yield "source", cases["source"]
    yield "institution", cases["institution"]
    yield "plane", cases["plane"].where(cases["plane"] != "unknown")
    yield "sequence", cases["sequence"].where(cases["sequence"] != "unknown")
    yield "lesion size", _lesion_sizes(cases["reference_area_px"].where(cases["mask_state"] == "present"))
    thirds = (cases["slice_position"].astype(float) * 3).clip(upper=2.9) // 1
    yield "slice position", thirds.map(dict(enumerate(_THIRDS)))


def _lesion_sizes(areas: pd.Series[int]) -> pd.Series[str]:
    """Thirds of the outlined tumors by area in their slice; the names say where they are cut."""
    known = np.asarray(areas.to_numpy(float, na_value=np.nan))
    if np.isnan(known).all():
        return pd.Series(pd.NA, index=areas.index)
    low, high = np.nanquantile(known, (1 / 3, 2 / 3), method="inverted_cdf")
    names = (f"small, up to {low:.0f} px", f"medium, up to {high:.0f} px", f"large, above {high:.0f} px")
    third = np.where(known <= low, 0, np.where(known <= high, 1, 2))
    return pd.Series(
        [pd.NA if np.isnan(area) else names[t] for area, t in zip(known, third, strict=True)], index=areas.index
    )


def _order(name: str) -> tuple[int, str]:
    """By size or place, else by name."""
    for known in (_SIZES, _THIRDS):
        for place, start in enumerate(known):
            if str(name).startswith(start):
                return place, str(name)
    return 0, str(name)
