"""Pictures of test slices, chosen by rule, so that nobody can pick the pretty ones: Grad-CAM, and the worst and random."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.console import Display
from slicewise.data.store import SliceStore
from slicewise.evaluation.metrics import dice
from slicewise.explanation.gradcam import explain
from slicewise.explanation.panel import draw_panel
from slicewise.files import write_atomically
from slicewise.inference.predictor import Predictor
from slicewise.records import MaskState

__all__ = ["choose_examples", "choose_slices", "draw_case", "write_examples", "write_explanations"]

_EACH = 8
_SEED = 0


def write_explanations(folder: Path, count: int, store: SliceStore, cases: pd.DataFrame, display: Display) -> None:
    """Write ``explanations/*.png`` of the joint model, in place of earlier ones.

    Args:
        folder: The run's.
        count: How many slices.
        store: The slices.
        cases: The run's table of cases.
        display: Where progress goes.
    """
    predictor = Predictor.from_checkpoint(folder)
    chosen = choose_slices(cases[(cases["model"] == "joint") & (cases["split"] == "test")], count)
    _clear(folder / "explanations")
    with display.bar("Grad-CAM", len(chosen)) as progress:
        for number, case in enumerate(chosen.to_dict("records"), start=1):
            picture = draw_case(predictor, store, case, with_heat=True)
            name = f"{number:02d}_{case['outcome']}_{_file_name(str(case['slice_id']))}.png"
            write_atomically(folder / "explanations" / name, picture)
            progress(number, len(chosen))


def write_examples(folder: Path, store: SliceStore, cases: pd.DataFrame) -> None:
    """Write ``gallery/*.png``, the joint model's worst and random test slices, in place of earlier ones.

    Args:
        folder: The run's.
        store: The slices.
        cases: The run's table of cases.
    """
    predictor = Predictor.from_checkpoint(folder)
    _clear(folder / "gallery")
    for kind, chosen in choose_examples(cases[(cases["model"] == "joint") & (cases["split"] == "test")]).items():
        for number, case in enumerate(chosen.to_dict("records"), start=1):
            name = f"{kind}_{number:02d}_{_file_name(str(case['slice_id']))}.png"
            write_atomically(folder / "gallery" / name, draw_case(predictor, store, case, with_heat=False))


def choose_examples(cases: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The worst slices with tumor by Dice, at most one a patient, and random slices by a fixed draw.

    Args:
        cases: Of one model.
    """
    scored = cases[cases["tp"].notna() & (cases["reference_area_px"] > 0)].copy()
    scored["dice"] = [dice(*row) for row in scored[["tp", "fp", "fn"]].astype(float).itertuples(index=False)]
    ranked = scored.sort_values(["dice", "slice_id"])
    return {
        "worst": ranked.drop_duplicates(["source", "patient_id"]).head(_EACH),
        "random": cases.sort_values("slice_id").sample(min(_EACH, len(cases)), random_state=_SEED),
    }


def choose_slices(cases: pd.DataFrame, count: int) -> pd.DataFrame:
    """Share ``count`` between hits, misses, false alarms and correct rejections, each spread evenly over its probabilities.

    Args:
        cases: Of one model; needs ``label``, ``is_tumor``, ``probability`` and ``slice_id``.
        count: How many; fewer come where there are fewer.

    Returns:
        The chosen rows with a column ``outcome``, the four kinds one after the other.
    """
    known = cases[cases["label"].notna()].copy()
    label, called = known["label"].to_numpy(bool), known["is_tumor"].to_numpy(bool)
    names = np.array([["correct-rejection", "false-alarm"], ["miss", "hit"]])
    known["outcome"] = names[label.astype(int), called.astype(int)]
    kinds = [
        kind.sort_values(["probability", "slice_id"], ascending=False) for _, kind in known.groupby("outcome", sort=False)
    ]
    kinds.sort(key=lambda kind: ["hit", "miss", "false-alarm", "correct-rejection"].index(kind["outcome"].iloc[0]))
    shares = _shares([len(kind) for kind in kinds], count)
    parts = [kind.iloc[_evenly(len(kind), share)] for kind, share in zip(kinds, shares, strict=True) if share]
    return pd.concat(parts, ignore_index=True) if parts else known.head(0)


def draw_case(predictor: Predictor, store: SliceStore, case: Mapping[Any, Any], *, with_heat: bool) -> bytes:
    """Predict a case's slice again and draw it.

    Args:
        predictor: The model.
        store: The slices.
        case: A row of the table of cases, as a mapping.
        with_heat: Add the Grad-CAM picture.
    """
    row = int(case["row"])
    pixels: NDArray[np.float16] = np.asarray(store.images[row])
    prediction = predictor.predict_preprocessed(pixels)
    known = case["mask_state"] != MaskState.UNKNOWN
    reference = store.masks([row])[0] if known else None
    return draw_panel(
        pixels,
        reference=reference,
        prediction=prediction.mask,
        heat=explain(predictor.network, pixels) if with_heat else None,
        caption=_caption(case),
    )


def _caption(case: Mapping[Any, Any]) -> str:
    label = "label not known" if pd.isna(case["label"]) else "tumor" if case["label"] else "no tumor"
    parts = [str(case["slice_id"]), label, f"p = {case['probability']:.2f}"]
    if not pd.isna(case["tp"]):
        overlap = dice(case["tp"], case["fp"], case["fn"])
        parts.append("both empty" if np.isnan(overlap) else f"Dice {overlap:.2f}")
    return " · ".join(parts)


def _clear(folder: Path) -> None:
    for earlier in folder.glob("*.png"):
        earlier.unlink()


def _file_name(slice_id: str) -> str:
    """The end of it, which tells slices apart, in letters and a length that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", slice_id)[-100:]


def _shares(sizes: list[int], count: int) -> list[int]:
    """Equal shares; what a small kind cannot fill goes to the others."""
    shares = [0] * len(sizes)
    while sum(shares) < min(count, sum(sizes)):
        for number, size in enumerate(sizes):
            if shares[number] < size and sum(shares) < count:
                shares[number] += 1
    return shares


def _evenly(size: int, count: int) -> NDArray[np.int64]:
    return np.linspace(0, size - 1, count).round().astype(np.int64)
