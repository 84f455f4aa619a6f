"""What the service answers, as it stands in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slicewise.inference.record import ConcernRecord, ScanRecord
from slicewise.inference.result import Decision

__all__ = [
    "NOTICE",
    "BatchLine",
    "Health",
    "Mask",
    "ModelCard",
    "Prediction",
    "Readiness",
    "RunLengths",
    "SegmentChoice",
    "SliceOptions",
    "StudyFile",
    "StudyRefusal",
    "StudyResult",
    "StudyStatus",
]

NOTICE = "Research software, not a medical device: nothing here may guide the care of a patient."

SegmentChoice = Literal["auto", "always", "never"]
StudyState = Literal["queued", "running", "done", "failed", "cancelled", "lost"]

_MASK = {"encoding": "rle", "shape": [2, 4], "data": {"counts": [1, 2, 5]}}
_PREDICTION = {
    "request_id": "0b6f8c52-3e57-4a0c-b8d0-5f0f6a3c9e11",
    "probability": 0.9931,
    "raw_probability": 0.9984,
    "threshold": 0.412,
    "decision": "tumor",
    "uncertainty": None,
    "shape": [2, 4],
    "spacing_mm": None,
    "kind": "picture",
    "plane": "unknown",
    "mask": _MASK,
    "mask_px": 2,
    "area_mm2": None,
    "explanation": None,
    "picture": None,
    "concerns": [{"rule": "small", "message": "Expected at least 64 pixels, the shorter side has 2.", "value": 2.0}],
    "timings_s": {"queue": 0.001, "decode": 0.002, "preprocess": 0.001, "network": 0.006, "total": 0.011},
    "model_id": "fbf760e77732",
    "engine": "openvino",
    "version": "0.1.0",
}
_RECORD = {
    "name": "0",
    "kind": "nifti",
    "decision": "tumor",
    "probability": 0.9931,
    "raw_probability": 0.9984,
    "threshold": 0.412,
    "uncertainty": None,
    "slices": 3,
    "positive_slices": 1,
    "most_probable_slice": 1,
    "slice_probabilities": [0.01, 0.9931, 0.2],
    "plane": "axial",
    "mask_px": 812,
    "area_mm2": None,
    "volume_ml": 2.436,
    "concerns": [],
    "statistics": None,
    "timings_s": {"preprocess": 0.003, "network": 0.02, "restore": 0.001, "total": 0.024},
    "outputs": {"0_mask.nii.gz": "4b227777d4dd1fc61c6f884f48641d02b4d121d3fd328cb08b5531fcacdabf8a"},
}
_STATUS = {
    "id": "4f1d2c3b5a69788796a5b4c3d2e1f001",
    "status": "running",
    "created": "2026-01-02T03:04:05.678+00:00",
    "done": 40,
    "total": 155,
    "problem": None,
}


def _example(value: Any) -> ConfigDict:
    return ConfigDict(
        extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, json_schema_extra={"examples": [value]}
    )


class Health(BaseModel):
    """The process answers."""

    model_config = _example({"status": "ok"})

    status: Literal["ok"]
    """Always the same word."""


class Readiness(BaseModel):
    """Slices can be predicted."""

    model_config = _example({"status": "ready", "workers": 2})

    status: Literal["ready"]
    """Always the same word; a service that is not ready answers 503."""
    workers: int
    """How many workers are ready."""


class RunLengths(BaseModel):
    """A mask as the lengths of its runs."""

    model_config = _example(_MASK["data"])

    counts: list[Annotated[int, Field(ge=0)]]
    """Pixels outside, inside, outside … row by row; the first is 0 where the first pixel is inside."""


class SliceOptions(BaseModel):
    """What is wanted of a slice, in the query."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    explain: bool = False
    """Also answer Grad-CAM: what spoke for tumor to the classification head. Needs torch on the server, and that head."""
    uncertainty: bool = False
    """Also say how much the answer moves. Needs torch on the server."""
    segment: SegmentChoice = "auto"
    """auto: the mask where there is evidence enough for one. always: also elsewhere. never: the probability alone."""
    mask: Literal["png", "rle", "none"] = "png"
    """How the mask is sent."""
    picture: bool = False
    """Also answer the slice as it was read, as a PNG of 8 bit."""


class Mask(BaseModel):
    """A mask on the slice as radiologists view it; on the grid of a file that is stored turned, /v1/studies has it."""

    model_config = _example(_MASK)

    encoding: Literal["png", "rle"]
    """How ``data`` is to be read."""
    shape: tuple[int, int]
    """Rows and columns."""
    data: str | RunLengths
    """``png``: a gray PNG of 0 and 255, in base64. ``rle``: runs."""


class Prediction(BaseModel):
    """The answer for one picture or slice. Its figures are those of `slicewise predict` to the last digit."""

    model_config = _example(_PREDICTION)

    request_id: str
    """As in the header X-Request-ID."""
    probability: Annotated[float, Field(ge=0, le=1)]
    """That the slice shows tumor, calibrated."""
    raw_probability: Annotated[float, Field(ge=0, le=1)]
    """The same before it."""
    threshold: float
    """Probability from which the answer is "tumor"; read from the checkpoint."""
    decision: Decision
    """``tumor``; ``tumor, not localized`` with an empty mask; ``no tumor``."""
    uncertainty: float | None
    """Standard deviation of the probability over views and dropout draws, in [0, 0.5]; null: not asked for."""
    shape: tuple[int, int]
    """Rows and columns of the slice, as radiologists view it."""
    spacing_mm: tuple[float, float] | None
    """Between rows and between columns; null where the file does not say."""
    kind: str
    """``picture``, ``nifti`` or ``dicom``."""
    plane: str
    """``axial``, ``coronal``, ``sagittal`` or ``unknown``."""
    mask: Mask | None
    """Empty where the answer is "no tumor" or a tumor is not localized, but with ``segment=always``; null where none was
    looked for or wanted."""
    mask_px: int | None
    """Pixels in the mask; null where none was looked for."""
    area_mm2: float | None
    """Area of the mask; null where the spacing is not known or no mask was looked for."""
    explanation: str | None
    """Grad-CAM on the same grid, a gray PNG in base64; null: not asked for."""
    picture: str | None
    """The slice as it was read, a gray PNG of 8 bit in base64; null: not asked for."""
    concerns: list[ConcernRecord]
    """Why the input may not be what the model was made for."""
    timings_s: dict[str, float]
    """Where the time went: ``queue``, ``decode``, ``preprocess``, ``network``, ``restore``, and the ``total``."""
    model_id: str
    """First 12 hexadecimal digits of the SHA-256 of the weights."""
    engine: str
    """What ran the network."""
    version: str
    """Of slicewise."""


class BatchLine(BaseModel):
    """One line of a batch's answer: a prediction or a problem."""

    model_config = _example({"index": 0, "status": 200, "prediction": _PREDICTION})

    index: int
    """Which of the request's files this is about, from 0."""
    status: int
    """What the file alone would have been answered with."""
    prediction: Prediction | None = None
    """Where the status is 200."""
    problem: dict[str, Any] | None = None
    """Elsewhere: a problem (RFC 9457)."""


class StudyStatus(BaseModel):
    """A job."""

    model_config = _example(_STATUS)

    id: str
    """Names the study in paths; random."""
    status: StudyState
    """``lost``: a restart of the service found its upload gone, and it has to be sent again."""
    created: str
    """When it was sent, in ISO 8601."""
    done: int
    """Slices finished so far, each with its uncertainty where that was asked for."""
    total: int | None
    """Slices of all its scans; null until they are decoded."""
    problem: dict[str, Any] | None
    """Why it failed or was lost: a problem (RFC 9457)."""


class StudyFile(BaseModel):
    """A file that can be fetched."""

    model_config = _example({"scan": 0, "name": "mask", "href": "/v1/studies/4f1d2c3b5a69788796a5b4c3d2e1f001/scans/0/mask"})

    scan: int
    """Which of ``scans`` it is of."""
    name: str
    """``mask``, ``segmentation``, ``report``, ``montage`` or ``slices``."""
    href: str
    """Where it is."""


class StudyRefusal(BaseModel):
    """What of the upload could not be read."""

    model_config = _example({"problem": "unreadable-file", "detail": "Expected a whole, valid file.", "sources": [3]})

    problem: str
    """Name of the kind of problem."""
    detail: str
    """What was expected, and what to do."""
    sources: list[int]
    """Where it was found, counted as the result's ``sources``; empty: nowhere in particular."""


class StudyResult(BaseModel):
    """The answer for a study."""

    model_config = _example(
        {
            "id": _STATUS["id"],
            "model_id": "fbf760e77732",
            "engine": "openvino",
            "version": "0.1.0",
            "scans": [_RECORD],
            "sources": [[0]],
            "files": [StudyFile.model_config["json_schema_extra"]["examples"][0]],  # type: ignore[index]
            "refusals": [],
        }
    )

    id: str
    """Of the study."""
    model_id: str
    """First 12 hexadecimal digits of the SHA-256 of the weights."""
    engine: str
    """What ran the network."""
    version: str
    """Of slicewise."""
    scans: list[ScanRecord]
    """One a picture, volume or series, called by its number: as `slicewise predict` records it."""
    sources: list[list[int]]
    """For each of ``scans``, the files that it was read from: their numbers, from 0, in the order in which they were sent;
    where one zip was sent, their places in its list."""
    files: list[StudyFile]
    """What can be fetched."""
    refusals: list[StudyRefusal]
    """What of the upload could not be read."""


class ModelCard(BaseModel):
    """The model, as its checkpoint describes itself. Nothing here is typed in."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "model_id": "fbf760e77732",
                    "name": "joint",
                    "tasks": ["segmentation", "classification"],
                    "class_names": ["no tumor", "tumor"],
                    "threshold": 0.412,
                    "mask_from": 0.463,
                    "decoder_share": 0.6,
                    "center": 5.4,
                    "temperature": 1.3,
                    "mask_threshold": 0.5,
                    "parameters": 2181393,
                    "architecture": {
                        "widths": [32, 64, 128, 192],
                        "blocks": [2, 2, 3, 1],
                        "decoder_width": 32,
                        "dropout": 0.2,
                        "deep_supervision": 0,
                    },
                    "preprocessing": "foreground-zscore-256/1",
                    "metrics": {"val": {"roc_auc": {"value": 0.97, "low": 0.95, "high": 0.99, "n_patients": 53}}},
                    "curves": {"decision_curve": [{"threshold": 0.1, "model": 0.34, "treat_all": 0.3, "treat_none": 0.0}]},
                    "patients": {"lgg": {"train": 80, "val": 12}},
                    "gate": None,
                    "history": [{"epoch": 1, "val_score": 0.82}],
                    "provenance": {"seed": 1},
                    "planes": ["axial"],
                    "card": None,
                    "can_explain": True,
                    "can_tell_uncertainty": True,
                    "weights_sha256": "fbf760e77732f6dd1f597fa23077a2fa8e2d4c36e86a0f54e705f7120c458a2d",
                    "version": "0.1.0",
                    "notice": NOTICE,
                }
            ]
        },
    )

    model_id: str
    """First 12 hexadecimal digits of the SHA-256 of the weights."""
    name: str
    """Which model of a run this is, such as ``joint``."""
    tasks: list[str]
    """The heads that were trained."""
    class_names: list[str]
    """Meaning of low and high probability."""
    threshold: float
    """Slice probability from which the answer is "tumor"."""
    mask_from: float
    """Slice probability from which a slice that is called gets a mask."""
    decoder_share: float
    """Weight of the mask's largest logit in the slice's, beside that of the classification head."""
    center: float
    """Logit of a slice at which tumor and no tumor are equally probable."""
    temperature: float
    """What the logit's distance from the center is divided by."""
    mask_threshold: float
    """Pixel probability from which a pixel is in the mask."""
    parameters: int
    """Number of weights."""
    architecture: dict[str, Any]
    """Shape of the network."""
    preprocessing: str
    """Version of the preprocessing."""
    metrics: dict[str, dict[str, Any]]
    """Figures by side, each with value and numbers of slices and patients, and its interval where the checkpoint has one."""
    curves: dict[str, list[dict[str, Any]]]
    """Of a published model, on test slices: ``calibration``, ``decision_curve`` and ``predictive_values``."""
    patients: dict[str, dict[str, int]]
    """Numbers of patients by source and side."""
    gate: dict[str, Any] | None
    """The verdict on the joint training."""
    history: list[dict[str, Any]]
    """One row an epoch: the course of the training."""
    provenance: dict[str, Any]
    """Seed, versions, duration, and which checkpoints the training started from and was taught by."""
    planes: list[str]
    """Planes of the slices that it was trained on; empty where the checkpoint does not say."""
    card: str | None
    """The run's model card in Markdown, where it lies beside the checkpoint."""
    can_explain: bool
    """Whether ``explain`` can be had: it needs torch, and a model that classifies."""
    can_tell_uncertainty: bool
    """Whether ``uncertainty`` can be had: it needs torch."""
    weights_sha256: str
    """Of the weights."""
    version: str
    """Of slicewise."""
    notice: str
    """What this must not be used for."""
