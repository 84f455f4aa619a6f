import math

import pytest
import torch

from slicewise.config import PhaseConfig, TrainingConfig
from slicewise.data.dataset import Batch
from slicewise.model.network import Logits
from slicewise.training.losses import Objective, segmentation_loss

JOINT = PhaseConfig(encoder_learning_rate=1.0, segmentation_weight=1.0, classification_weight=0.5)


def combined_loss(logits, batch, phase, teacher=None, **settings):
    return Objective(phase, TrainingConfig(**settings))(logits, batch, teacher)


def make_batch(mask_known, label_known):
    count = len(mask_known)
    masks = torch.zeros(count, 1, 8, 8)
    masks[:, :, :4] = 1.0
    return Batch(
        images=torch.zeros(count, 1, 8, 8),
        masks=masks,
        mask_known=torch.tensor(mask_known),
        labels=torch.ones(count),
        label_known=torch.tensor(label_known),
    )


def test_known_value_of_the_segmentation_loss():
    """All logits 0: probability 1/2 everywhere, cross-entropy ln 2; Dice by hand with MONAI's smoothing of 1e-5."""
    masks = torch.zeros(1, 1, 2, 2)
    masks[..., 0, 0] = 1.0
    loss = segmentation_loss(torch.zeros(1, 1, 2, 2), masks, torch.tensor([True]))
    dice = (2 * 0.5 + 1e-5) / (1 + 2 + 1e-5)
    assert loss.item() == pytest.approx(math.log(2) + 1 - dice, rel=1e-5)


def test_known_value_of_the_dice_of_single_slices():
    """Probability 1/2 on 64 pixels, tumor on 1 and on 32 of them: 1 − 1 / (32 + 1) and 1 − 32 / (32 + 32), by hand."""
    masks = torch.zeros(3, 1, 8, 8)
    masks[0, 0, 0, 0] = 1.0
    masks[1, 0, :4] = 1.0
    logits, known = torch.zeros(3, 1, 8, 8), torch.tensor([True, True, True])
    added = segmentation_loss(logits, masks, known, 2.0) - segmentation_loss(logits, masks, known)
    assert added.item() == pytest.approx(2.0 * (32 / 33 + 1 / 2) / 2, rel=1e-5)


@pytest.mark.parametrize("known", [[False, True], [True, True]], ids=["mask unknown", "mask empty"])
def test_only_tumors_that_are_outlined_count_in_the_dice_of_single_slices(known):
    masks = torch.zeros(2, 1, 8, 8)
    masks[0] = float(not known[0])
    logits, of_whom = torch.zeros(2, 1, 8, 8), torch.tensor(known)
    assert segmentation_loss(logits, masks, of_whom, 1.0) == segmentation_loss(logits, masks, of_whom)


def test_what_stands_in_an_unknown_mask_cannot_matter():
    logits = torch.randn(3, 1, 8, 8)
    known = torch.tensor([True, False, True])
    masks = torch.rand(3, 1, 8, 8).round()
    changed = masks.clone()
    changed[1] = 1 - changed[1]
    assert segmentation_loss(logits, masks, known) == segmentation_loss(logits, changed, known)


def test_unknown_slices_get_no_gradient():
    logits = torch.randn(3, 1, 8, 8, requires_grad=True)
    tumor = torch.randn(3, requires_grad=True)
    batch = make_batch([True, False, True], [False, True, True])
    combined_loss(Logits(logits, tumor), batch, JOINT).total.backward()
    assert logits.grad[1].abs().sum() == 0
    assert logits.grad[0].abs().sum() > 0
    assert tumor.grad[0] == 0
    assert tumor.grad[1] != 0


def test_loss_per_masked_slice_does_not_shrink_with_unmasked_company():
    logits = torch.randn(2, 1, 8, 8)
    alone = make_batch([True, True], [False, False])
    padded = make_batch([True, True, False, False], [False, False, False, False])
    tumor = torch.zeros(4)
    first = combined_loss(Logits(logits, tumor[:2]), alone, JOINT)
    second = combined_loss(Logits(torch.cat([logits, torch.randn(2, 1, 8, 8)]), tumor), padded, JOINT)
    assert first.segmentation.item() == pytest.approx(second.segmentation.item(), rel=1e-6)


def test_total_is_the_weighted_sum():
    batch = make_batch([True, True], [True, True])
    losses = combined_loss(Logits(torch.randn(2, 1, 8, 8), torch.randn(2)), batch, JOINT)
    assert losses.total.item() == pytest.approx(losses.segmentation.item() + 0.5 * losses.classification.item(), rel=1e-6)


def test_known_value_of_the_classification_loss():
    losses = combined_loss(Logits(None, torch.tensor([0.0, 100.0])), make_batch([False, False], [True, False]), JOINT)
    assert losses.classification.item() == pytest.approx(math.log(2), rel=1e-6)
    assert losses.segmentation.item() == 0


def test_a_batch_that_knows_nothing_has_a_zero_loss_and_a_gradient_of_zeros():
    """Every process of a training must have a gradient, or the others would wait for it."""
    logits = Logits(torch.randn(2, 1, 8, 8, requires_grad=True), torch.randn(2, requires_grad=True))
    losses = combined_loss(logits, make_batch([False, False], [False, False]), JOINT)
    assert losses.total.item() == 0
    losses.total.backward()
    assert not logits.mask.grad.any()
    assert not logits.tumor.grad.any()


def test_all_empty_masks_give_a_finite_loss_that_falls_with_fewer_false_pixels():
    empty, known = torch.zeros(2, 1, 8, 8), torch.tensor([True, True])
    many, few = torch.full((2, 1, 8, 8), 2.0), torch.full((2, 1, 8, 8), -6.0)
    assert math.isfinite(segmentation_loss(few, empty, known).item())
    assert segmentation_loss(few, empty, known) < segmentation_loss(many, empty, known)


def test_tumor_free_slices_can_be_kept_from_the_masks():
    logits = torch.randn(2, 1, 8, 8)
    batch = make_batch([True, True], [True, True])
    batch.masks[1] = 0
    both, one = (combined_loss(Logits(logits, torch.zeros(2)), batch, JOINT, empty_masks=on) for on in (True, False))
    assert one.segmentation == segmentation_loss(logits, batch.masks, torch.tensor([True, False]))
    assert one.segmentation != both.segmentation


def test_divided_by_the_batch_the_loss_shrinks_with_company():
    logits = Logits(torch.randn(4, 1, 8, 8), torch.zeros(4))
    batch = make_batch([True, False, False, False], [False] * 4)
    per_masked, per_batch = (combined_loss(logits, batch, JOINT, per_masked_slice=on) for on in (True, False))
    assert per_batch.segmentation.item() == pytest.approx(per_masked.segmentation.item() / 4)


def test_coarser_maps_count_half_each():
    batch = make_batch([True], [True])
    masks = batch.masks
    coarse = (torch.randn(1, 1, 4, 4), torch.randn(1, 1, 2, 2))
    fine = torch.randn(1, 1, 8, 8)
    known = torch.tensor([True])
    expected = (
        segmentation_loss(fine, masks, known)
        + segmentation_loss(coarse[0], masks[:, :, ::2, ::2], known) / 2
        + segmentation_loss(coarse[1], masks[:, :, ::4, ::4], known) / 4
    )
    found = combined_loss(Logits(fine, torch.zeros(1), coarse), batch, JOINT).segmentation
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_distillation_is_least_where_student_and_teacher_agree():
    phase = JOINT.model_copy(update={"distillation_weight": 1.0, "segmentation_weight": 0.0, "classification_weight": 0.0})
    teacher = torch.sigmoid(torch.randn(2, 1, 8, 8))
    batch = make_batch([False, False], [False, False])
    logits = torch.logit(teacher).requires_grad_()
    loss = combined_loss(Logits(logits, torch.zeros(2)), batch, phase, teacher).total
    entropy = -(teacher * teacher.log() + (1 - teacher) * (1 - teacher).log()).mean()
    assert loss.item() == pytest.approx(entropy.item(), rel=1e-5)
    loss.backward()
    assert logits.grad.abs().max() < 1e-6


def test_learned_uncertainties_weigh_as_in_the_paper():
    objective = Objective(JOINT, TrainingConfig(balancing="uncertainty"))
    with torch.no_grad():
        objective.log_variances.copy_(torch.tensor([0.4, -0.6]))
    losses = objective(Logits(torch.randn(2, 1, 8, 8), torch.randn(2)), make_batch([True, True], [True, True]))
    expected = math.exp(-0.4) * losses.segmentation + math.exp(0.6) * 0.5 * losses.classification + (0.4 - 0.6) / 2
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    alone = JOINT.model_copy(update={"classification_weight": 0.0})
    assert Objective(alone, TrainingConfig(balancing="uncertainty")).log_variances is None
