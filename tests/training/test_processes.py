"""Two processes do what one does, but for rounding; and go on where they were killed to the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from slicewise.errors import TrainingError
from slicewise.training import processes as room
from slicewise.training.processes import open_fabric, synchronize_statistics

from .two_processes import train

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture
def config(small_config):
    """Without dropout, whose draws are each process's own."""
    return small_config.model_copy(
        update={
            "model": small_config.model.model_copy(update={"dropout": 0.0}),
            "training": small_config.training.model_copy(update={"save_interval_s": 0, "patience": 9}),
        }
    )


@pytest.fixture
def launch(config, small_store, folder):
    def run(name, steps=0):
        training = config.training.model_copy(update={"devices": 2})
        (folder / "config.json").write_text(config.model_copy(update={"training": training}).model_dump_json())
        out = folder / f"{name}_{steps}.json"
        words = [folder / "config.json", small_store.folder, folder / name, out, steps]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*launcher, str(SCRIPT), *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(out.read_text())

    return run


def test_two_processes_see_what_one_sees_and_end_where_they_were_killed(config, small_store, launch, tmp_path):
    _, alone = train(config, small_store, tmp_path / "alone")
    whole = launch("whole")
    assert whole["samples"] == alone["samples"]
    assert len(whole["losses"]) == len(alone["losses"])
    # Rounding grows from step to step; the first two have hardly had the time.
    for ours, theirs in zip(alone["losses"][:2], whole["losses"][:2], strict=True):
        assert theirs == pytest.approx(ours, rel=2e-4)
    # AdamW and clipping would hide a gradient of another scale.
    assert whole["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=1e-3)
    figures = [name for name in alone["validation"] if alone["validation"][name]["value"] is not None]
    assert figures
    for name in figures:  # of the same weights, on the same slices: exact, but for rounding
        assert whole["validation"][name] == pytest.approx(alone["validation"][name], abs=1e-6), name
    launch("broken", steps=3)
    assert launch("broken")["digest"] == whole["digest"]


def test_another_number_of_processes_than_configured_is_refused(config):
    training = config.training.model_copy(update={"devices": 2})
    with pytest.raises(TrainingError, match=r"Expected 2 × 1 processes.*got 1.*--devices"):
        open_fabric(training)


def test_a_gpus_matrix_products_are_those_of_its_convolutions_before_lightning_looks(config, monkeypatch):
    """It warns where they are not, as soon as it is opened; a CPU's stay exact."""
    found = []

    class Opened(room.Fabric):
        def __init__(self, **options):
            found.append((torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision))
            super().__init__(**options)

    exact = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.cuda.matmul.allow_tf32 = False
    monkeypatch.setattr(room, "Fabric", Opened)
    open_fabric(config.training)
    assert found == [("high", exact)]


def test_large_means_cost_the_statistics_no_precision(monkeypatch):
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    plain, together = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
    synchronize_statistics(together)
    images = 100 + 0.01 * torch.randn(8, 3, 16, 16)
    for network in (plain, together):
        network[0].running_mean.fill_(100.0)
    torch.testing.assert_close(together(images), plain(images), rtol=1e-2, atol=1e-2)


def test_synchronized_statistics_of_one_process_are_batchnorms(monkeypatch):
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.2))
    nn.init.uniform_(plain[1].weight)
    together = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.2))
    together.load_state_dict(plain.state_dict())
    synchronize_statistics(together)
    for step in range(3):
        images = 5 + 3 * torch.randn(6, 1, 9, 9)
        for network in (plain, together):
            network.train(step < 2)
            network.zero_grad()
            network(images).square().mean().backward()
        torch.testing.assert_close(together(images), plain(images), rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(together.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    assert list(together.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], value, rtol=1e-4, atol=1e-5)
