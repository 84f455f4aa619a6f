"""What a phase's checkpoint says beside its weights."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from slicewise.console import Display
from slicewise.data.descriptors import fit_domain
from slicewise.model.checkpoint import load_checkpoint
from slicewise.training.trainer import gather_data, train_run


@pytest.fixture
def sides(small_store):
    return pd.Series(np.where(np.arange(len(small_store)) % 3 > 0, "train", "val"))


def test_a_checkpoint_knows_what_its_training_slices_look_like(small_store, small_config, sides, tmp_path):
    data = gather_data(small_config.sources, small_store, sides)
    display = Display(Console(file=io.StringIO()))
    train_run(tmp_path, small_config, data, sides, display, only="segmentation")
    description = load_checkpoint(tmp_path / "phases" / "segmentation")[1]
    assert description.domain is not None
    assert description.domain == fit_domain(small_store, data.train_rows, data.val_rows)
    assert sum(description.domain.planes.values()) == len(data.train_rows)
