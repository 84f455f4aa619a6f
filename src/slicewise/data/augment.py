"""Random changes to a training batch, true to MR: where the head lies, how the scanner scaled, what its coil saw.

Every number is drawn from (seed, phase, epoch, position), so neither the batch size, nor the number of workers, nor an
interruption changes what a sample looks like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slicewise.config import AugmentationConfig

__all__ = ["augment"]

_FIELD_POINTS = 4


def augment(
    images: Tensor, masks: Tensor, config: AugmentationConfig, keys: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Tensor]:
    """Change a batch.

    Args:
        images: ``(B, 1, H, W)`` float32, preprocessed.
        masks: ``(B, 1, H, W)`` float32, 0 or 1; moved with their images.
        config: Ranges.
        keys: For each sample the whole numbers that its random draws follow from.

    Returns:
        New images and masks of the same shapes.
    """
    generators = [np.random.default_rng(key) for key in keys]
    images, masks = _move(images, masks, config, generators)
    return _recolor(images, config, generators), masks


def _move(
    images: Tensor, masks: Tensor, config: AugmentationConfig, generators: list[np.random.Generator]
) -> tuple[Tensor, Tensor]:
    """Flip, rotate, scale and shift; what comes in from outside is air."""
    affine = torch.from_numpy(np.stack([_affine(config, generator) for generator in generators]))
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    air = images.amin(dim=(2, 3), keepdim=True)
    moved = F.grid_sample(images - air, grid, align_corners=False) + air
    # A bilinear mask cut at one half keeps thin and small lesions that the nearest pixel would drop.
    return moved, (F.grid_sample(masks, grid, align_corners=False) >= 0.5).to(masks.dtype)


def _affine(config: AugmentationConfig, generator: np.random.Generator) -> np.ndarray:
    mirror = -1.0 if generator.random() < config.flip_probability else 1.0
    angle = math.radians(config.rotation_degrees) * generator.uniform(-1, 1)
    scale = (1 + config.scale) ** generator.uniform(-1, 1)
    shift = 2 * config.shift * generator.uniform(-1, 1, size=2)  # the grid's side is 2
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    return np.array([[mirror * cosine, -sine, shift[0]], [mirror * sine, cosine, shift[1]]], dtype=np.float32)


def _recolor(images: Tensor, config: AugmentationConfig, generators: list[np.random.Generator]) -> Tensor:
    """Intensity curve, gain and offset, coil profile, noise."""
    count, _, height, width = images.shape
    gamma = _column([(1 + config.gamma) ** generator.uniform(-1, 1) for generator in generators])
    gain = _column([1 + config.contrast * generator.uniform(-1, 1) for generator in generators])
    offset = _column([config.contrast * generator.uniform(-1, 1) for generator in generators])
    deviation = _column([config.noise * generator.random() for generator in generators])
    fields = np.stack([generator.uniform(-1, 1, (1, _FIELD_POINTS, _FIELD_POINTS)) for generator in generators])
    field = F.interpolate(
        torch.from_numpy(fields.astype(np.float32)), size=(height, width), mode="bicubic", align_corners=True
    )
    noise = torch.stack([_noise(generator, height, width) for generator in generators])

    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    lit = ((images - low) / span).pow(gamma) * torch.exp(config.bias_field * field)
    return (lit * span + low) * gain + offset + deviation * noise.view(count, 1, height, width)


def _noise(generator: np.random.Generator, height: int, width: int) -> Tensor:
    return torch.from_numpy(generator.standard_normal((height, width), dtype=np.float32))


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
