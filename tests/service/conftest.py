"""A tiny exported model that finds tumor everywhere, and a service of it that most tests share."""

import pytest

from service.running import Service
from slicewise.inference.predictor import Predictor


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, save_alarmist):
    interval = {"value": 0.9, "low": 0.8, "high": 0.95, "n_slices": 10, "n_patients": 5}
    return save_alarmist(
        tmp_path_factory.mktemp("model"),
        patients={"lgg": {"train": ["patient-of-training-1", "patient-of-training-2"]}},
        metrics={"val": {"roc_auc": interval}},
        history=[{"epoch": 1, "val_score": float("nan")}],
        provenance={"seed": 0},
    )


@pytest.fixture(scope="session")
def predictor(checkpoint):
    return Predictor.from_checkpoint(checkpoint, "cpu")


@pytest.fixture(scope="session")
def service(checkpoint, tmp_path_factory):
    with Service(checkpoint, tmp_path_factory.mktemp("service") / "log") as started:
        yield started
