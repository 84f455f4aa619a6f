"""Make the packaged model from the original data: three trainings, test figures, report, and the folder that is shipped.

python benchmarks/production.py --data FOLDER --clean FILE --out FOLDER

FOLDER of --data holds `lgg`, `brisc2025` and `brain_tumor_dataset`; FILE is the clean.csv of an audit of all three. For a
GPU: half an hour on one with 15 cores beside it. What is finished in --out is kept: an interrupted call goes on.
docs/production.md says what each step is for, and what was tried beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from slicewise.config_file import load_config
from slicewise.console import Display
from slicewise.publication import publish
from slicewise.run import Run

CONFIG = Path(__file__).parents[1] / "configs" / "production.yaml"
FOLDERS = {"lgg": "lgg", "brisc": "brisc2025", "yes_no": "brain_tumor_dataset"}
AGAIN = [
    "training.batch_size=32",
    "training.epoch_slices=32000",
    "phases.joint.epochs=16",
    "phases.joint.encoder_learning_rate=1e-3",
    "phases.joint.decoder_learning_rate=1.5e-3",
    "phases.joint.classifier_learning_rate=1.5e-3",
    "gate.attempts=0",
]
"""The joint phase again, with three times as many steps for as many slices."""
MEAN = [
    "training.batch_size=16",
    "training.epoch_slices=3200",
    "training.ema_decay=0.98",
    "phases.joint.epochs=1",
    "phases.joint.encoder_learning_rate=1e-5",
    "phases.joint.decoder_learning_rate=2e-5",
    "phases.joint.classifier_learning_rate=2e-5",
    "gate.attempts=0",
]
"""A last epoch so short and slow that it hardly does more than renew BatchNorm's statistics."""

NOTE = (
    "What stands above under Training and Optimization is the last of three trainings: three phases by "
    "configs/production.yaml (12 + 1 + 28 epochs of 40,000 slices, batches of 96), the joint phase again (epochs of 32,000 "
    "slices, batches of 32), and the mean of both weights with 200 steps more. docs/production.md says why, how long, on "
    "what hardware, and what was tried."
)


def begin(arguments: argparse.Namespace) -> Run:
    """The first run, read, audited and divided."""
    paths = [f"sources.{name}.path={(arguments.data / folder).absolute()}" for name, folder in FOLDERS.items()]
    config = load_config(CONFIG, [*paths, f"clean={arguments.clean.absolute()}"])
    run = Run.begin(arguments.out / "first", config, Display(), resume=True)
    run.ingest()
    run.split()
    return run


def beside(run: Run, name: str) -> Path:
    """Another run of the same slices, division and first phases, which are linked, not copied."""
    folder = run.folder.with_name(name)
    if not folder.exists():
        partial = folder.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for part in ("store", "audit", "phases/segmentation", "phases/classification"):
            shutil.copytree(run.folder / part, partial / part, copy_function=os.link)
        for file in ("split.csv", "config.yaml", "environment.json"):
            shutil.copy(run.folder / file, partial / file)
        partial.rename(folder)
    return folder


def main(arguments: argparse.Namespace) -> None:
    """All steps; the last one looks at the test patients."""
    first = begin(arguments)
    first.train()
    joint = first.folder / "phases" / "joint"
    second = Run.open(beside(first, "second"), Display(), AGAIN)
    second.train(only="joint", init_from=[joint])
    final = Run.open(beside(first, "final"), Display(), MEAN)
    final.train(only="joint", init_from=[joint, second.folder / "phases" / "joint"])
    final.evaluate()
    final.explain()
    print(final.report())
    if not (arguments.out / "model").exists():
        print(publish(final.folder, arguments.out / "model", NOTE, arguments.left_out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with lgg, brisc2025 and brain_tumor_dataset")
    parser.add_argument("--clean", type=Path, required=True, help="clean.csv of an audit of all three")
    parser.add_argument("--out", type=Path, required=True, help="where the runs and the model are kept")
    parser.add_argument("--left-out", type=Path, help="leave_one_source_out.md for the card (docs/production.md)")
    main(parser.parse_args())
