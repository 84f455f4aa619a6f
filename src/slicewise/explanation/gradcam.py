"""Grad-CAM of the tumor logit (Selvaraju et al. 2017, https://doi.org/10.1109/ICCV.2017.74).

Written here because the network hands out its feature maps: no hooks are left on it, and its channels-last gradients are
fine. The tests hold it against MONAI's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from slicewise.model.network import MultiTaskUNet

__all__ = ["explain"]


def explain(network: MultiTaskUNet, pixels: NDArray[np.float16]) -> NDArray[np.float32]:
    """Where evidence for "tumor" came from, by the deepest feature map of the encoder.

    The map is the classification head's alone and is never masked by what the decoder found.

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
        features = maps[-1].detach().requires_grad_()
        logit = network.classifier([*maps[:-1], features])
        (gradient,) = torch.autograd.grad(logit.sum(), features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = F.relu((weights * features.detach()).sum(dim=1, keepdim=True))
    heat = F.interpolate(heat, size=image.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    peak = heat.max()
    return (heat / peak if peak > 0 else heat).cpu().numpy()
