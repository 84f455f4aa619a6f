"""One multi-task network: a shared encoder that does most of the work, a light segmentation decoder, a classification head.

The full-resolution slice is folded into channels before the first convolution, and the last one unfolds a quarter of the
resolution back to the input's grid (space to depth and sub-pixel convolution; Shi et al. 2016,
https://doi.org/10.1109/CVPR.2016.207). The decoder is that of a feature pyramid (Lin et al. 2017,
https://doi.org/10.1109/CVPR.2017.106; for segmentation Kirillov et al. 2019, https://doi.org/10.1109/CVPR.2019.00656): what
two tasks share is then nearly all of the network, and a second task costs little more than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import islice, pairwise
from typing import NamedTuple

import torch
from monai.networks.blocks import Convolution, ResidualUnit
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slicewise.config import ModelConfig

__all__ = ["PARTS", "POOLED_LEVELS", "Logits", "MultiTaskNetwork", "average"]

PARTS = ("encoder", "decoder", "classifier")
"""The parts that a phase of training can freeze."""

POOLED_LEVELS = 2
"""How many of the encoder's deepest maps the classification head looks at."""

_FOLD = 2
_UNFOLD = 4
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
    """``(B, 1, H / 8, W / 8)``, ``(B, 1, H / 16, W / 16)`` …: what deep supervision supervises, in training alone."""


class Encoder(nn.Module):
    """Feature maps of every level, finest first; each level halves the side, and has its own width and depth."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        stem = max(widths[0] // 2, 1)
        self.stem = nn.Sequential(_convolution(_FOLD * _FOLD, stem), _convolution(stem, stem))
        self.levels = nn.ModuleList(
            nn.Sequential(_convolution(below, above, strides=2), *(_residual(above) for _ in range(depth)))
            for (below, above), depth in zip(pairwise((stem, *widths)), blocks, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 1, H, W)`` to one map a level: ``(B, widths[k], H / 2^(k+2), W / 2^(k+2))``."""
        # Folding leaves channels first; convolutions are faster with channels last, and compiled ones keep what they get.
        folded = F.pixel_unshuffle(images, _FOLD).contiguous(memory_format=torch.channels_last)
        return self.deepen(self.stem(folded), below=0)

    def deepen(self, features: Tensor, below: int) -> list[Tensor]:
        """The maps of the levels from number ``below`` on, made from the map above them."""
        maps = []
        for level in islice(self.levels, below, None):
            features = level(features)
            maps.append(features)
        return maps


class Decoder(nn.Module):
    """From the deepest map up to the finest, each brought to one width, and from there to one logit a pixel."""

    def __init__(self, widths: tuple[int, ...], width: int, deep_supervision: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_projection(fine, width) for fine in widths)
        self.levels = nn.ModuleList(_convolution(width, width) for _ in widths[:-1])
        self.output = _projection(width, _UNFOLD * _UNFOLD)
        # The map of level k + 1 has half the side of that of level k, and the finest has a quarter of the slice's.
        self.coarse_outputs = nn.ModuleList(_projection(width, 1) for _ in range(deep_supervision))
        # Training starts from "hardly any pixel is tumor" and need not spend its first epoch on learning that
        # (Lin et al. 2017, https://doi.org/10.1109/ICCV.2017.324, section 4.1).
        for output in (self.output, *self.coarse_outputs):
            nn.init.constant_(output.conv.bias, math.log(_TUMOR_SHARE / (1 - _TUMOR_SHARE)))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One map a level, finest first, to ``(B, 1, H, W)`` logits, and in training to those of coarser maps."""
        *fine, features = (lateral(level) for lateral, level in zip(self.laterals, maps, strict=True))
        decoded = []
        for level, skip in zip(self.levels, reversed(fine), strict=True):
            features = level(F.interpolate(features, scale_factor=2.0, mode="nearest") + skip)
            decoded.append(features)
        coarse: tuple[Tensor, ...] = ()
        if self.training:
            # decoded[-1] is the finest; what lies before it, from the end on, are the coarser ones.
            coarse = tuple(output(features) for output, features in zip(self.coarse_outputs, decoded[-2::-1], strict=False))
        return F.pixel_shuffle(self.output(decoded[-1]), _UNFOLD), coarse


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


class MultiTaskNetwork(nn.Module):
    """Is there a tumor, and where: about 2.2 M parameters at the default widths and depths.

    Args:
        config: Widths, depths, dropout and deep supervision.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.widths, config.blocks)
        self.decoder = Decoder(config.widths, config.decoder_width, config.deep_supervision)
        self.classifier = Classifier(config.widths, config.dropout)

    def forward(self, images: Tensor, segment: bool = True, classify: bool = True) -> Logits:
        """Run one encoder pass and the heads asked for.

        Args:
            images: ``(B, 1, H, W)`` float, preprocessed; sides divisible by 2 to the number of levels plus one.
            segment: Run the decoder.
            classify: Run the classification head.
        """
        maps = self.encoder(images)
        mask, coarse = self.decoder(maps) if segment else (None, ())
        return Logits(mask=mask, tumor=self.classifier(maps) if classify else None, coarse_masks=coarse)

    def folded(self) -> MultiTaskNetwork:
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


def average(networks: Sequence[MultiTaskNetwork]) -> MultiTaskNetwork:
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


def _convolution(below: int, above: int, strides: int = 1) -> Convolution:
    return Convolution(2, below, above, strides=strides, kernel_size=3, act=_ACTIVATION, norm=_NORM, bias=False)


def _residual(width: int) -> ResidualUnit:
    return ResidualUnit(2, width, width, kernel_size=3, subunits=2, act=_ACTIVATION, norm=_NORM, bias=False)


def _projection(below: int, above: int) -> Convolution:
    return Convolution(2, below, above, kernel_size=1, conv_only=True)


def _mean(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3))


def _maximum(features: Tensor) -> Tensor:
    return features.amax(dim=(2, 3))
