"""The score that checkpoints are compared by, with outputs that are known by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit

from slicewise.config import EvaluationConfig
from slicewise.data.dataset import find_targets
from slicewise.evaluation.calibration import fit_calibration, fit_temperature
from slicewise.model.engine import Calibration, Probabilities
from slicewise.model.network import Decoder, MultiTaskNetwork
from slicewise.training import validate as room
from slicewise.training.phases import plan_phases
from slicewise.training.processes import open_fabric


def answer_of(head, mask, peak=None):
    """Of a slice whose classification head says a probability; and its decoder the same, where there is a mask."""
    said = math.nan if mask is None else float(logit(head if peak is None else peak))
    return Probabilities(head, head, mask, float(logit(head)), said)


@pytest.fixture
def validated(small_store, small_config, monkeypatch):
    """Validate two patients with masks, whose four slices get the masks and probabilities that a test asks for."""

    def validate(name, masks, probabilities, peaks=(None,) * 4, **settings):
        outputs = iter(map(answer_of, probabilities, masks, peaks))
        monkeypatch.setattr(room, "infer", lambda *args, **kwargs: [next(outputs)])
        phase = next(phase for phase in plan_phases(small_config) if phase.name == name)
        targets = find_targets(small_store.table, small_config.sources)
        evaluation = EvaluationConfig(**settings)
        fabric = open_fabric(small_config.training)
        network = MultiTaskNetwork(small_config.model).eval()
        return room.validate(network, phase, fabric, small_store, targets, np.arange(4), evaluation=evaluation)

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


HEADS, PEAKS = [0.95, 0.2, 0.4, 0.5], [0.4, 0.5, 0.8, 0.3]
LABELS = np.array([True, False, True, False])


def test_the_joint_phase_hears_both_heads(validated, references):
    """Of either patient one of them has the slices in the wrong order."""
    validation = validated("joint", references, HEADS, PEAKS)
    calibration, threshold, _ = validation.operating_point
    assert calibration == fit_calibration(logit(HEADS), logit(PEAKS), LABELS)
    joined = calibration.join(logit(HEADS), logit(PEAKS))
    told_apart = [calibration.apply(one) >= threshold for one in joined]
    assert told_apart == LABELS.tolist()
    assert validation.figures["roc_auc"].value == 1
    assert 0.1 < calibration.decoder_share < 0.9
    assert validated("joint", references, PEAKS, HEADS).operating_point.calibration.decoder_share == pytest.approx(
        1 - calibration.decoder_share, abs=1e-3
    )


@pytest.mark.parametrize(("name", "share", "heard"), [("segmentation", 1, PEAKS), ("classification", 0, HEADS)])
def test_a_phase_of_one_task_hears_the_head_that_it_trains(validated, references, name, share, heard):
    masks = references if name == "segmentation" else [None] * 4
    point = validated(name, masks, HEADS, PEAKS).operating_point
    assert point.calibration == Calibration(decoder_share=share, temperature=fit_temperature(logit(heard), LABELS))


def test_a_margin_below_the_threshold_calls_more_and_masks_begin_above_it(validated, references):
    """Each tumor-free slice is marked; one of the two may be called, none may get a mask."""
    masks, said = references.copy(), [0.9, 0.6, 0.8, 0.2]
    masks[[1, 3], 0, 0] = 1
    plain = validated("joint", masks, said).operating_point
    assert plain.mask_from == plain.threshold
    margin = validated("joint", masks, said, specificity=0.5, false_mask_rate=0.0).operating_point
    joined = [margin.calibration.apply(one) for one in margin.calibration.join(logit(said), logit(said))]
    assert joined[3] < margin.threshold < joined[1] < margin.mask_from < joined[2]


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
        return [answer_of(value, np.zeros((256, 256), np.float32))]

    monkeypatch.setattr(room, "infer", answer)
    fabric, network = open_fabric(small_config.training), MultiTaskNetwork(small_config.model).eval()
    point = room.validate(network, phase, fabric, small_store, targets, rows, evaluation=EvaluationConfig()).operating_point
    # The others' tumors all look like 0.01; to find 97 % of them too, nearly everything would have to be called.
    assert point.threshold == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["segmentation", "joint"])
def test_a_scan_with_an_unknown_mask_has_no_dice_in_any_phase(small_store, small_config, references, monkeypatch, name):
    """The segmentation phase does not see the slice whose mask is unknown, the joint phase sees its label."""
    targets = find_targets(small_store.table, small_config.sources)
    targets = replace(targets, mask_known=targets.mask_known & (np.arange(len(small_store)) != 1))
    phase = next(phase for phase in plan_phases(small_config) if phase.name == name)
    outputs = iter([answer_of(0.5, mask) for mask in references[[0, 2, 3] if name == "segmentation" else range(4)]])
    monkeypatch.setattr(room, "infer", lambda *args, **kwargs: [next(outputs)])
    fabric, network = open_fabric(small_config.training), MultiTaskNetwork(small_config.model).eval()
    validation = room.validate(network, phase, fabric, small_store, targets, np.arange(4), evaluation=EvaluationConfig())
    assert validation.dice_by_patient.to_dict() == {("masked", "p1"): 1.0}


def test_a_first_false_pixel_hardly_moves_the_score(validated, references):
    masks = references.copy()
    masks[1, 0, 0] = 1
    assert validated("segmentation", masks, [0.5] * 4).score > 0.999


def test_a_phase_is_judged_by_what_it_trains(validated, references):
    assert validated("classification", [None] * 4, [0.2, 0.9, 0.8, 0.1]).score == pytest.approx(2 / 4)


@pytest.mark.parametrize(("name", "runs"), [("classification", 0), ("segmentation", 4)])
def test_a_decoder_that_is_not_heard_is_not_run(small_store, small_config, monkeypatch, name, runs):
    counted, forward = [], Decoder.forward
    monkeypatch.setattr(Decoder, "forward", lambda self, maps: counted.append(self) or forward(self, maps))
    phase = next(phase for phase in plan_phases(small_config) if phase.name == name)
    targets, fabric = find_targets(small_store.table, small_config.sources), open_fabric(small_config.training)
    network = MultiTaskNetwork(small_config.model).eval()
    found = room.validate(network, phase, fabric, small_store, targets, np.arange(4), evaluation=EvaluationConfig())
    assert len(counted) == runs
    assert not math.isnan(found.figures["roc_auc"].value)


def test_dice_is_kept_by_patient(validated, references):
    masks = references.copy()
    masks[2, :, :] = 0
    dice = validated("joint", masks, [0.9, 0.1, 0.8, 0.2]).dice_by_patient
    assert dice.to_dict() == {("masked", "p0"): 1.0, ("masked", "p1"): 0.0}
