"""Each source left out once: what do models make of a scanner, a hospital or a collection that they were not trained on?

::

    OUT/
      all_sources/               the data, read and audited once
      without_NAME/              a run each, whose test patients include all of NAME
      leave_one_source_out.json  every figure
      leave_one_source_out.md    the same in a table
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from slicewise.config import Config
from slicewise.config_file import save_config
from slicewise.console import Display
from slicewise.data.split import assign_sides, split_patients
from slicewise.environment import describe_environment
from slicewise.errors import ConfigError, InputError, SplitError, TrainingError
from slicewise.files import write_atomically
from slicewise.run import Run

if TYPE_CHECKING:
    from slicewise.evaluation.intervals import Sample

__all__ = ["FORMAT", "SHOWN", "leave_one_source_out"]

FORMAT = "slicewise-leave-one-source-out/1"
SHOWN = ("volume_dice", "slice_dice", "roc_auc", "sensitivity", "specificity", "false_mask_rate")
"""Figures of the table; the JSON file has all."""

_FEWEST_SOURCES = 2
_SHARED = ("store", "audit")
"""Folders of a run that do not depend on how its patients are divided."""


def leave_one_source_out(config: Config, out: Path, display: Display, *, resume: bool) -> Path:
    """Train and evaluate without each source in turn; one without which the others could not train is passed over.

    Args:
        config: The runs, but for ``split.held_out``.
        out: Where they go.
        display: Where progress goes.
        resume: Go on with what was interrupted.

    Returns:
        The table in Markdown; the JSON file lies beside it.

    Raises:
        AuditError: As `Run.audit`.
        ConfigError: ``split.held_out`` names a source already.
        InputError: There are fewer than two sources, or none can be left out; ``out`` holds something and ``resume`` is off.
    """
    names = list(Run(out, config, display).sources())
    if len(names) < _FEWEST_SOURCES:
        raise InputError(
            f"Expected at least two sources to leave one out, got {', '.join(names)}. Add another to the configuration."
        )
    if config.split.held_out:
        raise ConfigError(
            f"Expected no split.held_out, because each source is held out in turn, got {', '.join(config.split.held_out)}. "
            "Remove it."
        )
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"Expected a new or empty folder, {out} is none. Add --resume to go on, or name another.")
    display.say("Reading and auditing the data of all sources")
    data = Run.begin(out / "all_sources", config, display, resume=resume)
    data.ingest()
    data.audit()
    reasons = {name: _why_not(name, data) for name in names}
    for name, reason in reasons.items():
        if reason is not None:
            display.say(f"{name} is not left out: {reason}")
    if all(reasons.values()):
        problems = " ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise InputError(f"Expected a source that the others can train without, none of {', '.join(names)} is. {problems}")
    sources = {}
    for name in (name for name, reason in reasons.items() if reason is None):
        display.say(f"Leaving out {name}")
        sources[name] = _take(name, data)
    skipped = [{"source": name, "reason": reason} for name, reason in reasons.items() if reason is not None]
    options = config.evaluation
    results = {
        "format": FORMAT,
        "name": config.name,
        "sample": {"resamples": options.resamples, "confidence": options.confidence},
        "sources": sources,
        "skipped": skipped,
    }
    write_atomically(out / "leave_one_source_out.json", json.dumps(results, indent=2, allow_nan=False))
    table = out / "leave_one_source_out.md"
    write_atomically(table, _tabulate(results))
    return table


def _without(name: str, config: Config) -> Config:
    return config.model_copy(update={"split": config.split.model_copy(update={"held_out": (name,)})})


def _why_not(name: str, data: Run) -> str | None:
    """Why a source cannot be left out: asked of the split and of every phase, before anything is trained."""
    from slicewise.training.supervision import check_supervision
    from slicewise.training.trainer import gather_data, select_phases

    store, config = data.store(), _without(name, data.config)
    try:
        split = split_patients(store.table, data.duplicates(), config.split, config.seed)
        supervision = gather_data(data.sources(), store, assign_sides(store.table, data.duplicates(), split))
        for phase in select_phases(config, None):
            check_supervision(phase, supervision)
    except (SplitError, TrainingError) as error:
        return str(error)
    targets, of_source = supervision.targets, (store.table["source"] == name).to_numpy(bool)
    if not (of_source & (targets.mask_known | targets.label_known)).any():
        return "Expected slices of it that can be scored, neither a mask nor a label of it is known and taken part in."
    return None


def _take(name: str, data: Run) -> dict[str, Any]:
    """The run without a source, and what its main model, the joint one, makes of that source and of the others."""
    from slicewise.evaluation.intervals import Sample
    from slicewise.evaluation.record import Record
    from slicewise.evaluation.results import choose_main

    run = _begin(name, data)
    if not (run.folder / "report.html").is_file():  # the last step's
        run.all_steps()
    record = Record.read(run.folder / "cases.parquet")
    main = choose_main(record.cases)
    cases, volumes = (
        table[(table["model"] == main) & (table["split"] == "test")] for table in (record.cases, record.volumes)
    )
    sample = Sample(resamples=run.config.evaluation.resamples, confidence=run.config.evaluation.confidence)
    return {
        "run": run.folder.name,
        "model": main,
        "model_id": record.facts.models[main].model_id,
        "left_out": _assess(cases[cases["source"] == name], volumes[volumes["source"] == name], sample),
        "seen": _assess(cases[cases["source"] != name], volumes[volumes["source"] != name], sample),
    }


def _begin(name: str, data: Run) -> Run:
    """The run without a source, begun with the data of all; its folder appears with its configuration, or not at all."""
    folder, config = data.folder.parent / f"without_{name}", _without(name, data.config)
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        for part in _SHARED:
            shutil.copytree(data.folder / part, temporary / part, copy_function=_link)
        save_config(config, temporary / "config.yaml")
        write_atomically(temporary / "environment.json", json.dumps(describe_environment(), indent=2))
        temporary.rename(folder)
    return Run.begin(folder, config, data.display, resume=True)


def _link(source: str, target: str) -> None:
    """The same file once more, which nothing changes; a copy on a disk that has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _assess(cases: pd.DataFrame, volumes: pd.DataFrame, sample: Sample) -> dict[str, Any]:
    """Every figure of some test slices of one model."""
    from slicewise.evaluation.intervals import Resampling
    from slicewise.evaluation.metrics import Tables

    estimates = Resampling(cases, sample).estimate(Tables.of(cases, volumes))
    return {
        "sources": sorted(set(cases["source"])),
        "n_slices": len(cases),
        "n_patients": len(cases[["source", "patient_id"]].drop_duplicates()),
        "figures": {name: estimate.to_json() for name, estimate in estimates.items()},
    }


def _tabulate(results: Mapping[str, Any]) -> str:
    """The `SHOWN` figures that are defined on the source left out or on the others, and what they do not say."""
    from slicewise.evaluation.metrics import METRICS

    lines = [
        f"# {results['name']}: each source left out once",
        "",
        f"Figures of test patients, with {100 * results['sample']['confidence']:g} % intervals over patients. The two "
        "columns are of different patients: they differ because one was not seen, and because one is harder than another.",
        "",
        "| left out | figure | on the source left out | on the sources trained on |",
        "|---|---|---|---|",
    ]
    for name, entry in results["sources"].items():
        unseen, seen = (entry[part]["figures"] for part in ("left_out", "seen"))
        lines += [
            f"| {name} | {METRICS[figure]} | {_cell(unseen[figure])} | {_cell(seen[figure])} |"
            for figure in SHOWN
            if unseen[figure]["value"] is not None or seen[figure]["value"] is not None
        ]
    if results["skipped"]:
        lines += ["", *(f"- {item['source']} was not left out. {item['reason']}" for item in results["skipped"])]
    return "\n".join([*lines, ""])


def _cell(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "undefined"
    interval = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
    slices, patients = (
        f"{figure[f'n_{noun}s']} {noun}{'' if figure[f'n_{noun}s'] == 1 else 's'}" for noun in ("slice", "patient")
    )
    return f"{figure['value']:.3f}{interval}, {slices}, {patients}"
