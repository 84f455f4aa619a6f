"""What several rooms' tests share: where the real data lies, and a network that costs nothing."""

from pathlib import Path

import pytest
import torch

from slicewise.config import ModelConfig

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real MRI beside the project; a test that asks for it is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the folder of real MRI, ../shared/data, which is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """A network of the real shape in every respect but its widths."""
    return ModelConfig(widths=(4, 4, 8, 8, 8))
