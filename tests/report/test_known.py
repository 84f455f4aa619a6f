"""What the files of a run say, in the words of the checklists: true of the run, and of the slices that were scored."""

import pandas as pd
import pytest

from slicewise.evaluation.cases import make_volumes
from slicewise.evaluation.facts import Facts, ModelFacts
from slicewise.evaluation.results import summarize
from slicewise.evaluation.table import read_cases
from slicewise.report.checklists import FACTS, fill
from slicewise.report.known import gather_facts

CONFIG = "name: a run\nseed: 7\nphantom: {}\n"


def model(model_id, starts_from):
    return ModelFacts(
        model_id=model_id,
        threshold=0.4,
        decoder_share=0.6,
        center=5.4,
        temperature=1.0,
        parameters=7,
        epochs=1,
        duration_s=1,
        gate=None,
    ).model_copy(update={"starts_from": starts_from, "data_fingerprint": "f" * 64})


@pytest.fixture
def known(tmp_path):
    def gather(models, cases):
        """Facts of slices, each of a patient of its own, given as columns."""
        rows = [
            {"slice_id": str(n), "patient_id": str(n), "source": "a", "model": "joint"} | row for n, row in enumerate(cases)
        ]
        pd.DataFrame(rows).to_csv(tmp_path / "cases.csv", index=False)
        table = read_cases(tmp_path / "cases.csv")
        data = {"source": "a", "layout": "lgg", "split": "test", "patients": 9, "slices": 90, "tumor": 80, "tumor_free": 10}
        facts = Facts(models=models, data=[data | {"label_unknown": 0, "mask_unknown": 0}])
        found = gather_facts(summarize(table, make_volumes(table), facts), facts, CONFIG, {}, {}, [])
        assert set(found) <= set(FACTS)
        return found

    return gather


def decided(label, probability, count):
    return [{"label": label, "probability": probability, "raw_probability": probability, "classification": True}] * count


@pytest.mark.parametrize(
    ("starts_from", "said"),
    [
        ((), "random weights of seed 7"),
        (("1" * 12,), f"those of segmentation ({'1' * 12}), which started from random weights of seed 7"),
        (("5" * 12, "6" * 12), f"weights {'5' * 12} and {'6' * 12}, averaged"),
        (("5" * 12,), f"weights {'5' * 12}"),
        (None, None),
    ],
)
def test_the_weights_at_the_start_are_those_that_the_checkpoint_names(known, starts_from, said):
    models = {"segmentation": model("1" * 12, ()), "joint": model("2" * 12, starts_from)}
    found = known(models, decided(1, 0.9, 3))
    assert found["initialization"] == said
    (item,) = [item for item in fill(found)[0].items if item.number == 24]
    assert item.answer == (f"Weights at the start: {said}." if said else "For the authors. Not known here: initialization.")


@pytest.mark.parametrize(
    ("teacher", "said"), [("1" * 12, f"segmentation ({'1' * 12})"), ("7" * 12, "7" * 12)], ids=["of the run", "another"]
)
def test_a_teacher_is_named(known, teacher, said):
    models = {"segmentation": model("1" * 12, ()), "classification": model("3" * 12, ("1" * 12,))}
    joint = {"joint": model("2" * 12, ("3" * 12,))}
    for taught in ("classification", "joint"):
        all_models = models | joint
        all_models[taught] = all_models[taught].model_copy(update={"teacher": teacher})
        told = known(all_models, decided(1, 0.9, 3))["initialization"]
        assert told.endswith(f"random weights of seed 7; {taught} learned from the masks of {said} too")


def test_a_refused_joint_model_has_the_weights_of_an_earlier_phase_and_is_not_its_own_start(known):
    models = {"classification": model("1" * 12, None), "joint": model("1" * 12, ("1" * 12,))}
    assert known(models, decided(1, 0.9, 3))["initialization"] == f"those of classification ({'1' * 12})"


def test_the_slices_counted_are_those_that_classification_is_scored_on(known):
    """The data have 80 and 10 labelled ones; of these 5 and 4 take part in scoring."""
    cases = decided(1, 0.9, 3) + decided(1, 0.1, 2) + decided(0, 0.9, 1) + decided(0, 0.1, 3)
    cases += [case | {"classification": False} for case in decided(1, 0.9, 8)]
    cases[-1] |= {"tp": 0, "fp": 4, "fn": 0}
    found = known({"joint": model("1" * 12, ())}, cases)
    assert (found["n_tumor_test"], found["n_tumor_free_test"]) == (5, 4)
    failures = "2 of 5 tumor slices missed, 1 of 4 tumor-free slices called tumor, a mask drawn in 1 of 1 tumor-free slices"
    assert found["failures"] == failures
    assert found["calibration"].endswith("n = 9 slices of 9 patients")
    assert found["data_fingerprint"] == "f" * 64


def test_the_rule_of_the_threshold_is_that_of_the_configuration(known, monkeypatch):
    models, cases = {"joint": model("1" * 12, ())}, decided(1, 0.9, 3)
    rule = "the highest threshold up to 0.5 that reaches the predefined slice sensitivity of 0.97"
    assert known(models, cases)["threshold_rule"] == rule
    monkeypatch.setitem(globals(), "CONFIG", CONFIG + "evaluation: {specificity: 0.8}\n")
    lowered = "lowered further down to a predefined slice specificity of 0.8"
    assert known(models, cases)["threshold_rule"] == f"{rule}, {lowered}"


@pytest.mark.parametrize(("split", "said"), [("{}", "none"), ("{held_out: [b, c]}", "b, c")])
def test_sources_held_out_as_a_whole_are_no_internal_testing(known, monkeypatch, split, said):
    monkeypatch.setitem(globals(), "CONFIG", CONFIG + f"split: {split}\n")
    found = known({"joint": model("1" * 12, ())}, decided(1, 0.9, 3))
    assert found["held_out"] == said
    items = {item.number: item for item in fill(found)[0].items}
    assert f"everybody of a source held out as a whole ({said})" in items[19].answer
    assert f"internal but for sources held out as a whole ({said})" in items[32].answer
    assert f"took part in training or tuning: {said}." in items[33].answer
    assert "Internal" not in items[37].answer


def test_nought_scored_slices_are_said(known):
    found = known({"joint": model("1" * 12, ())}, decided(1, 0.9, 2))
    assert (found["n_tumor_test"], found["n_tumor_free_test"]) == (2, 0)
    assert "failures" in found


def test_what_is_not_known_of_an_explanation_is_left_out(known):
    maps = [f"{kind}_{score}" for kind in ("cam", "center", "randomized") for score in ("pointing", "mass_in_mask", "iou")]
    cases = [case | dict.fromkeys(maps, 0.5) for case in decided(1, 0.9, 3)]
    explained = known({"joint": model("1" * 12, ())}, cases)["explanation"]
    assert "correlation" not in explained
    assert explained.endswith("n = 3 slices of 3 patients")
    explained = known({"joint": model("1" * 12, ())}, [case | {"randomized_similarity": 0.25} for case in cases])
    assert explained["explanation"].endswith("; rank correlation with the map of randomized weights 0.25")
