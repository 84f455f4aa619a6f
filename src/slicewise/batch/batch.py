"""Predict inputs into a folder, one at a time; what is finished is not done again."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import slicewise
from slicewise.batch.inputs import Job, digest_of
from slicewise.batch.place import Place, path_from
from slicewise.errors import FileError, InputError, OutputError
from slicewise.files import as_cell, write_atomically
from slicewise.inference.decoding import Decoder
from slicewise.inference.lesions import check_smallest
from slicewise.inference.outputs import Format, possible_files, write_outputs
from slicewise.inference.predictor import Predictor
from slicewise.inference.record import InputRecord, ScanRecord, digests_of
from slicewise.inference.result import Result
from slicewise.inference.statistics import describe_result
from slicewise.records import Scan
from slicewise.sources.scans import PASSED_OVER

__all__ = ["Options", "Worker", "check_results", "predict_job", "predict_jobs", "write_results"]


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for beside the answer."""

    formats: tuple[Format, ...] = ()
    """Of the results; empty: the usual of each input's kind."""
    tta: bool = False
    """Average over views."""
    uncertainty: bool = False
    """Say how sure the model is."""
    explain: bool = False
    """Draw Grad-CAM of the most probable slice."""
    statistics: bool = False
    """Measure lesions and intensities."""
    segment: bool = True
    """Find the mask; without, only the probability is wanted."""
    smallest_mm3: float = 0.0
    """Parts of a volume's mask below this are left out."""
    abstain_on: tuple[str, ...] = ()
    """Rules of the gatekeeper on which no answer is given."""
    timeout_s: float = 10.0
    """How long the decoding of an input may take."""
    allow_burned_in: bool = False
    """Take DICOM images that say that text is burned into their pixels, which may be a patient's name."""


@dataclass(slots=True)
class Worker:
    """What predicts: one a process."""

    predictor: Predictor
    decoder: Decoder
    options: Options
    output: Path
    show: Callable[[Result], None] = lambda result: None
    """Told of each result, for a preview."""


def predict_job(job: Job, worker: Worker) -> InputRecord:
    """Predict one input and write its results; or find them finished.

    An input is finished where its record names the same bytes, model, engine, version and options, the files that it names
    are as they were written, and what it says could not be read cannot be read still. Earlier results of the input are
    removed when its prediction begins; where its bytes have changed, before it is read.

    Raises:
        InputError: Nothing of the input could be read, it cannot have what is asked for, or a file is in the way
            that is not known to be an earlier result of it; or the operating system refuses to read or to write.
        OutputError: The disk is full.
    """
    try:
        with _disk_of(worker.output):
            return _predict_job(job, worker)
    except OSError as error:
        raise InputError(
            f"Expected to read {job.path} and to write below {worker.output}, got: {error.strerror or error}. Check both "
            "and call again."
        ) from error


def _predict_job(job: Job, worker: Worker) -> InputRecord:
    digest = digest_of(job)
    place = Place(job, worker.output, digest)
    facts: dict[str, Any] = {
        "file": str(job.path),
        "file_from_output": path_from(job, worker.output),
        "file_sha256": digest,
        "model_id": worker.predictor.description.model_id,
        "engine": worker.predictor.engine.name,
        "version": slicewise.__version__,
        "options": _noted(worker.options),
    }
    finished = _finished(place.record, facts, worker.output)
    if finished is not None and not finished.refusals:
        place.release()
        return finished
    if finished is None and place.is_of_other_bytes:
        place.clear()
    scans, readable, files = [], [], []
    refusals: list[str] = []
    notes: list[str] = []
    options = worker.options
    read = worker.decoder.read(job.path, options.timeout_s, allow_burned_in=options.allow_burned_in)
    several = sum(not isinstance(item, FileError) for item in read) > 1
    for item in read:
        if isinstance(item, FileError):
            (notes if item.problem == PASSED_OVER else refusals).append(str(item))
            continue
        target = worker.output / (job.target / item.name if several else job.target)
        try:
            files += _possible_files(item, target, options)
            readable.append((item, target))
        except InputError as error:  # of this scan alone: it cannot have what is wanted
            refusals.append(str(error))
    if not readable:
        raise InputError(" ".join((*refusals, *notes)))
    if finished is not None and _is_as_readable(finished, [scan.name for scan, _ in readable], refusals):
        place.release()
        return finished.model_copy(update={"refusals": refusals})
    place.claim(files)
    try:
        for scan, target in readable:
            try:
                scans.append(_predict_scan(scan, target, worker, notes.append))
            except InputError as error:  # of this scan alone
                refusals.append(str(error))
        if not scans:
            raise InputError(" ".join(refusals))
        probability = max(scan.probability for scan in scans)
        record = InputRecord(**facts, probability=probability, scans=scans, refusals=refusals, notes=notes)
        write_atomically(place.record, record.model_dump_json(indent=2))
    except (InputError, OSError):
        place.clear()
        raise
    place.release()
    return record


def predict_jobs(
    jobs: Sequence[Job], worker: Worker, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[InputRecord], list[str]]:
    """Predict inputs one after the other; what is refused is named and passed over.

    Returns:
        The records, and one sentence for each input that was refused.

    Raises:
        OutputError: The disk is full; what is finished is kept.
    """
    records, refusals = [], []
    for done, job in enumerate(jobs, start=1):
        try:
            records.append(predict_job(job, worker))
        except InputError as error:
            refusals.append(str(error))
        progress(done, len(jobs))
    return records, refusals


def _predict_scan(scan: Scan, target: Path, worker: Worker, note: Callable[[str], None]) -> ScanRecord:
    options = worker.options
    result = worker.predictor.predict(
        scan,
        tta=options.tta,
        uncertainty=options.uncertainty,
        segment=options.segment,
        smallest_mm3=_smallest_mm3(scan, options),
        abstain_on=options.abstain_on,
    )
    worker.show(result)
    written = write_outputs(result, target, options.formats, note)
    if options.explain:
        from slicewise.batch.explain import write_explanation

        written.append(_explanation_file(target))
        write_explanation(worker.predictor, result, written[-1])
    return ScanRecord.of(result, digests_of(written, worker.output), describe_result(result) if options.statistics else None)


def _is_as_readable(record: InputRecord, names: Sequence[str], refusals: Sequence[str]) -> bool:
    """Not where a refused part can be read by now, such as with a decoder that was installed."""
    return [scan.name for scan in record.scans] == names and len(record.refusals) == len(refusals)


def _noted(options: Options) -> dict[str, Any]:
    """As they stand in a record: without the time that decoding may take, on which no answer depends."""
    noted: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    del noted["timeout_s"]
    return noted


def _smallest_mm3(scan: Scan, options: Options) -> float:
    return options.smallest_mm3 if len(scan.slices) > 1 else 0.0


def _possible_files(scan: Scan, target: Path, options: Options) -> list[Path]:
    """All that may be written for a scan. What it cannot have is refused here, while earlier results are still there."""
    if _smallest_mm3(scan, options) > 0:
        check_smallest(options.smallest_mm3, scan.spacing_mm, scan.slice_spacing_mm)
    files = possible_files(scan, target, options.formats, segment=options.segment)
    return [*files, _explanation_file(target)] if options.explain else files


def write_results(records: Sequence[InputRecord], refusals: Sequence[str], output: Path, run: dict[str, Any]) -> None:
    """Write ``results.json`` and ``results.csv`` of all inputs, and ``manifest.json`` of the run.

    Args:
        records: Of the inputs.
        refusals: Of inputs, in sentences.
        output: The folder.
        run: Facts of the run for the manifest: command, times, environment.

    Raises:
        OutputError: The disk is full.
    """
    with _disk_of(output):
        _write_results(records, refusals, output, run)


def check_results(output: Path) -> None:
    """See that `write_results` will overwrite nothing but what it wrote itself.

    Raises:
        InputError: A file of one of its names is there, and no manifest of an earlier call.
    """
    try:
        manifest = json.loads((output / _MANIFEST).read_bytes())
        is_own = str(manifest["format"]).startswith(_FORMAT)
    except (OSError, ValueError, LookupError, TypeError):
        is_own = False
    found = [output / name for name in (_MANIFEST, "results.json", "results.csv") if os.path.lexists(output / name)]
    if found and not is_own:
        raise InputError(
            f"Expected no file that predict would overwrite, found {found[0]}, which no earlier call wrote. Name another "
            "folder with --out, or move it."
        )


def _write_results(records: Sequence[InputRecord], refusals: Sequence[str], output: Path, run: dict[str, Any]) -> None:
    stream = io.StringIO(newline="")
    table = csv.writer(stream)
    table.writerow(_CSV_COLUMNS)
    table.writerows(_csv_rows(records))
    contents = json.dumps([record.model_dump() for record in records], indent=2, allow_nan=False)
    files = {"results.json": contents.encode(), "results.csv": stream.getvalue().encode()}
    manifest = {
        "format": f"{_FORMAT}1",
        **run,
        "inputs": {record.file: record.file_sha256 for record in records},
        "refusals": [*refusals, *(sentence for record in records for sentence in record.refusals)],
        "notes": [sentence for record in records for sentence in record.notes],
        "outputs": {file: digest for record in records for scan in record.scans for file, digest in scan.outputs.items()},
        **{name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    # First, for by it a later call knows the others, should this one be interrupted between them.
    write_atomically(output / _MANIFEST, json.dumps(manifest, indent=2, allow_nan=False))
    for name, content in files.items():
        write_atomically(output / name, content)


@contextmanager
def _disk_of(output: Path) -> Iterator[None]:
    """Tell a full disk, on which no other input would fare better, from what concerns one input."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutputError(
            f"Expected room for results in {output}, its disk is full. Make room and call again: what is finished is kept."
        ) from error


_MANIFEST, _FORMAT = "manifest.json", "slicewise-predictions/"

_WHERE = ("file", "file_from_output")
"""Facts that change where an input is moved: its results are those of its bytes."""

_CSV_COLUMNS = (
    "file",
    "name",
    "decision",
    "probability",
    "uncertainty",
    "threshold",
    "slices",
    "positive_slices",
    "mask_px",
    "area_mm2",
    "volume_ml",
    "concerns",
    "model_id",
)


def _csv_rows(records: Sequence[InputRecord]) -> Iterator[list[Any]]:
    for record in records:
        for scan in record.scans:
            values = scan.model_dump() | {
                "file": as_cell(record.file),
                "name": as_cell(scan.name),
                "model_id": record.model_id,
                "concerns": " ".join(concern.rule for concern in scan.concerns),
            }
            yield ["" if values[column] is None else values[column] for column in _CSV_COLUMNS]


def _explanation_file(target: Path) -> Path:
    return target.with_name(f"{target.name}_gradcam.png")


def _finished(file: Path, facts: dict[str, Any], output: Path) -> InputRecord | None:
    try:
        record = InputRecord.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    if any(getattr(record, name) != value for name, value in facts.items() if name not in _WHERE):
        return None
    for scan in record.scans:
        files = [output / name for name in scan.outputs]
        if not all(file.is_file() for file in files) or digests_of(files, output) != scan.outputs:
            return None
    return record.model_copy(update={name: facts[name] for name in _WHERE})
