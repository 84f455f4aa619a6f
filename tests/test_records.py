import dataclasses
from pathlib import Path

import numpy as np
import pytest

from slicewise.orientation import Orientation
from slicewise.records import MaskState, Prediction, Scan, Study


def test_the_area_of_a_prediction_is_that_of_its_mask():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    assert Prediction(0.9, 0.95, True, mask, mask.astype(np.float32)).area_px == 6


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Study("lgg", "lgg", "s", "p", ()).source = "brats"


def test_slices_come_back_on_the_grid_of_the_file():
    """Of a sagittal file that is stored back to front: each voxel lies where its slice, row and column say."""
    affine = np.array([[0, 0, 3.0, 10], [-1, 0, 0, 20], [0, 1, 0, 30], [0, 0, 0, 1]])
    stored = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    orientation = Orientation.of(affine, stored.shape)
    scan = Scan(orientation.to_slices(stored), "nifti", "s", orientation=orientation, grid_shape=(4, 5, 6, 1), affine=affine)
    assert scan.slices.shape == (6, 5, 4)
    assert np.array_equal(scan.to_grid(scan.slices)[..., 0], stored)
    place = (scan.slice_affine @ [2, 1, 3, 1])[:3]
    index = np.linalg.solve(affine, [*place, 1])[:3].round().astype(int)
    assert scan.slices[2, 1, 3] == stored[tuple(index)]


def test_a_picture_lies_nowhere_in_the_body():
    with pytest.raises(ValueError, match="affine"):
        Scan(np.zeros((1, 2, 2), np.float32), "picture", "s").slice_affine  # noqa: B018


def test_a_study_can_be_a_key():
    first, same = (Study("lgg", "lgg", "s", "p", (Path("a"),), options=(("sequences", ("t1",)),)) for _ in range(2))
    assert {first: 1}[same] == 1


def test_mask_states_are_the_words_of_the_label_contract():
    assert [str(state) for state in MaskState] == ["present", "empty", "unknown"]
