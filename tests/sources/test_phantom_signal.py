"""The phantom's MR signal and labels, against known answers."""

import numpy as np
import pytest

from slicewise.sources.phantom_anatomy import TISSUES
from slicewise.sources.phantom_signal import acquire, tumor_labels


def pure(*tissues: str | None) -> np.ndarray:
    """One voxel of each tissue; None: outside the brain."""
    fractions = np.zeros((len(TISSUES), len(tissues)))
    for voxel, tissue in enumerate(tissues):
        if tissue:
            fractions[TISSUES.index(tissue), voxel] = 1
    return fractions


def test_labels_are_those_of_brats_2021():
    assert tumor_labels(pure("white", "fluid", "spot", "necrosis", "edema", "enhancing", None)).tolist() == [
        *(0, 0, 0, 1, 2, 4, 0)
    ]


def test_a_voxel_is_labelled_where_more_than_half_of_it_is_tumor():
    white, edema, enhancing = pure("white"), pure("edema"), pure("enhancing")
    assert tumor_labels(0.6 * white + 0.4 * edema) == 0
    assert tumor_labels(0.45 * white + 0.2 * edema + 0.35 * enhancing) == 4


@pytest.mark.parametrize(
    ("sequence", "dark_to_bright"),
    [
        ("flair", ("fluid", "white", "gray", "edema")),
        ("t1", ("fluid", "gray", "white")),
        ("t1ce", ("necrosis", "gray", "white", "enhancing")),
        ("t2", ("white", "gray", "edema", "fluid")),
    ],
)
def test_contrast_is_that_of_the_sequence(sequence, dark_to_bright):
    fractions = np.repeat(pure(*dark_to_bright), 100, axis=1)
    points = np.random.default_rng(0).uniform(-60, 60, (3, fractions.shape[1]))
    levels = np.mean(
        [
            acquire(fractions, points, sequence, np.random.default_rng(seed)).reshape(-1, 100).mean(axis=1)
            for seed in range(5)
        ],
        axis=0,
    )
    assert (np.diff(levels) > 0).all()


def test_outside_the_brain_is_exactly_zero_and_inside_is_not():
    signal = acquire(pure("white", None), np.zeros((3, 2)), "flair", np.random.default_rng(0))
    assert signal[0] > 0
    assert signal[1] == 0


def test_what_the_head_contains_does_not_change_what_is_drawn():
    points = np.zeros((3, 2))
    first, second = (acquire(pure("white", other), points, "flair", np.random.default_rng(0)) for other in ("edema", "gray"))
    assert first[0] == second[0]
    assert first[1] != second[1]
