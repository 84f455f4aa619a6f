"""What a table of cases does not say of the run it comes from, and a report needs: ``facts.json`` beside the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from slicewise.config import EvaluationConfig, GateConfig, SourceConfig
from slicewise.data.split import SIDES
from slicewise.data.store import SliceStore
from slicewise.model.description import Description
from slicewise.records import MaskState

__all__ = ["Facts", "ModelFacts", "count_data"]


class ModelFacts(BaseModel):
    """What a checkpoint says of its model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    model_id: str
    """First 12 digits of the weights' SHA-256."""
    threshold: float
    """Probability from which the answer is "tumor"."""
    mask_from: float = 0.0
    """Probability from which a slice that is called gets a mask."""
    decoder_share: float = 0.0
    """Weight of the mask's largest logit in the slice's, beside that of the classification head."""
    center: float = 0.0
    """Logit of a slice at which tumor and no tumor are equally probable."""
    temperature: float
    """What the logit's distance from the center is divided by."""
    parameters: int
    """Number of weights."""
    epochs: int
    """Trained."""
    duration_s: float
    """Of the training."""
    gate: dict[str, Any] | None
    """The gate's verdict on a joint model."""
    data_fingerprint: str | None = None
    """SHA-256 of the slice store it was trained on; None where not known."""
    starts_from: tuple[str, ...] | None = None
    """Model IDs of the weights it started from, averaged where there are several; empty for random weights, None where not
    known."""
    teacher: str | None = None
    """Model ID of the weights whose masks were distilled; None where none were, or it is not known."""

    @classmethod
    def of(cls, description: Description) -> ModelFacts:
        """From a checkpoint's description."""
        origin, teacher = description.provenance["starts_from"], description.provenance.get("teacher")
        return cls(
            model_id=description.model_id,
            threshold=description.threshold,
            mask_from=description.mask_from,
            **description.calibration._asdict(),
            parameters=description.parameters,
            epochs=len(description.history),
            duration_s=description.provenance["duration_s"],
            gate=description.gate,
            data_fingerprint=description.data_fingerprint,
            starts_from=() if origin is None else tuple(sha256[:12] for sha256 in origin.split(" + ")),
            teacher=teacher and teacher[:12],
        )


class Facts(BaseModel):
    """Of a run; the defaults are those of a table that comes alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = "table of cases"
    """Shown in the report's title."""
    models: dict[str, ModelFacts] = {}
    """By the name in the table."""
    data: list[dict[str, Any]] = []
    """Patients, slices, labels and masks by source and side, see `count_data`."""
    skipped: list[dict[str, str]] = []
    """Files that could not be read, and why."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How it is scored."""
    gate: GateConfig = GateConfig()
    """Margin and confidence of the verdict on non-inferiority."""


def count_data(store: SliceStore, sides: pd.Series[str], sources: Mapping[str, SourceConfig]) -> list[dict[str, Any]]:
    """One entry a source and side.

    Args:
        store: The slices.
        sides: Side of each row of the store.
        sources: Data sources by name.
    """
    table, entries = store.table.assign(side=sides.to_numpy()), []
    for source, side in ((source, side) for source in sources for side in SIDES):
        slices = table[(table["source"] == source) & (table["side"] == side)]
        entries.append(
            {
                "source": source,
                "layout": sources[source].layout,
                "split": side,
                "patients": int(slices["patient_id"].nunique()),
                "slices": len(slices),
                "tumor": int((slices["label"] == True).sum()),  # noqa: E712 - a nullable column
                "tumor_free": int((slices["label"] == False).sum()),  # noqa: E712
                "label_unknown": int(slices["label"].isna().sum()),
                **{f"mask_{state}": int((slices["mask_state"] == state).sum()) for state in MaskState},
            }
        )
    return entries
