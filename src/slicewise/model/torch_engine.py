"""The network run by torch itself, on a CPU or a GPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicewise.model.engine import Decoded, Encoded
from slicewise.model.network import MultiTaskUNet

__all__ = ["TorchEngine"]

_GPU_BATCH = 32


class TorchEngine:
    """An `slicewise.model.engine.Engine`.

    Args:
        network: On any device; a copy of it is folded for inference, and it is left as it was.
    """

    name = "torch"

    def __init__(self, network: MultiTaskUNet) -> None:
        self.network = network.folded()
        self._device = next(network.parameters()).device
        self.batch = 1 if self._device.type == "cpu" else _GPU_BATCH

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.float32]) -> Encoded:
        """``(B, 256, 256)`` through encoder and classification head."""
        images = torch.from_numpy(pixels)[:, None].to(self._device)
        maps = self.network.encoder(images.contiguous(memory_format=torch.channels_last))
        return Encoded(self.network.classifier(maps).cpu().double().numpy(), maps)

    @torch.inference_mode()
    def decode(self, maps: list[Tensor], places: NDArray[np.int64]) -> Decoded:
        """The maps of the slices at ``places``, in their order."""
        if len(places) < len(maps[0]):
            chosen = torch.from_numpy(places).to(self._device)
            maps = [features[chosen] for features in maps]
        logits = self.network.decoder(maps)[0][:, 0].float()
        return Decoded(torch.sigmoid(logits).cpu().numpy(), logits.amax(dim=(1, 2)).cpu().double().numpy())
