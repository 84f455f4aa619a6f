"""How sure the model is of an answer: what it says of the same slice seen otherwise, and with parts of it left out.

Views are test-time augmentation (`slicewise.inference.views`). Leaving out is dropout of
the classification head, kept on (Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142). The answer itself is not made
here: it is that of `slicewise.model.engine.infer`, of the slice as it is.

Both are the same for every slice: the same views, and a fixed set of thinned heads that all views share. An uncertainty is
then a property of the slice and the model, the same on every call, and a slice and its mirror image have the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slicewise.errors import CheckpointError
from slicewise.inference.views import VIEWS, View
from slicewise.model.engine import Calibration, Pixels
from slicewise.model.network import MultiTaskNetwork

__all__ = ["Uncertainty", "check_variance", "estimate_uncertainty"]


_SEED = 0
_ROUNDING = 1e-6


class Uncertainty(NamedTuple):
    """What the views and the dropout draws say of one slice together."""

    probability: float
    """The mean, in [0, 1]."""
    standard_deviation: float
    """Of the probabilities, in [0, 0.5]: the uncertainty of the answer."""


@torch.inference_mode()
def estimate_uncertainty(
    network: MultiTaskNetwork,
    pixels: Pixels,
    *,
    classify: bool,
    calibration: Calibration = Calibration(),
    draws: int = 8,
    views: Sequence[View] = VIEWS,
) -> Uncertainty:
    """Ask again, of every view and of thinned heads.

    Dropout acts behind the pooling of the features, so the draws cost no further pass of the network.

    Args:
        network: In evaluation mode, and left in it.
        pixels: ``(256, 256)``, as `slicewise.data.preprocess.preprocess` returns it.
        classify: The classification head was trained; where it was not, the probability of a view is that of its most
            probable pixel, as in `slicewise.model.engine.infer`, and there is no dropout.
        calibration: How a probability follows from the heads' logits.
        draws: How many thinned heads, at least 1.
        views: How the slice is seen.

    Returns:
        The same for the same slice on every call; torch's global generator is neither read nor moved.
    """
    device = next(network.parameters()).device
    share = calibration.decoder_share if classify else 1.0
    pooled, peaks = [], []
    for view in views:  # one at a time, as `infer` does; a batch is no faster on a CPU
        image = torch.from_numpy(view.apply(pixels).astype(np.float32))[None, None].to(device)
        maps = network.encoder(image)
        if share < 1:
            pooled.append(network.classifier.pool(maps))
        if share:
            peaks.append(network.decoder(maps)[0].amax())
    words = []  # what has no weight may be NaN, as in `Calibration.join`
    if pooled:
        words.append((1 - share) * _thinned_logits(network.classifier.layers, torch.cat(pooled), draws).double())
    if peaks:
        words.append(share * torch.stack(peaks).double())
    logits = reduce(torch.add, words)
    probabilities = torch.sigmoid((logits - calibration.center) / calibration.temperature)
    return Uncertainty(float(probabilities.mean()), float(probabilities.std(correction=0)))


def check_variance(values: Sequence[float] | NDArray[np.float64]) -> None:
    """Refuse an uncertainty that says nothing, such as that of a model without dropout that was shown one view.

    Args:
        values: ``standard_deviation`` of slices. Of a single one, 0 proves nothing: a blank slice may have it.

    Raises:
        CheckpointError: One of them is not finite, or all are zero but for rounding.

    >>> check_variance([0.0, 0.01])
    >>> check_variance([0.0, 0.0])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    slicewise.errors.CheckpointError: Expected uncertainty that varies from slice to slice, got zero for all 2 slices. ...
    """
    uncertainties = np.asarray(values, dtype=np.float64)
    count = uncertainties.size
    if unusable := count - int(np.isfinite(uncertainties).sum()):
        raise CheckpointError(
            f"Expected uncertainty that is finite, got NaN or infinity for {unusable} of {count} slices. The model's own "
            "probabilities are not finite either; train again."
        )
    if count > 1 and (uncertainties <= _ROUNDING).all():
        raise CheckpointError(
            f"Expected uncertainty that varies from slice to slice, got zero for all {count} slices. Neither dropout nor "
            "the views change the answer; train with model.dropout above 0."
        )


def _thinned_logits(layers: nn.Sequential, pooled: Tensor, draws: int) -> Tensor:
    """Run the head's layers with dropout: ``(B, pooled)`` to ``(draws, B)``, each draw with one mask for the whole batch."""
    generator = torch.Generator().manual_seed(_SEED)
    features = pooled.expand(draws, *pooled.shape)
    for layer in layers:
        if isinstance(layer, nn.Dropout):
            keep = torch.full((draws, 1, features.shape[-1]), 1 - layer.p)
            features = features * (torch.bernoulli(keep, generator=generator) / keep).to(features.device)
        else:
            features = layer(features)
    return features.squeeze(-1)
