import pandas as pd
import pytest

from slicewise.errors import InputError
from slicewise.evaluation.cases import VOLUME_COLUMNS, make_volumes
from slicewise.evaluation.table import REQUIRED, read_cases, read_volumes

from .tables import KINDS, random_cases

HEADER = ",".join(REQUIRED)
GOOD = "a,p,s,1,0.5"


@pytest.fixture
def read(tmp_path):
    def read_text(*lines):
        (tmp_path / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return read_cases(tmp_path / "table.csv")

    return read_text


def test_the_least_table_is_completed(read):
    cases = read(HEADER, "a,p,s,1,0.5", "b,p,s,0,0.4", "c,q,s,,0.9", "d,q,s,1,")
    assert cases.dtypes.astype(str).to_dict() == KINDS
    assert set(cases["model"]) == {"model"}
    assert set(cases["split"]) == {"test"}
    assert set(cases["threshold"]) == {0.5}
    assert cases["study_id"].tolist() == ["p", "p", "q", "q"]
    assert cases["label"].tolist() == [True, False, pd.NA, True]
    assert cases["classification"].tolist() == [True, True, False, True]
    assert cases["is_tumor"].tolist() == [True, False, True, pd.NA]
    assert set(cases["mask_state"]) == {"unknown"}
    assert cases["tp"].isna().all()


def test_what_is_given_is_kept_and_gaps_are_filled(read):
    cases = read(
        HEADER + ",model,split,threshold,is_tumor,study_id,classification",
        GOOD + ",ours,val,0.8,1,s1,0",
        "b,p,s,1,0.5,,,,,,1",
    )
    assert cases["model"].tolist() == ["ours", "model"]
    assert cases["split"].tolist() == ["val", "test"]
    assert cases["threshold"].tolist() == [0.8, 0.5]
    assert cases["is_tumor"].tolist() == [True, True]
    assert cases["study_id"].tolist() == ["s1", "p"]
    assert cases["classification"].tolist() == [False, True]


def test_what_is_left_empty_of_masks_and_labels_follows_by_row(read):
    cases = read(
        HEADER + ",tp,fp,fn,mask_state,predicted_area_px,classification",
        GOOD + ",3,1,2,,,",
        "b,p,s,0,0.5,0,4,0,,4,0",
        "c,q,s,,0.5,,,,present,,",
    )
    assert cases["mask_state"].tolist() == ["present", "empty", "present"]
    assert cases["predicted_area_px"].tolist() == [4, 4, pd.NA]
    assert cases["classification"].tolist() == [True, False, False]
    assert read(HEADER + ",mask_state", GOOD + ",")["mask_state"].tolist() == ["unknown"]


def test_an_answer_left_empty_is_not_no_tumor(read):
    assert read(HEADER + ",is_tumor", GOOD + ",", "b,p,s,0,0.4,1")["is_tumor"].tolist() == [True, True]


def test_masks_follow_from_counts(read):
    cases = read(HEADER + ",tp,fp,fn", GOOD + ",3,1,2", "b,p,s,0,0.5,0,4,0", "c,p,s,0,0.5,,,", "d,p,s,1,0.5,1.0,0,0")
    assert cases["mask_state"].tolist() == ["present", "empty", "unknown", "present"]
    assert cases["reference_area_px"].tolist() == [5, 0, pd.NA, 1]
    assert cases["predicted_area_px"].tolist() == [4, 4, pd.NA, 1]


def test_names_are_text_whatever_they_look_like(read):
    cases = read(HEADER, "007,NA,null,1,0.5", "1e3,0012,nan,0,0.5", "7,12,None,0,0.5")
    assert cases["slice_id"].tolist() == ["007", "1e3", "7"]
    assert cases["patient_id"].tolist() == ["NA", "0012", "12"]
    assert cases["source"].tolist() == ["null", "nan", "None"]


@pytest.mark.parametrize(
    ("word", "label"),
    [("1", True), ("TRUE", True), ("yes", True), ("1.0", True), ("0", False), ("False", False), ("no", False)],
)
def test_labels_in_words(read, word, label):
    assert read(HEADER, f"a,p,s,{word},0.5")["label"].tolist() == [label]


REFUSED = {
    "no required column": (["slice_id,patient_id,source,label", "a,p,s,1"], "found no probability"),
    "no cases": ([HEADER], "at least one case"),
    "nothing at all": ([""], "could not read"),
    "label in other words": ([HEADER, "a,p,s,maybe,0.5"], "0 or 1 in column label .* got 'maybe'"),
    "label of 2": ([HEADER, "a,p,s,2,0.5"], "got '2'"),
    "probability above 1": ([HEADER, GOOD, "b,p,s,1,1.01"], "row 2 has 1.01"),
    "probability below 0": ([HEADER, "b,p,s,1,-0.01"], "row 1 has -0.01"),
    "infinite probability": ([HEADER, "b,p,s,1,inf"], "row 1 has inf"),
    "probability in words": ([HEADER, "b,p,s,1,high"], "numbers in column probability"),
    "raw probability": ([HEADER + ",raw_probability", GOOD + ",3"], "raw_probability from 0 to 1"),
    "repeated slice": ([HEADER, GOOD, "b,p,s,1,0.5", GOOD], "row 3 repeats a"),
    "no slice": ([HEADER, ",p,s,1,0.5"], "slice_id in every row"),
    "no patient": ([HEADER, GOOD, "b,,s,1,0.5"], "patient_id in every row .* row 2"),
    "no source": ([HEADER, "a,p,,1,0.5"], "source in every row"),
    "negative pixels": ([HEADER + ",tp,fp,fn", GOOD + ",1,-1,0"], "pixels in fp .* row 1"),
    "negative true negatives": ([HEADER + ",tp,fp,fn,tn", GOOD + ",1,1,0,-5"], "pixels in tn"),
    "broken pixels": ([HEADER + ",tp,fp,fn", GOOD + ",1.5,1,0"], "whole numbers in column tp .* got '1.5'"),
    "endless pixels": ([HEADER + ",tp,fp,fn", GOOD + ",inf,1,0"], "whole numbers in column tp"),
    "pixels in words": ([HEADER + ",tp,fp,fn", GOOD + ",few,1,0"], "whole numbers in column tp"),
    "some counts in the header": ([HEADER + ",tp,fp", GOOD + ",1,1"], "tp, fp and fn together .* no fn"),
    "some counts in a row": ([HEADER + ",tp,fp,fn", GOOD + ",1,,0"], "tp, fp and fn together .* row 1"),
    "another side": ([HEADER + ",split", GOOD + ",train"], "val or test as split .* row 1 has train"),
    "an outline in an empty mask": (
        [HEADER + ",tp,fp,fn,mask_state", GOOD + ",0,1,0,empty", "b,p,s,1,0.5,0,1,2,empty"],
        "tp and fn of 0 where mask_state is empty .* row 2 .*leave mask_state out",
    ),
    "another state": ([HEADER + ",mask_state", GOOD + ",some"], "as mask_state .* has some"),
    "another unit": ([HEADER + ",distance_unit", GOOD + ",cm"], "mm or px as distance_unit"),
    "too many fields": ([HEADER, "x," + GOOD], "more fields than the header"),
    "quotes left open": ([HEADER, 'a,p,s,1,"0.5'], "could not read"),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_cannot_be_is_refused_with_its_place(read, tmp_path, problem):
    lines, message = REFUSED[problem]
    with pytest.raises(InputError, match=message) as error:
        read(*lines)
    assert str(tmp_path / "table.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_slice_may_come_again_of_another_model_side_or_source(read):
    header = HEADER + ",model,split"
    assert len(read(header, GOOD + ",m,test", GOOD + ",n,test", GOOD + ",m,val", "a,p,t,1,0.5,m,test")) == 4


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="found nothing at"):
        read_cases(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="could not read"):
        read_cases(tmp_path)
    for name in ("noise.csv", "noise.parquet"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x01PAR1\x80")
        with pytest.raises(InputError, match="could not read"):
            read_cases(tmp_path / name)


@pytest.mark.parametrize("seed", [0, 1])
def test_csv_and_parquet_give_equal_cases(tmp_path, seed):
    cases = random_cases(seed, models=("m", "n")).assign(institution=pd.NA, duplicate_group=pd.NA)
    cases.loc[0, "label"] = pd.NA
    cases = cases.astype(KINDS)
    cases.to_csv(tmp_path / "cases.csv", index=False)
    cases.to_parquet(tmp_path / "cases.parquet", index=False)
    found = [read_cases(tmp_path / f"cases.{ending}") for ending in ("csv", "parquet")]
    pd.testing.assert_frame_equal(*found)
    pd.testing.assert_frame_equal(found[1], cases)


def test_parquet_of_other_types_is_read(tmp_path):
    """Whole numbers as names, labels as numbers with gaps, counts as floats."""
    table = pd.DataFrame(
        {"slice_id": [1, 2], "patient_id": [7, 8], "source": "s", "label": [1.0, None], "probability": [0, 1]}
    )
    table.assign(tp=[1.0, None], fp=[0.0, None], fn=[0.0, None]).to_parquet(tmp_path / "t.parquet")
    cases = read_cases(tmp_path / "t.parquet")
    assert cases["patient_id"].tolist() == ["7", "8"]
    assert cases["label"].tolist() == [True, pd.NA]
    assert cases["tp"].tolist() == [1, pd.NA]
    for changes, message in (
        ({"patient_id": ["", "p"]}, "patient_id in every row .* row 1"),
        ({"tp": [1.5, 1], "fp": 0, "fn": 0}, "whole numbers"),
    ):
        table.assign(**changes).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(InputError, match=message):
            read_cases(tmp_path / "t.parquet")


def test_scans_are_read_or_added_up(tmp_path):
    cases = random_cases(2)
    volumes = make_volumes(cases)
    pd.testing.assert_frame_equal(read_volumes(tmp_path / "volumes.parquet", cases), volumes)
    measured = volumes.assign(hausdorff95=1.5, surface_dice=0.5, distance_unit=pd.array(["mm"] * len(volumes), "string"))
    measured.to_parquet(tmp_path / "volumes.parquet")
    found = read_volumes(tmp_path / "volumes.parquet", cases)
    pd.testing.assert_frame_equal(found, measured)
    assert list(found) == list(VOLUME_COLUMNS)
    # As an earlier version wrote it: a scan that is none, and counts of slices whose masks are known alone.
    stranger = measured.head(1).assign(study_id="not in the table of cases")
    pd.concat([measured.assign(tp=0.0, n_slices=1), stranger]).to_parquet(tmp_path / "volumes.parquet")
    pd.testing.assert_frame_equal(read_volumes(tmp_path / "volumes.parquet", cases), measured)
    (tmp_path / "volumes.parquet").write_bytes(b"noise")
    with pytest.raises(InputError, match="could not read"):
        read_volumes(tmp_path / "volumes.parquet", cases)
