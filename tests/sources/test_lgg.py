import re

import numpy as np
import pytest
from PIL import Image

from slicewise.config import SourceConfig
from slicewise.errors import InputError, LabelError, UnreadableFileError
from slicewise.records import MaskState
from slicewise.sources.lgg import find_studies, read_study


def write(root, patient, number, *, tumor, channels=None, mask_shape=(8, 8)):
    folder = root / patient
    folder.mkdir(parents=True, exist_ok=True)
    if channels is None:
        channels = np.stack([np.full((8, 8), value, np.uint8) for value in (10, 20, 30)], axis=-1)
    Image.fromarray(channels).save(folder / f"{patient}_{number}.tif")
    mask = np.zeros(mask_shape, np.uint8)
    mask[2:4, 2:4] = 255 * tumor
    Image.fromarray(mask).save(folder / f"{patient}_{number}_mask.tif")


def read_all(root, **settings):
    studies = find_studies("lgg", SourceConfig(layout="lgg", path=root, **settings))
    return studies, [item for study in studies for item in read_study(study)]


def test_slices_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        write(tmp_path / "kaggle_3m", "TCGA_A", number, tumor=False)
    studies, slices = read_all(tmp_path)
    assert [study.patient_id for study in studies] == ["TCGA_A"]
    assert [item.slice_index for item in slices] == [1, 9, 10]


def test_channels_are_sequences_and_know_what_the_mask_can_tell(tmp_path):
    write(tmp_path, "A", 1, tumor=True)
    write(tmp_path, "A", 2, tumor=False)
    _, slices = read_all(tmp_path, sequences=("t1", "flair", "t1ce"))
    seen = [(item.slice_index, item.sequence, item.image[0, 0], item.label, item.mask_state) for item in slices]
    assert seen == [
        (1, "t1", 10, True, MaskState.UNKNOWN),
        (1, "flair", 20, True, MaskState.PRESENT),
        (1, "t1ce", 30, True, MaskState.UNKNOWN),
        (2, "t1", 10, False, MaskState.EMPTY),
        (2, "flair", 20, False, MaskState.EMPTY),
        (2, "t1ce", 30, False, MaskState.EMPTY),
    ]
    assert slices[1].mask.sum() == 4
    assert slices[0].mask is None


def test_a_channel_that_copies_flair_is_a_missing_sequence(tmp_path):
    copies = np.full((8, 8, 3), 20, np.uint8)
    copies[..., 0] = 10
    write(tmp_path, "A", 1, tumor=False, channels=copies)
    _, slices = read_all(tmp_path, sequences=("t1", "flair", "t1ce"))
    assert [item.sequence for item in slices] == ["t1", "flair"]


def test_one_channel_is_flair(tmp_path):
    write(tmp_path, "A", 1, tumor=True, channels=np.full((8, 8), 7, np.uint8))
    _, slices = read_all(tmp_path, sequences=("t1", "flair"))
    assert [(item.sequence, item.image[0, 0]) for item in slices] == [("flair", 7)]


def test_a_broken_slice_does_not_take_its_patient_along(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path, "A", number, tumor=False)
    (tmp_path / "A" / "A_2.tif").write_bytes(b"broken")
    _, items = read_all(tmp_path)
    assert [type(item).__name__ for item in items] == ["Slice", "UnreadableFileError", "Slice"]
    assert isinstance(items[1], UnreadableFileError)
    assert "A_2.tif" in str(items[1])


def test_what_macos_leaves_behind_is_passed_over(tmp_path):
    write(tmp_path, "A", 1, tumor=True)
    (tmp_path / "A" / "._A_1.tif").write_bytes(b"\0\5\x16\7")
    _, slices = read_all(tmp_path)
    assert [item.slice_index for item in slices] == [1]


def test_a_superscript_in_a_name_is_no_number(tmp_path):
    write(tmp_path, "A", "²_1", tumor=True)
    _, slices = read_all(tmp_path)
    assert [item.slice_index for item in slices] == [1]


def test_mask_of_another_size_and_missing_mask_are_refused(tmp_path):
    write(tmp_path, "A", 1, tumor=True, mask_shape=(9, 8))
    write(tmp_path, "A", 2, tumor=True)
    write(tmp_path, "A", 3, tumor=True)
    (tmp_path / "A" / "A_2_mask.tif").unlink()
    _, (size, missing, intact) = read_all(tmp_path)
    assert isinstance(size, LabelError)
    assert (size.problem, size.file) == ("mask-size", tmp_path / "A" / "A_1_mask.tif")
    assert re.search(r"8 × 8 .* 9 × 8", str(size))
    assert isinstance(missing, LabelError)
    assert (missing.problem, missing.file) == ("missing-mask", tmp_path / "A" / "A_2.tif")
    assert intact.slice_index == 3


@pytest.mark.parametrize("kind", ["absent", "empty", "other"])
def test_no_such_layout_is_refused(tmp_path, kind):
    root = tmp_path / kind
    if kind != "absent":
        root.mkdir()
    if kind == "other":
        (root / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError, match="kaggle_3m") as caught:
        read_all(root)
    assert str(root) in str(caught.value)


def test_no_path_says_how_to_give_one():
    with pytest.raises(InputError, match=r"sources\.lgg\.path=FOLDER"):
        find_studies("lgg", SourceConfig(layout="lgg"))


def test_a_sequence_that_the_set_lacks_is_refused(tmp_path):
    write(tmp_path, "A", 1, tumor=False)
    with pytest.raises(InputError, match="t2"):
        read_all(tmp_path, sequences=("t2",))


def test_real_set_has_the_published_counts(shared_data):
    studies = find_studies("lgg", SourceConfig(layout="lgg", path=shared_data / "lgg"))
    assert len(studies) == 80
    assert sum(len(study.files) for study in studies) == 2 * 2931  # slices and masks
    first = list(read_study(studies[0]))
    assert {item.label for item in first} == {True, False}
    assert first[0].image.shape == (256, 256)
