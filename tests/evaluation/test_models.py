from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from slicewise.config import EvaluationConfig
from slicewise.errors import CheckpointError
from slicewise.evaluation import models
from slicewise.evaluation.baselines import BASELINES
from slicewise.evaluation.models import MODELS, evaluate_models

from .test_evaluate import SOURCES, Stub
from .test_facts import describe


class Named(Stub):
    """A stub that says which checkpoint it was made from."""

    opened: ClassVar[list[str]] = []

    @classmethod
    def from_checkpoint(cls, path):
        if not path.is_dir():
            raise CheckpointError(f"none at {path}")
        cls.opened.append("/".join(path.parts[-2:]))
        section, task = path.parts[-2:]
        tasks = ("segmentation", "classification") if task == "joint" else (task,)
        stub = cls(tasks=tasks)
        stub.description = describe(name=task if section == "phases" else f"{task}_only", tasks=tasks, threshold=0.5)
        return stub


@pytest.fixture
def run(small_store, small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "Predictor", Named)
    monkeypatch.setattr(Named, "opened", [])
    for name in ("segmentation", "classification", "joint"):
        (tmp_path / "phases" / name).mkdir(parents=True)
    sides = pd.Series(np.resize(["train", "train", "val", "val", "test", "test"], len(small_store)))
    config = small_config.model_copy(update={"evaluation": EvaluationConfig(uncertainty=False), "name": "a run"})
    display = SimpleNamespace(bar=lambda name, total: nullcontext(lambda done, of: None))
    return lambda: evaluate_models(tmp_path, config, SOURCES, small_store, sides, {}, display), tmp_path, sides


def test_every_checkpoint_answers_every_scored_slice_of_val_and_test(run, small_store):
    evaluate_run, _, sides = run
    found = evaluate_run()
    assert Named.opened == ["phases/segmentation", "phases/classification", "phases/joint"]
    assert list(dict.fromkeys(found.cases["model"])) == ["segmentation", "classification", "joint", *BASELINES]
    assert set(found.cases["split"]) == {"val", "test"}
    assert set(found.cases.loc[found.cases["model"] == "joint", "split"]) == {"val", "test"}
    for (model, side), rows in found.cases.groupby(["model", "split"]):
        assert sorted(rows["row"]) == np.flatnonzero(sides == side).tolist(), (model, side)
    assert set(found.volumes["model"]) == {"segmentation", "joint"}
    assert found.facts.name == "a run"
    assert list(found.facts.models) == ["segmentation", "classification", "joint"]
    assert sum(entry["slices"] for entry in found.facts.data) == len(small_store)
    assert found.facts.skipped == small_store.description["skipped"]


def test_single_task_models_are_evaluated_where_there_are_any(run):
    evaluate_run, folder, _ = run
    (folder / "single_task" / "segmentation").mkdir(parents=True)
    found = evaluate_run()
    assert "segmentation_only" in set(found.cases["model"])
    assert "classification_only" not in set(found.cases["model"])
    assert len(MODELS) == 5


def test_a_phase_without_a_checkpoint_is_refused(run):
    evaluate_run, folder, _ = run
    (folder / "phases" / "joint").rmdir()
    with pytest.raises(CheckpointError):
        evaluate_run()
