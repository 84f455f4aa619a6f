"""Write a checkpoint's network as ONNX: for the CPU engine, and for whatever else reads ONNX."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slicewise.data.preprocess import SIDE_PX
from slicewise.errors import CheckpointError, InputError
from slicewise.files import write_atomically
from slicewise.inference.cpu_engine import EXPORT, FOLDER, GRAPH, CpuEngine
from slicewise.model.checkpoint import load_checkpoint
from slicewise.model.description import Description, find_checkpoint
from slicewise.model.engine import Engine, infer
from slicewise.model.network import MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine

__all__ = ["DICE_FLOOR", "PROBABILITY_TOLERANCE", "Parity", "compare_engines", "export"]

_OPSET = 18
_PROBES = 8
PROBABILITY_TOLERANCE, DICE_FLOOR = 1e-3, 0.999
"""What an engine may differ by from the weights it was made of."""


class Parity(NamedTuple):
    """How far an exported model is from the weights it was made of."""

    probability: float
    """Largest difference of a slice's probability."""
    dice: float
    """Smallest Dice of the two masks of a slice; 1 where both are empty."""


class _Graph(nn.Module):
    """Slice to the head's logit, the mask's largest one, and one probability a pixel."""

    def __init__(self, network: MultiTaskNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.network.encoder(image)
        mask = self.network.decoder(maps)[0]
        return self.network.classifier(maps), mask.amax(dim=(1, 2, 3)), torch.sigmoid(mask)


def export(path: Path) -> tuple[Path, Parity]:
    """Export a checkpoint, and compare the export with its weights before it is kept.

    Args:
        path: Folder of a checkpoint, or of a run, whose joint model is taken.

    Returns:
        The folder with the export, beside the weights, and how it compared on slices of noise.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, or the export does not answer as its weights do.
        InputError: The packages for it are not installed.
    """
    folder = find_checkpoint(path)
    network, description = load_checkpoint(folder)
    engine = TorchEngine(network)
    content = _to_onnx(_Graph(engine.network))
    target = folder / FOLDER
    (target / EXPORT).unlink(missing_ok=True)  # what is there is incomplete until the last file is written
    write_atomically(target / GRAPH, content)
    facts = {"weights_sha256": description.weights_sha256, GRAPH: hashlib.sha256(content).hexdigest()}
    write_atomically(target / EXPORT, json.dumps(facts, indent=2))
    random = np.random.default_rng(0)
    probes = random.normal(size=(_PROBES, SIDE_PX, SIDE_PX)).astype(np.float16)
    parity = compare_engines(engine, CpuEngine(folder, description), probes, description)
    if not (parity.probability <= PROBABILITY_TOLERANCE and parity.dice >= DICE_FLOOR):
        (target / EXPORT).unlink()
        raise CheckpointError(
            f"Expected the export of {folder} to answer as its weights do, its probabilities differ by up to "
            f"{parity.probability:.1e} and its masks agree at Dice {parity.dice:.4f}. It was not kept; please report it."
        )
    return target, parity


def compare_engines(one: Engine, other: Engine, pixels: NDArray[np.float16], description: Description) -> Parity:
    """Ask two engines the same.

    Args:
        one: First engine.
        other: Second engine.
        pixels: ``(N, 256, 256)``, preprocessed.
        description: Of the model: how its heads are joined, and from which probability on a pixel is in a mask.
    """
    classify = "classification" in description.tasks
    answers = [
        infer(engine, pixels, segment=True, classify=classify, calibration=description.calibration)
        for engine in (one, other)
    ]
    differences, dices = [], []
    for first, second in zip(*answers, strict=True):
        differences.append(abs(first.tumor - second.tumor))
        masks = [output.mask >= description.mask_threshold for output in (first, second) if output.mask is not None]
        size = sum(int(mask.sum()) for mask in masks)
        dices.append(2 * int((masks[0] & masks[1]).sum()) / size if size else 1.0)
    # Not max and min, to which what is not a number is neither larger nor smaller.
    return Parity(float(np.max(differences)), float(np.min(dices)))


def _to_onnx(graph: _Graph) -> bytes:
    # torch's exporter speaks of its progress and of what it may do otherwise one day; neither is for the user.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.eval(),
                (torch.zeros(1, 1, SIDE_PX, SIDE_PX),),
                input_names=["image"],
                output_names=["logit", "peak", "mask"],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    except ModuleNotFoundError as error:
        raise InputError(
            f"Expected the packages for export, {error.name} is not installed. Install slicewise[export]."
        ) from None
    if program is None:
        raise InputError("Expected torch's exporter to return a program, it returned none. Use torch 2.8 or newer.")
    model = program.model_proto
    # Where in whose folders the code stood; nobody needs to know, and the same weights shall give the same bytes.
    for value in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
        if hasattr(value, "doc_string"):
            value.doc_string = ""
    content: bytes = model.SerializeToString(deterministic=True)
    return content
