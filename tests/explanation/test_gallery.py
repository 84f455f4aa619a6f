import io
from collections import Counter

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from slicewise.console import Display
from slicewise.explanation.gallery import choose_examples, choose_slices, write_explanations
from slicewise.model.checkpoint import save_checkpoint
from slicewise.model.network import MultiTaskNetwork

KINDS = {
    (True, True): "hit",
    (True, False): "miss",
    (False, True): "false-alarm",
    (False, False): "correct-rejection",
}


def make_cases(counts, seed=0):
    """As many slices of each kind as ``counts`` says, in random order."""
    random = np.random.default_rng(seed)
    rows = [kind for kind, count in zip(KINDS, counts, strict=True) for _ in range(count)]
    rows = [rows[place] for place in random.permutation(len(rows))]
    return pd.DataFrame(
        {
            "label": pd.array([label for label, _ in rows], dtype="boolean"),
            "is_tumor": pd.array([called for _, called in rows], dtype="boolean"),
            "probability": random.random(len(rows)),
            "slice_id": [f"s{number}" for number in range(len(rows))],
        }
    )


def test_every_kind_has_its_share():
    chosen = choose_slices(make_cases([50, 40, 30, 60]), 16)
    assert Counter(chosen["outcome"]) == dict.fromkeys(KINDS.values(), 4)


def test_what_a_rare_kind_cannot_fill_goes_to_the_others():
    chosen = choose_slices(make_cases([50, 1, 0, 60]), 16)
    assert Counter(chosen["outcome"]) == {"hit": 8, "miss": 1, "correct-rejection": 7}


def test_the_most_and_the_least_certain_of_a_kind_are_among_them():
    cases = make_cases([50, 0, 0, 0])
    chosen = choose_slices(cases, 5)
    assert chosen["probability"].max() == cases["probability"].max()
    assert chosen["probability"].min() == cases["probability"].min()


@given(counts=st.lists(st.integers(0, 12), min_size=4, max_size=4), count=st.integers(16, 24), seed=st.integers(0, 9))
def test_as_many_as_there_are_none_twice_in_any_order(counts, count, seed):
    cases = make_cases(counts, seed)
    chosen = choose_slices(cases, count)
    assert len(chosen) == min(count, sum(counts))
    assert chosen["slice_id"].is_unique
    again = choose_slices(cases.sample(frac=1, random_state=seed), count)
    assert list(again["slice_id"]) == list(chosen["slice_id"])


def test_slices_without_a_label_are_not_shown():
    cases = make_cases([3, 0, 0, 3])
    cases["label"] = cases["label"].mask(cases["label"])
    assert set(choose_slices(cases, 16)["outcome"]) == {"correct-rejection"}


def test_the_worst_of_each_patient_and_random_ones_whatever_the_order():
    dice = [0.9, 0.1, 0.2, 0.5, 0.0]
    cases = pd.DataFrame(
        {
            "slice_id": list("abcde"),
            "source": "lgg",
            "patient_id": ["p", "p", "q", "r", "free"],
            "tp": [round(50 * value) for value in dice],
            "fp": [round(50 * (1 - value)) for value in dice],
            "fn": [round(50 * (1 - value)) for value in dice],
            "reference_area_px": [50, 50, 50, 50, 0],
        }
    )
    chosen = choose_examples(cases)
    assert list(chosen["worst"]["slice_id"]) == ["b", "c", "d"]
    assert sorted(chosen["random"]["slice_id"]) == list("abcde")
    shuffled = choose_examples(cases.sample(frac=1, random_state=1))
    assert list(shuffled["random"]["slice_id"]) == list(chosen["random"]["slice_id"])


def test_names_that_no_file_system_and_no_typesetter_would_take_are_drawn(small_store, small_config, tmp_path):
    """A name may be long, hold slashes, other scripts, and dollar signs, which Matplotlib takes for formulas."""
    network = MultiTaskNetwork(small_config.model)
    save_checkpoint(
        tmp_path / "phases" / "joint",
        network,
        name="joint",
        tasks=("segmentation", "classification"),
        architecture=small_config.model,
        threshold=0.5,
        mask_threshold=0.5,
        parameters=1,
        data_fingerprint="",
        patients={},
        metrics={},
        history=[],
        provenance={},
    )
    stale = tmp_path / "explanations" / "01_hit_earlier.png"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    names = ["$x_$", "a/b\\c:d", "ö" * 300, "%s", "$\\frac{1}{0}$"]
    cases = make_cases([2, 1, 1, 1]).assign(slice_id=names, row=range(5), model="joint", split="test", mask_state="empty")
    cases = cases.assign(tp=0, fp=1, fn=0)
    write_explanations(tmp_path, 16, small_store, cases, Display(Console(file=io.StringIO())))
    files = sorted((tmp_path / "explanations").iterdir())
    assert len(files) == 5
    assert all(file.name.isascii() and len(file.name) < 140 for file in files)
    assert not stale.exists()
