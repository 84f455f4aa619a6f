"""What a training leaves to look at."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from slicewise.config import LoggingConfig
from slicewise.console import Display
from slicewise.data.dataset import find_targets
from slicewise.errors import TrainingError
from slicewise.model.network import MultiTaskUNet
from slicewise.training import watch
from slicewise.training.phases import plan_phases
from slicewise.training.supervision import Data
from slicewise.training.watch import Watchers


@pytest.fixture
def data(small_store, small_config):
    rows = np.arange(len(small_store))
    return Data(small_store, find_targets(small_store.table, small_config.sources), rows[rows % 3 > 0], rows[rows % 3 == 0])


def row(epoch, model="joint"):
    return {
        "model": model,
        "attempt": 1,
        "epoch": epoch,
        "train_loss": 1.0 / epoch,
        "val_volume_dice": 0.5,
        "val_roc_auc": None,
        "gradient_cosine": -0.25,
        "dice_difference_low": -0.004,
        "accepted": True,
        "kept": True,
        "slices_per_s": 30.0,
        "duration_s": 2.0,
    }


@pytest.fixture
def watched(small_config, data, tmp_path):
    """Watch two epochs of joint training; returns the folder and what the terminal showed."""

    def watch_two(**logging):
        config = small_config.model_copy(
            update={"logging": LoggingConfig(**({"example_epochs": 2, "examples": 3} | logging))}
        )
        console = Console(file=io.StringIO(), width=200)
        phase = next(phase for phase in plan_phases(config) if phase.name == "joint")
        network = MultiTaskUNet(config.model).eval()
        with Watchers(tmp_path, config, data, [row(1, "segmentation")], Display(console)) as watchers:
            watchers.phase_begins(phase, 2, 5)
            for epoch in (1, 2):
                for _ in range(5):
                    watchers.step_ends([0.9, 0.6, 0.3])
                watchers.epoch_ends([row(number) for number in range(1, epoch + 1)], network)
        return tmp_path, console.file.getvalue()

    return watch_two


def test_history_curves_and_examples_are_left(watched):
    folder, shown = watched(backend="none")
    history = pd.read_csv(folder / "history.csv")
    assert history[["model", "epoch"]].to_numpy().tolist() == [["segmentation", 1], ["joint", 1], ["joint", 2]]
    with Image.open(folder / "curves.png") as curves:
        assert curves.size[0] > 600
    assert [file.name for file in (folder / "examples").iterdir()] == ["joint_1_002.png"]
    assert "joint 2/2" in shown
    assert "gradient cosine -0.250" in shown
    assert "Dice at least -0.004" in shown


def test_tensorboard_by_default(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = watched()
    events = EventAccumulator(str(folder / "tensorboard" / "joint_1")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("joint/train_loss")] == [(1, 1.0), (2, 0.5)]
    assert "joint/accepted" not in events.Tags()["scalars"]


@pytest.mark.parametrize("backend", ["mlflow", "wandb"])
def test_a_logger_whose_package_is_missing_is_refused_with_what_to_install(watched, monkeypatch, backend):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_lightning.loggers", None)
    with pytest.raises(TrainingError, match=rf"slicewise\[{backend}\]"):
        watched(backend=backend)


def test_all_but_the_first_process_watch_nothing(small_config, data, tmp_path):
    with Watchers(tmp_path, small_config, data, [], None) as watchers:
        watchers.phase_begins(plan_phases(small_config)[2], 1, 1)
        watchers.step_ends([1.0, 1.0, 1.0])
        watchers.epoch_ends([row(1)], MultiTaskUNet(small_config.model).eval())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("examples", "tumors"), [(1, 1), (3, 2), (6, 3), (24, 3)])
def test_examples_show_both_answers(data, small_config, examples, tumors):
    phase = plan_phases(small_config)[2]
    rows = watch._examples(data, phase, LoggingConfig(examples=examples))
    known = data.targets.mask_known[data.val_rows]
    assert len(rows) == len(set(rows)) == min(examples, np.count_nonzero(known))
    assert np.count_nonzero(data.targets.label[rows]) >= min(
        tumors, np.count_nonzero(data.targets.label[data.val_rows][known])
    )
