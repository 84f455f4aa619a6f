"""What is written down of one predicted scan, with its published schema (docs/predictions.schema.json)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from slicewise.files import sha256_of, write_atomically
from slicewise.inference.result import Decision, Result

__all__ = ["ConcernRecord", "InputRecord", "SavedRecord", "ScanRecord", "digests_of", "write_record"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ConcernRecord(_Record):
    """One reason to doubt that an input is what the model was made for."""

    rule: str
    """Name of the rule."""
    message: str
    """What was expected, what came, and what to do."""
    value: float | None
    """What the rule measured, where it measures."""


class ScanRecord(_Record):
    """The answer for one picture or volume."""

    name: str
    """Of the scan, as its results are called."""
    kind: str
    """``picture``, ``nifti``, ``dicom`` or ``array``."""
    decision: Decision
    """``tumor``; ``tumor, not localized`` with an empty mask; ``no tumor``; ``abstained`` on a concern."""
    probability: float
    """That there is tumor, in [0, 1], calibrated: that of the most probable slice."""
    raw_probability: float
    """The same before it."""
    threshold: float
    """Probability from which the answer is "tumor"; chosen on validation and read from the checkpoint."""
    uncertainty: float | None
    """Standard deviation of the probability over views and dropout draws, in [0, 0.5]; null: not asked for."""
    slices: int
    """How many slices."""
    positive_slices: int
    """Of how many the answer is "tumor"."""
    most_probable_slice: int
    """Its number, from 0, in the view of the slices."""
    slice_probabilities: list[float]
    """Of all slices."""
    plane: str
    """``axial``, ``coronal``, ``sagittal`` or ``unknown``."""
    mask_px: int | None
    """Pixels or voxels in the mask; null where none was looked for."""
    area_mm2: float | None
    """Area of a single slice's mask; null where the spacing is not known."""
    volume_ml: float | None
    """Volume of a volume's mask; null where the spacing is not known."""
    concerns: list[ConcernRecord]
    """Why the input may not be what the model was made for."""
    statistics: dict[str, Any] | None
    """Lesions and intensities; null: not asked for."""
    timings_s: dict[str, float]
    """Where the time went."""
    outputs: dict[str, str]
    """SHA-256 of each written file, by its path below the output folder."""

    @classmethod
    def of(cls, result: Result, outputs: dict[str, str], statistics: dict[str, Any] | None = None) -> ScanRecord:
        """Of a result whose files were written."""
        return cls(
            name=result.scan.name,
            kind=result.scan.kind,
            decision=result.decision,
            probability=result.probability,
            raw_probability=result.raw_probability,
            threshold=result.threshold,
            uncertainty=result.uncertainty,
            slices=len(result.masks),
            positive_slices=int(result.is_tumor.sum()),
            most_probable_slice=int(result.probabilities.argmax()),
            slice_probabilities=result.probabilities.tolist(),
            plane=result.scan.plane,
            mask_px=result.mask_px if result.segmented else None,
            area_mm2=result.area_mm2 if result.segmented else None,
            volume_ml=result.volume_ml if result.segmented else None,
            concerns=[ConcernRecord(rule=item.rule, message=item.message, value=item.value) for item in result.concerns],
            statistics=statistics,
            timings_s=dict(result.timings_s),
            outputs=outputs,
        )


class SavedRecord(ScanRecord):
    """The answer for one scan whose result was saved by itself."""

    notes: list[str]
    """Usual formats that the scan cannot have, in sentences."""


class InputRecord(_Record):
    """One input: what came of it, by which model, with which options. Equal in all but its times when made again."""

    file: str
    """Its path, as given: of a file, or of a folder of DICOM files."""
    file_from_output: str
    """The same, seen from the output folder: by it a later call knows its own results."""
    file_sha256: str
    """Of its bytes; of a folder, of its files' names and bytes."""
    probability: float
    """That there is tumor in it, in [0, 1]: that of its most probable scan."""
    model_id: str
    """First 12 hexadecimal digits of the SHA-256 of the weights."""
    engine: str
    """What ran the network."""
    version: str
    """Of slicewise."""
    options: dict[str, Any]
    """What was asked for, as far as the results depend on it."""
    scans: list[ScanRecord]
    """One a picture, volume or series."""
    refusals: list[str]
    """What of the input could not be read, or not have a format that was named, in sentences."""
    notes: list[str]
    """What of a zip was passed over, and usual formats that a scan of the input cannot have, in sentences."""


def digests_of(files: Sequence[Path], folder: Path) -> dict[str, str]:
    """SHA-256 of files, by their paths below a folder."""
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}


def write_record(result: Result, target: Path, written: Sequence[Path], notes: Sequence[str]) -> Path:
    """Write ``…_scan.json`` of a single result beside its files.

    Args:
        result: Of one scan.
        target: Path without endings.
        written: Its other files.
        notes: Usual formats that it has not, in sentences.
    """
    record = SavedRecord(**dict(ScanRecord.of(result, digests_of(written, target.parent))), notes=list(notes))
    file = target.with_name(f"{target.name}_scan.json")
    write_atomically(file, record.model_dump_json(indent=2))
    return file
