import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import confusion_matrix

from slicewise.data.store import COLUMNS
from slicewise.evaluation.cases import CASE_COLUMNS, make_cases, pixel_counts

pairs = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


@given(pair=pairs)
def test_pixel_counts_are_the_confusion_matrix(pair):
    prediction, reference = pair
    (tn, fp), (fn, tp) = confusion_matrix(reference.ravel(), prediction.ravel(), labels=[False, True])
    assert pixel_counts(prediction, reference) == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


@pytest.fixture
def table():
    rows = [
        dict.fromkeys(COLUMNS)
        | {"slice_id": f"lgg/s/{row}", "source": "lgg", "patient_id": "p", "study_id": "s", "slice_index": 10 * row}
        | {"label": [True, False, None][row % 3], "mask_state": ["present", "empty", "unknown"][row % 3]}
        | {"reference_area_px": row, "spacing_row_mm": 0.5 if row else None, "foreground_share": 1.0}
        | {"height_px": 256, "width_px": 256}
        for row in range(6)
    ]
    return pd.DataFrame(rows).astype(COLUMNS)


def test_each_case_joins_its_own_slice_and_outcome(table):
    outcomes = [
        {"probability": 0.9, "is_tumor": True, "classification": True, "predicted_area_px": 7},
        {
            "probability": 0.2,
            "is_tumor": False,
            "classification": True,
            "predicted_area_px": 5,
            "tp": 1,
            "fp": 4,
            "fn": 2,
            "tn": 9,
        },
        {
            "probability": 0.1,
            "is_tumor": False,
            "classification": False,
            "predicted_area_px": 0,
            "tp": 0,
            "fp": 0,
            "fn": 0,
            "tn": 16,
        },
    ]
    cases = make_cases(table, np.array([5, 0, 4]), outcomes, model="joint", split="test", threshold=0.4)
    assert {name: str(kind) for name, kind in cases.dtypes.items()} == CASE_COLUMNS
    assert cases["row"].tolist() == [5, 0, 4]
    assert cases["slice_id"].tolist() == ["lgg/s/5", "lgg/s/0", "lgg/s/4"]
    assert cases["slice_index"].tolist() == [50, 0, 40]
    assert cases["mask_state"].tolist() == ["unknown", "present", "empty"]
    assert cases["label"].tolist() == [pd.NA, True, False]
    assert cases["probability"].tolist() == [0.9, 0.2, 0.1]
    assert cases["fp"].tolist() == [pd.NA, 4, 0]
    assert cases["reference_area_px"].tolist() == [5, 0, 4]
    assert cases["spacing_row_mm"].isna().tolist() == [False, True, False]
    assert set(cases["model"]) == {"joint"}
    assert set(cases["split"]) == {"test"}
    assert set(cases["threshold"]) == {0.4}


def test_a_model_that_does_not_segment_has_no_counts(table):
    cases = make_cases(table, np.array([0]), [{"probability": 0.9, "is_tumor": True, "classification": True}], model="m")
    assert cases[["tp", "fp", "fn", "tn", "predicted_area_px"]].isna().all(axis=None)


def test_no_slices_are_no_cases(table):
    cases = make_cases(table, np.array([], np.int64), [], model="m", split="test", threshold=0.5)
    assert len(cases) == 0
    assert {name: str(kind) for name, kind in cases.dtypes.items()} == CASE_COLUMNS


def test_cases_survive_a_file(table, tmp_path):
    outcome = {"probability": 0.9, "is_tumor": True, "classification": True}
    cases = make_cases(table, np.array([2, 1]), [outcome, outcome], model="m", split="test", threshold=0.5)
    cases.to_parquet(tmp_path / "cases.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "cases.parquet").astype(CASE_COLUMNS), cases)
