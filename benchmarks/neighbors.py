"""How many of the packaged model's BRISC patients on one side are also on its training side.

python benchmarks/neighbors.py --data FOLDER

FOLDER holds `brisc2025`. Slices with consecutive numbers of the older figshare set are one patient (docs/production.md),
whom the model's description names by the first of the duplicate groups. None may have a part on another side.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from machine import Figure, run_benchmark

from slicewise.config import SourceConfig
from slicewise.model.description import PACKAGED, read_description
from slicewise.sources.brisc import find_studies


def measure(arguments: argparse.Namespace) -> dict[str, Figure]:
    """Patients with a tumor, by side."""
    root = arguments.data / "brisc2025"
    patients = {
        study.files[0].name: study.patient_id for study in find_studies("brisc", SourceConfig(layout="brisc", path=root))
    }
    with (root / "groups.csv").open(newline="", encoding="utf-8") as stream:
        patient_of = {f"{row['class']}-{row['dup_group']}": patients[row["image"]] for row in csv.DictReader(stream)}
    sides = read_description(PACKAGED).patients["brisc"]
    trained = {patient_of[group] for group in sides["train"] if group in patient_of}
    figures = {}
    for side in ("val", "test"):
        groups = [group for group in sides[side] if group in patient_of]
        shared = sum(patient_of[group] in trained for group in groups)
        figures[f"{side}, patient also in training"] = Figure(shared, "patients", len(groups))
    return figures


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the pictures are."""
    parser.add_argument("--data", type=Path, required=True, help="folder with brisc2025")


if __name__ == "__main__":
    run_benchmark(__doc__, measure, add_options)
