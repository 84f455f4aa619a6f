"""THE forward pass of inference: validation in training and every prediction go through `infer`, whatever runs the network.

An engine runs the network: torch (`slicewise.model.torch_engine`), or a library for CPUs that has loaded what
`slicewise export` wrote. Nothing here loads torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration", "Engine", "Outputs", "Pixels", "Probabilities", "infer"]

Pixels = NDArray[np.float16] | NDArray[np.float32]
"""Preprocessed slices: half precision holds their values exactly, single is what is computed with."""


class Calibration(NamedTuple):
    """From what both heads say of a slice to the probability of a tumor in it.

    The logit of the slice is ``(1 - decoder_share) * head + decoder_share * peak``, where the peak is the largest logit of
    the mask; its distance from the center, divided by the temperature, is the logit of the probability. So the decoder,
    which has learned from outlines and from sources whose labels are not taught, has a word in the answer.
    """

    decoder_share: float = 0.0
    """Weight of the decoder's word, in [0, 1]: 0 hears the classification head alone. A model without that head has the
    decoder's alone, whatever stands here."""
    center: float = 0.0
    """Logit of a slice at which tumor and no tumor are equally probable."""
    temperature: float = 1.0
    """What the logit's distance from the center is divided by (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""

    def join(self, heads: NDArray[np.float64], peaks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits of slices, of those of both heads; what has no weight may be NaN."""
        share = self.decoder_share
        parts = [weight * logits for weight, logits in ((1 - share, heads), (share, peaks)) if weight]
        return np.sum(parts, axis=0)

    def apply(self, logit: float) -> float:
        """The probability of a tumor."""
        return _sigmoid((logit - self.center) / self.temperature)


class Outputs(NamedTuple):
    """What one pass of the network says of slices, with both heads; NaN of a decoder that was passed over."""

    heads: NDArray[np.float64]
    """``(B,)``, logits of the classification head."""
    peaks: NDArray[np.float64]
    """``(B,)``, the largest logit of each mask; near 1, single precision has no order of probabilities left."""
    masks: NDArray[np.float32]
    """``(B, 256, 256)``: tumor, per pixel, in [0, 1]."""


class Engine(Protocol):
    """Runs the network on preprocessed slices."""

    name: str
    """Such as ``torch``."""
    batch: int
    """How many slices it takes at once: 1 on a CPU, where more are no faster and the last bits of a convolution depend on
    their number; the same slice shall give the same bits in an evaluation, a volume and a single upload."""

    def run(self, pixels: NDArray[np.float32]) -> Outputs:
        """``(B, 256, 256)`` through the encoder and both heads."""


class Probabilities(NamedTuple):
    """Outputs for one preprocessed slice."""

    tumor: float
    """That the slice shows tumor, in [0, 1], calibrated."""
    raw_tumor: float
    """The same before it is calibrated."""
    mask: NDArray[np.float32] | None
    """``(256, 256)``, per pixel, in [0, 1]; None where it was not asked for, or is not kept."""
    head: float = math.nan
    """Logit of the classification head."""
    peak: float = math.nan
    """Largest logit of the mask."""


def infer(
    engine: Engine,
    pixels: Pixels,
    *,
    segment: bool,
    classify: bool,
    calibration: Calibration = Calibration(),
    mask_from: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> list[Probabilities]:
    """Run the network on preprocessed slices; one pass of the encoder serves both heads.

    Args:
        engine: What runs it.
        pixels: ``(N, 256, 256)``, as `slicewise.data.preprocess.preprocess` returns each.
        segment: Masks are wanted, of a model that was trained to segment.
        classify: The classification head was trained; where it was not, the logit of the slice is that of its most probable
            pixel, so that a segmentation model answers "is there a tumor" too.
        calibration: How the probability follows.
        mask_from: Slices below this probability get no mask: below the operating threshold it would be emptied anyway, and
            need not be kept. A model that does not classify gives all.
        progress: Told the number of slices so far, after each batch.
    """
    if not classify:
        calibration = calibration._replace(decoder_share=1.0)
    probabilities: list[Probabilities] = []
    for start in range(0, len(pixels), engine.batch):
        outputs = engine.run(np.asarray(pixels[start : start + engine.batch], dtype=np.float32))
        logits = calibration.join(outputs.heads, outputs.peaks)
        for logit, head, peak, mask in zip(logits, *outputs, strict=True):
            tumor = calibration.apply(logit)
            keeps = segment and not (classify and tumor < mask_from)
            probabilities.append(Probabilities(tumor, _sigmoid(logit), mask if keeps else None, float(head), float(peak)))
        if progress is not None:
            progress(len(probabilities))
    return probabilities


def _sigmoid(logit: float) -> float:
    """In double precision, where what is nearly certain still has an order."""
    if math.isnan(logit):
        return logit
    odds = math.exp(-abs(logit))
    return 1 / (1 + odds) if logit >= 0 else odds / (1 + odds)
