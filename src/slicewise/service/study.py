"""A study predicted into a folder: a record of each scan, and the files that can be fetched. Runs in the worker."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from slicewise import __version__
from slicewise.errors import FileError, InputError
from slicewise.files import write_atomically
from slicewise.inference.outputs import Format, write_outputs
from slicewise.inference.predictor import Predictor
from slicewise.inference.record import ScanRecord, digests_of
from slicewise.inference.result import Result
from slicewise.inference.writers import gray_window
from slicewise.records import Scan
from slicewise.service.problems import PROBLEMS, known_problem
from slicewise.service.schemas import StudyFile, StudyRefusal, StudyResult
from slicewise.service.wire import ENDINGS, RESULT, StudyTask

__all__ = ["predict_study"]

_FORMATS: dict[str, tuple[Format, ...]] = {"nifti": ("nifti",), "dicom": ("dicom-seg", "dicom-sr", "nifti")}
_SHOWN_VOXELS = 256 * 2**20


def predict_study(
    predictor: Predictor, found: Sequence[Scan | FileError], task: StudyTask, tell: Callable[[int, int], None]
) -> None:
    """Predict what was decoded, and write ``result.json`` and the files that it names; the record lands last.

    Args:
        predictor: What answers.
        found: What the decoder made of the upload, at least one scan among it.
        task: What was asked.
        tell: Told the slices finished and their total, over all scans.
    """
    folder = Path(task.output)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scans = [item for item in found if isinstance(item, Scan)]
    total, before = sum(len(scan.slices) for scan in scans), 0
    records, files = [], []

    def progress(count: int) -> None:
        tell(before + count, total)

    progress(0)
    for number, scan in enumerate(scans):
        result = predictor.predict(
            # A name within an archive may be a patient's.
            replace(scan, name=str(number)),
            uncertainty=task.uncertainty,
            segment=task.segment != "never",
            progress=progress,
        )
        written = _write_files(result, folder, number)
        records.append(ScanRecord.of(result, digests_of(written, folder)))
        files += [
            StudyFile(scan=number, name=name, href=f"/v1/studies/{task.study_id}/scans/{number}/{name}")
            for name, ending in ENDINGS.items()
            if folder / f"{number}_{ending}" in written
        ]
        before += len(scan.slices)
    answer = StudyResult(
        id=task.study_id,
        model_id=predictor.description.model_id,
        engine=predictor.engine.name,
        version=__version__,
        scans=records,
        sources=[_sources(scan.files) for scan in scans],
        files=files,
        refusals=[_refusal(item) for item in found if isinstance(item, FileError)],
    )
    write_atomically(folder / RESULT, answer.model_dump_json())


def _write_files(result: Result, folder: Path, number: int) -> list[Path]:
    """Each format by itself: a series that lies nowhere in the body has a NIfTI and no DICOM SEG."""
    written: list[Path] = []
    formats = _FORMATS.get(result.scan.kind, ())
    if result.scan.affine is None:
        formats = tuple(name for name in formats if name != "nifti")
    for name in formats:
        with suppress(InputError):
            written += write_outputs(result, folder / str(number), (name,))
    if len(result.masks) > 1:
        written += write_outputs(result, folder / str(number), ("png",))
    if result.scan.slices.size <= _SHOWN_VOXELS:
        file = folder / f"{number}_{ENDINGS['slices']}"
        write_atomically(file, lambda part: _write_slices(part, result))
        written.append(file)
    return written


def _write_slices(file: Path, result: Result) -> None:
    slices = result.scan.slices
    low, high = float(slices.min()), float(slices.max())
    scale = 65535 / ((high - low) or 1.0)
    values = np.empty(slices.shape, np.uint16)
    for number, image in enumerate(slices):  # one at a time: in double precision, a volume would be four times as large
        values[number] = ((image.astype(np.float64) - low) * scale).round()
    with file.open("wb") as stream:
        np.savez_compressed(
            stream,
            values=values,
            window=(np.array(gray_window(slices)) - low) * scale,
            mask=result.masks,
            spacing_mm=np.array(
                [
                    float("nan") if value is None else value
                    for value in (result.scan.slice_spacing_mm, *(result.scan.spacing_mm or (None, None)))
                ]
            ),
        )


def _refusal(error: FileError) -> StudyRefusal:
    name = known_problem(error.problem)
    return StudyRefusal(problem=name, detail=PROBLEMS[name].detail, sources=_sources(error.files))


def _sources(files: Iterable[Path]) -> list[int]:
    """Numbers of files: those of a zip are extracted under their places in it, and one that is sent alone is the first."""
    return sorted({int(file.name) if file.name.isdecimal() else 0 for file in files})
