"""What several rooms' tests share: where the real data lies, a network and a store that cost nothing."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from slicewise.config import Config, ModelConfig, SourceConfig
from slicewise.data.store import COLUMNS, StoreWriter
from slicewise.inference.export import export
from slicewise.model.checkpoint import save_checkpoint
from slicewise.model.network import MultiTaskNetwork

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

SIDE = 256

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers on two cores: with two threads each, and two in each command they start, all would wait for one another.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
else:
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
    return ModelConfig(widths=(4, 4, 8, 8), blocks=(1, 1, 1, 1), decoder_width=4)


def make_slice(random, kind):
    """Noise, with a bright square where there is tumor."""
    image = random.normal(scale=0.3, size=(SIDE, SIDE)).astype(np.float16)
    mask = np.zeros((SIDE, SIDE), bool)
    if kind != "free":
        row, column = random.integers(40, 180, size=2)
        image[row : row + 40, column : column + 40] += 3
        mask[row : row + 40, column : column + 40] = kind == "masked"
    return image, mask


@pytest.fixture(scope="session")
def small_store(tmp_path_factory):
    """Ten patients of a source with masks and eight pictures of one without, learnable at a glance."""
    writer = StoreWriter(tmp_path_factory.mktemp("data") / "store", plan="test")
    random, order = np.random.default_rng(0), []
    patients = [("masked", f"p{number}", ["masked", "free"]) for number in range(10)]
    patients += [("yes_no", f"q{number}", ["unmasked" if number % 2 else "free"]) for number in range(8)]
    for source, patient, kinds in patients:
        slices = [make_slice(random, kind) for kind in kinds]
        rows = [
            dict.fromkeys(COLUMNS)
            | {
                "slice_id": f"{source}/{patient}/{index}",
                "source": source,
                "patient_id": patient,
                "study_id": patient,
                "slice_index": index,
                "label": kind != "free",
                "mask_state": {"masked": "present", "free": "empty", "unmasked": "unknown"}[kind],
                "reference_area_px": int(mask.sum()),
                "foreground_share": 1.0,
                "height_px": SIDE,
                "width_px": SIDE,
            }
            for index, (kind, (_, mask)) in enumerate(zip(kinds, slices, strict=True))
        ]
        images, masks = (np.array(part) for part in zip(*slices, strict=True))
        writer.append(source, patient, images, masks, rows, [])
        order.append((source, patient))
    return writer.finish(order)


@pytest.fixture
def small_config(tiny):
    return Config.model_validate(
        {
            "sources": {"masked": SourceConfig(layout="lgg"), "yes_no": SourceConfig(layout="labelled_folders")},
            "model": tiny,
            "training": {"batch_size": 4, "epoch_slices": 8, "ema_decay": 0.5, "accelerator": "cpu"},
            "phases": {
                "segmentation": {
                    "epochs": 2,
                    "encoder_learning_rate": 1e-2,
                    "decoder_learning_rate": 1e-2,
                    "segmentation_weight": 1.0,
                },
                "classification": {"epochs": 1, "classifier_learning_rate": 1e-2, "classification_weight": 1.0},
                "joint": {
                    "epochs": 2,
                    "encoder_learning_rate": 3e-3,
                    "decoder_learning_rate": 1e-2,
                    "classifier_learning_rate": 1e-2,
                    "segmentation_weight": 1.0,
                    "classification_weight": 0.3,
                },
            },
        }
    )


@pytest.fixture(scope="session")
def save_alarmist(tiny):
    """Writes and exports a checkpoint that answers "tumor" to everything, with masks; facts may be given."""

    def save(folder, **facts):
        torch.manual_seed(0)
        network = MultiTaskNetwork(tiny).train()
        with torch.no_grad():
            network(torch.randn(4, 1, 64, 64))
            network.decoder.output.conv.bias.zero_()
        blank = {"patients": {}, "metrics": {}, "history": [], "provenance": {}, "data_fingerprint": "", "threshold": 0.0}
        described = {"name": "joint", "tasks": ("segmentation", "classification"), "mask_threshold": 0.5}
        described |= {"architecture": tiny, "parameters": network.count_parameters()}
        save_checkpoint(folder, network.eval(), **blank | described | facts)
        export(folder)
        return folder

    return save
