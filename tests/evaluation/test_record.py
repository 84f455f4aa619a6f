import json

import pandas as pd
import pytest

from slicewise.config import EvaluationConfig, GateConfig
from slicewise.errors import InputError
from slicewise.evaluation.cases import make_volumes
from slicewise.evaluation.facts import Facts, ModelFacts
from slicewise.evaluation.patients import make_patients
from slicewise.evaluation.record import Record
from slicewise.evaluation.results import choose_main, summarize

from .tables import random_cases


@pytest.fixture(scope="module")
def record():
    cases = random_cases(0, models=("joint", "other"))
    volumes = make_volumes(cases).assign(hausdorff95=2.5, surface_dice=0.75)
    volumes["distance_unit"] = pd.array(["mm"] * len(volumes), "string")
    described = ModelFacts(
        model_id="0123456789ab",
        threshold=0.5,
        decoder_share=0.6,
        center=5.4,
        temperature=1.5,
        parameters=12,
        epochs=3,
        duration_s=4.5,
        gate={"kept": "joint"},
    )
    facts = Facts(
        name="a run",
        models={"joint": described},
        data=[{"source": "a", "slices": 3}],
        skipped=[{"file": "broken.png", "reason": "no picture"}],
        evaluation=EvaluationConfig(resamples=1000, confidence=0.9),
        gate=GateConfig(margin=0.02),
    )
    return Record(cases, volumes, facts)


def test_what_is_read_is_what_was_written_and_gives_equal_results(record, tmp_path):
    record.write(tmp_path)
    found = Record.read(tmp_path / "cases.parquet")
    keys = ["model", "patient_id", "slice_id"]
    found_cases, cases = (one.cases.sort_values(keys, ignore_index=True) for one in (found, record))
    pd.testing.assert_frame_equal(found_cases, cases)
    pd.testing.assert_frame_equal(found.volumes, record.volumes)
    assert found.facts == record.facts
    assert json.dumps(summarize(*found)) == json.dumps(summarize(*record))


def test_every_file_of_an_evaluation_is_there(record, tmp_path):
    record.write(tmp_path / "run")
    results = record.write_results(tmp_path / "run")
    tables = {f"{name}.{ending}" for name in ("cases", "patients") for ending in ("csv", "parquet")}
    assert {file.name for file in (tmp_path / "run").iterdir()} == {*tables, "volumes.parquet", "facts.json", "results.json"}
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    patients = pd.read_parquet(tmp_path / "run" / "patients.parquet")
    assert len(patients) == len(make_patients(record.cases, record.volumes))


def test_the_csv_holds_what_the_parquet_does_to_the_last_bit(record, tmp_path):
    record.write(tmp_path)
    found, other = Record.read(tmp_path / "cases.csv"), Record.read(tmp_path / "cases.parquet")
    pd.testing.assert_frame_equal(found.cases, other.cases, check_exact=True)


@pytest.mark.parametrize("models", [("joint", "segmentation", "theirs"), ("theirs", "segmentation", "others")])
def test_the_order_of_rows_is_not_read_but_for_the_first_model(tmp_path, models):
    cases = random_cases(1, models=models)
    first = cases[cases["model"] == models[0]].head(1)
    found = []
    for seed in range(3):
        shuffled = pd.concat([first, cases.drop(index=first.index).sample(frac=1, random_state=seed)])
        shuffled.to_csv(tmp_path / "cases.csv", index=False)
        found.append(Record.read(tmp_path / "cases.csv").cases)
    pd.testing.assert_frame_equal(found[0], found[1])
    pd.testing.assert_frame_equal(found[0], found[2])
    assert choose_main(found[0]) == models[0]


def test_a_table_that_comes_alone_has_default_facts_and_its_scans_added_up(record, tmp_path):
    record.cases.to_csv(tmp_path / "mine.csv", index=False)
    found = Record.read(tmp_path / "mine.csv")
    assert found.facts == Facts()
    pd.testing.assert_frame_equal(found.volumes, make_volumes(record.cases))


@pytest.mark.parametrize("text", ["{", '{"name": 3}', '{"unknown": 1}', '{"evaluation": {"resamples": 5}}'])
def test_damaged_facts_are_refused(record, tmp_path, text):
    record.write(tmp_path)
    (tmp_path / "facts.json").write_text(text)
    with pytest.raises(InputError, match=r"facts of a run in .*facts\.json") as error:
        Record.read(tmp_path / "cases.parquet")
    assert "\n" not in str(error.value)
