"""THE forward pass of inference: validation in training and every prediction go through `infer`, whatever runs the network.

An engine runs the network's parts: torch (`slicewise.model.torch_engine`), or a library for CPUs that has loaded what
`slicewise export` wrote. Nothing here loads torch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decoded", "Encoded", "Engine", "Pixels", "Probabilities", "infer"]

Pixels = NDArray[np.float16] | NDArray[np.float32]
"""Preprocessed slices: half precision holds their values exactly, single is what is computed with."""


class Encoded(NamedTuple):
    """What one pass of the encoder leaves."""

    logits: NDArray[np.float64]
    """``(B,)``, of the classification head."""
    maps: Any
    """The feature maps, as the engine keeps them; until the next call of `Engine.encode`."""


class Decoded(NamedTuple):
    """What the decoder makes of the maps."""

    probabilities: NDArray[np.float32]
    """``(k, 256, 256)``: tumor, per pixel, in [0, 1]."""
    peaks: NDArray[np.float64]
    """``(k,)``: the largest logit of each; near 1, single precision has no order of probabilities left."""


class Engine(Protocol):
    """Runs the network's parts on preprocessed slices."""

    name: str
    """Such as ``torch``."""
    batch: int
    """How many slices it takes at once: 1 on a CPU, where more are no faster and the last bits of a convolution depend on
    their number; the same slice shall give the same bits in an evaluation, a volume and a single upload."""

    def encode(self, pixels: NDArray[np.float32]) -> Encoded:
        """``(B, 256, 256)`` through encoder and classification head."""

    def decode(self, maps: Any, places: NDArray[np.int64]) -> Decoded:
        """The maps of the slices at ``places``, in their order."""


class Probabilities(NamedTuple):
    """Outputs for one preprocessed slice."""

    tumor: float
    """That the slice shows tumor, in [0, 1], after temperature scaling."""
    raw_tumor: float
    """The same before it."""
    mask: NDArray[np.float32] | None
    """``(256, 256)``, per pixel, in [0, 1]; None where the decoder did not run."""


def infer(
    engine: Engine,
    pixels: Pixels,
    *,
    segment: bool,
    classify: bool,
    temperature: float = 1.0,
    mask_from: float = 0.0,
) -> list[Probabilities]:
    """Run the network on preprocessed slices; one pass of the encoder serves both heads.

    Args:
        engine: What runs it.
        pixels: ``(N, 256, 256)``, as `slicewise.data.preprocess.preprocess` returns each.
        segment: The model was trained to segment.
        classify: The classification head was trained; where it was not, the probability of the slice is that of its most
            probable pixel, so that a segmentation model answers "is there a tumor" too.
        temperature: What the logit of the slice is divided by (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        mask_from: The decoder runs on slices of at least this probability: below the operating threshold the mask would be
            emptied anyway. A model that does not classify runs it on all.
    """
    outputs: list[Probabilities] = []
    for start in range(0, len(pixels), engine.batch):
        encoded = engine.encode(np.asarray(pixels[start : start + engine.batch], dtype=np.float32))
        logits = encoded.logits
        chosen = np.arange(len(logits))
        if classify:
            chosen = chosen[[_sigmoid(logit / temperature) >= mask_from for logit in logits]]
        masks: dict[int, NDArray[np.float32]] = {}
        if segment and len(chosen):
            decoded = engine.decode(encoded.maps, chosen)
            masks = dict(zip(chosen.tolist(), decoded.probabilities, strict=True))
        if not classify:
            logits = decoded.peaks if segment else np.full(len(logits), math.nan)
        for place, logit in enumerate(logits):
            outputs.append(Probabilities(_sigmoid(logit / temperature), _sigmoid(logit), masks.get(place)))
    return outputs


def _sigmoid(logit: float) -> float:
    """In double precision, where what is nearly certain still has an order."""
    if math.isnan(logit):
        return logit
    odds = math.exp(-abs(logit))
    return 1 / (1 + odds) if logit >= 0 else odds / (1 + odds)
