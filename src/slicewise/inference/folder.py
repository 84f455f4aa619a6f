"""Predict files and folders of pictures into a folder of results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slicewise.errors import InputError
from slicewise.files import write_atomically
from slicewise.inference.predictor import Predictor
from slicewise.inference.writers import output_files, write_picture_outputs
from slicewise.sources.images import PICTURE_ENDINGS, is_picture_name, read_picture

__all__ = ["Job", "find_inputs", "predict_files"]


class Job(NamedTuple):
    """One picture and where its results go."""

    file: Path
    """The input."""
    target: Path
    """Below the output folder, without ending."""


def find_inputs(inputs: Sequence[Path]) -> list[Job]:
    """Expand folders into the pictures below them, in order; the folders' structure is kept for the results.

    Raises:
        InputError: An input does not exist, a folder holds no picture, or two inputs would write the same files.
    """
    jobs: dict[Path, Job] = {}
    for given in inputs:
        if given.is_dir():
            files = sorted(file for file in given.rglob("*") if file.is_file() and is_picture_name(file))
            if not files:
                raise InputError(f"Expected pictures ({', '.join(sorted(PICTURE_ENDINGS))}) in {given}, found none.")
            found = [Job(file, file.relative_to(given).with_suffix("")) for file in files]
        elif given.is_file():
            found = [Job(given, Path(given.stem))]
        else:
            raise InputError(f"Expected a picture or a folder of pictures, found nothing at {given}. Check the path.")
        for job in found:
            jobs.setdefault(job.file.resolve(), job)
    taken = Counter(job.target for job in jobs.values())
    # Y1.jpg and Y1.png would write the same files: they keep their endings in the names of the results.
    named = [job if taken[job.target] == 1 else Job(job.file, job.target.with_name(job.file.name)) for job in jobs.values()]
    twins = [target for target, count in Counter(job.target for job in named).items() if count > 1]
    if twins:
        raise InputError(
            f"Expected inputs of different names, several are called {twins[0].name}: their results "
            "would overwrite each other. Give the folder above them, or predict them into folders of their own."
        )
    return named


def predict_files(
    predictor: Predictor,
    jobs: Sequence[Job],
    output: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Predict pictures and write, for each, its mask and overlay, and ``results.json`` for all.

    A file that cannot be read is named and passed over; nothing is written for it.

    Args:
        predictor: The model.
        jobs: What `find_inputs` found.
        output: Folder for the results; made where missing.
        progress: Called with the number done and the total.

    Returns:
        The records of ``results.json`` (`Prediction.to_json`), and one sentence for each file that could not be read.

    Raises:
        InputError: A result would take the place of an input, or not one file could be read.
    """
    _spare_inputs(jobs, output)
    records, refusals = [], []
    for done, job in enumerate(jobs, start=1):
        try:
            image = read_picture(job.file).image
            prediction = predictor.predict(image, file=str(job.file))
        except InputError as error:
            refusals.append(str(error))
        else:
            write_picture_outputs(image, prediction, output / job.target)
            records.append(prediction.to_json())
        progress(done, len(jobs))
    if not records:
        raise InputError(" ".join(refusals))
    write_atomically(output / "results.json", json.dumps(records, indent=2, allow_nan=False))
    return records, refusals


def _spare_inputs(jobs: Sequence[Job], output: Path) -> None:
    inputs = {job.file.resolve() for job in jobs}
    for job in jobs:
        for file in output_files(output / job.target):
            if file.resolve() in inputs:
                raise InputError(
                    f"Expected results beside the inputs, not in their place: the result of {job.file} would overwrite the "
                    f"input {file}. Name another folder for the results, or take earlier results out of the inputs."
                )
