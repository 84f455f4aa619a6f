import pandas as pd
import pytest

from slicewise.evaluation.intervals import Sample
from slicewise.evaluation.metrics import measure
from slicewise.evaluation.subgroups import FEWEST_PATIENTS, SHOWN, assess_subgroups, name_worst

from .tables import make_table

SAMPLE = Sample(resamples=50)


def groups_of(cases):
    return assess_subgroups(make_table(cases), SAMPLE)


def names(groups, dimension):
    return [group.name for group in groups if group.dimension == dimension]


def sourced(source, count, right):
    return [{"source": source, "label": True, "is_tumor": number < right} for number in range(count)]


def test_groups_are_measured_each_on_its_own():
    cases = sourced("x", 4, 1) + sourced("y", 6, 6)
    groups = groups_of(cases)
    assert names(groups, "source") == ["x", "y"]
    for group in groups:
        table = make_table(cases)
        figures = measure(table[table["source"] == group.name])
        assert tuple(group.estimates) == SHOWN
        assert group.estimates["accuracy"].figure == figures["accuracy"]
        assert (group.n_slices, group.n_patients) == ((4, 4) if group.name == "x" else (6, 6))


def test_false_masks_count_in_groups_without_a_tumor():
    """One source: 12 axial slices with a Dice of 160 / 180, 12 coronal ones without tumor, every second with a mask."""
    cases = [{"plane": "axial", "counts": (80, 10, 10), "label": True} for _ in range(12)]
    cases += [{"plane": "coronal", "counts": (0, 50 * (number % 2), 0), "label": False} for number in range(12)]
    assert measure(make_table(cases))["slice_dice"].value == pytest.approx(12 * 160 / 180 / 18)
    dice = {group.name: group.estimates["slice_dice"].figure for group in groups_of(cases) if group.dimension == "plane"}
    assert dice == {"axial": (pytest.approx(160 / 180), 12, 12), "coronal": (0, 6, 6)}


def test_what_has_one_value_or_none_is_no_dimension():
    assert groups_of([{"label": True, "plane": "axial"}, {"label": True, "plane": "unknown"}, {"label": False}]) == []


def test_unknown_planes_and_sequences_are_no_group():
    cases = [{"label": True, "plane": plane, "sequence": "unknown"} for plane in ("axial", "coronal", "unknown", None)]
    groups = groups_of(cases)
    assert names(groups, "plane") == ["axial", "coronal"]
    assert names(groups, "sequence") == []


def test_tumors_are_divided_into_thirds_by_size():
    areas = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    groups = [
        group
        for group in groups_of(
            [{"label": True, "counts": (area, 0, 0)} for area in reversed(areas)] + [{"counts": (0, 1, 0)}]
        )
        if group.dimension == "lesion size"
    ]
    assert [group.n_slices for group in groups] == [3, 3, 3]
    assert [group.name for group in groups] == ["small, up to 30 px", "medium, up to 60 px", "large, above 60 px"]


def test_places_are_divided_into_thirds():
    places = [0, 0.33, 0.34, 0.6, 0.67, 1.0, None]
    cases = make_table([{"label": True}] * 7).assign(slice_position=pd.array(places, "float64"))
    groups = [group for group in assess_subgroups(cases, SAMPLE) if group.dimension == "slice position"]
    assert [group.name for group in groups] == ["first third", "middle third", "last third"]
    assert [group.n_slices for group in groups] == [2, 2, 2]


def test_the_worst_group_is_the_one_planted():
    cases = sourced("good", 12, 12) + sourced("bad", 12, 3) + sourced("middling", 12, 8)
    worst = name_worst([group.to_json() for group in groups_of(cases)])
    assert worst == [{"dimension": "source", "name": "bad", "metric": "accuracy", "best": "good"}]


def test_few_patients_are_an_example_and_never_the_worst():
    cases = sourced("good", 12, 12) + sourced("few", FEWEST_PATIENTS - 1, 0) + sourced("bad", FEWEST_PATIENTS, 3)
    (worst,) = name_worst([group.to_json() for group in groups_of(cases)])
    assert worst["name"] == "bad"
    assert name_worst([group.to_json() for group in groups_of(sourced("good", 12, 12) + sourced("few", 9, 0))]) == []


def test_dice_is_compared_before_accuracy_where_both_groups_have_it():
    """By Dice b is worse, by accuracy a."""
    cases = [{"source": "a", "counts": (9, 1, 1), "label": True, "is_tumor": False} for _ in range(10)]
    cases += [{"source": "b", "counts": (1, 9, 9), "label": True, "is_tumor": True} for _ in range(10)]
    worst = name_worst([group.to_json() for group in groups_of(cases) if group.dimension == "source"])
    assert worst == [{"dimension": "source", "name": "b", "metric": "slice_dice", "best": "a"}]


def test_a_figure_of_few_patients_of_a_large_group_is_not_ranked():
    """Of twelve patients of c one has an outlined tumor: its Dice of 0 is no reason to call c the worst, its accuracy is."""
    cases = [{"source": source, "counts": (9, 1, 1), "label": True} for source in "ab" for _ in range(10)]
    cases += [{"source": "c", "counts": (0, 0, 9), "label": True}]
    cases += [{"source": "c", "label": True, "is_tumor": False} for _ in range(11)]
    cases[0] |= {"counts": (1, 9, 9)}
    groups = [group.to_json() for group in groups_of(cases) if group.dimension == "source"]
    assert name_worst(groups) == [{"dimension": "source", "name": "a", "metric": "slice_dice", "best": "b"}]
    without_masks = [{name: value for name, value in case.items() if name != "counts"} for case in cases]
    worst = name_worst([group.to_json() for group in groups_of(without_masks) if group.dimension == "source"])
    assert [(entry["name"], entry["metric"]) for entry in worst] == [("c", "accuracy")]


def test_json_has_all_shown_figures_with_intervals():
    plain = groups_of(sourced("x", 4, 1) + sourced("y", 6, 6))[0].to_json()
    assert list(plain) == ["dimension", "name", "n_slices", "n_patients", "figures"]
    assert tuple(plain["figures"]) == SHOWN
    assert plain["figures"]["accuracy"]["value"] == pytest.approx(0.25)
    assert plain["figures"]["roc_auc"]["value"] is None
