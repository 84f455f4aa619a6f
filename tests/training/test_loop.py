import dataclasses
import errno

import numpy as np
import pytest
import torch

from slicewise.data.dataset import find_targets
from slicewise.errors import TrainingError
from slicewise.model.network import PARTS, MultiTaskUNet
from slicewise.training.loop import Data, train_phase
from slicewise.training.phases import plan_phases


class Silent:
    """Watches nothing."""

    def phase_begins(self, phase, epochs, steps):
        pass

    def step_ends(self, loss):
        pass

    def epoch_ends(self, history):
        pass


class Interrupted(Silent):
    """Stands for a kill: raises in the middle of an epoch, before anything of it is on disk."""

    def __init__(self, after_steps):
        self.left = after_steps

    def step_ends(self, loss):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def data(small_store, small_config):
    rows = np.arange(len(small_store))
    return Data(small_store, find_targets(small_store.table, small_config.sources), rows[rows % 3 > 0], rows[rows % 3 == 0])


def phase_of(config, name):
    return next(phase for phase in plan_phases(config) if phase.name == name)


def fresh_network(config):
    torch.manual_seed(0)
    return MultiTaskUNet(config.model)


def train(config, data, name, state_file, watcher=None, network=None):
    network = network or fresh_network(config)
    return network, train_phase(network, phase_of(config, name), config, data, state_file, watcher or Silent())


def state_of(network, part):
    return {name: tensor.clone() for name, tensor in network.get_submodule(part).state_dict().items()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "trained"),
    [("segmentation", {"encoder", "decoder"}), ("classification", {"classifier"}), ("joint", set(PARTS))],
)
def test_a_phase_moves_its_parts_and_not_a_bit_of_the_frozen_ones(small_config, data, tmp_path, name, trained):
    """BatchNorm's running statistics are part of the state that must not drift."""
    network = fresh_network(small_config)
    before = {part: state_of(network, part) for part in PARTS}
    train(small_config, data, name, tmp_path / "state.pt", network=network)
    moved = {part for part in PARTS if not equal(before[part], state_of(network, part))}
    assert moved == trained


def test_learns_what_can_be_learned_at_a_glance(small_config, data, tmp_path):
    phases = small_config.phases
    longer = small_config.model_copy(
        update={
            "phases": phases.model_copy(update={"segmentation": phases.segmentation.model_copy(update={"epochs": 10})}),
            "training": small_config.training.model_copy(update={"epoch_slices": 16, "patience": 10}),
        }
    )
    _, outcome = train(longer, data, "segmentation", tmp_path / "state.pt")
    assert outcome.metrics["volume_dice"]["value"] > 0.8


def test_an_interrupted_phase_ends_with_the_same_bits(small_config, data, tmp_path):
    whole, outcome = train(small_config, data, "segmentation", tmp_path / "whole.pt")
    broken = tmp_path / "broken.pt"
    with pytest.raises(KeyboardInterrupt):
        train(small_config, data, "segmentation", broken, Interrupted(after_steps=3))
    assert broken.is_file()
    other = MultiTaskUNet(small_config.model)  # random weights: all that counts must come from the state
    resumed, again = train(small_config, data, "segmentation", broken, network=other)
    assert equal(whole.state_dict(), resumed.state_dict())
    timing = {"slices_per_s", "duration_s"}
    assert [{k: v for k, v in row.items() if k not in timing} for row in outcome.history] == [
        {k: v for k, v in row.items() if k not in timing} for row in again.history
    ]


def test_another_seed_is_another_training(small_config, data, tmp_path):
    first, _ = train(small_config, data, "segmentation", tmp_path / "a.pt")
    second, _ = train(small_config.model_copy(update={"seed": 1}), data, "segmentation", tmp_path / "b.pt")
    assert not equal(first.state_dict(), second.state_dict())


def test_the_best_epoch_is_kept_not_the_last(small_config, data, tmp_path, monkeypatch):
    from slicewise.training import loop

    scores = iter([0.9, 0.1])
    seen = []

    def scored(network, *args, **kwargs):
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        result = validate(network, *args, **kwargs)
        return loop.Validation(result.figures, result.threshold, next(scores))

    validate = loop.validate
    monkeypatch.setattr(loop, "validate", scored)
    network, outcome = train(small_config, data, "segmentation", tmp_path / "state.pt")
    assert equal(seen[0], network.state_dict())
    assert not equal(seen[1], network.state_dict())
    assert [row["kept"] for row in outcome.history] == [True, False]


def test_patience_ends_a_phase_early(small_config, data, tmp_path, monkeypatch):
    from slicewise.training import loop

    result = loop.Validation({name: loop_figure() for name in FIGURES}, 0.5, 0.5)
    monkeypatch.setattr(loop, "validate", lambda *args, **kwargs: result)
    patient = small_config.model_copy(
        update={
            "training": small_config.training.model_copy(update={"patience": 2}),
            "phases": small_config.phases.model_copy(
                update={"segmentation": small_config.phases.segmentation.model_copy(update={"epochs": 9})}
            ),
        }
    )
    _, outcome = train(patient, data, "segmentation", tmp_path / "state.pt")
    assert len(outcome.history) == 3


def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(small_config, data, tmp_path):
    network = fresh_network(small_config)
    with torch.no_grad():
        next(network.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="finite loss in phase segmentation, epoch 1"):
        train(small_config, data, "segmentation", tmp_path / "state.pt", network=network)


@pytest.mark.parametrize("side", ["train", "val"])
@pytest.mark.parametrize(
    ("phase", "kept", "message"),
    [
        ("segmentation", "tumor-free", "Expected outlined tumors"),
        ("classification", "tumor-free", r"Expected both answers \(0 tumor"),
        ("classification", "tumor", r"Expected both answers .* and 0 tumor-free"),
        ("joint", "nothing", "outlined tumors .* and both answers"),
    ],
)
def test_a_side_without_what_the_phase_needs_is_refused(small_config, data, tmp_path, side, phase, kept, message):
    rows = data.train_rows if side == "train" else data.val_rows
    tumor = data.targets.label[rows]
    rows = {"tumor": rows[tumor], "tumor-free": rows[~tumor], "nothing": rows[:0]}[kept]
    poor = dataclasses.replace(data, **{f"{side}_rows": rows})
    with pytest.raises(TrainingError, match=f"{message}.*side {side}"):
        train(small_config, poor, phase, tmp_path / "state.pt")
    assert not (tmp_path / "state.pt").exists()


def test_an_accelerator_that_is_not_there_is_refused_with_what_to_set(small_config, data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    training = small_config.training.model_copy(update={"accelerator": "cuda"})
    with pytest.raises(TrainingError, match=r"training\.accelerator=auto"):
        train(small_config.model_copy(update={"training": training}), data, "segmentation", tmp_path / "state.pt")


def test_a_full_disk_is_the_operating_systems_error_and_leaves_no_part(small_config, data, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        train(small_config, data, "segmentation", tmp_path / "state.pt")
    assert list(tmp_path.iterdir()) == []


FIGURES = ("slice_dice", "volume_dice", "roc_auc", "false_mask_rate")


def loop_figure():
    from slicewise.evaluation.metrics import Figure

    return Figure(0.5, 1, 1)
