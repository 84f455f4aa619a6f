"""What a phase learns from, and whether there is enough of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slicewise.data.dataset import Targets
from slicewise.data.store import SliceStore
from slicewise.errors import TrainingError
from slicewise.training.phases import Phase

__all__ = ["Data", "check_supervision", "supervised_rows"]


@dataclass(frozen=True, slots=True)
class Data:
    """What every phase of a run trains on."""

    store: SliceStore
    targets: Targets
    train_rows: NDArray[np.int64]
    val_rows: NDArray[np.int64]


def check_supervision(phase: Phase, data: Data) -> None:
    """Refuse a phase that could not learn, or whose checkpoints could not be told apart on validation.

    Raises:
        TrainingError: A side has no slice with a known outline of a tumor for segmentation, or lacks tumor or tumor-free
            slices for classification.
    """
    targets = data.targets
    for side, rows in (("train", data.train_rows), ("val", data.val_rows)):
        outlined, labels = rows[targets.mask_known[rows]], targets.label[rows[targets.label_known[rows]]]
        missing = []
        if phase.segments and not targets.label[outlined].any():
            missing.append(f"outlined tumors (none in {len(outlined)} slices with a known mask)")
        if phase.classifies and (labels.all() or not labels.any()):
            missing.append(f"both answers ({labels.sum()} tumor and {(~labels).sum()} tumor-free slices)")
        if missing:
            raise TrainingError(
                f"Expected {' and '.join(missing)} on side {side} for phase {phase.name}. "
                "Check the sources, their `segmentation` and `classification` settings, and the split."
            )


def supervised_rows(rows: NDArray[np.int64], targets: Targets, phase: Phase) -> NDArray[np.int64]:
    """Those of ``rows`` that one of the phase's losses can learn from."""
    return rows[(targets.mask_known[rows] & phase.segments) | (targets.label_known[rows] & phase.classifies)]
