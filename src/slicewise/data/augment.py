"""Random changes to a training batch, true to MR, in the order of a scan.

The head is moved and bent (`_move`), may lose scalp and skull as by a tool (`_strip`) and get the contrast of a sequence
that does not exist (`_remap`), has the sequence's intensity curve and the coil's profile (`_shade`), is sampled in k-space
(`_encode`), and becomes a magnitude image with noise (`_detect`).

Every number is drawn from (seed, phase, epoch, position), so neither the batch size, nor the number of workers, nor an
interruption changes what a sample looks like. Two rules keep that true to the last bit:

- A stage draws the same numbers whether its transforms are on or off, so turning one off changes no other.
- What may round differently in a larger batch (matrix products, FFT, exp, log) is computed sample by sample.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.random import SFC64, Generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.special import ndtri
from torch import Tensor
from torch.nn import functional as F

from slicewise.config import AugmentationConfig
from slicewise.data.preprocess import normalize

__all__ = ["augment"]

Floats = NDArray[np.floating[Any]]

_ELASTIC_GRID = np.stack(np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-1, 1, 6)), axis=-1)
_PROFILE_POINTS = 4
_CURVE_POINTS = 4
_DIM = 0.1
"""Signal below which there is air, in units of the brightest."""
_LAYER = (0.05, 0.15)
"""Scalp and skull, as a share of the square root of the head's area."""
_LEAST_KEPT = 0.9
"""Share of the tumor that must be left where scalp and skull are taken off, or else they stay."""
_HAIR = 1e-16
_GHOST_PERIODS = (2, 6)
_STILL_FREQUENCY = 0.25
"""In cycles per pixel; the head lies still at least for the mean and at most for the lines up to here."""


def augment(
    images: Tensor, masks: Tensor, config: AugmentationConfig, keys: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Tensor]:
    """Change a batch: numbers are drawn on the CPU, everything else happens where the images are.

    Args:
        images: ``(B, 1, H, W)`` float32, preprocessed: the least value of each is air.
        masks: ``(B, 1, H, W)`` float32, 0 or 1, on the same device; moved with their images.
        config: Ranges.
        keys: For each sample the whole numbers that its random draws follow from.

    Returns:
        New images and masks of the same shapes.
    """
    # Noise needs many raw bits, and SFC64 has them at half the price of numpy's default.
    generators = [Generator(SFC64(key)) for key in keys]
    air = images.amin(dim=(2, 3), keepdim=True)
    span = (images.amax(dim=(2, 3), keepdim=True) - air).clamp_min_(1e-6)
    # Until `_detect` an image is its signal: 0 is air, 1 the brightest pixel that was read.
    pairs = images.new_empty(len(images), 2, *images.shape[2:])
    torch.sub(images, air, out=pairs[:, :1]).div_(span)
    pairs[:, 1:] = masks
    pairs = _move(pairs, config, generators)
    detected = torch.empty_like(images)
    scales = zip(air.flatten().tolist(), span.flatten().tolist(), strict=True)
    for place, (generator, scale) in enumerate(zip(generators, scales, strict=True)):
        stripped = _strip(pairs[place], config, generator)
        remapped = _remap(pairs[place, 0], config, generator)
        signal = _encode(_shade(pairs[place, 0], config, generator), config, generator)
        if stripped or remapped:
            signal, scale = _renormalize(signal)
        detected[place, 0] = _detect(signal, *scale, config, generator)
    # A bilinear mask cut at one half keeps thin and small lesions that the nearest pixel would drop.
    return detected, pairs[:, 1:].ge_(0.5).contiguous()


def _move(pairs: Tensor, config: AugmentationConfig, generators: list[Generator]) -> Tensor:
    """Flip, rotate, scale, shift and bend pairs of signal and mask ``(B, 2, H, W)``; what comes in from outside is air."""
    count, _, height, width = pairs.shape
    grid = pairs.new_empty(count, height, width, 2)
    for place, generator in enumerate(generators):
        factors = _surface(_grid_points(config, generator), (height, width), pairs.device)
        torch.mm(*factors, out=grid[place].view(height, 2 * width))
    return F.grid_sample(pairs, grid, align_corners=False)


def _grid_points(config: AugmentationConfig, generator: Generator) -> Floats:
    """From where the points of a coarse grid are read: ``(rows, columns, xy)``, the image's edges at ±1.

    Every point is displaced at random, smoothly between them (Simard et al. 2003, doi:10.1109/ICDAR.2003.1227801), and then
    all are moved by one affine map, which the natural spline through them reproduces.
    """
    mirror = -1.0 if generator.random() < config.flip_probability else 1.0
    angle = math.radians(config.rotation_degrees) * generator.uniform(-1, 1)
    scale = (1 + config.scale) ** generator.uniform(-1, 1)
    shift = 2 * config.shift * generator.uniform(-1, 1, size=2)  # the image's side is 2
    displacement = 2 * config.elastic * generator.uniform(-1, 1, size=_ELASTIC_GRID.shape)
    turned, quarters = generator.random() < config.turn_probability, int(generator.integers(1, 4))
    angle += turned * quarters * math.pi / 2
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    return (_ELASTIC_GRID + displacement) @ np.array([[mirror * cosine, mirror * sine], [-sine, cosine]]) + shift


def _strip(pair: Tensor, config: AugmentationConfig, generator: Generator) -> bool:
    """Make the outer layer of the head air, in a pair of signal and mask ``(2, H, W)``; says whether it did.

    No tool's brain mask, but what is left has the two traits of one: no bright fat, and an edge where cortex was.
    """
    happens = generator.random() < config.strip_probability
    layer = generator.uniform(*_LAYER)
    if not happens:
        return False
    coarse = F.avg_pool2d(pair[None, 0], 2)[0].cpu().numpy()
    head = ndimage.binary_fill_holes(coarse > _DIM)
    depth = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]  # beyond the picture there is no head
    inner = torch.from_numpy(depth > layer * math.sqrt(head.sum())).to(pair.device)
    inner = inner.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    if not inner.any() or (pair[1] * inner).sum() < _LEAST_KEPT * pair[1].sum():
        return False
    pair *= inner
    return True


def _remap(signal: Tensor, config: AugmentationConfig, generator: Generator) -> bool:
    """Give a signal ``(H, W)`` another contrast, in place; says whether it did.

    Air stays air. Each third of the tissue's intensities goes to a random one, mixed with its own by a random share: up to
    contrasts that no sequence has (after SynthSeg, Billot et al. 2023, doi:10.1016/j.media.2023.102789).
    """
    happens = generator.random() < config.remap_probability
    share, values = generator.random(), generator.random(_CURVE_POINTS)
    if not happens:
        return False
    pixels = signal.cpu().numpy()
    probe = np.sort(pixels[::4, ::4], axis=None)
    tissue = probe[np.searchsorted(probe, _DIM) :]
    if not tissue.size:
        return False
    own = np.quantile(tissue, np.linspace(0, 1, _CURVE_POINTS))
    mixed = (1 - share) * own + share * values
    curve = np.interp(pixels, np.concatenate([[0.0], own]), np.concatenate([[0.0], mixed]))
    signal.copy_(torch.from_numpy(curve))
    return True


def _renormalize(signal: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """What the preprocessing makes of a slice that looks like this, as a signal again; and its air and span."""
    values = normalize(signal.cpu().numpy())
    air, span = float(values.min()), max(float(values.max() - values.min()), 1e-6)
    return torch.from_numpy((values - air) / span).to(signal), (air, span)


def _shade(signal: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Intensity curve and coil profile of a signal ``(H, W)``."""
    gamma = (1 + config.gamma) ** generator.uniform(-1, 1)
    profile = config.bias_field * generator.uniform(-1, 1, size=(_PROFILE_POINTS, _PROFILE_POINTS, 1))
    if not (config.gamma or config.bias_field):
        return signal
    # signal^gamma · exp(profile), as one exponential. Air is lifted a hair, since log(0) and exp(−∞) are many times as slow.
    logarithm = signal.clamp_min_(_HAIR).log_()
    return logarithm.addmm_(*_surface(profile, signal.shape, signal.device), beta=gamma).exp_()


def _encode(signal: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Blur, low resolution, ghosts, motion and a spike of a signal ``(H, W)``, in k-space, where any of them happens."""
    happens = generator.random(5) < (
        config.blur_probability,
        config.low_resolution_probability,
        config.ghost_probability,
        config.motion_probability,
        config.spike_probability,
    )
    largest = (config.blur_px, config.low_resolution, config.ghost, config.motion_px, config.spike)
    strengths = happens * generator.uniform(-1, 1, size=5) * largest
    phase_axis, period = int(generator.integers(2)), int(generator.integers(*_GHOST_PERIODS, endpoint=True))
    still, row, column, phase = generator.random(4)
    if not strengths.any():
        return signal
    blur_px, missing, ghost, motion_px, spike = strengths

    height, width = signal.shape
    # Every factor at −f is the conjugate of that at f, as for any real image, so half of k-space is enough.
    frequencies = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    factors = [_blur(frequency, blur_px).astype(np.complex64) for frequency in frequencies]
    lines, count = frequencies[phase_axis], signal.shape[phase_axis]
    factors[phase_axis] *= _cut(lines, missing) * _modulation(lines * count, ghost, period)
    factors[phase_axis] *= _motion(lines, motion_px, _STILL_FREQUENCY * still)
    spectrum = torch.fft.rfft2(signal)
    spectrum *= torch.outer(*(_tensor(factor, torch.complex64, signal.device) for factor in factors))
    # One sample is one plane wave. The first and the last column hold their own conjugates, and are spared.
    sample = int(row * height), 1 + int(column * ((width - 1) // 2))
    spectrum[sample] += spike * height * width / 2 * cmath.exp(2j * math.pi * phase)
    return torch.fft.irfft2(spectrum, s=(height, width)).abs_()


def _blur(frequency: Floats, blur_px: float) -> Floats:
    """Transfer function of a Gaussian; ``frequency`` in cycles per pixel."""
    return np.exp(-2 * (math.pi * blur_px * frequency) ** 2)


def _cut(frequency: Floats, missing: float) -> Floats:
    """The outer share ``missing`` of the lines is zero-filled: edges ring (Bernstein et al. 2001, doi:10.1002/jmri.1183)."""
    return (np.abs(frequency) <= (1 - abs(missing)) / 2).astype(np.float64)


def _modulation(line: Floats, ghost: float, period: int) -> Floats:
    """All lines but each ``period``-th are weaker by ``ghost``, or stronger: ghosts 1 / ``period`` of the image apart.

    The central line keeps its factor of 1 and the image its mean. Zhuo and Gullapalli 2006, doi:10.1148/rg.261055134.
    """
    return np.where(np.rint(line) % period == 0, 1.0, 1.0 - ghost)


def _motion(frequency: Floats, motion_px: float, still: float) -> NDArray[np.complex128]:
    """The head has moved when the lines beyond ``still`` are acquired, from the center outward: these have a ramp of phase.

    Zaitsev et al. 2015, doi:10.1002/jmri.24850.
    """
    return np.exp(-2j * math.pi * frequency * motion_px * (np.abs(frequency) > still))


def _detect(signal: Tensor, air: float, span: float, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Noise of a magnitude image, then gain and offset, on the images' own scale.

    Both channels of the receiver add normal noise, so that the magnitude follows Rice's distribution, which is near normal
    in tissue and Rayleigh's in air (Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618).
    """
    gain = 1 + config.contrast * generator.uniform(-1, 1)
    offset = config.contrast * generator.uniform(-1, 1)
    deviation = config.noise * generator.random()  # what follows is the last draw, and may be left out
    if deviation > 0:
        real, imaginary = (_normals(signal.shape, generator).to(signal.device) for _ in range(2))
        share = deviation / span
        signal = signal.add(real, alpha=share).square_().add_(imaginary.square_(), alpha=share**2).sqrt_()
    return signal.mul_(gain * span).add_(gain * air + offset)


def _normals(shape: torch.Size, generator: Generator) -> Tensor:
    """Independent standard normal values, by inverse transform sampling: 16 random bits choose one of 65,536 quantiles.

    Their distribution function is within 8e-6 of the normal one, and they come five times as fast as numpy's own.
    """
    bits = generator.bit_generator.random_raw(-(-shape.numel() // 4)).view(np.uint16)[: shape.numel()]
    # Clipping spares the check of bounds; nothing is outside them.
    return torch.from_numpy(_quantiles().take(bits, mode="clip")).view(shape)


@cache
def _quantiles() -> NDArray[np.float32]:
    return ndtri((np.arange(2**16) + 0.5) / 2**16).astype(np.float32)


def _surface(points: Floats, shape: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """A smooth surface through evenly spaced points, edge to edge, as two thin factors.

    Args:
        points: ``(rows, columns, C)``.

    Returns:
        ``(H, rows)`` and ``(rows, W · C)`` float32, whose product is the surface ``(H, W · C)`` at the pixels' centers.
    """
    rows, columns, _ = points.shape
    across = (_spline(columns, shape[1]) @ points).reshape(rows, -1)
    return _tensor(_spline(rows, shape[0]), torch.float32, device), _tensor(across, torch.float32, device)


def _tensor(values: NDArray[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.as_tensor(values, dtype=dtype, device=device)


@cache
def _spline(points: int, side: int) -> NDArray[np.float32]:
    """``(side, points)``: the weights of the points in the natural cubic spline at each pixel's center."""
    centers = (2 * np.arange(side) + 1) / side - 1
    return CubicSpline(np.linspace(-1, 1, points), np.eye(points), bc_type="natural")(centers).astype(np.float32)
