"""A checkpoint: weights in safetensors and a JSON beside them (`slicewise.model.description`), from which alone the model is
rebuilt.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
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
from slicewise.model.network import MultiTaskNetwork

__all__ = ["load_checkpoint", "round_to_half", "save_checkpoint"]


def save_checkpoint(folder: Path, network: MultiTaskNetwork, **facts: Any) -> Description:
    """Write a checkpoint; the description lands last, so that a crash leaves the old pair, the new one, or a refusal.

    Args:
        folder: Made where missing.
        network: Whose weights are kept.
        **facts: The fields of `Description`, but for ``preprocessing`` and ``weights_sha256``.
    """
    weights = save({name: _packed(tensor.detach().cpu()) for name, tensor in network.state_dict().items()})
    description = Description(preprocessing=PREPROCESSING, weights_sha256=hashlib.sha256(weights).hexdigest(), **facts)
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / DESCRIPTION, description.model_dump_json(indent=2))
    return description


def round_to_half(network: MultiTaskNetwork) -> MultiTaskNetwork:
    """Round the kernels to values of half precision, in place, so that a checkpoint takes half the space.

    Vectors keep theirs: the running variances of BatchNorm may be too small for half precision.
    """
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.copy_(weight.half())
    return network


def load_checkpoint(folder: Path) -> tuple[MultiTaskNetwork, Description]:
    """Rebuild a model, in evaluation mode, on the CPU.

    Args:
        folder: Of the checkpoint, or of a run.

    Raises:
        CheckpointError: Files are missing or damaged, or the checkpoint needs another version of slicewise.
    """
    folder = find_checkpoint(folder)
    description = read_description(folder)
    network = MultiTaskNetwork(description.architecture)
    try:
        network.load_state_dict(load(read_weights(folder, description)))
    except RuntimeError as error:
        raise CheckpointError(f"Expected weights for the architecture in {folder / DESCRIPTION}: {error}") from None
    return network.eval(), description


def _packed(tensor: torch.Tensor) -> torch.Tensor:
    """In half precision where that loses nothing."""
    half = tensor.half()
    return (half if tensor.dim() > 1 and torch.equal(half.to(tensor.dtype), tensor) else tensor).contiguous()
