from types import SimpleNamespace

import pandas as pd
import pytest
from pydantic import ValidationError

from slicewise.config import ModelConfig, SourceConfig
from slicewise.data.preprocess import PREPROCESSING
from slicewise.evaluation.facts import Facts, ModelFacts, count_data
from slicewise.model.description import Description


def describe(**changes):
    facts = {"name": "joint", "tasks": ("segmentation", "classification"), "architecture": ModelConfig()}
    facts |= {"preprocessing": PREPROCESSING, "threshold": 0.4, "mask_threshold": 0.5, "parameters": 12}
    facts |= {"mask_from": 0.45, "decoder_share": 0.6, "center": 5.4, "temperature": 1.5}
    facts |= {"data_fingerprint": "f" * 64, "patients": {}, "metrics": {}, "history": [{}, {}], "gate": {"kept": "joint"}}
    return Description(
        **facts | {"provenance": {"duration_s": 3.5, "starts_from": None}, "weights_sha256": f"{'abc':0<64}"} | changes
    )


def test_facts_of_a_model_are_those_of_its_checkpoint():
    expected = {"model_id": "abc000000000", "threshold": 0.4, "parameters": 12}
    expected |= {"mask_from": 0.45, "decoder_share": 0.6, "center": 5.4, "temperature": 1.5}
    expected |= {"epochs": 2, "duration_s": 3.5, "gate": {"kept": "joint"}}
    expected |= {"data_fingerprint": "f" * 64, "starts_from": (), "teacher": None}
    assert ModelFacts.of(describe()).model_dump() == expected
    averaged = {"duration_s": 3.5, "starts_from": f"{'1' * 64} + {'2' * 64}"}
    assert ModelFacts.of(describe(provenance=averaged)).starts_from == ("1" * 12, "2" * 12)
    assert ModelFacts.of(describe(provenance=averaged | {"teacher": "3" * 64})).teacher == "3" * 12


def test_data_is_counted_by_source_and_side():
    rows = [
        ("lgg", "p1", "train", True, "present"),
        ("lgg", "p1", "train", False, "empty"),
        ("lgg", "p2", "test", True, "present"),
        ("lgg", "p2", "test", False, "empty"),
        ("lgg", "p3", "test", None, "unknown"),
        ("yes_no", "p2", "val", True, "unknown"),
    ]
    table = pd.DataFrame(rows, columns=["source", "patient_id", "side", "label", "mask_state"]).astype({"label": "boolean"})
    store = SimpleNamespace(table=table.drop(columns="side"))
    sources = {"lgg": SourceConfig(layout="lgg"), "yes_no": SourceConfig(layout="labelled_folders")}
    counted = count_data(store, table["side"], sources)
    assert [(entry["source"], entry["split"]) for entry in counted] == [
        (source, side) for source in ("lgg", "yes_no") for side in ("train", "val", "test")
    ]
    expected = {"source": "lgg", "layout": "lgg", "split": "test", "patients": 2, "slices": 3, "tumor": 1, "tumor_free": 1}
    expected |= {"label_unknown": 1, "mask_present": 1, "mask_empty": 1, "mask_unknown": 1}
    assert counted[2] == expected
    assert sum(entry["slices"] for entry in counted) == len(rows)
    assert counted[5]["patients"] == 0


def test_facts_survive_json_and_refuse_what_they_do_not_know():
    facts = Facts(models={"joint": ModelFacts.of(describe())})
    assert Facts.model_validate_json(facts.model_dump_json()) == facts
    with pytest.raises(ValidationError):
        Facts(nmae="typo")
