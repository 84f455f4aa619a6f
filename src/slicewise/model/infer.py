"""THE forward pass of inference: validation during training and every prediction go through `infer`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from slicewise.model.network import MultiTaskUNet

__all__ = ["Probabilities", "infer"]


class Probabilities(NamedTuple):
    """Outputs for one preprocessed slice."""

    tumor: float
    """That the slice shows tumor, in [0, 1]."""
    mask: NDArray[np.float32] | None
    """``(256, 256)``, per pixel, in [0, 1]; None for a model that does not segment."""


@torch.inference_mode()
def infer(network: MultiTaskUNet, pixels: NDArray[np.float16], *, segment: bool, classify: bool) -> Probabilities:
    """Run the network, in evaluation mode, on one preprocessed slice.

    One slice at a time on purpose: the last bits of a convolution depend on the size of the batch, and the same slice shall
    give the same bits in an evaluation, a folder of a thousand pictures and a single upload.

    Args:
        network: In evaluation mode.
        pixels: ``(256, 256)``, as `slicewise.data.preprocess.preprocess` returns it.
        segment: The model was trained to segment.
        classify: The classification head was trained; where it was not, the probability of the slice is that of its most
            probable pixel, so that a segmentation model answers "is there a tumor" too.
    """
    device = next(network.parameters()).device
    image = torch.from_numpy(np.asarray(pixels, dtype=np.float32))[None, None].to(device)
    logits = network(image.contiguous(memory_format=torch.channels_last), segment=segment, classify=classify)
    mask = None if logits.mask is None else torch.sigmoid(logits.mask.float())[0, 0].cpu().numpy()
    if logits.tumor is not None:
        return Probabilities(float(torch.sigmoid(logits.tumor.float())[0]), mask)
    return Probabilities(float("nan") if mask is None else float(mask.max()), mask)
