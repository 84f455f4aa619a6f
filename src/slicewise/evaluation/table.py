"""Reading a table of cases, of this system or any other: what is there is checked, what is missing follows or stays so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slicewise.errors import InputError
from slicewise.evaluation.cases import CASE_COLUMNS, VOLUME_COLUMNS, VOLUME_KEYS, make_volumes

__all__ = ["REQUIRED", "read_cases", "read_volumes"]

REQUIRED = ("slice_id", "patient_id", "source", "label", "probability")
"""Columns that a table must have."""

_COUNTS = ("tp", "fp", "fn", "tn")
_CHOICES = {"split": ("val", "test"), "mask_state": ("present", "empty", "unknown"), "distance_unit": ("mm", "px")}
_TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_DEFAULT_THRESHOLD = 0.5


def read_cases(path: Path) -> pd.DataFrame:
    """Read a table of cases from CSV or Parquet.

    Missing columns and empty cells are filled: ``model`` is ``model``, ``split`` is ``test``, the threshold 0.5; the answer
    follows from probability and threshold, areas and what is known of masks from the counts; a scan is a patient.

    Raises:
        InputError: It cannot be read, lacks a required column, or holds an impossible value.
    """
    raw = _read(path)
    if missing := [name for name in REQUIRED if name not in raw]:
        raise InputError(
            f"Expected the columns {', '.join(REQUIRED)} in {path}, found no {', '.join(missing)}. Add them; "
            f"it has {', '.join(map(str, raw.columns[:12]))}."
        )
    if raw.empty:
        raise InputError(f"Expected at least one case in {path}, it has none.")
    given = {name: _convert(raw[name], name, path) for name in CASE_COLUMNS if name in raw}
    cases = pd.DataFrame(given)
    for name, value in (("model", "model"), ("split", "test"), ("threshold", _DEFAULT_THRESHOLD)):
        cases[name] = cases[name].fillna(value) if name in cases else value
    cases["study_id"] = cases["study_id"].fillna(cases["patient_id"]) if "study_id" in cases else cases["patient_id"]
    answer = (cases["probability"] >= cases["threshold"]).astype("boolean").mask(cases["probability"].isna())
    cases["is_tumor"] = cases["is_tumor"].fillna(answer) if "is_tumor" in cases else answer
    labelled = cases["label"].notna().astype("boolean")
    cases["classification"] = cases["classification"].fillna(labelled) if "classification" in cases else labelled
    cases = _complete_masks(cases, path)
    cases = cases.reindex(columns=list(CASE_COLUMNS)).astype({name: kind for name, (kind, _) in CASE_COLUMNS.items()})
    _check(cases, path)
    return cases


def read_volumes(path: Path, cases: pd.DataFrame) -> pd.DataFrame:
    """The scans of a table of cases, added up from its slices; the table beside it has their distances.

    Args:
        path: ``volumes.parquet``; there may be none.
        cases: The table of cases.

    Raises:
        InputError: It cannot be read.
    """
    if not path.is_file():
        return make_volumes(cases)
    columns = {name: VOLUME_COLUMNS[name][0] for name in (*VOLUME_KEYS, "hausdorff95", "surface_dice", "distance_unit")}
    # Its counts are not read: an earlier version added up scans that are none.
    return make_volumes(cases, _read(path).reindex(columns=list(columns)).astype(columns))


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        # As text: a patient may be called 007, or NA.
        table = pd.read_csv(path, dtype="string", keep_default_na=False, na_values=[""])
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("the rows have more fields than the header")
        return table
    except FileNotFoundError:
        raise InputError(f"Expected a table of cases, found nothing at {path}. Check the path.") from None
    except (OSError, ValueError) as error:  # pandas' and pyarrow's errors are among them
        raise InputError(
            f"Expected a table in CSV or Parquet, could not read {path}: {' '.join(str(error).split())}."
        ) from None


def _convert(column: pd.Series[Any], name: str, path: Path) -> pd.Series[Any]:
    kind = CASE_COLUMNS[name][0]
    try:
        if kind == "boolean" and not pd.api.types.is_bool_dtype(column):
            words = column.astype("string").str.strip().str.lower()
            strange = ~(words.isin((*_TRUE, *_FALSE)) | words.isna())
            if strange.any():
                raise ValueError(f"{str(column[strange].iloc[0])!r}")
            return words.isin(_TRUE).astype("boolean").mask(words.isna())
        if kind == "Int64" and pd.api.types.is_string_dtype(column):
            numbers = pd.to_numeric(column)
            if (broken := numbers.notna() & ~(numbers % 1 == 0).fillna(False)).any():  # infinity is not whole either
                raise ValueError(f"{str(column[broken].iloc[0])!r}")
            return numbers.astype("Int64")
        converted: pd.Series[Any] = column.astype(kind)  # type: ignore[call-overload]
        return converted
    except (TypeError, ValueError) as error:
        wanted = {"boolean": "0 or 1", "Int64": "whole numbers", "float64": "numbers"}.get(kind, "text")
        raise InputError(f"Expected {wanted} in column {name} of {path}, got {' '.join(str(error).split())}.") from None


def _complete_masks(cases: pd.DataFrame, path: Path) -> pd.DataFrame:
    counts = [name for name in _COUNTS[:3] if name in cases]
    if counts and len(counts) < 3:
        lacking = ", ".join(name for name in _COUNTS[:3] if name not in cases)
        raise InputError(f"Expected tp, fp and fn together in {path}, found no {lacking}.")
    if not counts:
        return cases.assign(mask_state=cases["mask_state"].fillna("unknown") if "mask_state" in cases else "unknown")
    reference, predicted = cases["tp"] + cases["fn"], cases["tp"] + cases["fp"]
    known = np.where(reference.isna(), "unknown", np.where(reference.fillna(0) > 0, "present", "empty"))
    state = pd.Series(known, index=cases.index, dtype="string")
    for name, value in (("mask_state", state), ("reference_area_px", reference), ("predicted_area_px", predicted)):
        cases[name] = cases[name].fillna(value) if name in cases else value
    return cases


def _check(cases: pd.DataFrame, path: Path) -> None:
    for name in ("slice_id", "patient_id", "source"):
        if (empty := cases[name].isna() | (cases[name] == "").fillna(False)).any():
            raise InputError(f"Expected a {name} in every row of {path}, row {_row(empty)} has none.")
    for name in ("probability", "raw_probability"):
        outside = ~cases[name].isna() & ~cases[name].between(0, 1)
        if outside.any():
            value = cases.loc[outside, name].iloc[0]
            raise InputError(f"Expected a {name} from 0 to 1 in {path}, row {_row(outside)} has {value}.")
    for name, choices in _CHOICES.items():
        if (strange := cases[name].notna() & ~cases[name].isin(choices)).any():
            value = cases.loc[strange, name].iloc[0]
            raise InputError(f"Expected {' or '.join(choices)} as {name} in {path}, row {_row(strange)} has {value}.")
    for name in _COUNTS:
        if (negative := (cases[name] < 0).fillna(False)).any():
            raise InputError(f"Expected numbers of pixels in {name} of {path}, row {_row(negative)} has a negative one.")
    partly = cases[list(_COUNTS[:3])].isna().sum(axis=1).isin((1, 2))
    if partly.any():
        raise InputError(f"Expected tp, fp and fn together in {path}, row {_row(partly)} has only some of them.")
    outlined = (cases["mask_state"] == "empty").fillna(False) & (cases["tp"] + cases["fn"] > 0).fillna(False)
    if outlined.any():
        raise InputError(
            f"Expected tp and fn of 0 where mask_state is empty in {path}, row {_row(outlined)} has pixels of tumor. "
            "Correct one of them, or leave mask_state out: it follows from the counts."
        )
    repeated = cases.duplicated(["model", "split", "source", "slice_id"])
    if repeated.any():
        name = cases.loc[repeated, "slice_id"].iloc[0]
        raise InputError(f"Expected each slice once a model and side in {path}, row {_row(repeated)} repeats {name}.")


def _row(flags: pd.Series[bool]) -> int:
    """As counted in the file below its header."""
    return int(np.flatnonzero(flags)[0]) + 1
