"""The Dice of two models on the same slices or scans, where it is defined for at least one of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from slicewise.evaluation.metrics import Tables

__all__ = ["MASK_METRICS", "pair_masks"]

MASK_METRICS = {
    "slice_dice": ["source", "patient_id", "slice_id"],
    "volume_dice": ["source", "patient_id", "study_id", "sequence"],
}
"""Metrics of pairs of masks, and the columns by which slices or scans are paired."""


def pair_masks(ours: Tables, theirs: Tables, metric: str) -> pd.DataFrame | None:
    """One row a slice or scan with any tumor, or with a mask by either model.

    A Dice is undefined where nothing is outlined and nothing was drawn. Left out, a false mask that only one of two models
    draws would count for neither; so the other, which rightly drew nothing there, has a Dice of 1, as the gate has it.

    Args:
        ours: One model.
        theirs: Another.
        metric: Of `MASK_METRICS`.

    Returns:
        ``source``, ``patient_id``, ``n_slices``, and the Dice of both, ``ours`` and ``theirs``. None without a pair, and
        where the two do not have counts of the same slices: no mask there cannot be told from a slice that was not seen.
    """
    if not _same_masks(ours, theirs):
        return None
    keys = MASK_METRICS[metric]
    scored = []
    for name, tables in (("ours", ours), ("theirs", theirs)):
        table, terms = (
            (tables.cases, tables.slice_terms) if metric == "slice_dice" else (tables.volumes, tables.volume_terms)
        )
        defined = terms["outlined" if metric == "slice_dice" else "volumes"].to_numpy() > 0
        values = terms["dice" if metric == "slice_dice" else "volume_dice"].to_numpy()[defined]
        n_slices = (
            np.ones(len(values), dtype=int) if metric == "slice_dice" else table.loc[defined, "n_slices"].to_numpy(int)
        )
        scored.append(table.loc[defined, keys].assign(**{name: values, f"n_{name}": n_slices}))
    pairs = scored[0].merge(scored[1], on=keys, how="outer", validate="one_to_one")
    behind = pairs["n_ours"].fillna(pairs["n_theirs"]).astype(int)
    pairs = pairs.assign(ours=pairs["ours"].fillna(1.0), theirs=pairs["theirs"].fillna(1.0), n_slices=behind)
    return None if pairs.empty else pairs[["source", "patient_id", "n_slices", "ours", "theirs"]]


def _same_masks(ours: Tables, theirs: Tables) -> bool:
    counted = (tables.cases[tables.cases["tp"].notna()] for tables in (ours, theirs))
    mine, others = (pd.MultiIndex.from_frame(cases[["source", "slice_id"]]).sort_values() for cases in counted)
    return len(mine) > 0 and mine.equals(others)
