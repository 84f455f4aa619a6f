"""The Dice of two models on the same slices or scans, where it is defined for at least one of them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from slicewise.evaluation.metrics import Tables

__all__ = ["pair_masks"]

_KEYS = {"slice_dice": ["source", "patient_id", "slice_id"], "volume_dice": ["source", "patient_id", "study_id", "sequence"]}


def pair_masks(ours: Tables, theirs: Tables, metric: Literal["slice_dice", "volume_dice"]) -> pd.DataFrame:
    """One row a slice or scan with any tumor, or with a mask by either model.

    A Dice is undefined where nothing is outlined and nothing was drawn. Left out, a false mask that only one of two models
    draws would count for neither; so the other, which rightly drew nothing there, has a Dice of 1, as the gate has it.

    Args:
        ours: One model.
        theirs: Another, with counts of the same slices.
        metric: Whose pairs.

    Returns:
        ``source``, ``patient_id``, ``n_slices``, and the Dice of both, ``ours`` and ``theirs``.
    """
    keys = _KEYS[metric]
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
    return pairs[["source", "patient_id", "n_slices", "ours", "theirs"]]
