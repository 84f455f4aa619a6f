"""What a description says of the training slices; the rest is tested with the checkpoint."""

import json

import pytest

from slicewise.config import ModelConfig
from slicewise.data.descriptors import DESCRIPTORS, Domain
from slicewise.data.preprocess import PREPROCESSING
from slicewise.errors import CheckpointError
from slicewise.model.description import DESCRIPTION, Description, read_description

COUNT = len(DESCRIPTORS)


def domain():
    return Domain(
        descriptors=tuple(DESCRIPTORS),
        mean=tuple(0.1 * place for place in range(COUNT)),
        inverse_covariance=tuple(tuple(1 / 3 * (row == column) for column in range(COUNT)) for row in range(COUNT)),
        limit=40.0,
        planes={"axial": 3},
        sequences={"flair": 3},
    )


def describe(**changes):
    facts = {
        "name": "joint",
        "tasks": ("classification",),
        "architecture": ModelConfig(),
        "preprocessing": PREPROCESSING,
        "threshold": 0.5,
        "mask_threshold": 0.5,
        "parameters": 1,
        "data_fingerprint": "",
        "patients": {},
        "metrics": {},
        "history": [],
        "provenance": {},
        "weights_sha256": "0" * 64,
    }
    return Description(**facts | changes)


def test_the_domain_of_a_training_comes_back_to_the_last_bit(tmp_path):
    saved = describe(domain=domain())
    (tmp_path / DESCRIPTION).write_text(saved.model_dump_json(indent=2))
    assert read_description(tmp_path) == saved


def test_a_checkpoint_from_before_domains_were_kept_is_read(tmp_path):
    values = json.loads(describe().model_dump_json())
    del values["domain"]
    (tmp_path / DESCRIPTION).write_text(json.dumps(values))
    assert read_description(tmp_path).domain is None


def test_a_damaged_domain_is_refused(tmp_path):
    values = json.loads(describe(domain=domain()).model_dump_json())
    values["domain"]["mean"].pop()
    (tmp_path / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"domain: .*{COUNT} means"):
        read_description(tmp_path)
