"""What `slicewise predict` does: inputs found, a model loaded, all predicted, and the whole written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from slicewise.batch.batch import Options, Worker, check_results, predict_jobs, write_results
from slicewise.batch.inputs import find_inputs
from slicewise.console import Display
from slicewise.environment import describe_versions
from slicewise.errors import CheckpointError, InputError
from slicewise.files import printable
from slicewise.inference.decoding import Decoder
from slicewise.inference.gatekeeper import RULES
from slicewise.inference.outputs import FORMATS
from slicewise.inference.predictor import EngineName, Predictor
from slicewise.inference.record import InputRecord, ScanRecord
from slicewise.inference.result import Result, word_extent
from slicewise.model.description import read_description

__all__ = ["BatchRun", "choices", "predict_inputs"]

_CHOICES: dict[str, Sequence[str]] = {"--format": FORMATS, "--abstain-on": tuple(RULES)}
_RAY = "ray"


class BatchRun(NamedTuple):
    """What came of a call."""

    inputs: int
    """How many there were."""
    lines: list[str]
    """One for each scan, and below them what of an input could not be read or written; to be read by people."""
    refusals: list[str]
    """One sentence for each input that was refused."""


def choices(option: str, given: Sequence[str] | None) -> tuple[Any, ...]:
    """What was given for an option, each word once.

    Raises:
        InputError: A word is none of the option's.
    """
    words = tuple(dict.fromkeys(given or ()))
    for word in words:
        if word not in _CHOICES[option]:
            raise InputError(f"Expected {option} to be one of {', '.join(_CHOICES[option])}, got {word!r}.")
    return words


def predict_inputs(
    inputs: Sequence[Path],
    model: Path,
    output: Path,
    options: Options,
    *,
    engine: str,
    device: str,
    workers: int | None,
    preview: bool,
    display: Display,
) -> BatchRun:
    """Predict all inputs into a folder.

    Args:
        inputs: Files, folders and patterns.
        model: Folder of a run or of a checkpoint.
        output: Made where missing.
        options: What is asked for.
        engine: ``auto``, ``cpu``, ``torch`` or ``ray``.
        device: Of torch.
        workers: Of ray.
        preview: Print the most probable slice of each input.
        display: What a person sees meanwhile.

    Raises:
        InputError: An option or input cannot be, or every input was refused.
        CheckpointError: There is no model, it is damaged, or it does not classify, which is what is to be explained.
        OutputError: The disk is full; what is finished is kept.
    """
    names = (*get_args(EngineName), _RAY)
    if engine not in names:
        raise InputError(f"Expected --engine to be one of {', '.join(names)}, got {engine!r}.")
    check_results(output)
    passed_over: list[Path] = []
    jobs = find_inputs(inputs, output, passed_over.append)
    if passed_over:
        display.say(
            f"Passed over, by their names, as masks or results: {len(passed_over)}, such as "
            f"{printable(str(passed_over[0]))}. Name a file itself to have it predicted."
        )
    begun, started = datetime.now(UTC), time.perf_counter()
    description = read_description(model)  # a model that will not do is refused here, and not by every worker of Ray
    if options.explain and "classification" not in description.tasks:
        raise CheckpointError(
            f"Expected a model that classifies, to explain its answer; {description.name} does not. Use the joint."
        )
    if engine == _RAY:
        from slicewise.batch.ray_pool import predict_on_ray

        with display.bar("predicting", len(jobs)) as progress:
            records, refusals = predict_on_ray(jobs, model, output, options, workers=workers, progress=progress)
    else:
        predictor = Predictor.from_checkpoint(model, cast(EngineName, engine), device)
        with Decoder() as decoder, display.bar("predicting", len(jobs)) as progress:
            worker = Worker(predictor, decoder, options, output, _previewer(display) if preview else lambda result: None)
            records, refusals = predict_jobs(jobs, worker, progress)
    duration_s = time.perf_counter() - started
    write_results(
        records,
        refusals,
        output,
        {
            "model_id": description.model_id,
            "engine": engine,
            "passed_over": len(passed_over),
            "started": begun.isoformat(timespec="seconds"),
            "duration_s": round(duration_s, 3),
            "inputs_per_s": round(len(jobs) / duration_s, 3),
            "environment": describe_versions(),
        },
    )
    if not records:
        raise InputError(" ".join(refusals))
    return BatchRun(len(jobs), [line for record in records for line in _lines(record)], refusals)


def _lines(record: InputRecord) -> list[str]:
    scans = [_line(record, scan) for scan in record.scans]
    return [*scans, *(f"  {printable(sentence)}" for sentence in (*record.refusals, *record.notes))]


def _line(record: InputRecord, scan: ScanRecord) -> str:
    name = printable(record.file if len(record.scans) == 1 else f"{record.file}, {scan.name}")
    parts = [f"probability {scan.probability:.3f}"]
    if scan.uncertainty is not None:
        parts.append(f"uncertainty {scan.uncertainty:.3f}")
    if scan.slices > 1:
        parts.append(f"{scan.positive_slices} of {scan.slices} slices")
    if scan.mask_px is not None:
        parts.append(word_extent(scan.mask_px, scan.slices, scan.area_mm2, scan.volume_ml))
    line = f"{name}: {scan.decision} ({', '.join(parts)})"
    return "\n".join([line, *(f"  {concern.rule}: {concern.message}" for concern in scan.concerns)])


def _previewer(display: Display) -> Callable[[Result], None]:
    from rich.text import Text

    from slicewise.inference.preview import preview

    console = display.console
    color, columns = console.color_system is not None, min(80, console.width)
    # From its codes, so that the console may reduce the colors to those that the terminal has.
    return lambda result: console.print(Text.from_ansi(preview(result, color=color, columns=columns)))
