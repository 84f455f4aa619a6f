"""How good the weights are on the validation patients: cases first, figures from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from lightning_fabric import Fabric
from numpy.typing import NDArray

from slicewise.config import EvaluationConfig
from slicewise.data.dataset import Targets
from slicewise.data.store import SliceStore
from slicewise.evaluation.calibration import fit_calibration, fit_temperature
from slicewise.evaluation.cases import make_cases, pixel_counts
from slicewise.evaluation.metrics import Figure, choose_mask_from, choose_threshold, dice, dice_by_patient, measure
from slicewise.model.engine import Calibration, infer
from slicewise.model.network import MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine
from slicewise.training.phases import Phase
from slicewise.training.processes import gather_items, share_of
from slicewise.training.supervision import supervised_rows

__all__ = ["OperatingPoint", "Validation", "validate"]


class OperatingPoint(NamedTuple):
    """From what the heads say of a slice to an answer."""

    calibration: Calibration = Calibration()
    """How the probability follows, so that it is a frequency."""
    threshold: float = 0.5
    """Probability from which the answer is "tumor"."""
    mask_from: float = 0.5
    """Probability, not below the threshold, from which a slice that is called gets a mask."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What an epoch reached."""

    figures: Mapping[str, Figure]
    """By name; decisions are made at the operating point, masks are the decoder's alone."""
    operating_point: OperatingPoint
    """What these predictions suggest."""
    dice_by_patient: pd.Series[float]
    """Volume Dice by source and patient, of scans of which every mask is known, where tumors are outlined."""
    score: float
    """What checkpoints are compared by: the mean of the Dice of all pixels and the ROC-AUC, of those the phase trains.

    Pixels are pooled as by nnU-Net (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z): with few patients the
    mean of volume Dice jumps by whole patients when a tumor-free one gets its first false pixel."""


def validate(
    network: MultiTaskNetwork,
    phase: Phase,
    fabric: Fabric,
    store: SliceStore,
    targets: Targets,
    rows: NDArray[np.int64],
    *,
    evaluation: EvaluationConfig,
) -> Validation:
    """Predict the validation slices and measure.

    Args:
        network: In evaluation mode.
        phase: Decides which heads are heard and what counts for the score.
        fabric: The processes that share the slices; each gets the whole answer.
        store: The slices.
        targets: What is known of every row of the store.
        rows: The validation slices.
        evaluation: How probabilities become decisions.
    """
    rows = supervised_rows(rows, targets, phase)
    share = share_of(fabric)
    engine = TorchEngine(network, decodes=phase.segments)  # as the predictor runs it
    outcomes: list[dict[str, object]] = []
    own = rows[share.rank :: share.processes]
    for start in range(0, len(own), engine.batch):
        part = own[start : start + engine.batch]
        answers = infer(engine, store.images[part], segment=phase.segments, classify=phase.classifies)
        for row, answer, reference in zip(part, answers, store.masks(part), strict=True):
            outcome: dict[str, object] = {
                "head": answer.head if phase.classifies else math.nan,
                "peak": answer.peak,
                "raw_probability": answer.raw_tumor,
                "classification": targets.label_known[row],
            }
            if answer.mask is not None:
                mask = answer.mask >= evaluation.mask_threshold
                outcome["predicted_area_px"] = int(mask.sum())
                if targets.mask_known[row]:
                    outcome |= pixel_counts(mask, reference)
            outcomes.append(outcome)
    outcomes = gather_items(fabric, outcomes)
    heads, peaks = (np.array([outcome.pop(name) for outcome in outcomes], dtype=np.float64) for name in ("head", "peak"))
    cases = make_cases(store.table, rows, outcomes, model=phase.name, split="val")
    known = _decisive(cases["classification"].fillna(False).to_numpy(bool), targets, rows)
    label = cases.loc[known, "label"].to_numpy(bool)
    if phase.segments and phase.classifies:
        calibration = fit_calibration(heads[known], peaks[known], label)
    else:
        temperature = fit_temperature((peaks if phase.segments else heads)[known], label)
        calibration = Calibration(decoder_share=float(phase.segments), temperature=temperature)
    probability = np.array([calibration.apply(logit) for logit in calibration.join(heads, peaks)])
    threshold = mask_from = choose_threshold(label, probability[known], evaluation.sensitivity, evaluation.specificity)
    if evaluation.false_mask_rate is not None and phase.segments:
        marked = cases.loc[known, "predicted_area_px"].to_numpy(float) > 0
        mask_from = choose_mask_from(probability[known][~label], marked[~label], threshold, evaluation.false_mask_rate)
    figures = measure(cases.assign(probability=probability, threshold=threshold, is_tumor=probability >= threshold))
    pooled_dice = dice(*cases[["tp", "fp", "fn"]].sum().astype(float))
    wanted = [pooled_dice] * phase.segments + [figures["roc_auc"].value] * phase.classifies
    defined = [value for value in wanted if not math.isnan(value)]
    return Validation(
        figures,
        OperatingPoint(calibration, threshold, mask_from),
        # By the store, not by the rows: a phase without labels does not see the slices whose mask is not known.
        dice_by_patient(cases[_have_all_masks(store.table, targets)[rows]]),
        float(np.mean(defined)) if defined else 0.0,
    )


def _have_all_masks(table: pd.DataFrame, targets: Targets) -> NDArray[np.bool_]:
    """Per row of the store: the masks of all slices of its scan are known."""
    known = pd.Series(targets.mask_known, index=table.index)
    scans = [table[name] for name in ("source", "patient_id", "study_id", "sequence")]
    return known.groupby(scans, dropna=False).transform("all").to_numpy(bool)


def _decisive(known: NDArray[np.bool_], targets: Targets, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Those of the slices with a known label that the operating point is chosen on.

    Where a source outlines tumors on one sequence, the labels of its others say what that one shows, which they need not: a
    threshold that finds 97 % of FLAIR's abnormalities on T1 would call nearly everything. Sources without outlines have
    labels of other origin. So both are left aside while the outlined sequences have both labels.
    """
    outlined = known & targets.outlined[rows]
    return outlined if len(np.unique(targets.label[rows][outlined])) == len((False, True)) else known
