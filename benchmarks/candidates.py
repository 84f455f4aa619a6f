"""How good checkpoints are on the validation patients of a run, by source and sequence. Test patients are not looked at.

python benchmarks/candidates.py RUN CHECKPOINT [CHECKPOINT ...] [--json FILE]

Masks are the predictor's: empty where the answer is "no tumor". Sensitivity and specificity are those at a checkpoint's own
threshold. ``missed`` counts the slices with an outlined tumor of which the mask hits nothing: because the answer was "no
tumor" or too uncertain for a mask, because the decoder marked nothing, and because it marked another place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from machine import Figure, run_benchmark

from slicewise.console import Display
from slicewise.data.dataset import find_targets
from slicewise.evaluation.evaluate import evaluate
from slicewise.evaluation.metrics import measure
from slicewise.inference.predictor import Predictor
from slicewise.run import Run

SHOWN = ("volume_dice", "slice_dice", "roc_auc", "sensitivity", "specificity", "false_mask_rate")


def main(arguments: argparse.Namespace) -> dict[str, Figure]:
    """Predict, measure, print a line for each checkpoint, source and sequence."""
    run = Run.open(arguments.run, Display())
    store, sides = run.store(), run.sides()
    targets = find_targets(store.table, run.sources())
    rows = np.flatnonzero((sides == "val").to_numpy() & (targets.mask_known | targets.label_known))
    print(f"| checkpoint | slices | {' | '.join(name.replace('_', ' ') for name in SHOWN)} | missed | n |")
    print("|---" * (len(SHOWN) + 4) + "|")
    figures: dict[str, Figure] = {}
    for path in arguments.checkpoints:
        predictor = Predictor.from_checkpoint(path, engine="torch")
        cases = evaluate(predictor, store, targets, rows, model="candidate", split="val").cases
        for (source, sequence), group in cases.groupby(["source", "sequence"]):
            measured = measure(group)
            values = [measured[name].value for name in SHOWN]
            cells = ["" if np.isnan(value) else f"{value:.3f}" for value in values]
            patients = group["patient_id"].nunique()
            name = f"{source} {sequence}"
            n = f"{len(group)} slices, {patients} patients"
            print(f"| {path} | {name} | {' | '.join(cells)} | {count_missed(group)} | {n} |", flush=True)
            figures |= {
                f"{path}: {name}: {figure}": Figure(value, "", patients)
                for figure, value in zip(SHOWN, values, strict=True)
                if not np.isnan(value)
            }
    return figures


def count_missed(cases: pd.DataFrame) -> str:
    """By reason."""
    missed = cases[(cases["mask_state"] == "present") & (cases["tp"] == 0)]
    unmarked = missed["decoder_area_px"] == 0
    emptied = ~missed["is_tumor"].astype(bool) | (~unmarked & (missed["predicted_area_px"] == 0))
    return f"{emptied.sum()} + {(~emptied & unmarked).sum()} + {(~emptied & ~unmarked).sum()}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which run's validation patients, and which checkpoints."""
    parser.add_argument("run", type=Path, help="folder of a run: its store, its division")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="folders of checkpoints")


if __name__ == "__main__":
    run_benchmark(__doc__, main, add_options)
