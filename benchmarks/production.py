"""Make the packaged model from the original data: its trainings, test figures, report, and the folder that is shipped.

python benchmarks/production.py --data FOLDER --clean FILE --out FOLDER

FOLDER of --data holds `lgg`, `brisc2025` and `brain_tumor_dataset`; FILE is the clean.csv of an audit of all three. For a
GPU: a quarter of an hour on one with 15 cores beside it. What is finished in --out is kept: an interrupted call goes on.
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
BRIEF = ["training.epoch_slices=6400", "phases.joint.epochs=17"]
"""Of the classification phase, and of a first joint phase that the long one starts from."""

NOTE = (
    "What stands above under Training and Optimization is the last training: the joint phase of configs/production.yaml "
    "(15 epochs of 60,000 slices), which went on from a brief one (17 epochs of 6,400 slices), that from the phases "
    "segmentation (3 epochs of 60,000) and classification (1 of 6,400). docs/production.md says why, how long, on what "
    "hardware, and what was tried."
)


def begin(arguments: argparse.Namespace) -> Run:
    """The first run, read, audited and divided."""
    paths = [f"sources.{name}.path={(arguments.data / folder).absolute()}" for name, folder in FOLDERS.items()]
    config = load_config(CONFIG, [*paths, f"clean={arguments.clean.absolute()}"])
    run = Run.begin(arguments.out / "first", config, Display(), resume=True)
    run.ingest()
    run.split()
    return run


def beside(run: Run, name: str, *phases: str) -> Path:
    """Another run of the same slices and division, with some of its phases; linked, not copied."""
    folder = run.folder.with_name(name)
    if not folder.exists():
        partial = folder.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for part in ("store", "audit", *(f"phases/{phase}" for phase in phases)):
            shutil.copytree(run.folder / part, partial / part, copy_function=os.link)
        for file in ("split.csv", "config.yaml", "environment.json"):
            shutil.copy(run.folder / file, partial / file)
        partial.rename(folder)
    return folder


def long(run: Run) -> list[str]:
    """What undoes `BRIEF`."""
    config = run.config
    return [f"training.epoch_slices={config.training.epoch_slices}", f"phases.joint.epochs={config.phases.joint.epochs}"]


def main(arguments: argparse.Namespace) -> None:
    """All steps; the last one looks at the test patients."""
    first = begin(arguments)
    first.train(only="segmentation")
    brief = Run.open(beside(first, "brief", "segmentation"), Display(), BRIEF)
    brief.train(only="classification")
    brief.train(only="joint")
    final = Run.open(beside(brief, "final", "segmentation", "classification"), Display(), long(first))
    final.train(only="joint", init_from=[brief.folder / "phases" / "joint"])
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
