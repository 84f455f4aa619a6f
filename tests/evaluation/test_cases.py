import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import confusion_matrix

from slicewise.data.store import COLUMNS
from slicewise.evaluation.cases import (
    CASE_COLUMNS,
    FROM_STORE,
    VOLUME_COLUMNS,
    VOLUME_KEYS,
    are_outlined,
    make_cases,
    make_volumes,
    pixel_counts,
)

from .tables import KINDS, make_table, random_cases

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
    assert {name: str(kind) for name, kind in cases.dtypes.items()} == KINDS
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
    assert {name: str(kind) for name, kind in cases.dtypes.items()} == KINDS


def test_cases_survive_a_file(table, tmp_path):
    outcome = {"probability": 0.9, "is_tumor": True, "classification": True}
    cases = make_cases(table, np.array([2, 1]), [outcome, outcome], model="m", split="test", threshold=0.5)
    cases.to_parquet(tmp_path / "cases.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "cases.parquet").astype(KINDS), cases)


def test_columns_from_the_store_are_columns_of_both():
    assert set(FROM_STORE) <= set(COLUMNS) & set(CASE_COLUMNS)


def test_places_are_counted_over_the_whole_scan(table):
    """The slices left out of the cases still count; a lone picture has no place."""
    table.loc[5, "study_id"] = "alone"
    outcome = {"probability": 0.9, "is_tumor": True, "classification": True}
    cases = make_cases(table, np.array([3, 1, 5]), [outcome] * 3, model="m")
    assert cases["slice_position"].tolist()[:2] == [0.75, 0.25]
    assert cases["slice_position"].isna().tolist() == [False, False, True]


def test_institutions_and_copies_are_those_of_the_slice(table):
    table["patient_id"] = ["TCGA_CS_4941_19960909", "TCGA-DU-5849", "p", "TCGA_C_1", "xTCGA_CS_1", "TCGA_HT_1"]
    table["file"] = [f"{row}.tif" for row in range(6)]
    outcome = {"probability": 0.9, "is_tumor": True, "classification": True}
    rows = np.array([5, 4, 3, 2, 1, 0])
    cases = make_cases(table, rows, [outcome] * 6, duplicates={"1.tif": 7, "4.tif": 7}, model="m")
    assert cases["institution"].tolist() == ["HT", pd.NA, pd.NA, pd.NA, "DU", "CS"]
    assert cases["duplicate_group"].tolist() == [pd.NA, 7, pd.NA, pd.NA, 7, pd.NA]


@pytest.mark.parametrize(
    ("column_mm", "rows_mm", "columns_mm"),
    [
        (0.5, [0.5 * 100 / 256, 0.5, 1.0], [0.5 * 100 / 256, 0.5, 1.0]),
        # Columns lie closer than rows: 125, 250 and 640 fine pixels high and 100, 200 and 256 wide.
        (0.4, [0.5 * 100 / 256, 0.4, 1.0], [0.4 * 100 / 205, 0.4, 0.4 * 256 / 102]),
    ],
)
def test_spacing_becomes_that_of_the_grid(table, column_mm, rows_mm, columns_mm):
    """512 rows are scaled to 256: neighbors lie twice as far apart; 200 are not scaled."""
    table = table.assign(spacing_row_mm=0.5, spacing_column_mm=column_mm, spacing_slice_mm=3.0)
    table["height_px"], table["width_px"] = [512, 200, 100, 512, 512, 512], [256, 200, 100, 512, 512, 512]
    outcome = {"probability": 0.9, "is_tumor": True, "classification": True}
    cases = make_cases(table, np.array([2, 1, 0]), [outcome] * 3, model="m")
    assert cases["spacing_row_mm"].tolist() == pytest.approx(rows_mm)
    assert cases["spacing_column_mm"].tolist() == pytest.approx(columns_mm)
    assert cases["spacing_slice_mm"].tolist() == [3.0] * 3


def test_volumes_by_hand():
    same = {"patient_id": "p", "spacing_row_mm": 0.5, "spacing_column_mm": 2.0, "spacing_slice_mm": 4.0}
    cases = [same | {"counts": (8, 0, 2)}, same | {"counts": (0, 4, 0)}, {"counts": (5, 5, 5), "patient_id": "q"}]
    volumes = make_volumes(make_table([*cases, {"counts": (0, 0, 0), "patient_id": "r"}]))
    assert {name: str(kind) for name, kind in volumes.dtypes.items()} == {n: kind for n, (kind, _) in VOLUME_COLUMNS.items()}
    assert volumes["patient_id"].tolist() == ["p", "q", "r"]
    assert volumes["n_slices"].tolist() == [2, 1, 1]
    assert volumes[["tp", "fp", "fn"]].to_numpy().tolist() == [[8, 4, 2], [5, 5, 5], [0, 0, 0]]
    assert volumes["predicted_ml"].tolist()[0] == pytest.approx(12 * 4 / 1000)
    assert volumes["reference_ml"].tolist()[0] == pytest.approx(10 * 4 / 1000)
    assert volumes[["predicted_ml", "reference_ml"]].isna().all(axis=1).tolist() == [False, True, True]


def test_a_scan_with_an_unknown_mask_is_no_volume():
    """Of p one slice is not outlined; of q all are, and it is free: its false pixel makes a volume."""
    p, q = ({"patient_id": patient, "study_id": patient} for patient in "pq")
    cases = make_table([p | {"counts": (8, 0, 2)}, p, q | {"counts": (0, 1, 0)}, q | {"counts": (0, 0, 0)}])
    volumes = make_volumes(cases)
    assert volumes[["patient_id", "n_slices", "tp", "fp", "fn"]].to_numpy().tolist() == [["q", 2, 0, 1, 0]]


def test_tumors_are_outlined_by_side_source_and_sequence():
    outlined = {"counts": (3, 0, 0)}
    rows = [outlined, {"counts": (0, 2, 0)}, {"counts": (0, 2, 0), "sequence": "t1"}, {"sequence": "t1", "label": True}]
    rows += [{"counts": (0, 2, 0), "split": "val"}, outlined | {"sequence": None}, {"source": "b"}]
    cases = make_table(rows)
    assert are_outlined(cases).tolist() == [True, True, False, False, False, True, False]
    assert make_volumes(cases)["patient_id"].tolist() == ["p0", "p1", "p5"]
    assert are_outlined(cases.head(0)).empty


def test_distances_join_their_own_scan():
    cases = make_table([{"counts": (1, 0, 0), "study_id": study, "sequence": None} for study in ("s1", "s2", "s3")])
    distances = make_volumes(cases)[VOLUME_KEYS].iloc[::-1].head(2)
    distances = distances.assign(hausdorff95=[3.0, 2.0], surface_dice=[0.3, 0.2], distance_unit="px")
    volumes = make_volumes(cases, distances).set_index("study_id")
    assert volumes["hausdorff95"].to_dict() == pytest.approx({"s1": np.nan, "s2": 2, "s3": 3}, nan_ok=True)
    assert volumes["surface_dice"].to_dict() == pytest.approx({"s1": np.nan, "s2": 0.2, "s3": 0.3}, nan_ok=True)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_volumes_know_no_order_of_slices(seed):
    cases = random_cases(seed, models=("m", "n"))
    shuffled = cases.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(make_volumes(shuffled), make_volumes(cases))
