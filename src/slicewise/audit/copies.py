"""The same slice in several files: equal bytes, equal pixels, or alike beyond chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from slicewise.audit.duplicates import NearDuplicate, find_near_duplicates
from slicewise.audit.findings import Finding
from slicewise.audit.integrity import is_blank
from slicewise.audit.survey import Survey

__all__ = ["Copies", "check_copies", "find_copies"]

Groups = list[list[str]]


class Copies(NamedTuple):
    """Files in groups; a group has at least two."""

    exact: Groups
    """Of identical bytes."""
    decoded: Groups
    """Of identical pixels."""
    groups: Groups
    """That show the same slice, for whatever reason; includes the others."""
    conflicting: Groups
    """That show the same slice under different labels."""
    near: tuple[NearDuplicate, ...]
    """The pairs that are alike, as rows of the survey's table."""

    @property
    def group_of(self) -> dict[str, int]:
        """Number of its group by file."""
        return {file: number for number, group in enumerate(self.groups) for file in group}


def find_copies(survey: Survey) -> Copies:
    """Look for copies among the slices that are not blank, within and across classes, sources and sides."""
    table = survey.table
    usable: NDArray[np.int64] = np.flatnonzero(~is_blank(table).to_numpy(bool) & table["file"].notna().to_numpy(bool))
    slices = table.iloc[usable]
    studies = slices.groupby(["source", "study_id"], sort=False).ngroup().to_numpy().astype(np.int64)
    near = tuple(
        pair._replace(first=int(usable[pair.first]), second=int(usable[pair.second]))
        for pair in find_near_duplicates(survey.thumbnails[usable], studies)
    )
    equal_bytes, equal_pixels = (_pairs_of_equals(table[column].iloc[usable], usable) for column in _KEYS)
    alike = np.array([(pair.first, pair.second) for pair in near], dtype=np.int64).reshape(-1, 2)
    same_slice = np.concatenate([equal_pixels, alike])
    pairs = np.concatenate([equal_bytes, same_slice])
    return Copies(
        exact=_files_in_groups(table, equal_bytes),
        decoded=_files_in_groups(table, equal_pixels),
        groups=_files_in_groups(table, pairs),
        conflicting=_conflicts(table, same_slice),
        near=near,
    )


_KEYS = ("file_sha256", "pixel_checksum")


def check_copies(copies: Copies) -> Iterator[Finding]:
    """Findings about copies; a group is named by the strongest rule that it breaks."""
    seen: set[frozenset[str]] = set()
    for rule, words, groups in (
        ("duplicate-bytes", "identical bytes", copies.exact),
        ("duplicate-pixels", "identical pixels", copies.decoded),
        ("near-duplicate", "the same slice, re-encoded, resized, cropped, mirrored or turned", copies.groups),
    ):
        fresh = [group for group in groups if frozenset(group) not in seen]
        seen |= {frozenset(group) for group in fresh}
        if fresh:
            surplus = sum(len(group) - 1 for group in fresh)
            message = f"{len(fresh)} groups of files show {words}: {surplus} surplus files."
            yield Finding.of(rule, message, _flat(fresh))
    if copies.conflicting:
        message = f"{len(copies.conflicting)} groups of copies are filed both as tumor and as tumor-free."
        yield Finding.of("duplicate-across-labels", message, _flat(copies.conflicting))


def _flat(groups: Groups) -> list[str]:
    return [file for group in groups for file in group]


def _pairs_of_equals(keys: pd.Series[str], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row with the first one of the same key: as many pairs as rows, however large a group is."""
    known = keys.notna().to_numpy(bool)
    codes = pd.factorize(keys[known])[0]
    first = pd.Series(rows[known]).groupby(codes).transform("first").to_numpy(np.int64)
    pairs = np.stack([first, rows[known]], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _files_in_groups(table: pd.DataFrame, pairs: NDArray[np.int64]) -> Groups:
    """Connected files, in the order of the table."""
    codes, files = pd.factorize(table["file"])
    return [[str(files[code]) for code in group] for group in _components(codes[pairs], len(files)) if len(group) > 1]


def _conflicts(table: pd.DataFrame, pairs: NDArray[np.int64]) -> Groups:
    """Slices decide, not files: all slices of a volume have its bytes, and they are of both labels."""
    labels = table["label"]
    conflicting = []
    for rows in _components(pairs, len(table)):
        of_rows = labels.iloc[rows].dropna()
        files = list(dict.fromkeys(table["file"].iloc[rows]))
        if of_rows.nunique() > 1 and len(files) > 1:
            conflicting.append([str(file) for file in files])
    return conflicting


def _components(pairs: NDArray[np.int64], count: int) -> Sequence[NDArray[np.int64]]:
    """Connected components of at least two nodes, each sorted, in the order of their first nodes."""
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    component = connected_components(links, directed=False)[1]
    nodes = np.unique(pairs)
    order = nodes[np.argsort(component[nodes], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(component[order])) + 1) if len(order) else []
    return sorted(groups, key=lambda group: int(group[0]))
