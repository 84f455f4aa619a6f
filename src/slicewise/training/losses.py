"""The combined loss under the label contract: L = w · L_seg + λ · L_cls + δ · L_dist, each over the slices it applies to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from slicewise.config import PhaseConfig, TrainingConfig
from slicewise.data.dataset import Batch
from slicewise.model.network import Logits

__all__ = ["Losses", "Objective", "segmentation_loss"]

# Dice over the batch as a whole: a slice's own Dice is undefined without tumor and jumps with small ones.
_dice_and_cross_entropy = DiceCELoss(sigmoid=True, batch=True)
_slice_dice = DiceLoss(sigmoid=True)


class Losses(NamedTuple):
    """Scalars; what no slice of the batch supervises is a zero with a gradient of zeros."""

    total: Tensor
    segmentation: Tensor
    classification: Tensor
    distillation: Tensor


def segmentation_loss(logits: Tensor, masks: Tensor, known: Tensor, slice_dice_weight: float = 0.0) -> Tensor:
    """Soft batch Dice (Milletari 2016, https://doi.org/10.1109/3DV.2016.79) plus cross-entropy, per masked slice.

    Args:
        logits: ``(B, 1, H, W)``.
        masks: ``(B, 1, H, W)``, 0 to 1.
        known: ``(B,)`` bool; the others do not count, whatever their masks hold.
        slice_dice_weight: Of the mean soft Dice loss of single slices with tumor, in which a small tumor weighs as much as a
            large one; in the batch Dice it weighs as much as its pixels.
    """
    if not known.any():
        return 0 * logits.sum()
    places = known.nonzero().squeeze(1)  # the gradient of a selection by numbers is the faster one
    loss: Tensor = _dice_and_cross_entropy(logits.index_select(0, places), masks.index_select(0, places))
    if slice_dice_weight:
        tumors = (known & (masks.amax(dim=(1, 2, 3)) > 0)).nonzero().squeeze(1)
        if len(tumors):
            loss = loss + slice_dice_weight * _slice_dice(logits.index_select(0, tumors), masks.index_select(0, tumors))
    return loss


class Objective(nn.Module):
    """What a phase minimizes.

    Args:
        phase: The weights of its losses.
        training: What the masks of tumor-free slices teach, and how losses are balanced.
    """

    def __init__(self, phase: PhaseConfig, training: TrainingConfig) -> None:
        super().__init__()
        self.phase = phase
        self.training_config = training
        learned = training.balancing == "uncertainty" and phase.segmentation_weight > 0 and phase.classification_weight > 0
        self.log_variances = nn.Parameter(torch.zeros(2)) if learned else None
        """Learned uncertainties of segmentation and classification, where they balance the losses."""

    def forward(self, logits: Logits, batch: Batch, teacher: Tensor | None = None) -> Losses:
        """Weigh the losses of the heads that ran.

        Args:
            logits: Of the batch; a head that did not run has no loss.
            batch: What is known of its slices.
            teacher: ``(B, 1, H, W)`` tumor probabilities of the teacher, where the phase distills them.
        """
        zero = torch.zeros((), device=batch.images.device)
        segmentation, classification, distillation = zero, zero, zero
        if logits.mask is not None:
            segmentation = self._segmentation(logits, batch)
            if teacher is not None:
                distillation = F.binary_cross_entropy_with_logits(logits.mask, teacher)
        if logits.tumor is not None:
            known = batch.label_known
            classification = (
                F.binary_cross_entropy_with_logits(logits.tumor[known], batch.labels[known])
                if known.any()
                else 0 * logits.tumor.sum()
            )
        weighted = torch.stack(
            [self.phase.segmentation_weight * segmentation, self.phase.classification_weight * classification]
        )
        if self.log_variances is not None:
            # Kendall et al. 2018, https://doi.org/10.1109/CVPR.2018.00781, equation 10.
            weighted = torch.exp(-self.log_variances) * weighted + self.log_variances / 2
        total = weighted.sum() + self.phase.distillation_weight * distillation
        return Losses(total, segmentation, classification, distillation)

    def _segmentation(self, logits: Logits, batch: Batch) -> Tensor:
        known, masks = batch.mask_known, batch.masks
        if not self.training_config.empty_masks:
            known = known & (masks.amax(dim=(1, 2, 3)) > 0)
        assert logits.mask is not None
        weight_of_slices = self.training_config.slice_dice_weight
        loss = segmentation_loss(logits.mask, masks, known, weight_of_slices)
        # Deep supervision (Lee et al. 2015, https://proceedings.mlr.press/v38/lee15a.html): each coarser map counts half.
        weight = 1.0
        for coarse in logits.coarse_masks:
            weight /= 2
            masks = F.avg_pool2d(masks, masks.shape[-1] // coarse.shape[-1])
            loss = loss + weight * segmentation_loss(coarse, masks, known, weight_of_slices)
        return loss if self.training_config.per_masked_slice else loss * known.float().mean()
