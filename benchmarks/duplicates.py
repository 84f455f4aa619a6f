"""Copies that `slicewise audit` finds in BRISC 2025, against the groups that its folder lists.

python benchmarks/duplicates.py --data FOLDER [--json FILE]

The list may lack copies. Each pair that it does not list is therefore compared again, in another way than the audit's: the
pictures as they are, at full size, pixel by pixel, in all eight positions. Mirrored copies correlate above 0.99 there.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from machine import Figure, run_benchmark
from PIL import Image

from slicewise.audit.copies import find_copies
from slicewise.audit.survey import survey_sources
from slicewise.config import SourceConfig

CERTAIN = 0.99


def pairs_of(groups: Iterable[Iterable[str]]) -> set[tuple[str, str]]:
    """All pairs within groups, by file name."""
    named = (sorted({Path(file).name for file in group}) for group in groups)
    return {pair for group in named for pair in itertools.combinations(group, 2)}


def full_size_correlation(first: Path, second: Path) -> float:
    """Best of the eight positions; pictures of other sizes are brought to the size of the first."""
    left, right = (Image.open(file).convert("L") for file in (first, second))
    pixels, best = np.asarray(left, dtype=float), 0.0
    for turns, mirrored in itertools.product(range(4), (False, True)):
        turned = np.rot90(np.asarray(right), turns)
        turned = np.asarray(Image.fromarray(turned[:, ::-1] if mirrored else turned).resize(left.size), dtype=float)
        best = max(best, float(np.corrcoef(pixels.ravel(), turned.ravel())[0, 1]))
    return best


def measure(arguments: argparse.Namespace) -> dict[str, Figure]:
    """Count pairs among the slices that the list knows."""
    listed: dict[str, list[str]] = defaultdict(list)
    with (arguments.data / "groups.csv").open() as stream:
        for row in csv.DictReader(stream):
            listed[row["dup_group"]].append(row["image"])
    known = {name for group in listed.values() for name in group}
    survey = survey_sources({"brisc": SourceConfig(layout="brisc", path=arguments.data)})
    where = {Path(file).name: Path(file) for file in survey.table["file"]}
    true, found = pairs_of(listed.values()), pairs_of(find_copies(survey).groups)
    found = {pair for pair in found if known.issuperset(pair)}
    unlisted = sorted(found - true)
    certain = [pair for pair in unlisted if full_size_correlation(*(where[name] for name in pair)) > CERTAIN]
    for pair in unlisted:
        print("not listed,", "a copy at full size:" if pair in certain else "not certain:", *pair)
    return {
        "recall_of_listed": Figure(len(true & found) / len(true), "", len(true)),
        "precision_against_list": Figure(len(true & found) / len(found), "", len(found)),
        "unlisted_pairs": Figure(len(unlisted), "pairs", len(found)),
        "unlisted_copies_at_full_size": Figure(len(certain), "pairs", len(unlisted)),
        "precision_with_these": Figure(1 - (len(unlisted) - len(certain)) / len(found), "", len(found)),
    }


if __name__ == "__main__":
    run_benchmark(__doc__, measure, lambda parser: parser.add_argument("--data", type=Path, required=True, help="brisc2025"))
