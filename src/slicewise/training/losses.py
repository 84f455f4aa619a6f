"""The combined loss under the label contract: L = w · L_seg + λ · L_cls, each over the slices that know its answer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.nn import functional as F

from slicewise.config import PhaseConfig
from slicewise.data.dataset import Batch
from slicewise.model.network import Logits

__all__ = ["Losses", "combined_loss", "segmentation_loss"]

# Dice over the batch as a whole: a slice's own Dice is undefined without tumor and jumps with small ones.
_dice_and_cross_entropy = DiceCELoss(sigmoid=True, batch=True)


class Losses(NamedTuple):
    """Scalars; a loss that no slice of the batch supervises is a zero without gradient."""

    total: Tensor
    segmentation: Tensor
    classification: Tensor


def segmentation_loss(logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """Soft batch Dice (Milletari 2016, https://doi.org/10.1109/3DV.2016.79) plus cross-entropy, per masked slice.

    Args:
        logits: ``(B, 1, H, W)``.
        masks: ``(B, 1, H, W)``, 0 or 1.
        known: ``(B,)`` bool; the others do not count, whatever their masks hold.
    """
    if not known.any():
        return logits.new_zeros(())
    loss: Tensor = _dice_and_cross_entropy(logits[known], masks[known])
    return loss


def combined_loss(logits: Logits, batch: Batch, phase: PhaseConfig) -> Losses:
    """Weigh the losses of the heads that ran.

    Args:
        logits: Of the batch; a head that did not run has no loss.
        batch: What is known of its slices.
        phase: The weights.
    """
    zero = torch.zeros((), device=batch.images.device)
    segmentation = zero if logits.mask is None else segmentation_loss(logits.mask, batch.masks, batch.mask_known)
    classification = zero
    if logits.tumor is not None and batch.label_known.any():
        classification = F.binary_cross_entropy_with_logits(logits.tumor[batch.label_known], batch.labels[batch.label_known])
    total = phase.segmentation_weight * segmentation + phase.classification_weight * classification
    return Losses(total, segmentation, classification)
