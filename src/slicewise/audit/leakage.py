"""What stands on two sides, or does not stand where it seems to."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from slicewise.audit.findings import Finding

__all__ = ["check_names", "check_published_sides", "check_sides"]

_WINDOWS_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}
_WINDOWS_FORBIDDEN = set('<>:"\\|?*') | {chr(code) for code in range(32)}
_LONGEST_NAME_BYTES = 255


def check_published_sides(table: pd.DataFrame, groups: Sequence[Sequence[str]]) -> Iterator[Finding]:
    """The sides on which the publisher filed the slices.

    Args:
        table: One row a slice.
        groups: Files that show the same slice.
    """
    filed = table.dropna(subset="published_split")
    yield from _torn_patients(filed, filed["published_split"], "the published split")
    yield from _torn_groups(filed, filed["published_split"], groups, "the published split")


def check_sides(table: pd.DataFrame, groups: Sequence[Sequence[str]], split: pd.DataFrame) -> Iterator[Finding]:
    """A division of patients made by slicewise or by hand.

    Args:
        table: One row a slice.
        groups: Files that show the same slice.
        split: Columns ``source``, ``patient_id``, ``split``.
    """
    keys = ["source", "patient_id"]
    patients = table[keys].drop_duplicates()
    both = patients.merge(split[keys].drop_duplicates(), on=keys, how="outer", indicator=True)
    for side, words in (("left_only", "have no side"), ("right_only", "are not in the data")):
        strangers = both.loc[both["_merge"] == side, "patient_id"]
        if len(strangers):
            names = ", ".join(strangers.head(3))
            yield Finding.of("stale-split", f"{len(strangers)} patients of split.csv and data {words}, such as {names}.")
    sides = table.merge(split[[*keys, "split"]], on=keys, how="inner")
    yield from _torn_patients(sides, sides["split"], "split.csv")
    yield from _torn_groups(sides, sides["split"], groups, "split.csv")


def check_names(files: Iterable[str]) -> Iterator[Finding]:
    """Names that another operating system reads otherwise, or not at all."""
    paths = [Path(file) for file in dict.fromkeys(files)]
    same: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    spellings: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        same[path.parent, unicodedata.normalize("NFC", path.name).casefold()].append(path)
        spellings[path.suffix.lower()][path.suffix].append(path)
    clashes = [path for twins in same.values() if len(twins) > 1 for path in twins]
    if clashes:
        yield Finding.of("name-clash", f"{len(clashes)} names differ only in capitals or accents.", clashes)
    odd = [path for path in paths if _is_unportable(path.name)]
    if odd:
        yield Finding.of("unportable-name", f"{len(odd)} names cannot be written on Windows or macOS.", odd)
    for ending, by_spelling in spellings.items():
        if len(by_spelling) > 1:
            usual = max(by_spelling, key=lambda spelling: len(by_spelling[spelling]))
            rare = [path for spelling, found in by_spelling.items() if spelling != usual for path in found]
            yield Finding.of(
                "ending-case",
                f"{len(rare)} files end in {ending} spelled otherwise than the {len(by_spelling[usual])} others.",
                rare,
            )


def _is_unportable(name: str) -> bool:
    return (
        bool(_WINDOWS_FORBIDDEN & set(name))
        or name[-1] in ". "
        or name.split(".")[0].lower() in _WINDOWS_RESERVED
        or name != unicodedata.normalize("NFC", name)
        or len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME_BYTES
    )


def _torn_patients(table: pd.DataFrame, sides: pd.Series[str], where: str) -> Iterator[Finding]:
    of_patient = sides.groupby([table["source"], table["patient_id"]]).nunique()
    torn = of_patient.index[of_patient > 1]
    if len(torn):
        rows = pd.MultiIndex.from_frame(table[["source", "patient_id"]]).isin(torn)
        yield Finding.of(
            "patient-on-two-sides",
            f"{len(torn)} patients stand on two sides of {where}, such as {torn[0][1]} of {torn[0][0]}.",
            table.loc[rows, "file"].dropna(),
        )


def _torn_groups(
    table: pd.DataFrame, sides: pd.Series[str], groups: Sequence[Sequence[str]], where: str
) -> Iterator[Finding]:
    side_of = dict(zip(table["file"], sides, strict=True))
    torn = [group for group in groups if len({side_of[file] for file in group if file in side_of}) > 1]
    if torn:
        yield Finding.of(
            "duplicate-on-two-sides",
            f"{len(torn)} groups of duplicates stand on two sides of {where}, {sum(map(len, torn))} files in all.",
            [file for group in torn for file in group],
        )
