"""What a run knows fills an item, what it does not know leaves it open."""

import dataclasses

import pytest
from jinja2 import UndefinedError, meta

from slicewise.report import checklists
from slicewise.report.checklists import FACTS, fill

NUMBERS = {"seed": 20261123, "parameters": 2_040_000, "resamples": 10_000, "skipped_files": 0, "threshold": 0.41999998}
NUMBERS |= {
    "sensitivity_target": 0.97,
    "mask_from": 0.45,
    "mask_threshold": 0.5,
    "decoder_share": 0.625,
    "center": 5.25,
    "temperature": 1.25,
}
NUMBERS |= {"n_tumor_test": 0}
CLAIM_FOR_AUTHORS = {2, 3, 4, 5, 6, 8, 11, 13, 14, 15, 16, 17, 18, 21, 30, 34, 36, 41, 44}
METRICS_FOR_AUTHORS = {3, 4, 16}
FORMS = [checklists._read(name) for name in checklists._NAMES]
ENTRIES = [pytest.param(entry, id=f"{form.title}-{entry.number}") for form in FORMS for entry in form.entries]


@pytest.fixture
def facts():
    counts = {name: 16 for name in FACTS if name.startswith("n_")}
    return {name: f"[{name}]" for name in FACTS} | counts | NUMBERS


def open_numbers(checklist):
    return {item.number for item in checklist.items if item.status == "open"}


def answer(facts, number, checklist=0):
    (item,) = [item for item in fill(facts)[checklist].items if item.number == number]
    return item.answer


def test_claim_has_its_44_items():
    claim, metrics = fill({})
    assert claim.title == "CLAIM 2024"
    assert "10.1148/ryai.240300" in claim.source
    assert [item.number for item in claim.items] == list(range(1, 45))
    assert "10.1038/s41592-023-02151-z" in metrics.source
    assert [item.number for item in metrics.items] == list(range(1, 21))


@pytest.mark.parametrize(
    ("number", "section", "part"),
    [
        (7, "Methods: data", "Where the images come from"),
        (14, "Methods: reference standard", "How the reference standard was made"),
        (20, "Methods: data partitions", "in two partitions"),
        (21, "Methods: testing data", "How many test cases"),
        (27, "Methods: training", "ensemble"),
        (33, "Methods: evaluation", "from elsewhere"),
        (39, "Results: model performance", "were wrong"),
        (44, "Other information", "Who paid"),
    ],
)
def test_items_stand_where_the_2024_update_has_them(number, section, part):
    item = fill({})[0].items[number - 1]
    assert item.section == section
    assert part in item.topic


def test_the_words_are_those_of_the_2024_update():
    for form in FORMS:
        text = " ".join(f"{entry.topic} {entry.answer}" for entry in form.entries).lower()
        assert "ground truth" not in text
        assert "validation" not in text.replace("called validation here", "")


def test_every_fact_is_used_and_every_use_is_a_fact():
    assert {name for form in FORMS for entry in form.entries for name in entry.needs} == set(FACTS)
    assert all(meaning.endswith(".") for meaning in FACTS.values())


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_item_needs_what_its_template_says(entry):
    environment = checklists._environment()
    used = set() if entry.answer is None else meta.find_undeclared_variables(environment.parse(entry.answer))
    assert used == set(entry.needs)
    assert len(entry.needs) == len(set(entry.needs))
    assert used or entry.answer is None  # an answer without facts would be true of every run


@pytest.mark.parametrize("entry", ENTRIES)
def test_items_are_short(entry):
    assert 5 < len(entry.topic) <= 130
    assert entry.answer is None or len(entry.answer) <= 500
    assert "\n" not in entry.topic
    assert not entry.topic.endswith(".")


def test_without_facts_all_is_open():
    for checklist in fill({}):
        assert {item.status for item in checklist.items} == {"open"}
        assert all(item.answer.startswith("For the authors.") for item in checklist.items)


def test_with_all_facts_only_what_authors_know_is_open(facts):
    claim, metrics = fill(facts)
    assert open_numbers(claim) == CLAIM_FOR_AUTHORS
    assert open_numbers(metrics) == METRICS_FOR_AUTHORS
    for item in (*claim.items, *metrics.items):
        assert "{" not in item.answer
        assert ".." not in item.answer
        assert "  " not in item.answer
        assert item.answer.endswith(".")
        assert len(item.answer) <= 600


@pytest.mark.parametrize("name", FACTS)
def test_a_missing_fact_opens_the_items_that_need_it_and_no_other(facts, name):
    del facts[name]
    for form, checklist, for_authors in zip(FORMS, fill(facts), (CLAIM_FOR_AUTHORS, METRICS_FOR_AUTHORS), strict=True):
        in_need = {entry.number for entry in form.entries if name in entry.needs}
        assert open_numbers(checklist) == for_authors | in_need
        for item in checklist.items:
            if item.number in in_need:
                assert item.answer == f"For the authors. Not known here: {name.replace('_', ' ')}."


@pytest.mark.parametrize("nothing", [None, "", " \n", float("nan"), float("inf")])
def test_a_value_that_says_nothing_is_not_known(facts, nothing):
    assert fill(facts | {"failures": nothing})[0].items[38].status == "open"


def test_nought_is_a_value(facts):
    assert "cannot be read: 0." in answer(facts, 12)
    assert "scored for it 0 show tumor" in answer(facts, 2, checklist=1)


def test_numbers_are_written_for_readers(facts):
    assert "2,040,000 parameters" in answer(facts, 22)
    assert "from 10,000 resamples" in answer(facts, 29)
    assert "At the threshold 0.420: sensitivity" in answer(facts, 38)
    assert "is 0.625, its center 5.250, the temperature 1.250." in answer(facts, 9, checklist=1)
    assert '"Tumor" from a probability of 0.420 on: [threshold_rule] on the labelled' in answer(facts, 5, checklist=1)
    assert "in slices whose own probability reaches 0.450" in answer(facts, 11, checklist=1)


def test_a_text_may_bring_its_full_stop_and_is_never_taken_for_a_template(facts):
    facts["explanation"] = " HiResCAM of the tumor logit, {{ seed }} & <b>.\n"
    assert answer(facts, 31) == "Explanation: HiResCAM of the tumor logit, {{ seed }} & <b>."


def test_a_name_that_is_no_fact_is_refused(facts):
    with pytest.raises(ValueError, match="got treshold"):
        fill(facts | {"treshold": 0.4})


def test_a_template_that_uses_more_than_it_needs_fails():
    entry = checklists._Entry(1, "Section", "Topic", "{{ seed }} {{ title }}", ("seed",))
    with pytest.raises(UndefinedError, match="title"):
        checklists._answer(entry, {"seed": 1, "title": "known, yet not declared"})


def test_results_are_frozen():
    checklist = fill({})[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        checklist.items[0].status = "filled"
