"""What a training leaves to look at."""

import io
import os
import sys
from contextlib import suppress
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from slicewise.config import LoggingConfig
from slicewise.console import Display
from slicewise.data.dataset import find_targets
from slicewise.errors import StoppedError, TrainingError
from slicewise.model.network import MultiTaskNetwork
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
        network = MultiTaskNetwork(config.model).eval()
        with Watchers(tmp_path, config, data, [row(1, "segmentation")], Display(console)) as watchers:
            watchers.phase_begins(phase, 2, 5)
            for epoch in (1, 2):
                for _ in range(5):
                    watchers.step_ends([0.9, 0.6, 0.3])
                watchers.epoch_ends([row(number) for number in range(1, epoch + 1)], network)
        return tmp_path, console.file.getvalue()

    return watch_two


@pytest.fixture
def interrupted(small_config, data, tmp_path, monkeypatch):
    """Watch an epoch of joint training, an interruption, and another epoch; returns the folder."""

    def watch_interrupted(backend):
        config = small_config.model_copy(update={"logging": LoggingConfig(backend=backend, example_epochs=0)})
        phase = next(phase for phase in plan_phases(config) if phase.name == "joint")
        for epoch in (1, 2):
            display = Display(Console(file=io.StringIO()))
            with suppress(StoppedError), Watchers(tmp_path, config, data, [], display) as watchers:
                watchers.phase_begins(phase, 2, 5)
                watchers.epoch_ends([row(number) for number in range(1, epoch + 1)], MultiTaskNetwork(config.model))
                if epoch == 1:
                    raise StoppedError("Stopped by SIGINT.")
        return tmp_path

    monkeypatch.setattr(watch, "_MLFLOW_STORE", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it; what it was comes back
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    return watch_interrupted


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
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers", None)
    with pytest.raises(TrainingError, match=rf"slicewise\[{backend}\]"):
        watched(backend=backend)


@pytest.mark.parametrize(
    ("backend", "logger", "known_as"), [("mlflow", "MLFlowLogger", "run_id"), ("wandb", "WandbLogger", "version")]
)
def test_an_interrupted_training_goes_on_in_the_loggers_run(interrupted, monkeypatch, backend, logger, known_as):
    opened = Mock()
    opened.return_value.version = "a1"
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers", SimpleNamespace(**{logger: opened}))
    interrupted(backend)
    assert [call.kwargs[known_as] for call in opened.call_args_list] == [None, "a1"]
    assert [call.kwargs["step"] for call in opened.return_value.log_metrics.call_args_list] == [1, 2]
    assert [call.args for call in opened.return_value.finalize.call_args_list] == [("failed",), ("success",)]
    opened.return_value.log_hyperparams.assert_called_once()
    assert backend != "mlflow" or os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_a_run_in_the_folder(interrupted, small_config):
    pytest.importorskip("mlflow", reason="needs slicewise[mlflow]")
    from mlflow.tracking import MlflowClient

    folder = interrupted("mlflow")
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(small_config.name).experiment_id])
    figures = client.get_metric_history(run.info.run_id, "joint/train_loss")
    assert [(figure.step, figure.value) for figure in figures] == [(1, 1.0), (2, 0.5)]
    assert (run.info.run_name, run.info.status) == ("joint_1", "FINISHED")
    assert run.data.params["training/batch_size"] == "4"


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_keeps_a_run_in_the_folder(interrupted):
    pytest.importorskip("wandb", reason="needs slicewise[wandb]")
    files = list((interrupted("wandb") / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1
    assert b"joint/train_loss" in b"".join(file.read_bytes() for file in files)


@pytest.mark.parametrize(("method", "accepted"), [("log_hyperparams", False), ("log_metrics", True)])
def test_what_a_logger_refuses_is_a_sentence(small_config, data, tmp_path, monkeypatch, method, accepted):
    logger, accept = Mock(version="a1"), Mock()
    getattr(logger, method).side_effect = RuntimeError("the server is away")
    logger.finalize.side_effect = RuntimeError("the server is away still")
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers", SimpleNamespace(WandbLogger=lambda *_, **__: logger))
    config = small_config.model_copy(update={"logging": LoggingConfig(backend="wandb", example_epochs=0)})

    def watch_one():
        with Watchers(tmp_path, config, data, [], Display(Console(file=io.StringIO())), accept) as watchers:
            watchers.phase_begins(plan_phases(config)[2], 1, 1)
            watchers.epoch_ends([row(1)], MultiTaskNetwork(config.model))

    with pytest.raises(TrainingError, match=r"refused: the server is away\. Mend"):
        watch_one()
    assert accept.called == accepted


def test_all_but_the_first_process_watch_nothing(small_config, data, tmp_path):
    with Watchers(tmp_path, small_config, data, [], None) as watchers:
        watchers.phase_begins(plan_phases(small_config)[2], 1, 1)
        watchers.step_ends([1.0, 1.0, 1.0])
        watchers.epoch_ends([row(1)], MultiTaskNetwork(small_config.model).eval())
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
