import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.evaluation.calibration import expected_calibration_error
from slicewise.evaluation.metrics import Tables
from slicewise.evaluation.patients import make_patients
from slicewise.evaluation.terms import RATIOS, figures_of, patient_terms, slice_terms, volume_terms

from .tables import make_table, random_cases


def sums_of(cases):
    tables = Tables.of(cases)
    frames = (tables.slice_terms, tables.volume_terms, tables.patient_terms)
    return {name: column.sum() for frame in frames for name, column in frame.items()}


EDGES = np.linspace(0, 1, 11).tolist()
near_edges = st.sampled_from(EDGES).flatmap(
    lambda edge: st.sampled_from([edge, min(1.0, float(np.nextafter(edge, 2))), max(0.0, float(np.nextafter(edge, -1)))])
)


@settings(deadline=None, max_examples=60)
@given(
    data=st.lists(
        st.tuples(st.booleans(), near_edges | st.floats(0, 1) | st.sampled_from([0.3, 0.6, 0.7])), min_size=1, max_size=30
    )
)
def test_calibration_error_has_the_bins_of_the_reliability_diagram(data):
    cases = make_table([{"label": label, "probability": probability} for label, probability in data])
    labels, probabilities = (np.array(part) for part in zip(*data, strict=True))
    expected = expected_calibration_error(probabilities.astype(float), labels[:].astype(bool))
    figures = figures_of({name: np.asarray(value) for name, value in sums_of(cases).items()})
    assert float(figures["expected_calibration_error"]) == pytest.approx(expected, abs=1e-12)


def test_a_probability_on_an_edge_is_below_it():
    """Edge 7 of ten is 0.7000000000000001 in floats, 10 · that is above 7."""
    on_edge = EDGES[7]
    cases = make_table([{"label": True, "probability": on_edge}, {"label": True, "probability": 0.65}])
    terms = slice_terms(cases)
    assert terms["gap_6"].tolist() == pytest.approx([on_edge - 1, 0.65 - 1])
    assert terms["gap_7"].tolist() == [0, 0]


def test_terms_by_hand():
    cases = make_table(
        [
            {"label": True, "is_tumor": True, "probability": 0.8, "counts": (3, 1, 1), "decoder_area_px": 4},
            {"label": False, "is_tumor": True, "probability": 0.6, "counts": (0, 2, 0), "decoder_area_px": 0},
            {"label": None, "is_tumor": True, "counts": (0, 0, 0)},
            {"label": True, "is_tumor": False, "classification": False, "probability": 0.1},
            {"label": True, "is_tumor": None, "probability": math.nan},
        ]
    )
    terms = slice_terms(cases)
    expected = {
        "known": [1, 1, 0, 0, 0],
        "positive": [1, 0, 0, 0, 0],
        "negative": [0, 1, 0, 0, 0],
        "called": [1, 1, 0, 0, 0],
        "hit": [1, 0, 0, 0, 0],
        "rejected": [0, 0, 0, 0, 0],
        "right": [1, 0, 0, 0, 0],
        "twice_hit": [2, 0, 0, 0, 0],
        "positive_or_called": [2, 1, 0, 0, 0],
        "squared_error": [0.2**2, 0.6**2, 0, 0, 0],
        "outlined": [1, 1, 0, 0, 0],
        "dice": [0.75, 0, 0, 0, 0],
        "iou": [0.6, 0, 0, 0, 0],
        "tumor_free": [0, 1, 1, 0, 0],
        "false_mask": [0, 1, 0, 0, 0],
        "answered_twice": [1, 1, 0, 0, 0],
        "contradicted": [0, 1, 0, 0, 0],
        "judged_twice": [1, 1, 0, 0, 0],
        "both_right": [1, 0, 0, 0, 0],
    }
    for name, values in expected.items():
        assert terms[name].tolist() == pytest.approx(values), name


def test_volume_and_patient_terms_by_hand():
    cases = make_table(
        [
            {"label": True, "is_tumor": False, "counts": (3, 1, 1)},
            {"label": False, "is_tumor": False, "counts": (0, 1, 0)},
            {"label": None},
        ]
    )
    tables = Tables.of(cases)
    volumes = volume_terms(tables.volumes)
    assert volumes[["volumes", "volume_dice"]].to_numpy().tolist() == [[1, 0.75], [1, 0]]
    assert volumes["volume_iou"].tolist() == pytest.approx([0.6, 0])
    patients = patient_terms(make_patients(cases, tables.volumes))
    names = ["patient_positive", "patient_negative", "patient_hit", "patient_rejected"]
    assert patients[names].to_numpy().tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_every_ratio_has_its_terms():
    sums = sums_of(random_cases(0))
    assert {part for pair in RATIOS.values() for part in pair} <= set(sums)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), order=st.integers(0, 999))
def test_terms_belong_to_their_row_whatever_the_order(seed, order):
    cases = random_cases(seed)
    terms = slice_terms(cases)
    shuffled = cases.sample(frac=1, random_state=order)
    assert slice_terms(shuffled).loc[terms.index].equals(terms)


def test_sums_of_any_shape_give_figures_of_that_shape():
    sums = {name: np.array([[value, 2 * value, 0.0]]) for name, value in sums_of(random_cases(1)).items()}
    figures = figures_of(sums)
    for name, values in figures.items():
        assert values.shape == (1, 3), name
        assert values[0, 0] == pytest.approx(values[0, 1], nan_ok=True), name  # all counted twice: no figure changes
        assert math.isnan(values[0, 2]), name
