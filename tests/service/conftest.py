"""A tiny exported model that finds tumor everywhere, and a service of it that most tests share."""

import pytest
import torch

from service.running import Service
from slicewise.config import ModelConfig
from slicewise.inference.export import export
from slicewise.inference.predictor import Predictor
from slicewise.model.checkpoint import save_checkpoint
from slicewise.model.network import MultiTaskUNet


def make_checkpoint(folder, threshold):
    architecture = ModelConfig(widths=(4, 4, 8, 8, 8))
    torch.manual_seed(0)
    network = MultiTaskUNet(architecture).train()
    with torch.no_grad():
        network(torch.randn(4, 1, 64, 64))
        network.decoder.output.conv.bias.zero_()
    interval = {"value": 0.9, "low": 0.8, "high": 0.95, "n_slices": 10, "n_patients": 5}
    facts = {
        "patients": {"lgg": {"train": ["patient-of-training-1", "patient-of-training-2"]}},
        "metrics": {"val": {"roc_auc": interval}},
        "history": [{"epoch": 1, "val_score": float("nan")}],
        "provenance": {"seed": 0},
        "data_fingerprint": "",
        "parameters": network.count_parameters(),
    }
    tasks = ("segmentation", "classification")
    thresholds = {"threshold": threshold, "mask_threshold": 0.5}
    save_checkpoint(folder, network.eval(), name="joint", tasks=tasks, architecture=architecture, **thresholds, **facts)
    export(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model"), 0.0)


@pytest.fixture(scope="session")
def predictor(checkpoint):
    return Predictor.from_checkpoint(checkpoint, "cpu")


@pytest.fixture(scope="session")
def service(checkpoint, tmp_path_factory):
    with Service(checkpoint, tmp_path_factory.mktemp("service") / "log") as started:
        yield started
