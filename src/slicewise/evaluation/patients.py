"""From slices to patients: who has a tumor, by the same answers; and who counts as one patient."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from slicewise.evaluation.cases import are_judged

__all__ = ["PATIENT_KEYS", "VOLUMES", "assign_clusters", "make_patients"]

PATIENT_KEYS = ["model", "split", "source", "patient_id"]
"""What a patient of a model is told apart by."""

VOLUMES = ("predicted_ml", "reference_ml", "predicted_px", "reference_px")
"""Columns of a patient's tumor volume."""


def make_patients(cases: pd.DataFrame, volumes: pd.DataFrame) -> pd.DataFrame:
    """One row a model and patient.

    A patient has a tumor if one slice shows it, and none if all slices are known to be free. The answer is "tumor" if it is
    for one slice; the probability is that of the most probable slice.

    Args:
        cases: A table of cases.
        volumes: Its scans, of `slicewise.evaluation.cases.make_volumes`.

    Returns:
        `PATIENT_KEYS`, ``n_slices``, ``label``, ``probability``, ``is_tumor`` (missing where no label takes part), and the
        means over the patient's scans of ``volume_dice`` and `VOLUMES`.
    """
    everybody = cases.groupby(PATIENT_KEYS, sort=True).size().rename("n_slices")
    known = cases[are_judged(cases)]
    answers = known.groupby(PATIENT_KEYS).agg(
        label=("label", "max"), probability=("probability", "max"), is_tumor=("is_tumor", "max")
    )
    tp, fp, fn = (volumes[name] for name in ("tp", "fp", "fn"))
    scans = volumes.assign(volume_dice=2 * tp / (2 * tp + fp + fn), predicted_px=tp + fp, reference_px=tp + fn)
    scans = scans.groupby(PATIENT_KEYS)[["volume_dice", *VOLUMES]].mean()
    patients = pd.concat([everybody, answers, scans], axis=1).reset_index()
    patients = patients.astype({"label": "boolean", "is_tumor": "boolean"})
    # Some slices of it were not judged: that no judged slice shows tumor does not make the patient free.
    judged = known.groupby(PATIENT_KEYS).size().reindex(pd.MultiIndex.from_frame(patients[PATIENT_KEYS])).to_numpy()
    unsure = (patients["label"] == False).fillna(False) & (judged < patients["n_slices"].to_numpy())  # noqa: E712
    patients.loc[unsure, ["label", "is_tumor"]] = pd.NA
    return patients


def assign_clusters(cases: pd.DataFrame) -> pd.Series[int]:
    """The number of each slice's patient, ``(N,)`` from 0 on; patients who share copies of a slice have one number.

    Numbers follow the order of source and patient, not of the rows, so that a shuffled table is resampled alike.
    """
    keys = cases[["source", "patient_id"]].astype(object)
    patients = pd.MultiIndex.from_frame(keys.drop_duplicates().sort_values(["source", "patient_id"]))
    number: NDArray[np.int64] = patients.get_indexer(pd.MultiIndex.from_frame(keys))
    copied = cases["duplicate_group"].notna().to_numpy()
    if copied.any():
        groups = pd.factorize(cases.loc[copied, "duplicate_group"].to_numpy(np.int64))[0] + len(patients)
        count = len(patients) + int(groups.max()) + 1
        links = coo_matrix((np.ones(len(groups)), (number[copied], groups)), shape=(count, count))
        merged = connected_components(links, directed=False)[1][: len(patients)]
        number = pd.factorize(merged)[0][number]
    return pd.Series(number, index=cases.index, name="cluster")
