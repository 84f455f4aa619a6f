"""A checkpoint: weights in safetensors and a JSON beside them, from which alone the model is rebuilt.

::

    phases/joint/
      model.safetensors   weights and BatchNorm statistics, float32; no code, no pickle
      model.json          Description: architecture, preprocessing, threshold, provenance, figures, SHA-256 of the weights
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load, save

from slicewise.config import ModelConfig
from slicewise.data.preprocess import PREPROCESSING
from slicewise.errors import CheckpointError
from slicewise.files import write_atomically
from slicewise.model.network import MultiTaskUNet

__all__ = ["Description", "Task", "find_checkpoint", "load_checkpoint", "save_checkpoint"]

Task = Literal["segmentation", "classification"]

_WEIGHTS = "model.safetensors"
_DESCRIPTION = "model.json"


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
    temperature: float = 1.0
    """What the logit of the slice is divided by; fitted on validation."""
    mask_threshold: float
    """Pixel probability from which a pixel is in the mask."""
    parameters: int
    """Number of weights that the tasks use."""
    data_fingerprint: str
    """SHA-256 of the slice store."""
    patients: dict[str, dict[str, list[str]]]
    """Patients by source and side."""
    metrics: dict[str, dict[str, Any]]
    """Figures by side (``val``), each with value, n_slices and n_patients."""
    gate: dict[str, Any] | None = None
    """Of a joint model: ``accepted``, which model's weights were ``kept``, and the verdict on each of the ``attempts``."""
    history: list[dict[str, Any]]
    """One row an epoch."""
    provenance: dict[str, Any]
    """Seed, versions, duration, and which checkpoint the training started from."""
    weights_sha256: str
    """Of ``model.safetensors``."""

    @property
    def model_id(self) -> str:
        """First 12 digits of the weights' SHA-256."""
        return self.weights_sha256[:12]


def save_checkpoint(folder: Path, network: MultiTaskUNet, **facts: Any) -> Description:
    """Write a checkpoint; the description lands last, so that a crash leaves the old pair, the new one, or a refusal.

    Args:
        folder: Made where missing.
        network: Whose weights are kept.
        **facts: The fields of `Description`, but for ``preprocessing`` and ``weights_sha256``.
    """
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    description = Description(preprocessing=PREPROCESSING, weights_sha256=hashlib.sha256(weights).hexdigest(), **facts)
    write_atomically(folder / _WEIGHTS, weights)
    write_atomically(folder / _DESCRIPTION, description.model_dump_json(indent=2))
    return description


def load_checkpoint(folder: Path) -> tuple[MultiTaskUNet, Description]:
    """Rebuild a model, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: Files are missing or damaged, or the checkpoint needs another version of slicewise.
    """
    folder = find_checkpoint(folder)
    try:
        description = Description.model_validate_json((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        weights = (folder / _WEIGHTS).read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"Expected {_WEIGHTS} and {_DESCRIPTION} in {folder}, could not read them: {error}.") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise CheckpointError(
            f"Expected a slicewise description in {folder / _DESCRIPTION}: {where}: {problem['msg']}."
        ) from None
    found = hashlib.sha256(weights).hexdigest()
    if found != description.weights_sha256:
        raise CheckpointError(
            f"Expected weights with SHA-256 {description.weights_sha256[:12]}… in {folder / _WEIGHTS}, got {found[:12]}…. "
            "The file is damaged or belongs to another description; copy both again."
        )
    if description.preprocessing != PREPROCESSING:
        raise CheckpointError(
            f"Expected a model for preprocessing {PREPROCESSING}, {folder} was trained with {description.preprocessing}. "
            "Use the version of slicewise that trained it, or train again."
        )
    network = MultiTaskUNet(description.architecture)
    try:
        network.load_state_dict(load(weights))
    except RuntimeError as error:
        raise CheckpointError(f"Expected weights for the architecture in {folder / _DESCRIPTION}: {error}") from None
    return network.eval(), description


def find_checkpoint(path: Path) -> Path:
    """The checkpoint's folder: ``path`` itself, or the joint model where ``path`` is the folder of a run.

    Raises:
        CheckpointError: There is none.
    """
    for folder in (path, path / "phases" / "joint"):
        if (folder / _DESCRIPTION).is_file():
            return folder
    raise CheckpointError(
        f"Expected a checkpoint ({_DESCRIPTION}) or the folder of a finished run, found neither at {path}. "
        "Name the folder given to `slicewise run --out`, or one of its phases/*."
    )
