import pandas as pd
import pytest

from slicewise.evaluation.comparison import Assessed, compare_models
from slicewise.evaluation.intervals import Resampling, Sample
from slicewise.evaluation.mask_pairs import pair_masks
from slicewise.evaluation.metrics import Tables

from .tables import make_table


def cases(counts, **changes):
    rows = [{"patient_id": f"p{n}", "slice_id": f"s{n}", "label": bool(one[0] + one[2])} for n, one in enumerate(counts)]
    return make_table([row | {"counts": one} | changes for row, one in zip(rows, counts, strict=True)])


OURS = cases([(4, 0, 0), (3, 1, 1), (0, 0, 0), (0, 0, 0)], model="ours")
THEIRS = cases([(4, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 0)], model="theirs")


@pytest.mark.parametrize("metric", ["slice_dice", "volume_dice"])
def test_a_false_mask_of_one_model_is_a_wrong_one_against_a_right_none(metric):
    pairs = pair_masks(Tables.of(OURS), Tables.of(THEIRS), metric).set_index("patient_id")
    assert pairs["ours"].to_dict() == {"p0": 1, "p1": 0.75, "p2": 1}
    assert pairs["theirs"].to_dict() == {"p0": 1, "p1": 1, "p2": 0}
    assert pairs["n_slices"].tolist() == [1, 1, 1]


def test_models_with_and_without_a_false_mask_are_compared():
    resampling = Resampling(pd.concat([OURS, THEIRS]), Sample(resamples=1000))
    tables = {"ours": Tables.of(OURS), "theirs": Tables.of(THEIRS)}
    models = {name: Assessed(one, resampling.estimate(one)) for name, one in tables.items()}
    (entry,) = compare_models(models, "ours", resampling, 0.01, 0.95)
    difference = entry["differences"]["volume_dice"]
    assert difference["value"] == pytest.approx((0 - 0.25 + 1) / 3)
    assert (difference["n_slices"], difference["n_patients"]) == (3, 3)
    assert any(test["metric"] == "volume_dice" and test["n_patients"] == 3 for test in entry["tests"])
