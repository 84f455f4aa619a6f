import json

import pytest
import torch

from slicewise.data.preprocess import PREPROCESSING
from slicewise.errors import CheckpointError
from slicewise.model.checkpoint import load_checkpoint, round_to_half, save_checkpoint
from slicewise.model.network import MultiTaskNetwork


def save(folder, tiny, **changes):
    torch.manual_seed(1)
    network = MultiTaskNetwork(tiny).train()
    network(torch.randn(4, 1, 64, 64))  # moves the BatchNorm statistics, which must survive too
    facts = {
        "name": "joint",
        "tasks": ("segmentation", "classification"),
        "architecture": tiny,
        "threshold": 0.3,
        "mask_threshold": 0.5,
        "parameters": network.count_parameters(),
        "data_fingerprint": "f" * 64,
        "patients": {"lgg": {"train": ["a"], "val": ["b"], "test": ["c"]}},
        "metrics": {},
        "history": [],
        "provenance": {},
    }
    description = save_checkpoint(folder, network, **facts | changes)
    return network.eval(), description


def test_a_checkpoint_alone_rebuilds_the_model(tmp_path, tiny):
    network, saved = save(tmp_path / "joint", tiny)
    rebuilt, description = load_checkpoint(tmp_path / "joint")
    images = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(rebuilt(images).mask, network(images).mask)
        assert torch.equal(rebuilt(images).tumor, network(images).tumor)
    assert description == saved
    assert description.threshold == 0.3
    assert not rebuilt.training


def test_rounded_weights_take_half_the_space_and_come_back_to_the_bit(tmp_path, tiny):
    network, _ = save(tmp_path / "whole", tiny)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert round_to_half(network) is network
    changes = [(before[name] - tensor).abs().max() for name, tensor in network.named_parameters() if tensor.dim() > 1]
    assert 0 < max(changes) < 1e-3
    facts = load_checkpoint(tmp_path / "whole")[1].model_dump(exclude={"preprocessing", "weights_sha256"})
    save_checkpoint(tmp_path / "half", network, **facts)
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.7 * whole
    rebuilt = load_checkpoint(tmp_path / "half")[0].state_dict()
    for name, tensor in network.state_dict().items():
        assert rebuilt[name].dtype == tensor.dtype
        assert torch.equal(rebuilt[name], tensor), name


def test_statistics_too_small_for_half_precision_stay(tmp_path, tiny):
    network, _ = save(tmp_path / "first", tiny)
    norm = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.running_var.fill_(1e-9)
    facts = load_checkpoint(tmp_path / "first")[1].model_dump(exclude={"preprocessing", "weights_sha256"})
    save_checkpoint(tmp_path / "second", round_to_half(network), **facts)
    rebuilt = load_checkpoint(tmp_path / "second")[0]
    kept = next(module for module in rebuilt.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert torch.equal(kept.running_var, norm.running_var)


def test_the_folder_of_a_run_means_its_joint_model(tmp_path, tiny):
    save(tmp_path / "phases" / "joint", tiny)
    assert load_checkpoint(tmp_path)[1].name == "joint"


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path, tiny):
    save(tmp_path, tiny)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors", ".json"}


def test_flipped_byte_in_the_weights_is_refused(tmp_path, tiny):
    save(tmp_path, tiny)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(tmp_path)


def test_weights_without_description_are_no_checkpoint(tmp_path, tiny):
    save(tmp_path, tiny)
    (tmp_path / "model.json").unlink()
    with pytest.raises(CheckpointError, match="neither"):
        load_checkpoint(tmp_path)


def test_missing_weights_are_named(tmp_path, tiny):
    save(tmp_path, tiny)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("preprocessing", "something-else/1", PREPROCESSING),
        ("format", "slicewise-checkpoint/9", "format"),
        ("threshold", "high", "threshold"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_description_of_another_kind_is_refused(tmp_path, tiny, key, value, message):
    save(tmp_path, tiny)
    file = tmp_path / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_another_architecture_than_the_weights_is_refused(tmp_path, tiny):
    save(tmp_path, tiny)
    file = tmp_path / "model.json"
    description = json.loads(file.read_text())
    description["architecture"]["widths"] = [4, 4, 8, 16]
    file.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="architecture"):
        load_checkpoint(tmp_path)
