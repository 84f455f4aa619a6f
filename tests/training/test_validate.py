"""The score that checkpoints are compared by, with outputs that are known by hand."""

from dataclasses import replace

import numpy as np
import pytest

from slicewise.data.dataset import find_targets
from slicewise.model.engine import Probabilities
from slicewise.model.network import MultiTaskUNet
from slicewise.training import validate as room
from slicewise.training.phases import plan_phases
from slicewise.training.processes import open_fabric


@pytest.fixture
def validated(small_store, small_config, monkeypatch):
    """Validate two patients with masks, whose four slices get the masks and probabilities that a test asks for."""

    def validate(name, masks, probabilities):
        outputs = iter([Probabilities(tumor, tumor, mask) for tumor, mask in zip(probabilities, masks, strict=True)])
        monkeypatch.setattr(room, "infer", lambda *args, **kwargs: [next(outputs)])
        phase = next(phase for phase in plan_phases(small_config) if phase.name == name)
        targets = find_targets(small_store.table, small_config.sources)
        settings = {"mask_threshold": 0.5, "sensitivity": 0.97}
        fabric = open_fabric(small_config.training)
        network = MultiTaskUNet(small_config.model).eval()
        return room.validate(network, phase, fabric, small_store, targets, np.arange(4), **settings)

    return validate


@pytest.fixture
def references(small_store):
    """Tumor of 1,600 pixels, none, tumor of 1,600 pixels, none."""
    masks = small_store.masks(range(4)).astype(np.float32)
    assert masks.sum(axis=(1, 2)).tolist() == [1600, 0, 1600, 0]
    return masks


def test_a_perfect_answer_scores_one(validated, references):
    validation = validated("joint", references, [0.9, 0.1, 0.8, 0.2])
    assert validation.score == pytest.approx(1.0)
    assert validation.operating_point.threshold == pytest.approx(0.5)


def test_pixels_of_all_slices_are_pooled(validated, references):
    masks = references.copy()
    masks[2] = 0  # one of two tumors missed
    masks[3, :10, :40] = 1  # and 400 false pixels
    pooled = 2 * 1600 / (2 * 1600 + 1600 + 400)
    assert validated("segmentation", masks, [0.9, 0.1, 0.8, 0.2]).score == pytest.approx(pooled)
    # Three of the four pairs of a tumor and a tumor-free slice are in order.
    assert validated("joint", masks, [0.9, 0.1, 0.3, 0.4]).score == pytest.approx((pooled + 3 / 4) / 2)


def test_labels_without_outlines_do_not_move_the_operating_point(small_store, small_config, monkeypatch):
    raw = {True: 0.8, False: 0.2}
    labels = small_store.table["label"].to_numpy(bool)
    # Every other pair of slices comes from a sequence on which no tumor is outlined.
    targets = replace(find_targets(small_store.table, small_config.sources), outlined=np.arange(len(small_store)) % 4 < 2)
    assert set(labels[targets.outlined]) == set(labels[~targets.outlined]) == {True, False}
    answers = np.where(targets.outlined, [raw[label] for label in labels], 0.01)
    rows = np.arange(len(small_store))
    phase = next(phase for phase in plan_phases(small_config) if phase.name == "joint")
    numbers = iter(rows)

    def answer(*args, **kwargs):
        value = float(answers[next(numbers)])
        return [Probabilities(value, value, np.zeros((256, 256), np.float32))]

    monkeypatch.setattr(room, "infer", answer)
    fabric, network = open_fabric(small_config.training), MultiTaskUNet(small_config.model).eval()
    settings = {"mask_threshold": 0.5, "sensitivity": 0.97}
    point = room.validate(network, phase, fabric, small_store, targets, rows, **settings).operating_point
    # The others' tumors all look like 0.01; to find 97 % of them too, nearly everything would have to be called.
    assert point.threshold == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["segmentation", "joint"])
def test_a_scan_with_an_unknown_mask_has_no_dice_in_any_phase(small_store, small_config, references, monkeypatch, name):
    """The segmentation phase does not see the slice whose mask is unknown, the joint phase sees its label."""
    targets = find_targets(small_store.table, small_config.sources)
    targets = replace(targets, mask_known=targets.mask_known & (np.arange(len(small_store)) != 1))
    phase = next(phase for phase in plan_phases(small_config) if phase.name == name)
    outputs = iter([Probabilities(0.5, 0.5, mask) for mask in references[[0, 2, 3] if name == "segmentation" else range(4)]])
    monkeypatch.setattr(room, "infer", lambda *args, **kwargs: [next(outputs)])
    fabric, network = open_fabric(small_config.training), MultiTaskUNet(small_config.model).eval()
    settings = {"mask_threshold": 0.5, "sensitivity": 0.97}
    validation = room.validate(network, phase, fabric, small_store, targets, np.arange(4), **settings)
    assert validation.dice_by_patient.to_dict() == {("masked", "p1"): 1.0}


def test_a_first_false_pixel_hardly_moves_the_score(validated, references):
    masks = references.copy()
    masks[1, 0, 0] = 1
    assert validated("segmentation", masks, [0.5] * 4).score > 0.999


def test_a_phase_is_judged_by_what_it_trains(validated, references):
    assert validated("classification", [None] * 4, [0.2, 0.9, 0.8, 0.1]).score == pytest.approx(2 / 4)


def test_dice_is_kept_by_patient(validated, references):
    masks = references.copy()
    masks[2, :, :] = 0
    dice = validated("joint", masks, [0.9, 0.1, 0.8, 0.2]).dice_by_patient
    assert dice.to_dict() == {("masked", "p0"): 1.0, ("masked", "p1"): 0.0}
