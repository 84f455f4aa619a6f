"""What a phase's checkpoint says beside its weights, and whose masks a phase distills."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from slicewise.config import Config, ModelConfig
from slicewise.console import Display
from slicewise.data.descriptors import fit_domain
from slicewise.errors import CheckpointError, ConfigError
from slicewise.model.checkpoint import load_checkpoint, save_checkpoint
from slicewise.model.description import read_description
from slicewise.model.network import MultiTaskNetwork
from slicewise.training.plan import describe_plan
from slicewise.training.trainer import gather_data, hand_out, select_phases, train_run

ANOTHER = ModelConfig(widths=(2, 4, 8), blocks=(0, 1, 1), decoder_width=2)


@pytest.fixture
def sides(small_store):
    return pd.Series(np.where(np.arange(len(small_store)) % 3 > 0, "train", "val"))


def train(folder, config, store, sides, only=None):
    display = Display(Console(file=io.StringIO()))
    train_run(folder, config, gather_data(config.sources, store, sides), sides, display, only=only)


def test_a_checkpoint_knows_what_its_training_slices_look_like(small_store, small_config, sides, tmp_path):
    data = gather_data(small_config.sources, small_store, sides)
    train(tmp_path, small_config, small_store, sides, only="segmentation")
    description = load_checkpoint(tmp_path / "phases" / "segmentation")[1]
    assert description.domain is not None
    assert description.domain == fit_domain(small_store, data.train_rows, data.val_rows)
    assert sum(description.domain.planes.values()) == len(data.train_rows)


def save_decided(folder, architecture, logit):
    """A checkpoint that gives every pixel of every slice the same logit."""
    torch.manual_seed(0)
    network = MultiTaskNetwork(architecture).eval()
    torch.nn.init.zeros_(network.decoder.output.conv.weight)
    torch.nn.init.constant_(network.decoder.output.conv.bias, logit)
    blank = {"patients": {}, "metrics": {}, "history": [], "provenance": {}, "data_fingerprint": "", "parameters": 0}
    described = {"name": "x", "tasks": ("segmentation", "classification"), "threshold": 0.5, "mask_threshold": 0.5}
    save_checkpoint(folder, network, architecture=architecture, **blank, **described)
    return folder


def distilling(config, **training):
    """The configuration with a joint phase that distills and learns next to nothing from masks; its one attempt is kept."""
    tree = config.model_dump()
    tree["training"] |= {"epoch_slices": 16, "ema_decay": 0.0, "single_task": False} | training
    tree["gate"] |= {"margin": 1.0, "attempts": 0}
    tree["phases"]["joint"] |= {"epochs": 1, "encoder_learning_rate": 0.0, "decoder_learning_rate": 0.5}
    tree["phases"]["joint"] |= {"segmentation_weight": 1e-3, "distillation_weight": 1.0}
    tree["logging"]["backend"] = "none"
    tree["logging"]["example_epochs"] = 0
    return Config.model_validate(tree)


@pytest.mark.parametrize("everything", [True, False], ids=["everything", "nothing"])
@pytest.mark.parametrize("given", [True, False], ids=["teacher", "segmentation phase"])
def test_masks_that_nobody_drew_become_the_teachers(small_store, small_config, sides, tmp_path, given, everything):
    """Where a teacher is given, the segmentation phase says the opposite and is not listened to."""
    logit = 9.0 if everything else -9.0
    config = distilling(small_config, teacher=save_decided(tmp_path / "teacher", ANOTHER, logit) if given else None)
    own = save_decided(tmp_path / "phases" / "segmentation", config.model, -logit if given else logit)
    save_decided(tmp_path / "phases" / "classification", config.model, 0.0)
    train(tmp_path, config, small_store, sides, only="joint")
    network, description = load_checkpoint(tmp_path / "phases" / "joint")
    assert description.architecture == config.model
    assert description.provenance["teacher"] == read_description(tmp_path / "teacher" if given else own).weights_sha256
    unknown = np.flatnonzero((small_store.table["source"] == "yes_no").to_numpy())
    with torch.no_grad():
        masks = network(torch.from_numpy(small_store.images[unknown].astype(np.float32))[:, None], classify=False).mask
    marked = torch.sigmoid(masks).mean().item()
    assert (marked > 0.9) if everything else (marked < 0.1)


def test_a_refused_model_keeps_weights_that_had_no_teacher(small_store, small_config, sides, tmp_path):
    """Who is taught to mark nothing is refused beside a segmentation phase that marks everything."""
    tree = distilling(small_config, teacher=save_decided(tmp_path / "teacher", ANOTHER, -9.0)).model_dump()
    tree["gate"] |= {"margin": 0.01}
    config = Config.model_validate(tree)
    save_decided(tmp_path / "phases" / "segmentation", config.model, 9.0)
    started = save_decided(tmp_path / "phases" / "classification", config.model, 9.0)
    train(tmp_path, config, small_store, sides, only="joint")
    description = read_description(tmp_path / "phases" / "joint")
    assert description.gate["kept"] == "classification"
    assert description.provenance["starts_from"] == read_description(started).weights_sha256
    assert description.provenance["teacher"] is None


def test_single_task_models_are_trained_for_as_long_as_the_further_attempt(small_store, small_config, sides, tmp_path):
    """The gate refuses the joint phase's one epoch and asks for two; the plan of what is left knows, too."""
    tree = distilling(small_config, teacher=save_decided(tmp_path / "teacher", ANOTHER, -9.0), single_task=True).model_dump()
    tree["gate"] |= {"margin": 0.01, "attempts": 1, "length_factor": 2.0}
    tree["phases"]["segmentation"]["epochs"] = 1
    config = Config.model_validate(tree)
    for phase in ("segmentation", "classification"):
        save_decided(tmp_path / "phases" / phase, config.model, 9.0)
    train(tmp_path, config, small_store, sides)
    joint = read_description(tmp_path / "phases" / "joint")
    assert len(joint.gate["attempts"]) == 2
    expected = {"segmentation": 2, "classification": 1 + 2}
    for task, epochs in expected.items():
        description = read_description(tmp_path / "single_task" / task)
        assert description.provenance["phase"]["epochs"] == len(description.history) == epochs
    left = select_phases(config, None, tmp_path)[-2:]
    assert [phase.config.epochs for phase in left] == list(expected.values())


@pytest.mark.parametrize("at_once", [True, False], ids=["distills at once", "in a further attempt"])
def test_a_teacher_that_is_not_there_is_refused_before_anything_is_trained(
    small_store, small_config, sides, tmp_path, at_once
):
    """The joint phase asks for it last, or even then only where the gate has refused an attempt."""
    config = distilling(small_config, teacher=tmp_path / "nowhere")
    if not at_once:
        joint = config.phases.joint.model_copy(update={"distillation_weight": 0.0})
        config = config.model_copy(update={"phases": config.phases.model_copy(update={"joint": joint})})
    with pytest.raises(CheckpointError, match="nowhere"):
        train(tmp_path / "run", config, small_store, sides)
    assert not (tmp_path / "run").exists()


def test_given_weights_are_those_of_phases_that_would_start_from_random_ones(small_config):
    phases, paths = select_phases(small_config, None), [Path("a"), Path("b")]
    assert hand_out(paths, phases, None) == {"segmentation": paths, "classification_only": paths}
    assert hand_out(paths, phases[2:3], "joint") == {"joint": paths}
    assert hand_out((), phases[1:3], None) == {}


def test_given_weights_that_no_phase_would_look_at_are_refused(small_store, small_config, sides, tmp_path):
    config = distilling(small_config)
    for phase in ("segmentation", "classification"):
        save_decided(tmp_path / "phases" / phase, config.model, 0.0)
    data, display = gather_data(config.sources, small_store, sides), Display(Console(file=io.StringIO()))
    with pytest.raises(ConfigError, match="--init-from replaces them, got joint"):
        train_run(tmp_path, config, data, sides, display, init_from=[tmp_path / "phases" / "segmentation"])
    assert not (tmp_path / "phases" / "joint").exists()


def test_the_plan_names_the_weights_that_were_given(small_store, small_config, sides, tmp_path):
    given = [save_decided(tmp_path / name, small_config.model, 0.0) for name in "ab"]
    data, (first, *_) = gather_data(small_config.sources, small_store, sides), select_phases(small_config, None)
    plan = describe_plan(small_config, data, [first], {"segmentation": given})
    assert f"starts from  {given[0]} and {given[1]}\n" in plan
    assert "starts from  random weights\n" in describe_plan(small_config, data, [first])
    with pytest.raises(CheckpointError, match="nowhere"):
        describe_plan(small_config, data, [first], {"segmentation": [tmp_path / "nowhere"]})


def test_a_finished_run_asks_no_longer_for_its_teacher(small_store, small_config, sides, tmp_path):
    config = distilling(small_config, teacher=tmp_path / "nowhere")
    for phase in ("segmentation", "classification", "joint"):
        save_decided(tmp_path / "phases" / phase, config.model, 0.0)
    train(tmp_path, config, small_store, sides)
