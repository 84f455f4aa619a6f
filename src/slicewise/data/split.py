"""Patients to train, val and test: deterministic, stratified by source and label, never one patient on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from slicewise.config import SplitConfig
from slicewise.errors import SplitError

__all__ = ["SIDES", "assign_sides", "check_split", "group_patients", "read_split", "split_patients", "write_split"]

SIDES = ("train", "val", "test")
_AGAIN = "Repair split.csv, or remove it and run `slicewise split` again."


Duplicates = Mapping[str, int]
"""Number of its group of duplicates by file, as an audit finds them; a file without duplicates is not in it."""


def split_patients(table: pd.DataFrame, duplicates: Duplicates, config: SplitConfig, seed: int) -> pd.DataFrame:
    """Divide the patients of a store.

    Patients who share a picture stay together (`group_patients`). Patients whom the publisher held out (``published_split``
    *val* or *test*) go to test, and so do those of the sources that ``config`` holds out, each with all of other sources who
    share a picture with them; the others are divided by ``config``.

    Args:
        table: The store's table.
        duplicates: Groups of files that show the same slice.
        config: Shares of the sides, and the sources held out.
        seed: Another seed is another division; the same seed and patients are always the same one.

    Returns:
        One row a patient: ``source``, ``patient_id``, ``group``, ``tumor`` (any slice with tumor), ``split``; sorted.

    Raises:
        SplitError: The publisher's split divides a patient or group, a source to hold out is not there or no other is, or a
            side would stay empty.
    """
    _check_held_out(config.held_out, set(table["source"]))
    patients = _patients(table, duplicates)
    held_out = patients.groupby("group").agg(least=("least_held_out", "min"), most=("held_out", "max")).dropna()
    torn = held_out.index[held_out["least"] != held_out["most"]]
    if len(torn):
        names = ", ".join(patients.loc[patients["group"].isin(torn[:1]), "patient_id"].head(4))
        raise SplitError(
            f"Expected the published split to keep every patient on one side, but it divides {len(torn)} patients or "
            f"groups of equal pictures, such as {names}. Move their files to one side."
        )
    patients["held_out"] = patients["held_out"] > 0
    sides: dict[int, str] = {}
    groups = patients.groupby("group").agg(
        source=("source", "min"), tumor=("tumor", "max"), held_out=("held_out", "max"), key=("key", "min")
    )
    of_test = groups["held_out"] | groups.index.isin(patients.loc[patients["source"].isin(config.held_out), "group"])
    sides.update(dict.fromkeys(groups.index[of_test], "test"))
    for (source, _), stratum in groups[~of_test].groupby(["source", "tumor"]):
        has_test = bool((groups["held_out"] & (groups["source"] == source)).any())
        shares = (config.train, config.val, 0.0 if has_test else 1.0 - config.train - config.val)
        order = sorted(stratum.index, key=lambda group: _rank(seed, str(stratum.at[group, "key"])))
        counts = _apportion(len(order), shares)
        sides.update(zip(order, np.repeat(SIDES, counts).tolist(), strict=True))
    patients["split"] = patients["group"].map(sides)
    missing = [side for side in SIDES if not (patients["split"] == side).any()]
    if missing:
        raise SplitError(
            f"Expected patients on each of {', '.join(SIDES)}, got none on {', '.join(missing)} out of {len(patients)}. "
            f"Add patients or change split.train and split.val{' or split.held_out' if config.held_out else ''}."
        )
    columns = ["source", "patient_id", "group", "tumor", "split"]
    return patients[columns].sort_values(["source", "patient_id"], ignore_index=True)


def check_split(table: pd.DataFrame, duplicates: Duplicates, split: pd.DataFrame) -> None:
    """Refuse a division that does not fit a store.

    Raises:
        SplitError: A patient or group stands on two sides, a side is unknown, or a patient of the store has none.
    """
    unknown = sorted(set(split["split"].fillna("")) - set(SIDES))
    if unknown:
        raise SplitError(f"Expected the sides {', '.join(SIDES)}, got {', '.join(map(repr, unknown))}. {_AGAIN}")
    fresh = _patients(table, duplicates).merge(
        split[["source", "patient_id", "split"]], on=["source", "patient_id"], how="left"
    )
    for name, key in (("patient", ["source", "patient_id"]), ("group of equal pictures", ["group"])):
        sides = fresh.groupby(key)["split"].nunique()
        torn = sides.index[sides > 1]
        if len(torn):
            raise SplitError(f"Expected every {name} on one side, {len(torn)} stand on two, first: {torn[0]}. {_AGAIN}")
    lost = fresh.loc[fresh["split"].isna(), "patient_id"]
    if len(lost):
        raise SplitError(f"Expected a side for every patient, {len(lost)} have none, first: {lost.iloc[0]}. {_AGAIN}")


def assign_sides(table: pd.DataFrame, duplicates: Duplicates, split: pd.DataFrame) -> pd.Series[str]:
    """The side of each row of a store's table.

    Raises:
        SplitError: As `check_split`.
    """
    check_split(table, duplicates, split)
    sides = table[["source", "patient_id"]].merge(
        split[["source", "patient_id", "split"]], on=["source", "patient_id"], how="left", validate="many_to_one"
    )["split"]
    return sides.astype(str)


def write_split(split: pd.DataFrame, file: Path) -> None:
    """Write the division as CSV."""
    split.to_csv(file, index=False, lineterminator="\n")


def read_split(file: Path) -> pd.DataFrame:
    """Read what `write_split` wrote.

    Raises:
        SplitError: The file is missing, is no table, or lacks a column.
    """
    if not file.is_file():
        raise SplitError(f"Expected the division of patients in {file}, found none. Run `slicewise split` first.")
    columns = {"source": "string", "patient_id": "string", "split": "string"}
    try:
        split = pd.read_csv(file, dtype=columns, keep_default_na=False)  # a patient may be called NA
    except (OSError, ValueError) as error:  # pandas' errors of parsing are ValueErrors
        raise SplitError(
            f"Expected a table in {file}, could not read it: {' '.join(str(error).split())}. {_AGAIN}"
        ) from None
    missing = [name for name in columns if name not in split]
    if missing:
        raise SplitError(f"Expected the columns {', '.join(columns)} in {file}, found no {', '.join(missing)}. {_AGAIN}")
    return split


def group_patients(table: pd.DataFrame, duplicates: Duplicates) -> pd.DataFrame:
    """Patients who share a picture, directly or through others: equal to the last bit, or found to be duplicates.

    Args:
        table: The store's table.
        duplicates: Groups of files that show the same slice.

    Returns:
        One row a patient: ``source``, ``patient_id``, ``key`` (both in one) and the number of its ``group``.
    """
    patients = table[["source", "patient_id"]].drop_duplicates().sort_values(["source", "patient_id"], ignore_index=True)
    patients["key"] = patients["source"] + "/" + patients["patient_id"]
    number = pd.Series(patients.index, index=patients["key"])
    slices = table.assign(patient=(table["source"] + "/" + table["patient_id"]).map(number))
    # Blank slices are equal in everybody and say nothing about who is who.
    slices = slices[slices["foreground_share"] > 0]
    # The picture alone counts: one source may outline what another only labels.
    shared = [slices["image_checksum"], slices["file"].map(duplicates).dropna()]
    firsts, seconds = [], []
    for key in shared:
        sharing = pd.DataFrame({"key": key, "patient": slices["patient"].loc[key.index]}).drop_duplicates()
        firsts.append(sharing.groupby("key")["patient"].transform("min").to_numpy(np.int64))
        seconds.append(sharing["patient"].to_numpy(np.int64))
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    links = coo_matrix((np.ones(len(first)), (first, second)), shape=(len(patients), len(patients)))
    patients["group"] = connected_components(links, directed=False)[1]
    return patients


def _patients(table: pd.DataFrame, duplicates: Duplicates) -> pd.DataFrame:
    """One row a patient: what is known of it, and its group.

    ``held_out`` and ``least_held_out``, of all its slices, are NaN where the publisher divides nobody, and differ where the
    patient is divided.
    """
    published = table["published_split"].map({"train": 0.0, "val": 1.0, "test": 1.0}).astype(float)
    patients = (
        table.assign(tumor=table["label"].fillna(False), held_out=published)
        .groupby(["source", "patient_id"], as_index=False)
        .agg(tumor=("tumor", "max"), held_out=("held_out", "max"), least_held_out=("held_out", "min"))
    )
    return patients.merge(group_patients(table, duplicates), on=["source", "patient_id"], validate="one_to_one")


def _check_held_out(held_out: tuple[str, ...], sources: set[str]) -> None:
    if strangers := sorted(set(held_out) - sources):
        raise SplitError(
            f"Expected split.held_out to name sources that have slices, got {strangers[0]!r}. "
            f"They are {', '.join(sorted(sources))}."
        )
    if held_out and set(held_out) == sources:
        raise SplitError(
            f"Expected split.held_out to leave a source to train on, it names all: {', '.join(held_out)}. Take one out."
        )


def _rank(seed: int, key: str) -> str:
    """A patient's place in the draw depends on the seed and the patient alone, not on who else is there."""
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()


def _apportion(count: int, shares: tuple[float, ...]) -> list[int]:
    """Whole numbers in proportion to ``shares`` that sum to ``count``; each side gets one while there are enough."""
    exact = [count * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda side: exact[side] - counts[side], reverse=True)
    for side in by_remainder[: count - sum(counts)]:
        counts[side] += 1
    wanting = [side for side, share in enumerate(shares) if share > 0 and counts[side] == 0]
    for side in wanting:
        richest = max(range(len(shares)), key=lambda other: counts[other])
        if counts[richest] > 1:
            counts[richest] -= 1
            counts[side] += 1
    return counts
