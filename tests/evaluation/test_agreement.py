import math

import pandas as pd
import pytest
from scipy.stats import t as student

from slicewise.evaluation.agreement import bland_altman
from slicewise.evaluation.metrics import Tables, dice_by_patient, measure

from .tables import make_table


def patients(predicted, reference, **changes):
    columns = {"predicted_ml": predicted, "reference_ml": reference}
    return pd.DataFrame(columns | {"predicted_px": [1.0] * len(predicted), "reference_px": [1.0] * len(predicted)} | changes)


def test_by_hand():
    """Differences 1, -1, 3, 1: mean 1, squares of deviations 0, 4, 4, 0, standard deviation √(8/3)."""
    found = bland_altman(patients([11.0, 19.0, 33.0, 41.0], [10.0, 20.0, 30.0, 40.0]))
    deviation, quantile = math.sqrt(8 / 3), student.ppf(0.975, 3)
    assert (found["unit"], found["n_patients"]) == ("ml", 4)
    assert found["bias"]["value"] == 1
    assert found["bias"]["high"] - 1 == pytest.approx(quantile * deviation / 2)
    assert found["upper_limit"]["value"] == pytest.approx(1 + 1.96 * deviation)
    assert found["lower_limit"]["value"] == pytest.approx(1 - 1.96 * deviation)
    reach = quantile * deviation * math.sqrt(3 / 4)
    for limit in ("lower_limit", "upper_limit"):
        value = found[limit]["value"]
        assert (found[limit]["low"], found[limit]["high"]) == pytest.approx((value - reach, value + reach))
    assert found["points"][2] == {"mean": 31.5, "difference": 3.0}
    assert len(found["points"]) == 4


def test_published_limits_of_peak_flow_meters():
    """Bland and Altman 1986, large and mini meter of 17 subjects: bias -2.1, standard deviation 38.8, limits -79.7 and 75.5
    with a factor of 2; intervals of the bias -22.0 to 17.8.
    """
    large = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    found = bland_altman(patients([float(value) for value in large], [float(value) for value in mini]))
    assert found["bias"]["value"] == pytest.approx(-2.1, abs=0.05)
    assert found["bias"]["low"] == pytest.approx(-22.0, abs=0.1)
    assert found["bias"]["high"] == pytest.approx(17.8, abs=0.1)
    assert (found["upper_limit"]["value"] - found["bias"]["value"]) / 1.96 == pytest.approx(38.8, abs=0.05)


def test_one_unknown_spacing_makes_all_pixels():
    table = patients([11.0, math.nan], [10.0, math.nan], predicted_px=[5.0, 7.0], reference_px=[4.0, 4.0])
    found = bland_altman(table)
    assert (found["unit"], found["bias"]["value"]) == ("px", 2)
    without = bland_altman(pd.concat([patients([11.0, 12.0], [10.0, 10.0]), table.tail(1).assign(reference_px=math.nan)]))
    assert (without["unit"], without["n_patients"]) == ("ml", 2)


def test_fewer_than_two_patients_do_not_agree_or_disagree():
    assert bland_altman(patients([1.0], [1.0])) is None
    assert bland_altman(patients([], [])) is None


def test_patients_in_whom_rightly_nothing_is_marked_take_part():
    """Six tumors measured without bias, four free patients without a mask, one with 60 px: 60 / 11, not 60 / 7."""
    cases = make_table(
        [{"counts": (100 + n, 5, 5)} for n in range(6)] + [{"counts": (0, 0, 0)}] * 4 + [{"counts": (0, 60, 0)}]
    )
    tables = Tables.of(cases)
    found = bland_altman(tables.patients)
    assert (found["unit"], found["n_patients"]) == ("px", 11)
    assert found["bias"]["value"] == pytest.approx(60 / 11)
    assert found["points"].count({"mean": 0, "difference": 0}) == 4
    # A Dice they have not, and none of its figures counts them.
    assert measure(tables)["volume_dice"] == (pytest.approx(sum(1 / (1 + 5 / (100 + n)) for n in range(6)) / 7), 7, 7)
    assert len(dice_by_patient(cases)) == tables.patients["volume_dice"].notna().sum() == 7


def test_equal_volumes_have_no_spread():
    found = bland_altman(patients([3.0, 5.0, 8.0], [3.0, 5.0, 8.0]))
    for part in ("bias", "lower_limit", "upper_limit"):
        assert found[part] == {"value": 0, "low": 0, "high": 0}
