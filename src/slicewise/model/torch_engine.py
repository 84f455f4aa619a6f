"""The network run by torch itself, on a CPU or a GPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from slicewise.model.engine import Outputs
from slicewise.model.network import MultiTaskNetwork

__all__ = ["TorchEngine"]

_GPU_BATCH = 32


class TorchEngine:
    """An `slicewise.model.engine.Engine`.

    Args:
        network: On any device; a copy of it is folded for inference, and it is left as it was.
        decodes: The decoder was trained; one that was not is passed over, and what it would say is NaN.
    """

    name = "torch"

    def __init__(self, network: MultiTaskNetwork, *, decodes: bool = True) -> None:
        self.network = network.folded()
        self._decodes = decodes
        self._device = next(network.parameters()).device
        self.batch = 1 if self._device.type == "cpu" else _GPU_BATCH

    @torch.inference_mode()
    def run(self, pixels: NDArray[np.float32]) -> Outputs:
        """``(B, 256, 256)`` through the encoder and both heads."""
        maps = self.network.encoder(torch.from_numpy(pixels)[:, None].to(self._device))
        heads = self.network.classifier(maps).cpu().double().numpy()
        if not self._decodes:
            return Outputs(heads, np.full_like(heads, np.nan), np.full_like(pixels, np.nan))
        masks = self.network.decoder(maps)[0][:, 0].float()
        return Outputs(
            heads,
            masks.amax(dim=(1, 2)).cpu().double().numpy(),
            torch.sigmoid(masks).cpu().numpy(),
        )
