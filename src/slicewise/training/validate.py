"""How good the weights are on the validation patients: cases first, figures from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slicewise.data.dataset import Targets
from slicewise.data.store import SliceStore
from slicewise.evaluation.cases import make_cases, pixel_counts
from slicewise.evaluation.metrics import Figure, choose_threshold, dice, measure
from slicewise.model.infer import infer
from slicewise.model.network import MultiTaskUNet
from slicewise.training.phases import Phase

__all__ = ["Validation", "validate"]


@dataclass(frozen=True, slots=True)
class Validation:
    """What an epoch reached."""

    figures: Mapping[str, Figure]
    """By name; decisions are made at ``threshold``, masks are the decoder's alone."""
    threshold: float
    """The operating threshold that these predictions suggest."""
    score: float
    """What checkpoints are compared by: the mean of the Dice of all pixels and the ROC-AUC, of those the phase trains.

    Pixels are pooled as by nnU-Net (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z): with few patients the
    mean of volume Dice jumps by whole patients when a tumor-free one gets its first false pixel."""


def validate(
    network: MultiTaskUNet,
    phase: Phase,
    store: SliceStore,
    targets: Targets,
    rows: NDArray[np.int64],
    *,
    mask_threshold: float,
    sensitivity: float,
) -> Validation:
    """Predict the validation slices and measure.

    Args:
        network: In evaluation mode.
        phase: Decides which heads run and what counts for the score.
        store: The slices.
        targets: What is known of every row of the store.
        rows: The validation slices.
        mask_threshold: Pixel probability from which a pixel is in the mask.
        sensitivity: What the threshold must reach.
    """
    segment = phase.config.segmentation_weight > 0
    classify = phase.config.classification_weight > 0
    rows = rows[(targets.mask_known[rows] & segment) | (targets.label_known[rows] & classify)]
    outcomes: list[dict[str, object]] = []
    for row in rows:
        probabilities = infer(network, store.images[row], segment=segment, classify=classify)
        outcome: dict[str, object] = {"probability": probabilities.tumor, "classification": targets.label_known[row]}
        if probabilities.mask is not None:
            mask = probabilities.mask >= mask_threshold
            outcome["predicted_area_px"] = int(mask.sum())
            if targets.mask_known[row]:
                outcome |= pixel_counts(mask, store.masks([int(row)])[0])
        outcomes.append(outcome)
    cases = make_cases(store.table, rows, outcomes, model=phase.name, split="val")
    known = cases[cases["classification"].fillna(False)]
    threshold = choose_threshold(known["label"].to_numpy(bool), known["probability"].to_numpy(float), sensitivity)
    figures = measure(cases.assign(threshold=threshold, is_tumor=cases["probability"] >= threshold))
    pooled_dice = dice(*cases[["tp", "fp", "fn"]].sum().astype(float))
    wanted = [pooled_dice] * segment + [figures["roc_auc"].value] * classify
    defined = [value for value in wanted if not math.isnan(value)]
    return Validation(figures, threshold, float(np.mean(defined)) if defined else 0.0)
