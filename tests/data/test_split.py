from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.config import SplitConfig
from slicewise.data.split import SIDES, assign_sides, check_split, read_split, split_patients, write_split
from slicewise.data.store import COLUMNS
from slicewise.errors import SplitError


def make_table(slices):
    """The store's table of slices given as (source, patient, checksum, further columns)."""
    rows = [
        dict.fromkeys(COLUMNS)
        | {"slice_id": str(number), "source": source, "patient_id": patient, "study_id": patient, "image_checksum": checksum}
        | {"slice_index": 0, "reference_area_px": 0, "foreground_share": 0.5, "height_px": 9, "width_px": 9, "label": False}
        | changes
        for number, (source, patient, checksum, changes) in enumerate(slices)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def cohort(source, count, **changes):
    return [(source, f"p{number:02}", f"{source}{number}", changes) for number in range(count)]


def sides_of(split):
    return {(row.source, row.patient_id): row.split for row in split.itertuples()}


slices = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from([f"p{number:02}" for number in range(6, 30)]),
        st.sampled_from([f"extra{number}" for number in range(25)]),
        st.fixed_dictionaries(
            {"label": st.sampled_from([True, False, None]), "foreground_share": st.sampled_from([0, 0.4])}
        ),
    ),
    max_size=30,  # the first six of each source share nothing, so that no side can stay empty
).map(lambda extra: make_table(cohort("a", 12) + cohort("b", 9, label=True) + extra))


@settings(deadline=None, max_examples=40)
@given(table=slices, seed=st.integers(0, 9))
def test_nobody_stands_on_two_sides_whoever_shares_pictures(table, seed):
    split = split_patients(table, {}, SplitConfig(), seed)
    assert not split.duplicated(["source", "patient_id"]).any()
    assert set(sides_of(split)) == set(zip(table["source"], table["patient_id"], strict=True))
    assert set(split["split"]) == set(SIDES)
    sides = assign_sides(table, {}, split)
    sides_of_checksum = sides[table["foreground_share"] > 0].groupby(table["image_checksum"]).nunique()
    assert (sides_of_checksum == 1).all()
    tumor = table.assign(label=table["label"].fillna(False)).groupby(["source", "patient_id"])["label"].any()
    assert split["tumor"].tolist() == tumor.tolist()


@settings(deadline=None, max_examples=20)
@given(table=slices, seed=st.integers(0, 9), shuffle=st.integers(0, 99))
def test_the_order_of_rows_does_not_matter(table, seed, shuffle):
    split = split_patients(table, {}, SplitConfig(), seed)
    shuffled = split_patients(table.sample(frac=1, random_state=shuffle, ignore_index=True), {}, SplitConfig(), seed)
    pd.testing.assert_frame_equal(shuffled, split)


def test_another_seed_is_another_division():
    table = make_table(cohort("a", 40))
    splits = [sides_of(split_patients(table, {}, SplitConfig(), seed)) for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(3, 40), min_size=4, max_size=4),
    train=st.sampled_from([0.5, 0.6, 0.65, 0.7]),
    val=st.sampled_from([0.1, 0.15, 0.2]),
)
def test_every_source_and_label_is_divided_by_the_shares(sizes, train, val):
    strata = [(source, label) for source in "ab" for label in (True, False)]
    slices = [
        (source, f"{label}{number}", f"{source}{label}{number}", {"label": label})
        for (source, label), size in zip(strata, sizes, strict=True)
        for number in range(size)
    ]
    split = split_patients(make_table(slices), {}, SplitConfig(train=train, val=val), seed=0)
    for (source, label), size in zip(strata, sizes, strict=True):
        of_stratum = split[(split["source"] == source) & (split["tumor"] == label)]
        counts = Counter(of_stratum["split"])
        for side, share in zip(SIDES, (train, val, 1 - train - val), strict=True):
            assert counts[side] >= 1
            assert abs(counts[side] - share * size) <= (1 if size >= 10 else 2)


def test_patients_who_share_a_picture_stay_together_across_sources():
    chain = [("a", "p00", "x", {}), ("b", "p05", "x", {}), ("b", "p05", "y", {}), ("a", "p07", "y", {})]
    table = make_table(cohort("a", 15) + cohort("b", 15) + chain)
    for seed in range(8):
        split = split_patients(table, {}, SplitConfig(), seed)
        sides = sides_of(split)
        assert sides["a", "p00"] == sides["b", "p05"] == sides["a", "p07"]
        groups = split.groupby("group").size()
        assert sorted(groups)[-2:] == [1, 3]


def test_blank_slices_link_nobody():
    blank = [("a", f"p{number:02}", "blank", {"foreground_share": 0.0}) for number in range(15)]
    split = split_patients(make_table(cohort("a", 15) + blank), {}, SplitConfig(), 0)
    assert split["group"].nunique() == 15


@pytest.mark.parametrize("published", ["val", "test"])
def test_whom_the_publisher_held_out_goes_to_test(published):
    held_out = [("a", f"q{number}", f"q{number}", {"published_split": published}) for number in range(5)]
    table = make_table(cohort("a", 20, published_split="train") + cohort("b", 20) + held_out)
    split = split_patients(table, {}, SplitConfig(), 0)
    of_a = split[split["source"] == "a"]
    assert of_a.loc[of_a["split"] == "test", "patient_id"].tolist() == ["q0", "q1", "q2", "q3", "q4"]
    # The other source has no published test and is divided as ever: 13, 3 and 4 of 20.
    assert Counter(split.loc[split["source"] == "b", "split"]) == {"train": 13, "val": 3, "test": 4}


def test_a_published_split_that_divides_a_patient_is_refused():
    torn = [("a", "p03", "other", {"published_split": "test"})]
    with pytest.raises(SplitError, match="p03"):
        split_patients(make_table(cohort("a", 20, published_split="train") + torn), {}, SplitConfig(), 0)


def test_a_published_split_that_divides_equal_pictures_is_refused():
    torn = [("a", "q1", "a3", {"published_split": "test"})]
    with pytest.raises(SplitError, match=r"p03.*q1"):
        split_patients(make_table(cohort("a", 20, published_split="train") + torn), {}, SplitConfig(), 0)


def test_who_shares_a_picture_with_whom_another_publisher_held_out_is_tested():
    """Source b has no published division: its p03 has the picture of q1, its p04 that of a training patient."""
    shared = [("a", "q1", "b3", {"published_split": "test"}), ("a", "p07", "b4", {"published_split": "train"})]
    table = make_table(cohort("a", 20, published_split="train") + cohort("b", 20) + shared)
    for seed in range(8):
        sides = sides_of(split_patients(table, {}, SplitConfig(), seed))
        assert sides["a", "q1"] == sides["b", "p03"] == "test"
        assert sides["a", "p07"] == sides["b", "p04"] != "test"


def test_a_source_held_out_is_tested_whole_and_the_others_are_divided_as_without_it():
    table = make_table(cohort("a", 12) + cohort("b", 20, label=True) + cohort("c", 20))
    held_out = split_patients(table, {}, SplitConfig(held_out=("a",)), 0)
    assert Counter(held_out.loc[held_out["source"] == "a", "split"]) == {"test": 12}
    others = sides_of(split_patients(table[table["source"] != "a"], {}, SplitConfig(), 0))
    assert {patient: side for patient, side in sides_of(held_out).items() if patient[0] != "a"} == others
    assert Counter(held_out.loc[held_out["source"] == "b", "split"]) == {"train": 13, "val": 3, "test": 4}
    check_split(table, {}, held_out)
    both = split_patients(table, {}, SplitConfig(held_out=("c", "a")), 0)
    assert set(both.loc[both["source"] != "b", "split"]) == {"test"}


def test_whoever_shares_a_picture_with_a_source_held_out_is_not_trained_on():
    """p05 of b has the picture of p00 of a; p07 of b one with p05; file 1 of c is a compressed copy of one of a."""
    chain = [("b", "p05", "a0", {}), ("b", "p05", "y", {}), ("b", "p07", "y", {})]
    copies = [("c", "p03", "z", {"file": "c.jpg"}), ("a", "p01", "w", {"file": "a.png"})]
    table = make_table(cohort("a", 12) + cohort("b", 12) + cohort("c", 12) + chain + copies)
    duplicates = {"a.png": 0, "c.jpg": 0}
    for seed in range(8):
        split = split_patients(table, duplicates, SplitConfig(held_out=("a",)), seed)
        sides = sides_of(split)
        assert {sides["b", "p05"], sides["b", "p07"], sides["c", "p03"]} == {"test"}
        # Those who were not swept along are divided by the shares, tests of their own included.
        for source, count in (("b", 10), ("c", 11)):
            swept = {("b", "p05"), ("b", "p07"), ("c", "p03")}
            left = Counter(side for patient, side in sides.items() if patient[0] == source and patient not in swept)
            assert left.total() == count
            assert all(left[side] >= 1 for side in SIDES)
        check_split(table, duplicates, split)


def test_a_published_test_side_and_a_source_held_out_go_together():
    published = [("a", f"q{number}", f"q{number}", {"published_split": "test"}) for number in range(5)]
    table = make_table(cohort("a", 20, published_split="train") + cohort("b", 20) + published)
    split = split_patients(table, {}, SplitConfig(held_out=("b",)), 0)
    assert set(split.loc[split["source"] == "b", "split"]) == {"test"}
    of_a = split[(split["source"] == "a") & (split["split"] == "test")]
    assert of_a["patient_id"].tolist() == ["q0", "q1", "q2", "q3", "q4"]
    assert set(split_patients(table, {}, SplitConfig(held_out=("a",)), 0).query("source == 'a'")["split"]) == {"test"}


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (("lgg",), r"got 'lgg'\. They are a, b\."),
        (("a", "b"), "it names all: a, b"),
        (("a",), r"none on train, val out of 24\..*split\.held_out"),
    ],
    ids=["unknown", "all", "all that is left is a copy"],
)
def test_what_cannot_be_held_out_is_refused(held_out, message):
    copies = [("b", f"p{number:02}", f"a{number}", {}) for number in range(12)]
    with pytest.raises(SplitError, match=message):
        split_patients(make_table(cohort("a", 12) + copies), {}, SplitConfig(held_out=held_out), 0)


def test_a_source_is_held_out_once():
    with pytest.raises(ValueError, match="named once"):
        SplitConfig(held_out=("a", "a"))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_patients_are_refused(count):
    with pytest.raises(SplitError, match=f"out of {count}"):
        split_patients(make_table(cohort("a", count)), {}, SplitConfig(), 0)


@pytest.fixture
def table():
    return make_table([*cohort("a", 12), ("a", "p01", "more", {}), ("b", "p01", "a2", {})])


@pytest.fixture
def split(table):
    """A good division, by hand: p02 of a and p01 of b share the picture a2."""
    sides = ["train"] * 8 + ["val"] * 2 + ["test"] * 2 + ["train"]
    patients = [("a", f"p{number:02}") for number in range(12)] + [("b", "p01")]
    return pd.DataFrame([(*patient, side) for patient, side in zip(patients, sides, strict=True)]).set_axis(
        ["source", "patient_id", "split"], axis=1
    )


def test_a_good_division_passes_and_gives_each_row_its_side(table, split):
    check_split(table, {}, split)
    shuffled = split.sample(frac=1, random_state=1)
    sides = assign_sides(table.set_index(pd.Index(range(100, 114))), {}, shuffled)
    assert sides.tolist() == ["train"] * 8 + ["val"] * 2 + ["test"] * 2 + ["train"] * 2


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (lambda split: split.assign(split=split["split"].replace("val", "validation")), "'validation'"),
        (lambda split: split.assign(split=split["split"].where(split.index != 3)), "got ''"),
        (lambda split: split.drop(index=9), "p09"),
        (lambda split: pd.concat([split, pd.DataFrame([("a", "p03", "test")], columns=split.columns)]), "p03"),
        (lambda split: split.assign(split=split["split"].where(split.index != 12, "test")), "equal pictures"),
    ],
    ids=["unknown side", "no side", "lost patient", "patient on two sides", "picture on two sides"],
)
def test_planted_violations_are_refused(table, split, plant, message):
    planted = plant(split)
    with pytest.raises(SplitError, match=message):
        check_split(table, {}, planted)
    with pytest.raises(SplitError, match=message):
        assign_sides(table, {}, planted)


def test_what_is_written_is_read(tmp_path):
    awkward = ["007", "1e5", "NA", "None", "a,b", 'say "x"', "yes/1.png", "ä"]
    table = make_table([("lgg", patient, patient, {"label": True}) for patient in awkward])
    split = split_patients(table, {}, SplitConfig(), 0)
    write_split(split, tmp_path / "split.csv")
    read = read_split(tmp_path / "split.csv")
    check_split(table, {}, read)
    assert sides_of(read) == sides_of(split)
    pd.testing.assert_frame_equal(read, split, check_dtype=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "could not read"),
        (b"source,patient_id\na,p1\n", "no split"),
        (b'source,patient_id,split\n"a,p1', "could not read"),
        (b"\xff\xfe\x00", "could not read"),
        (b"source,patient_id,split\na,p1,train,what,is,this\na,b\n", "Expected"),
    ],
)
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path, content, message):
    (tmp_path / "split.csv").write_bytes(content)
    with pytest.raises(SplitError, match=message) as refused:
        assign_sides(make_table(cohort("a", 3)), {}, read_split(tmp_path / "split.csv"))
    assert "slicewise split" in str(refused.value)


def test_a_missing_file_is_refused_with_the_command(tmp_path):
    with pytest.raises(SplitError, match="slicewise split"):
        read_split(tmp_path / "split.csv")
