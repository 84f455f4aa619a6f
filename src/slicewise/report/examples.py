"""Test slices to look at: best, worst and random, chosen by rule."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slicewise.data.store import SliceStore
from slicewise.evaluation.metrics import dice
from slicewise.explanation.gallery import draw_case
from slicewise.inference.predictor import Predictor
from slicewise.report.document import Example

__all__ = ["choose_examples"]

_EACH = 4
_SEED = 0


def choose_examples(folder: Path, store: SliceStore, cases: pd.DataFrame) -> list[Example]:
    """Draw the joint model's best and worst test slices by Dice, at most one a patient, and random ones.

    Args:
        folder: The run's.
        store: The slices.
        cases: The run's table of cases.
    """
    test = cases[(cases["model"] == "joint") & (cases["split"] == "test")]
    scored = test[test["tp"].notna() & (test["reference_area_px"] > 0)].copy()
    scored["dice"] = [dice(*row) for row in scored[["tp", "fp", "fn"]].astype(float).itertuples(index=False)]
    ranked = scored.sort_values(["dice", "slice_id"])
    groups = {
        "worst": ranked.drop_duplicates(["source", "patient_id"]).head(_EACH),
        "best": ranked.iloc[::-1].drop_duplicates(["source", "patient_id"]).head(_EACH),
        "random": test.sort_values("slice_id").sample(min(_EACH, len(test)), random_state=_SEED),
    }
    predictor = Predictor.from_checkpoint(folder)
    return [
        Example(kind, str(case["slice_id"]), draw_case(predictor, store, case, with_heat=False))
        for kind in ("best", "worst", "random")
        for case in groups[kind].to_dict("records")
    ]
