import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.evaluation.cases import make_volumes
from slicewise.evaluation.patients import PATIENT_KEYS, VOLUMES, assign_clusters, make_patients

from .tables import make_table, random_cases


def patients_of(cases):
    table = make_table(cases)
    return make_patients(table, make_volumes(table)).set_index(["source", "patient_id"])


def test_one_tumor_slice_makes_a_patient_of_tumor_and_one_answer_an_answer():
    patient = {"patient_id": "p"}
    found = patients_of(
        [
            patient | {"label": False, "is_tumor": True, "probability": 0.7},
            patient | {"label": True, "is_tumor": False, "probability": 0.2},
            patient | {"label": None, "is_tumor": False, "probability": 0.9},
            patient | {"label": False, "is_tumor": False, "probability": 0.1, "source": "b"},
        ]
    )
    assert found.loc[("a", "p"), ["n_slices", "label", "is_tumor", "probability"]].tolist() == [3, True, True, 0.7]
    assert found.loc[("b", "p"), ["n_slices", "label", "is_tumor", "probability"]].tolist() == [1, False, False, 0.1]


def test_a_slice_that_was_not_judged_leaves_a_free_patient_unknown():
    free = {"label": False, "is_tumor": False}
    found = patients_of(
        [
            {"patient_id": "p"} | free,
            {"patient_id": "p", "label": None},
            {"patient_id": "q"} | free,
            {"patient_id": "q"} | free | {"classification": False},
            {"patient_id": "r"} | free,
        ]
    )
    assert found["label"].isna().tolist() == [True, True, False]
    assert found["is_tumor"].isna().tolist() == [True, True, False]


def test_volumes_are_means_over_scans():
    spacing = {"spacing_row_mm": 10.0, "spacing_column_mm": 10.0, "spacing_slice_mm": 10.0}
    patient = {"patient_id": "p"} | spacing
    found = patients_of(
        [
            patient | {"counts": (1, 1, 0), "study_id": "s1"},
            patient | {"counts": (4, 0, 2), "study_id": "s2"},
            {"patient_id": "q", "label": True},
        ]
    )
    p = found.loc[("a", "p")]
    assert p["volume_dice"] == pytest.approx((2 / 3 + 8 / 10) / 2)
    assert p[list(VOLUMES)].tolist() == pytest.approx([3, 3.5, 3, 3.5])
    assert found.loc[("a", "q"), ["volume_dice", *VOLUMES]].isna().all()


def test_patients_of_nobody():
    cases = make_table([])
    assert make_patients(cases, make_volumes(cases)).empty


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), order=st.integers(0, 999))
def test_patients_know_no_order_of_slices(seed, order):
    cases = random_cases(seed, models=("m", "n"))
    patients = make_patients(cases, make_volumes(cases))
    shuffled = cases.sample(frac=1, random_state=order)
    pd.testing.assert_frame_equal(make_patients(shuffled, make_volumes(shuffled)), patients)
    assert not patients.duplicated(PATIENT_KEYS).any()
    assert patients["n_slices"].sum() == len(cases)


def test_copies_make_several_patients_one():
    """p and q share a slice, q and r another: all three are one; the p of another source is not."""
    cases = make_table(
        [
            {"patient_id": "p", "duplicate_group": 1},
            {"patient_id": "q", "duplicate_group": 1},
            {"patient_id": "q", "duplicate_group": 40},
            {"patient_id": "r", "duplicate_group": 40},
            {"patient_id": "r"},
            {"patient_id": "p", "source": "b"},
            {"patient_id": "s", "duplicate_group": 7},
        ]
    )
    assert assign_clusters(cases).tolist() == [0, 0, 0, 0, 0, 2, 1]


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("pqrst"), st.none() | st.integers(1, 4)), min_size=1, max_size=25
    ),
    order=st.integers(0, 999),
)
@settings(deadline=None, max_examples=60)
def test_clusters_are_the_components_of_what_is_shared(rows, order):
    cases = pd.DataFrame(rows, columns=["source", "patient_id", "duplicate_group"])
    cases = cases.astype({"source": "string", "patient_id": "string", "duplicate_group": "Int64"})
    clusters = assign_clusters(cases).to_numpy()
    groups = [{(source, patient)} for source, patient, _ in rows]
    for number in range(1, 5):
        joined = {(source, patient) for source, patient, group in rows if group == number}
        touched = [group for group in groups if group & joined]
        groups = [group for group in groups if not group & joined] + ([set().union(*touched)] if touched else [])
    expected = [next(min(group) for group in groups if (source, patient) in group) for source, patient, _ in rows]
    for one, other in zip(*np.triu_indices(len(rows)), strict=True):
        assert (clusters[one] == clusters[other]) == (expected[one] == expected[other])
    assert sorted(set(clusters)) == list(range(len(set(clusters))))
    shuffled = cases.sample(frac=1, random_state=order)
    assert assign_clusters(shuffled).sort_index().tolist() == clusters.tolist()
