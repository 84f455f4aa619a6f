"""What a checkpoint says of itself: everything but the weights. Reading it loads no torch.

::

    phases/joint/
      model.safetensors   kernels in half precision, into which training rounds them, the rest in single; no code, no pickle
      model.json          Description: architecture, preprocessing, threshold, provenance, figures, SHA-256 of the weights
      cpu/                the same model for a CPU engine, where `slicewise export` made it
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slicewise.config import ModelConfig
from slicewise.data.descriptors import Domain
from slicewise.data.preprocess import PREPROCESSING
from slicewise.errors import CheckpointError
from slicewise.model.engine import Calibration

__all__ = [
    "CARD",
    "DESCRIPTION",
    "PACKAGED",
    "WEIGHTS",
    "Description",
    "Task",
    "find_checkpoint",
    "read_description",
    "read_weights",
]

Task = Literal["segmentation", "classification"]

WEIGHTS = "model.safetensors"
"""Name of the file with the weights."""
DESCRIPTION = "model.json"
"""Name of the file with the description."""
CARD = "model_card.md"
"""Name of the file with the model card, where `slicewise publish` wrote one."""
PACKAGED = Path(__file__).parent / "packaged"
"""Folder of the checkpoint that comes with slicewise, and is used where none is named."""


class Description(BaseModel):
    """Everything but the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format: Literal["slicewise-checkpoint/1"] = "slicewise-checkpoint/1"
    name: str
    """Which model of a run this is, such as ``joint``."""
    tasks: tuple[Task, ...]
    """The heads that were trained."""
    architecture: ModelConfig
    """Shape of the network."""
    preprocessing: str
    """Version of the preprocessing the weights belong to."""
    class_names: tuple[str, str] = ("no tumor", "tumor")
    """Meaning of low and high probability."""
    threshold: float
    """Slice probability from which the answer is "tumor"; chosen on validation."""
    mask_from: float = 0.0
    """Slice probability from which a slice that is called gets a mask: a less probable tumor is "not localized"; below the
    threshold it has no effect. Chosen on validation."""
    decoder_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the mask's largest logit in the slice's, beside that of the classification head; fitted on validation."""
    center: float = 0.0
    """Logit of the slice at which tumor and no tumor are equally probable; fitted on validation."""
    temperature: float = 1.0
    """What the logit's distance from the center is divided by; fitted on validation."""
    mask_threshold: float
    """Pixel probability from which a pixel is in the mask."""
    parameters: int
    """Number of weights that the tasks use."""
    data_fingerprint: str
    """SHA-256 of the slice store."""
    patients: dict[str, dict[str, list[str]]]
    """Patients by source and side."""
    metrics: dict[str, dict[str, Any]]
    """Figures by side, each with value, n_slices and n_patients: ``val`` from training; of a published model also ``test``,
    with intervals, also of each source and sequence, such as ``test, lgg flair``."""
    curves: dict[str, list[dict[str, Any]]] = {}
    """Of a published model, on test slices: ``calibration`` (bins of the probability with the share of tumor in each),
    ``decision_curve`` (net benefit by threshold) and ``predictive_values`` (by prevalence), as results.json has them."""
    gate: dict[str, Any] | None = None
    """Of a joint model: ``accepted``, which model's weights were ``kept``, and the verdict on each of the ``attempts``."""
    history: list[dict[str, Any]]
    """One row an epoch."""
    provenance: dict[str, Any]
    """Seed, versions, duration, and which checkpoints the training started from and was taught by."""
    domain: Domain | None = None
    """What the training slices look like, for the gatekeeper; None of a checkpoint that was trained before this was kept, or
    on too few slices."""
    weights_sha256: str
    """Of ``model.safetensors``."""

    @property
    def calibration(self) -> Calibration:
        """How a probability follows from the two heads."""
        return Calibration(self.decoder_share, self.center, self.temperature)

    @property
    def model_id(self) -> str:
        """First 12 digits of the weights' SHA-256."""
        return self.weights_sha256[:12]

    def summary(self) -> dict[str, Any]:
        """What a user of the model may ask, as plain values: figures, threshold, and which patients it has seen."""
        deciding = ("threshold", "mask_from", "mask_threshold", *Calibration._fields)
        kept = {"name", "parameters", "architecture", "preprocessing", "metrics", "gate", "provenance", *deciding}
        return {"id": self.model_id, **self.model_dump(mode="json", include=kept), "splits": self.patients}

    def lines(self) -> dict[str, str]:
        """The same in a few words, by name."""
        lines = {
            "model": f"{self.model_id} ({self.name}), {self.parameters:,} parameters",
            "operating threshold": f"{self.threshold:.3f}",
        }
        for side, figures in self.metrics.items():
            for name in ("volume_dice", "slice_dice", "roc_auc", "sensitivity", "specificity"):
                figure = figures.get(name) or {}
                if side.startswith("test") and figure.get("value") is not None:
                    interval = f" ({figure['low']:.3f} to {figure['high']:.3f})" if figure.get("low") is not None else ""
                    behind = f"{figure['n_slices']} slices, {figure['n_patients']} patients"
                    lines[f"{side}: {name}"] = f"{figure['value']:.3f}{interval}, {behind}"
        return lines


def read_description(folder: Path) -> Description:
    """Read the description of a checkpoint.

    Args:
        folder: Of the checkpoint, or of a run.

    Raises:
        CheckpointError: There is none, it is damaged, or it needs another version of slicewise.
    """
    folder = find_checkpoint(folder)
    try:
        description = Description.model_validate_json((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"Expected {DESCRIPTION} in {folder}, could not read it: {error}.") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise CheckpointError(
            f"Expected a slicewise description in {folder / DESCRIPTION}: {where}: {problem['msg']}."
        ) from None
    if description.preprocessing != PREPROCESSING:
        raise CheckpointError(
            f"Expected a model for preprocessing {PREPROCESSING}, {folder} was trained with {description.preprocessing}. "
            "Use the version of slicewise that trained it, or train again."
        )
    return description


def read_weights(folder: Path, description: Description) -> bytes:
    """The bytes of the weights that belong to a description.

    Raises:
        CheckpointError: They are missing, damaged, or belong to another description.
    """
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"Expected {WEIGHTS} in {folder}, could not read it: {error}.") from None
    found = hashlib.sha256(weights).hexdigest()
    if found != description.weights_sha256:
        raise CheckpointError(
            f"Expected weights with SHA-256 {description.weights_sha256[:12]}… in {folder / WEIGHTS}, got {found[:12]}…. "
            "The file is damaged or belongs to another description; copy both again."
        )
    return weights


def find_checkpoint(path: Path) -> Path:
    """The checkpoint's folder: ``path`` itself, or the joint model where ``path`` is the folder of a run.

    Raises:
        CheckpointError: There is none.
    """
    for folder in (path, path / "phases" / "joint"):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise CheckpointError(
        f"Expected a checkpoint ({DESCRIPTION}) or the folder of a finished run, found neither at {path}. "
        "Name the folder given to `slicewise run --out`, or one of its phases/*."
    )
