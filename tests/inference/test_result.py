import json
from dataclasses import replace

import numpy as np
import pytest

from slicewise.errors import InputError
from slicewise.inference.record import ScanRecord
from slicewise.inference.result import Result, word_extent
from slicewise.records import Concern, Scan


def make(count=3, mask_px=6, **changes):
    """Slices of 4 × 6, of which the second is the most probable and carries the mask."""
    masks = np.zeros((count, 4, 6), np.bool_)
    masks[min(1, count - 1)].ravel()[:mask_px] = True
    probabilities = np.array([0.2, 0.9, 0.6][:count])
    scan = Scan(np.zeros((count, 4, 6), np.float32), "array", "case", **changes.pop("scan", {}))
    facts = {
        "scan": scan,
        "probabilities": probabilities,
        "raw_probabilities": probabilities**2,
        "is_tumor": probabilities >= 0.5,
        "masks": masks,
        "threshold": 0.5,
        "model_id": "0123456789ab",
        "engine": "torch",
    }
    return Result(**(facts | changes))


def test_a_volume_is_as_probable_as_its_most_probable_slice():
    result = make(uncertainties=np.array([0.1, 0.2, 0.3]))
    assert (result.probability, result.raw_probability, result.uncertainty) == (0.9, 0.81, 0.2)


def test_extents_are_known_only_where_the_spacing_is():
    spacing = {"spacing_mm": (0.5, 2.0)}
    assert (make().area_mm2, make().volume_ml) == (None, None)
    assert make(scan=spacing).volume_ml is None
    assert make(scan=spacing | {"slice_spacing_mm": 5.0}).volume_ml == pytest.approx(6 * 5 / 1000)
    assert make(1, scan=spacing, is_tumor=np.array([True])).area_mm2 == 6.0
    assert make(1, is_tumor=np.array([True])).area_mm2 is None


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({}, "tumor"),
        ({"mask_px": 0}, "tumor, not localized"),
        ({"mask_px": 0, "segmented": False}, "tumor"),
        ({"mask_px": 0, "is_tumor": np.zeros(3, np.bool_)}, "no tumor"),
        ({"mask_px": 0, "is_tumor": np.zeros(3, np.bool_), "abstained": True}, "abstained"),
    ],
)
def test_the_decision_in_words(changes, decision):
    assert make(**changes).decision == decision


def test_its_text_says_what_a_person_asks_first():
    concern = Concern("color", "Expected gray.")
    result = make(scan={"spacing_mm": (1.0, 1.0), "slice_spacing_mm": 500.0}, concerns=(concern,))
    text = "<case: tumor (probability 0.900, threshold 0.500, 2 of 3 slices, 3.00 ml, concern: color; model 0123456789ab)>"
    assert repr(result) == text
    assert "6 pixels" in repr(make(1))
    assert "2 of 3 slices; model" in repr(make(mask_px=0, segmented=False))


@pytest.mark.parametrize(
    ("extent", "words"),
    [
        ({"mask_px": 0, "volume_ml": 0.0}, "0.00 ml"),
        ({"mask_px": 4, "volume_ml": 0.0049}, "< 0.01 ml"),
        ({"mask_px": 5, "volume_ml": 0.005}, "0.01 ml"),
        ({"mask_px": 812, "volume_ml": 41.074}, "41.07 ml"),
        ({"mask_px": 0, "area_mm2": 0.0}, "0 mm²"),
        ({"mask_px": 1, "area_mm2": 0.49}, "< 1 mm²"),
        ({"mask_px": 1, "area_mm2": 0.51}, "1 mm²"),
        ({"mask_px": 9999, "area_mm2": 1234.4}, "1,234 mm²"),
        ({"mask_px": 5000}, "5,000 pixels"),
        ({"mask_px": 5000, "slices": 2}, "5,000 voxels"),
    ],
)
def test_an_extent_has_the_best_unit_that_is_known_and_is_not_none_where_it_is_tiny(extent, words):
    assert word_extent(**({"slices": 1, "area_mm2": None, "volume_ml": None} | extent)) == words


def test_a_tiny_lesion_is_not_none():
    spacing = {"spacing_mm": (0.9, 0.9), "slice_spacing_mm": 3.0}
    assert "< 0.01 ml;" in repr(make(mask_px=1, scan=spacing))
    assert "0.00 ml;" in repr(make(mask_px=0, scan=spacing))


def test_a_record_tells_of_no_mask_where_none_was_looked_for():
    record = ScanRecord.of(make(mask_px=0, segmented=False), {})
    assert (record.mask_px, record.area_mm2, record.volume_ml) == (None, None, None)
    assert ScanRecord.of(make(), {}).mask_px == 6
    assert ScanRecord.of(make(), {}).most_probable_slice == 1


def test_saving_leaves_pictures_and_a_record_of_them(tmp_path):
    files = make(1, is_tumor=np.array([True])).save(tmp_path / "out")
    assert sorted(file.name for file in files) == ["case_mask.png", "case_overlay.png", "case_scan.json"]
    record = json.loads((tmp_path / "out" / "case_scan.json").read_text())
    assert set(record["outputs"]) == {"case_mask.png", "case_overlay.png"}
    assert [file.name for file in make().save(tmp_path)] == ["case_montage.png", "case_scan.json"]


def test_saving_keeps_why_a_usual_format_is_missing(tmp_path):
    result = make()
    lost = replace(result, scan=replace(result.scan, kind="dicom"))
    assert [file.name for file in lost.save(tmp_path)] == ["case_montage.png", "case_scan.json"]
    (note,) = json.loads((tmp_path / "case_scan.json").read_text())["notes"]
    assert "where they lie in the patient" in note
    assert note.endswith("Its mask is in a picture alone.")
    result.save(tmp_path)
    assert json.loads((tmp_path / "case_scan.json").read_text())["notes"] == []


def test_a_format_that_cannot_be_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="dicom-seg"):
        make().save(tmp_path / "out", ["dicom-seg"])
    assert not (tmp_path / "out").exists()
