import dataclasses
import errno
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from slicewise.config import GateConfig
from slicewise.data.dataset import find_targets
from slicewise.errors import StoppedError, TrainingError
from slicewise.model.network import PARTS, MultiTaskNetwork
from slicewise.training.gate import Gate
from slicewise.training.interruption import StopRequest, listen_for_stop
from slicewise.training.loop import train_phase
from slicewise.training.phases import plan_phases
from slicewise.training.processes import open_fabric
from slicewise.training.state import StateKeeper
from slicewise.training.supervision import Data
from slicewise.training.validate import OperatingPoint


class Silent:
    """Watches nothing."""

    def phase_begins(self, phase, epochs, steps):
        pass

    def step_ends(self, losses):
        pass

    def epoch_ends(self, history, network):
        pass


class Interrupted(Silent):
    """Stands for a kill: raises after some steps, before anything more is on disk."""

    def __init__(self, after_steps):
        self.left = after_steps

    def step_ends(self, losses):
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
    return MultiTaskNetwork(config.model)


def train(config, data, name, states, watcher=None, network=None, **options):
    network = network or fresh_network(config)
    keeper, fabric = StateKeeper(states), open_fabric(config.training)
    outcome = train_phase(network, phase_of(config, name), config, data, fabric, keeper, watcher or Silent(), **options)
    return network, outcome


def with_training(config, **settings):
    return config.model_copy(update={"training": config.training.model_copy(update=settings)})


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
    train(small_config, data, name, tmp_path / "states", network=network)
    moved = {part for part in PARTS if not equal(before[part], state_of(network, part))}
    assert moved == trained


def test_learns_what_can_be_learned_at_a_glance(small_config, data, tmp_path):
    phases = small_config.phases
    longer = small_config.model_copy(
        update={
            # Sixteen pixels are drawn from each place of the decoder's finest map: four channels learn that slowly.
            "model": small_config.model.model_copy(update={"decoder_width": 8}),
            "phases": phases.model_copy(update={"segmentation": phases.segmentation.model_copy(update={"epochs": 10})}),
            "training": small_config.training.model_copy(update={"epoch_slices": 16, "patience": 10}),
        }
    )
    _, outcome = train(longer, data, "segmentation", tmp_path / "states")
    assert _best(outcome)["val_volume_dice"] > 0.8


@pytest.mark.parametrize("after_steps", [1, 2, 3, 4])
@pytest.mark.parametrize("save_interval_s", [0, 1000])
def test_an_interrupted_phase_ends_with_the_same_bits(small_config, data, tmp_path, after_steps, save_interval_s):
    """Two epochs of two steps; with an interval of 0 there is a state after every step."""
    config = with_training(small_config, save_interval_s=save_interval_s)
    whole, outcome = train(small_config, data, "joint", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, data, "joint", tmp_path / "broken", Interrupted(after_steps))
    resumed, again = train(config, data, "joint", tmp_path / "broken")
    assert equal(whole.state_dict(), resumed.state_dict())
    assert outcome.digest == again.digest
    timing = {"slices_per_s", "duration_s"}
    assert [{k: v for k, v in row.items() if k not in timing} for row in outcome.history] == [
        {k: v for k, v in row.items() if k not in timing} for row in again.history
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"training": {"batch_size": 2}},
        {"augmentation": {"noise": 0.3}},
        {"phases": {"segmentation": {"epochs": 5}}},
    ],
)
def test_other_settings_are_not_gone_on_with(small_config, data, tmp_path, change):
    config = with_training(small_config, save_interval_s=0)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, "segmentation", tmp_path / "states", Interrupted(after_steps=2))
    tree = config.model_dump()
    for section, values in change.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            tree[section][name] = tree[section][name] | value if isinstance(value, dict) else value
        tree[section] = tree[section] if isinstance(values, dict) else values
    with pytest.raises(TrainingError, match=r"begun with.*remove"):
        train(type(config).model_validate(tree), data, "segmentation", tmp_path / "states")
    train(with_training(config, save_interval_s=99), data, "segmentation", tmp_path / "states")


def test_a_damaged_state_costs_the_steps_since_the_one_before(small_config, data, tmp_path):
    config = with_training(small_config, save_interval_s=0)
    _, outcome = train(config, data, "segmentation", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, data, "segmentation", tmp_path / "broken", Interrupted(after_steps=4))
    newest = max((tmp_path / "broken").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    _, again = train(config, data, "segmentation", tmp_path / "broken")
    assert outcome.digest == again.digest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_with_its_state_on_disk(small_config, data, tmp_path, number):
    class Signalled(Silent):
        def step_ends(self, losses):
            if not states.exists():
                os.kill(os.getpid(), number)

    states = tmp_path / "states"
    before = signal.getsignal(number)
    expected = rf"{number.name} in phase segmentation, epoch 1, step 1 of 2.*--resume"
    with listen_for_stop() as request, pytest.raises(StoppedError, match=expected) as stop:
        train(small_config, data, "segmentation", states, Signalled(), stop=request)
    assert stop.value.signal == number
    assert signal.getsignal(number) is before
    _, resumed = train(small_config, data, "segmentation", states)
    _, whole = train(small_config, data, "segmentation", tmp_path / "whole")
    assert resumed.digest == whole.digest


def test_a_signal_during_validation_is_not_lost(small_config, data, tmp_path, monkeypatch):
    from slicewise.training import loop

    validate = loop.validate

    def asked(*args, **kwargs):
        request.signal = signal.SIGTERM
        return validate(*args, **kwargs)

    request = StopRequest()
    # The first look is that before the first epoch.
    monkeypatch.setattr(loop, "validate", lambda *args, **kwargs: (asked if len(args[5]) > 2 else validate)(*args, **kwargs))
    with pytest.raises(StoppedError, match="SIGTERM"):
        train(with_one_epoch(small_config), data, "segmentation", tmp_path / "states", stop=request)
    assert StateKeeper(tmp_path / "states").load()["progress"]["epoch"] == 1


def with_one_epoch(config):
    phase = config.phases.segmentation.model_copy(update={"epochs": 1})
    return config.model_copy(update={"phases": config.phases.model_copy(update={"segmentation": phase})})


def gate_with(reference, margin=0.01):
    return Gate(reference, GateConfig(margin=margin, resamples=1000), seed=0)


@pytest.fixture
def reference(small_store, data):
    patients = small_store.table.iloc[data.val_rows].query("source == 'masked' and label")["patient_id"].unique()
    index = pd.MultiIndex.from_product([["masked"], patients], names=["source", "patient_id"])
    return pd.Series(1.0, index=index)


def test_an_epoch_that_loses_segmentation_is_not_kept(small_config, data, tmp_path, reference):
    _, outcome = train(small_config, data, "joint", tmp_path / "states", gate=gate_with(reference))
    assert not outcome.verdict.accepted
    assert not any(row["kept"] for row in outcome.history)
    assert {(row["kept"], row["accepted"]) for row in outcome.history} == {(False, False)}
    assert outcome.verdict.low == max(row["dice_difference_low"] for row in outcome.history)


def test_an_epoch_that_keeps_segmentation_is(small_config, data, tmp_path, reference):
    _, outcome = train(small_config, data, "joint", tmp_path / "states", gate=gate_with(reference, margin=1.0))
    assert outcome.verdict.accepted
    assert _best(outcome)["val_volume_dice"] == pytest.approx(1 + outcome.verdict.difference)


def test_distillation_pulls_the_masks_to_the_teachers(small_config, data, tmp_path):
    """A teacher that sees tumor everywhere: the student's last weights see more of it than without."""
    teacher = fresh_network(small_config).eval()
    torch.nn.init.constant_(teacher.decoder.output.conv.bias, 3.0)
    images = torch.from_numpy(data.store.images[:2].astype(np.float32))[:, None]
    seen = {}
    for weight in (0.0, 3.0):
        phase = small_config.phases.joint.model_copy(
            update={"epochs": 2, "distillation_weight": weight, "decoder_learning_rate": 3e-2}
        )
        config = small_config.model_copy(update={"phases": small_config.phases.model_copy(update={"joint": phase})})
        train(config, data, "joint", tmp_path / str(weight), teacher=teacher)
        network = fresh_network(config)
        network.load_state_dict(StateKeeper(tmp_path / str(weight)).load()["network"])
        with torch.no_grad():
            seen[weight] = network.eval()(images).mask.mean().item()
    assert seen[3.0] > seen[0.0] + 0.1


def test_another_seed_is_another_training(small_config, data, tmp_path):
    first, _ = train(small_config, data, "segmentation", tmp_path / "a")
    second, _ = train(small_config.model_copy(update={"seed": 1}), data, "segmentation", tmp_path / "b")
    assert not equal(first.state_dict(), second.state_dict())


def test_the_best_epoch_is_kept_not_the_last(small_config, data, tmp_path, monkeypatch):
    from slicewise.training import loop

    scores = iter([0.0, 0.9, 0.1])  # the first is that of the look before the first epoch
    seen = []

    def scored(network, *args, **kwargs):
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        result = validate(network, *args, **kwargs)
        return loop.Validation(result.figures, result.operating_point, result.dice_by_patient, next(scores))

    validate = loop.validate
    monkeypatch.setattr(loop, "validate", scored)
    network, outcome = train(small_config, data, "segmentation", tmp_path / "states")
    assert equal(seen[1], network.state_dict())
    assert not equal(seen[2], network.state_dict())
    assert [row["kept"] for row in outcome.history] == [True, False]


def test_patience_ends_a_phase_early(small_config, data, tmp_path, monkeypatch):
    from slicewise.training import loop

    result = loop.Validation({name: loop_figure() for name in FIGURES}, OperatingPoint(), pd.Series(dtype=float), 0.5)
    monkeypatch.setattr(loop, "validate", lambda *args, **kwargs: result)
    patient = small_config.model_copy(
        update={
            "training": small_config.training.model_copy(update={"patience": 2}),
            "phases": small_config.phases.model_copy(
                update={"segmentation": small_config.phases.segmentation.model_copy(update={"epochs": 9})}
            ),
        }
    )
    _, outcome = train(patient, data, "segmentation", tmp_path / "states")
    assert len(outcome.history) == 3


def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(small_config, data, tmp_path):
    network = fresh_network(small_config)
    with torch.no_grad():
        next(network.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="finite loss in phase segmentation, epoch 1"):
        train(small_config, data, "segmentation", tmp_path / "states", network=network)


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
        train(small_config, poor, phase, tmp_path / "states")
    assert not (tmp_path / "states").exists()


def test_an_accelerator_that_is_not_there_is_refused_with_what_to_set(small_config, data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    training = small_config.training.model_copy(update={"accelerator": "cuda"})
    with pytest.raises(TrainingError, match=r"training\.accelerator=auto"):
        train(small_config.model_copy(update={"training": training}), data, "segmentation", tmp_path / "states")


def test_a_full_disk_ends_the_training_with_the_state_before(small_config, data, tmp_path, monkeypatch):
    config, states = with_training(small_config, save_interval_s=0), tmp_path / "states"
    write, written = type(tmp_path).write_bytes, []

    def fill(self, content):
        written.append(self)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    monkeypatch.setattr("pathlib.Path.write_bytes", fill)
    with pytest.raises(TrainingError, match=r"No space left on device.*state after step 2 is kept.*--resume"):
        train(config, data, "segmentation", states)
    assert [file.name for file in sorted(states.iterdir())] == ["step_000000001.state", "step_000000002.state"]
    monkeypatch.undo()
    _, resumed = train(config, data, "segmentation", states)
    _, whole = train(config, data, "segmentation", tmp_path / "whole")
    assert resumed.digest == whole.digest


def test_a_gradient_that_is_not_finite_spoils_no_state(small_config, data, tmp_path):
    """The loss is that of the forward pass, and as finite as ever."""
    network, states = fresh_network(small_config), tmp_path / "states"
    weight = next(network.encoder.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="finite gradient in phase segmentation, epoch 1"):
        train(with_training(small_config, save_interval_s=0), data, "segmentation", states, network=network)
    assert not states.exists()


def test_a_loss_that_is_not_finite_spoils_no_state(small_config, data, tmp_path):
    class Spoiled(Silent):
        def epoch_ends(self, history, averaged):
            with torch.no_grad():
                next(network.encoder.parameters()).fill_(float("nan"))

    network, states = fresh_network(small_config), tmp_path / "states"
    with pytest.raises(TrainingError, match="epoch 2"):
        train(with_training(small_config, save_interval_s=0), data, "segmentation", states, Spoiled(), network)
    state = StateKeeper(states).load()
    assert all(torch.isfinite(weight).all() for weight in state["network"].values())


FIGURES = ("slice_dice", "volume_dice", "roc_auc", "false_mask_rate")


def loop_figure():
    from slicewise.evaluation.metrics import Figure

    return Figure(0.5, 1, 1)


def _best(outcome):
    """The epoch whose weights the network ended with."""
    return [row for row in outcome.history if row["kept"]][-1]
