"""THE forward pass of inference: validation during training and every prediction go through `infer`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from slicewise.model.network import MultiTaskUNet

__all__ = ["Probabilities", "infer"]


class Probabilities(NamedTuple):
    """Outputs for one preprocessed slice."""

    tumor: float
    """That the slice shows tumor, in [0, 1], after temperature scaling."""
    raw_tumor: float
    """The same before it."""
    mask: NDArray[np.float32] | None
    """``(256, 256)``, per pixel, in [0, 1]; None for a model that does not segment."""


@torch.inference_mode()
def infer(
    network: MultiTaskUNet, pixels: NDArray[np.float16], *, segment: bool, classify: bool, temperature: float = 1.0
) -> Probabilities:
    """Run the network, in evaluation mode, on one preprocessed slice.

    One slice at a time on purpose: the last bits of a convolution depend on the size of the batch, and the same slice shall
    give the same bits in an evaluation, a folder of a thousand pictures and a single upload.

    Args:
        network: In evaluation mode.
        pixels: ``(256, 256)``, as `slicewise.data.preprocess.preprocess` returns it.
        segment: The model was trained to segment.
        classify: The classification head was trained; where it was not, the probability of the slice is that of its most
            probable pixel, so that a segmentation model answers "is there a tumor" too.
        temperature: What the logit of the slice is divided by (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    """
    device = next(network.parameters()).device
    image = torch.from_numpy(np.asarray(pixels, dtype=np.float32))[None, None].to(device)
    logits = network(image.contiguous(memory_format=torch.channels_last), segment=segment, classify=classify)
    mask = None if logits.mask is None else torch.sigmoid(logits.mask.float())[0, 0].cpu().numpy()
    if logits.tumor is not None:
        logit = float(logits.tumor[0])
    else:
        logit = math.nan if logits.mask is None else float(logits.mask.float().amax())
    return Probabilities(_sigmoid(logit / temperature), _sigmoid(logit), mask)


def _sigmoid(logit: float) -> float:
    """In double precision, where what is nearly certain still has an order; never overflows."""
    if math.isnan(logit):
        return logit
    odds = math.exp(-abs(logit))
    return 1 / (1 + odds) if logit >= 0 else odds / (1 + odds)
