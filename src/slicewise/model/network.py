"""One multi-task U-Net: a shared encoder, a segmentation decoder, a classification head.

The full-resolution slice is folded into channels before the first convolution and unfolded after the last (space to depth;
Shi et al. 2016, https://doi.org/10.1109/CVPR.2016.207), which leaves every layer a quarter of the pixels and the output on
the input's grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import islice, pairwise
from typing import NamedTuple

import torch
from monai.networks.blocks import Convolution, UpSample
from monai.networks.nets.basic_unet import Down, TwoConv
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slicewise.config import ModelConfig

__all__ = ["PARTS", "POOLED_LEVELS", "Logits", "MultiTaskUNet", "average"]

PARTS = ("encoder", "decoder", "classifier")
"""The parts that a phase of training can freeze."""

POOLED_LEVELS = 2
"""How many of the encoder's deepest maps the classification head looks at."""

_FOLD = 2
_TUMOR_SHARE = 0.02
_ACTIVATION = ("leakyrelu", {"negative_slope": 0.1, "inplace": True})
_NORM = ("batch", {"affine": True})


class Logits(NamedTuple):
    """What the network returns: unbounded; None for a head that was not asked."""

    mask: Tensor | None
    """``(B, 1, H, W)``: tumor, per pixel."""
    tumor: Tensor | None
    """``(B,)``: tumor anywhere in the slice."""
    coarse_masks: tuple[Tensor, ...] = ()
    """``(B, 1, H / 4, W / 4)``, ``(B, 1, H / 8, W / 8)`` …: what deep supervision supervises, in training alone."""


class Encoder(nn.Module):
    """Feature maps of every level, finest first; each level halves the side and has its own width."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        first = TwoConv(2, _FOLD * _FOLD, widths[0], _ACTIVATION, _NORM, bias=False)
        deeper = (Down(2, below, above, _ACTIVATION, _NORM, bias=False) for below, above in pairwise(widths))
        self.levels = nn.ModuleList([first, *deeper])

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 1, H, W)`` to one map a level: ``(B, widths[k], H / 2^(k+1), W / 2^(k+1))``."""
        # Folding leaves channels first; convolutions are faster with channels last, and compiled ones keep what they get.
        folded = F.pixel_unshuffle(images, _FOLD).contiguous(memory_format=torch.channels_last)
        return self.deepen(folded, below=0)

    def deepen(self, features: Tensor, below: int) -> list[Tensor]:
        """The maps of the levels from number ``below`` on, made from the map above them."""
        maps = []
        for level in islice(self.levels, below, None):
            features = level(features)
            maps.append(features)
        return maps


class Up(nn.Module):
    """Twice the side, the finer map beside it, two convolutions; MONAI's own block cannot be compiled in one piece."""

    def __init__(self, deep: int, fine: int) -> None:
        super().__init__()
        self.upsample = UpSample(2, deep, deep // 2, scale_factor=2, mode="deconv")
        self.convs = TwoConv(2, fine + deep // 2, fine, _ACTIVATION, _NORM, bias=False)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """``(B, deep, h, w)`` and ``(B, fine, 2h, 2w)`` to ``(B, fine, 2h, 2w)``."""
        convolved: Tensor = self.convs(torch.cat([skip, self.upsample(features)], dim=1))
        return convolved


class Decoder(nn.Module):
    """From the deepest map back to one logit a pixel, with a skip connection at every level."""

    def __init__(self, widths: tuple[int, ...], deep_supervision: int) -> None:
        super().__init__()
        pairs = zip(reversed(widths), reversed(widths[:-1]), strict=False)
        self.levels = nn.ModuleList(Up(deep, fine) for deep, fine in pairs)
        self.output = Convolution(2, widths[0], _FOLD * _FOLD, kernel_size=1, conv_only=True)
        # The map of level k + 1 has half the side of that of level k, and the finest has half of the slice's.
        self.coarse_outputs = nn.ModuleList(
            Convolution(2, width, 1, kernel_size=1, conv_only=True) for width in widths[1 : 1 + deep_supervision]
        )
        # Training starts from "hardly any pixel is tumor" and need not spend its first epoch on learning that
        # (Lin et al. 2017, https://doi.org/10.1109/ICCV.2017.324, section 4.1).
        for output in (self.output, *self.coarse_outputs):
            nn.init.constant_(output.conv.bias, math.log(_TUMOR_SHARE / (1 - _TUMOR_SHARE)))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One map a level, finest first, to ``(B, 1, H, W)`` logits, and in training to those of coarser maps."""
        *skips, features = maps
        decoded = []
        for level, skip in zip(self.levels, reversed(skips), strict=True):
            features = level(features, skip)
            decoded.append(features)
        coarse: tuple[Tensor, ...] = ()
        if self.training:
            # decoded[-1] is the finest; what lies before it, from the end on, are the coarser ones.
            coarse = tuple(output(features) for output, features in zip(self.coarse_outputs, decoded[-2::-1], strict=False))
        return F.pixel_shuffle(self.output(decoded[-1]), _FOLD), coarse


class Classifier(nn.Module):
    """One logit a slice from the deepest maps: their means see how much, their maxima see that it is there at all."""

    def __init__(self, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        pooled = 2 * sum(widths[-POOLED_LEVELS:])
        self.layers = nn.Sequential(
            nn.Linear(pooled, widths[-2]), nn.LeakyReLU(0.1), nn.Dropout(dropout), nn.Linear(widths[-2], 1)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """One map a level, finest first, to ``(B,)`` logits."""
        logits: Tensor = self.layers(self.pool(maps))
        return logits.squeeze(1)

    def pool(self, maps: list[Tensor]) -> Tensor:
        """One map a level, finest first, to what the layers read: ``(B, 2 · channels of the pooled maps)``."""
        pooled = [pool(features) for features in maps[-POOLED_LEVELS:] for pool in (_mean, _maximum)]
        return torch.cat(pooled, dim=1)


class MultiTaskUNet(nn.Module):
    """Is there a tumor, and where: about 2.04 M parameters at the default widths.

    Args:
        config: Widths, dropout and deep supervision.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.widths)
        self.decoder = Decoder(config.widths, config.deep_supervision)
        self.classifier = Classifier(config.widths, config.dropout)

    def forward(self, images: Tensor, segment: bool = True, classify: bool = True) -> Logits:
        """Run one encoder pass and the heads asked for.

        Args:
            images: ``(B, 1, H, W)`` float, preprocessed; sides divisible by 2 to the number of levels.
            segment: Run the decoder.
            classify: Run the classification head.
        """
        maps = self.encoder(images)
        mask, coarse = self.decoder(maps) if segment else (None, ())
        return Logits(mask=mask, tumor=self.classifier(maps) if classify else None, coarse_masks=coarse)

    def folded(self) -> MultiTaskUNet:
        """A copy for inference, equal but for rounding: every BatchNorm becomes part of the convolution before it."""
        copy = deepcopy(self).eval()
        for block in copy.modules():
            # One that is folded already stays as it is.
            if isinstance(block, Convolution) and hasattr(block, "adn") and isinstance(block.adn.N, nn.BatchNorm2d):
                block.conv = fuse_conv_bn_eval(block.conv, block.adn.N)
                block.adn.N = nn.Identity()
        return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def count_parameters(self, parts: tuple[str, ...] = PARTS) -> int:
        """Number of weights in ``parts``."""
        return sum(weight.numel() for weight in self.part_parameters(parts))

    def part_parameters(self, parts: tuple[str, ...]) -> Iterator[nn.Parameter]:
        """The weights of ``parts``, in a fixed order."""
        for part in parts:
            yield from self.get_submodule(part).parameters()


def average(networks: Sequence[MultiTaskUNet]) -> MultiTaskUNet:
    """A network whose weights and statistics are the mean of those of others that were trained from common weights.

    Its statistics are right to first order only: train it a little, or let it see slices in training mode. Wortsman et al.
    2022, https://proceedings.mlr.press/v162/wortsman22a.html.
    """
    states = [network.state_dict() for network in networks]
    mean = deepcopy(networks[0])
    mean.load_state_dict(
        {name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(states[0][name]) for name in states[0]}
    )
    return mean


def _mean(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3))


def _maximum(features: Tensor) -> Tensor:
    return features.amax(dim=(2, 3))
