"""What each ingredient of the training is worth, and whether joint training keeps what single tasks reach, over seeds.

python benchmarks/ablation.py --data FOLDER --out FOLDER [--seeds 1 2 3] [--variants base ...] [--json FILE]

FOLDER of --data holds `lgg` and `brain_tumor_dataset` (and `brisc2025`, for the variants that add it). Each seed divides the
patients anew. Variants are compared on validation patients alone; only `base`, with its two single-task models, looks at the
test patients, whose figures are pooled over the seeds. What is finished in --out is kept: an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import Figure, run_benchmark

from slicewise.config import EvaluationConfig
from slicewise.config_file import load_config
from slicewise.console import Display
from slicewise.data.dataset import find_targets
from slicewise.evaluation.cases import make_volumes
from slicewise.evaluation.evaluate import evaluate
from slicewise.evaluation.facts import Facts
from slicewise.evaluation.metrics import dice_by_patient, measure
from slicewise.evaluation.record import Record
from slicewise.evaluation.seeds import compare_runs, tabulate_runs
from slicewise.evaluation.table import read_cases
from slicewise.inference.predictor import Predictor
from slicewise.run import Run

BASE = Path(__file__).with_suffix(".yaml")
JOINT_ALONE = {
    "λ 0.1": ["phases.joint.classification_weight=0.1"],
    "λ 1": ["phases.joint.classification_weight=1"],
    "uncertainty weighting": ["training.balancing=uncertainty"],
    "PCGrad": ["training.balancing=pcgrad", "training.compile=false"],
    "distillation": ["phases.joint.distillation_weight=1"],
}
FROM_CLASSIFICATION = {
    "no quota of masked slices": ["training.masked_fraction=null"],
    "loss per slice of the batch": ["training.per_masked_slice=false"],
    "statistics not frozen": ["training.freeze_statistics=false"],
}
FROM_THE_START = {
    "no empty masks": ["training.empty_masks=false"],
    "no weight averaging": ["training.ema_decay=0"],
    "deep supervision": ["model.deep_supervision=2"],
    "BRISC added, by its size": ["sources.brisc.layout=brisc", "sources.brisc.classification=false"],
    "BRISC added, drawn alike": [
        "sources.brisc.layout=brisc",
        "sources.brisc.classification=false",
        "training.source_balance=1",
    ],
}
VARIANTS = {"base": ["training.single_task=true"], **JOINT_ALONE, **FROM_CLASSIFICATION, **FROM_THE_START}
FIGURES = ("volume_dice", "roc_auc", "false_mask_rate")
TESTED = {
    "joint": "phases/joint",
    "segmentation_only": "single_task/segmentation",
    "classification_only": "single_task/classification",
}
RESAMPLES = 10_000


def train(variant: str, seed: int, arguments: argparse.Namespace) -> Run:
    """The run of a variant; its store and, where they are the same, its first phases are those of the base."""
    data = arguments.data
    paths = [f"sources.lgg.path={data / 'lgg'}", f"sources.yes_no.path={data / 'brain_tumor_dataset'}"]
    if "BRISC" in variant:
        paths += [f"sources.brisc.path={data / 'brisc2025'}"]
        paths += [f"clean={arguments.clean}"] if arguments.clean else []
    config = load_config(BASE, [*VARIANTS[variant], *paths, f"seed={seed}"])
    folder = arguments.out / f"seed_{seed}" / variant.replace(" ", "_").replace(",", "")
    display = Display()
    display.say(f"{variant}, seed {seed}")
    if folder.exists() and not (folder / "config.yaml").is_file():  # interrupted before it was begun
        shutil.rmtree(folder)
    base = arguments.out / f"seed_{seed}" / "base"
    run = Run.begin(folder, config, display, resume=True)
    if variant in JOINT_ALONE or variant in FROM_CLASSIFICATION:
        share(base / "phases" / "segmentation", folder / "phases" / "segmentation")
    if variant in JOINT_ALONE:
        share(base / "phases" / "classification", folder / "phases" / "classification")
    for read in sorted(arguments.out.glob("seed_*/*/config.yaml")):  # what is read and audited does not depend on the seed
        if set(load_config(read).sources) == set(config.sources):
            share(read.parent / "store", folder / "store")
            share(read.parent / "audit", folder / "audit")
    run.ingest()
    run.split()
    run.train()
    return run


def share(source: Path, target: Path) -> None:
    """Whole or not at all, as links to the same files, which nothing changes; nothing where it is there, or is not yet."""
    if target.exists() or not source.exists():
        return
    temporary = target.with_name(target.name + ".copy")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=os.link)
    temporary.rename(target)


def predict(run: Run, folder: str, side: str) -> pd.DataFrame:
    """Cases of the LGG slices of a side."""
    file = run.folder / folder / f"{side}.parquet"
    if not file.is_file():
        store, sides, sources = run.store(), run.sides(), run.sources()
        rows = np.flatnonzero((sides == side).to_numpy() & (store.table["source"] == "lgg").to_numpy())
        predictor = Predictor.from_checkpoint(run.folder / folder)
        targets = find_targets(store.table, sources)
        evaluated = evaluate(predictor, store, targets, rows, model=folder, split=side, duplicates=run.duplicates())
        evaluated.cases.to_parquet(file, index=False)
    return read_cases(file)


def tabulate(cells: list[dict[str, Any]]) -> str:
    """Mean and range over the seeds, and the difference from the base of the same seed."""
    table = pd.DataFrame(cells).set_index(["variant", "seed"])
    differences = table[list(FIGURES)] - table.loc["base", list(FIGURES)]
    lines = [
        "| variant | LGG volume Dice | less base | LGG ROC-AUC | less base | false masks | gate |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in table.index.unique("variant"):
        parts = [variant]
        for figure in FIGURES:
            values, against = table.loc[variant, figure], differences.loc[variant, figure]
            parts.append(f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})")
            if figure != "false_mask_rate":
                parts.append(
                    "" if variant == "base" else f"{against.mean():+.3f} ({against.min():+.3f} to {against.max():+.3f})"
                )
        passed = table.loc[variant, "accepted"]
        parts.append(f"passed {int(passed.sum())} of {len(passed)}")
        lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def compare(runs: list[Run]) -> dict[str, Figure]:
    """The joint model against the two single-task ones on the test patients of all seeds."""
    records = {}
    for run in runs:
        cases = pd.concat([predict(run, folder, "test").assign(model=model) for model, folder in TESTED.items()])
        facts = Facts(evaluation=EvaluationConfig(resamples=RESAMPLES), gate=run.config.gate)
        records[f"seed {run.config.seed}"] = Record(cases, make_volumes(cases), facts)
    comparison = compare_runs(records)
    print(tabulate_runs(comparison))
    figures = {}
    for name, alone in (("volume_dice", "segmentation_only"), ("roc_auc", "classification_only")):
        for model in ("joint", alone):
            over_runs = comparison["models"][model][name]
            figures[f"test_{name}_{model}"] = Figure(over_runs["mean"], "", over_runs["n_runs"])
        difference = next(entry[name] for entry in comparison["comparisons"] if entry["against"] == alone)
        limits = difference["low"], difference["high"]
        figures[f"test_{name}_difference"] = Figure(difference["value"], "", difference["n_patients"], *limits)
    return figures


def main(arguments: argparse.Namespace) -> dict[str, Figure]:
    """Train what is missing, then print the table."""
    cells, bases = [], []
    # The base comes first: the others are compared with it, and some start from its phases.
    for variant in dict.fromkeys(["base", *arguments.variants]):
        for seed in arguments.seeds:
            run = train(variant, seed, arguments)
            figures = measure(predict(run, "phases/joint", "val"))
            gate = Predictor.from_checkpoint(run.folder).description.gate or {}
            values = {name: figures[name].value for name in FIGURES}
            cells.append({"variant": variant, "seed": seed, "accepted": bool(gate.get("accepted")), **values})
            if variant == "base":
                bases.append(run)
    print(tabulate(cells))
    # Each seed divides the patients anew: one may be a validation patient of several.
    validated = pd.concat([dice_by_patient(predict(run, "phases/joint", "val")) for run in bases])
    n_patients = validated.index.nunique()
    compared = compare(bases) if len(bases) > 1 else {}
    return {**compared, "validation_patients": Figure(n_patients, "patients", len(bases))}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the data is, and what to train."""
    parser.add_argument("--data", type=Path, required=True, help="folder with lgg and brain_tumor_dataset")
    parser.add_argument("--out", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--clean", type=Path, help="cleaned table of an audit of all three sources, for those with BRISC")


if __name__ == "__main__":
    run_benchmark(__doc__, main, add_options)
