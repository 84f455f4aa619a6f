"""A checkpoint: weights in safetensors and a JSON beside them (`slicewise.model.description`), from which alone the model is
rebuilt.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from slicewise.data.preprocess import PREPROCESSING
from slicewise.errors import CheckpointError
from slicewise.files import write_atomically
from slicewise.model.description import (
    DESCRIPTION,
    WEIGHTS,
    Description,
    find_checkpoint,
    read_description,
    read_weights,
)
from slicewise.model.network import MultiTaskUNet

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(folder: Path, network: MultiTaskUNet, **facts: Any) -> Description:
    """Write a checkpoint; the description lands last, so that a crash leaves the old pair, the new one, or a refusal.

    Args:
        folder: Made where missing.
        network: Whose weights are kept.
        **facts: The fields of `Description`, but for ``preprocessing`` and ``weights_sha256``.
    """
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    description = Description(preprocessing=PREPROCESSING, weights_sha256=hashlib.sha256(weights).hexdigest(), **facts)
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / DESCRIPTION, description.model_dump_json(indent=2))
    return description


def load_checkpoint(folder: Path) -> tuple[MultiTaskUNet, Description]:
    """Rebuild a model, in evaluation mode, on the CPU.

    Args:
        folder: Of the checkpoint, or of a run.

    Raises:
        CheckpointError: Files are missing or damaged, or the checkpoint needs another version of slicewise.
    """
    folder = find_checkpoint(folder)
    description = read_description(folder)
    network = MultiTaskUNet(description.architecture)
    try:
        network.load_state_dict(load(read_weights(folder, description)))
    except RuntimeError as error:
        raise CheckpointError(f"Expected weights for the architecture in {folder / DESCRIPTION}: {error}") from None
    return network.eval(), description
