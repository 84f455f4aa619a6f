"""Grad-CAM of the tumor logit (Selvaraju et al. 2017, https://doi.org/10.1109/ICCV.2017.74), in the form of HiResCAM
(Draelos and Carin 2020, https://arxiv.org/abs/2011.08891).

Two things differ from the textbook, and both are needed with this head, which pools two maps by their means and maxima:

- The map looked at is the finest that the head pools, the one that all of its evidence passes through. The deepest alone
  misses what the head reads from the other.
- Gradients are multiplied with the features place by place and not averaged over the map first. Averaging assumes that each
  place counts alike, which a maximum does not.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from slicewise.model.network import POOLED_LEVELS, MultiTaskNetwork

__all__ = ["explain"]


def explain(network: MultiTaskNetwork, pixels: NDArray[np.float16]) -> NDArray[np.float32]:
    """Where evidence for "tumor" came from.

    The heat is the classification head's alone and is never masked by what the decoder found.

    Args:
        network: In evaluation mode; left as it was.
        pixels: ``(256, 256)``, preprocessed.

    Returns:
        ``(256, 256)`` in [0, 1], 1 at the strongest point; all zeros where nothing spoke for tumor.
    """
    device = next(network.parameters()).device
    image = torch.from_numpy(np.asarray(pixels, dtype=np.float32))[None, None].to(device)
    # The features are the leaves here: the weights need no gradient, and get none.
    with torch.no_grad():
        maps = network.encoder(image)
    with torch.enable_grad():
        features = maps[-POOLED_LEVELS].detach().requires_grad_()
        deeper = network.encoder.deepen(features, below=len(maps) - POOLED_LEVELS + 1)
        logit = network.classifier([features, *deeper])
        (gradient,) = torch.autograd.grad(logit.sum(), features)
    heat = F.relu((gradient * features.detach()).sum(dim=1, keepdim=True))
    heat = F.interpolate(heat, size=image.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    peak = heat.max()
    return (heat / peak if peak > 0 else heat).cpu().numpy()
