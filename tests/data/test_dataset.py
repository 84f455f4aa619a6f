from collections import Counter
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.config import AugmentationConfig, SourceConfig, TrainingConfig
from slicewise.data.augment import augment
from slicewise.data.dataset import Epoch, Share, Targets, count_steps, draw_epoch, find_targets, load_batch
from slicewise.data.store import COLUMNS, StoreWriter
from slicewise.errors import InputError, TrainingError


def make_table(rows):
    """A table of slices given as (source, label, mask state)."""
    table = pd.DataFrame(rows, columns=["source", "label", "mask_state"]).assign(sequence="flair")
    return table.astype({name: COLUMNS[name] for name in table})


def cohort(**sizes):
    """Targets of slices given as source_label=count; sources whose name ends in m have masks."""
    rows = []
    for name, count in sizes.items():
        source, label = name.split("_")
        state = "empty" if label == "free" else "present" if source.endswith("m") else "unknown"
        rows += [(source, label == "tumor", state)] * count
    sources = {name: SourceConfig(layout="lgg") for name, *_ in rows}
    return find_targets(make_table(rows), sources), np.arange(len(rows))


@pytest.mark.parametrize(("segmentation", "classification"), list(product([True, False], repeat=2)))
@pytest.mark.parametrize(
    ("label", "state", "teaches_mask", "teaches_label"),
    [
        (True, "present", True, True),
        (True, "unknown", False, True),
        (False, "empty", True, True),
        (False, "unknown", False, True),
        (None, "unknown", False, False),
        (None, "empty", True, False),
        (None, "present", True, False),
    ],
)
def test_the_label_contract(label, state, teaches_mask, teaches_label, segmentation, classification):
    source = SourceConfig(layout="lgg", segmentation=segmentation, classification=classification)
    targets = find_targets(make_table([("a", label, state)]), {"a": source})
    assert targets.mask_known.tolist() == [teaches_mask and segmentation]
    assert targets.label_known.tolist() == [teaches_label and classification]
    assert targets.label.tolist() == [label is True]


def test_a_source_that_is_not_configured_is_refused_by_name():
    rows = [("a", True, "present"), ("b", True, "present")]
    with pytest.raises(InputError, match="also holds b"):
        find_targets(make_table(rows), {"a": SourceConfig(layout="lgg")})


def test_a_sources_settings_are_its_own():
    rows = [("a", True, "present"), ("b", True, "present"), ("c", True, "unknown"), ("c", False, "empty")]
    sources = {
        "c": SourceConfig(layout="labelled_folders"),
        "b": SourceConfig(layout="brisc", classification=False),
        "a": SourceConfig(layout="lgg", segmentation=False),
    }
    targets = find_targets(make_table(rows), sources)
    assert targets.mask_known.tolist() == [False, True, False, True]
    assert targets.label_known.tolist() == [True, False, True, True]
    # An empty mask is no mask of a tumor: the yes/no pictures do not count as masked.
    # Nor do masks that must not teach.
    assert targets.outlined.tolist() == [False, True, False, False]
    assert targets.group.tolist() == ["a/flair", "b/flair", "c/flair", "c/flair"]


@settings(deadline=None, max_examples=80)
@given(
    sizes=st.dictionaries(
        st.sampled_from(["am_tumor", "am_free", "bm_tumor", "c_tumor", "c_free"]), st.integers(1, 40), min_size=1
    ),
    total=st.none() | st.integers(2, 300),
    masked=st.floats(0.01, 0.99),
    tumor=st.floats(0.01, 0.99),
    number=st.integers(0, 99),
)
def test_an_epoch_has_its_length_and_only_rows_that_may_be_drawn(sizes, total, masked, tumor, number):
    targets, every = cohort(**sizes)
    rows = every[:: 2 if len(every) > 3 else 1]
    config = TrainingConfig(epoch_slices=total, masked_fraction=masked, tumor_fraction=tumor)
    order = draw_epoch(rows, targets, config, (number, 0))
    assert len(order) == (total or len(rows))
    assert set(order) <= set(rows)


def test_the_draw_follows_from_the_key_alone():
    targets, rows = cohort(am_tumor=30, am_free=50, c_tumor=20, c_free=20)
    config = TrainingConfig()
    first, again, next_epoch, other_seed = (
        draw_epoch(rows, targets, config, key) for key in [(1, 0), (1, 0), (1, 1), (2, 0)]
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_epoch)
    assert not np.array_equal(first, other_seed)


@settings(deadline=None, max_examples=25)
@given(number=st.integers(0, 10**6))
def test_fractions_hold_in_the_epoch_and_nearly_in_every_batch(number):
    targets, rows = cohort(am_tumor=40, am_free=200, bm_tumor=120, c_tumor=90, c_free=50)
    config = TrainingConfig(masked_fraction=0.75, tumor_fraction=0.4, epoch_slices=800, batch_size=16)
    order = draw_epoch(rows, targets, config, (number,))
    of_source = Counter(targets.group[order].tolist())
    tumor = Counter(targets.group[order[targets.label[order]]].tolist())
    # 600 masked ones in proportion 240 to 120, 200 others; b has nothing but tumors.
    assert of_source == {"am/flair": 400, "bm/flair": 200, "c/flair": 200}
    assert tumor == {"am/flair": 160, "bm/flair": 200, "c/flair": 80}
    for batch in order.reshape(-1, 16):
        assert abs(targets.outlined[batch].sum() - 12) <= 3
        assert abs(targets.label[batch].sum() - 16 * 440 / 800) <= 4


def test_without_two_kinds_of_source_the_masked_fraction_does_not_apply():
    config = TrainingConfig(masked_fraction=0.3, tumor_fraction=0.5, epoch_slices=100)
    for sizes in ({"am_tumor": 20, "am_free": 80}, {"c_tumor": 20, "c_free": 80}):
        targets, rows = cohort(**sizes)
        order = draw_epoch(rows, targets, config, (0,))
        assert targets.label[order].sum() == 50


def test_sources_of_one_kind_can_be_drawn_alike_and_kinds_as_they_come():
    targets, rows = cohort(am_tumor=40, am_free=200, bm_tumor=60, c_tumor=50, c_free=50)
    drawn = {}
    for balance, fraction in ((0.0, 0.75), (0.5, 0.75), (1.0, 0.75), (0.0, None)):
        config = TrainingConfig(source_balance=balance, masked_fraction=fraction, epoch_slices=400)
        order = draw_epoch(rows, targets, config, (0,))
        drawn[balance, fraction] = Counter(targets.group[order].tolist())
    assert drawn[0.0, 0.75] == {"am/flair": 240, "bm/flair": 60, "c/flair": 100}
    assert drawn[0.5, 0.75] == {"am/flair": 200, "bm/flair": 100, "c/flair": 100}  # as the roots of 240 and 60
    assert drawn[1.0, 0.75] == {"am/flair": 150, "bm/flair": 150, "c/flair": 100}
    assert drawn[0.0, None] == {"am/flair": 240, "bm/flair": 60, "c/flair": 100}


def test_a_sequence_whose_tumors_are_not_outlined_is_drawn_with_those_that_know_yes_or_no():
    rows = [("a", True, "present"), ("a", False, "empty"), ("a", True, "unknown"), ("a", False, "empty")]
    table = make_table(rows * 10).assign(sequence=["flair", "flair", "t1", "t1"] * 10)
    targets = find_targets(table, {"a": SourceConfig(layout="lgg")})
    assert targets.outlined.tolist() == [True, True, False, False] * 10
    config = TrainingConfig(masked_fraction=0.8, tumor_fraction=0.5, epoch_slices=100)
    order = draw_epoch(np.arange(40), targets, config, (0,))
    drawn = Counter(zip(targets.group[order].tolist(), targets.label[order].tolist(), strict=True))
    assert drawn == {("a/flair", True): 40, ("a/flair", False): 40, ("a/t1", True): 10, ("a/t1", False): 10}


@settings(deadline=None, max_examples=25)
@given(number=st.integers(0, 10**6), total=st.integers(20, 400))
def test_every_row_of_a_stratum_is_used_before_one_repeats(number, total):
    targets, rows = cohort(am_tumor=7, am_free=60, c_tumor=11, c_free=5)
    order = draw_epoch(rows, targets, TrainingConfig(epoch_slices=total), (number,))
    for source, label in product(("am", "c"), (True, False)):
        of_stratum = (targets.group == f"{source}/flair") & (targets.label == label)
        drawn, size = order[of_stratum[order]], of_stratum.sum()
        for start in range(0, len(drawn), size):
            block = drawn[start : start + size]
            assert len(set(block)) == len(block)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Nine slices: tumor with a mask, tumor without, tumor-free, in turn."""
    random = np.random.default_rng(0)
    images = random.normal(size=(9, 256, 256)).astype(np.float16)
    masks = np.zeros((9, 256, 256), bool)
    masks[0::3, 60:100, 70:130] = True
    rows = [
        dict.fromkeys(COLUMNS)
        | {"slice_id": f"{index}", "source": "a", "patient_id": f"{index}", "study_id": "s", "slice_index": index}
        | {"label": index % 3 != 2, "mask_state": ("present", "unknown", "empty")[index % 3]}
        | {"reference_area_px": int(masks[index].sum()), "foreground_share": 1.0, "height_px": 256, "width_px": 256}
        for index in range(9)
    ]
    writer = StoreWriter(tmp_path_factory.mktemp("data") / "store", "plan")
    writer.append("a", "s", images, masks, rows, [])
    return writer.finish([("a", "s")])


@pytest.fixture(scope="module")
def targets(store) -> Targets:
    return find_targets(store.table, {"a": SourceConfig(layout="lgg")})


def test_a_batch_says_what_is_known(store, targets):
    batch = load_batch(store, targets, np.array([4, 0, 8]))
    assert batch.images.shape == batch.masks.shape == (3, 1, 256, 256)
    assert {batch.images.dtype, batch.masks.dtype, batch.labels.dtype} == {torch.float32}
    assert np.array_equal(batch.images[:, 0].numpy(), store.images[[4, 0, 8]].astype(np.float32))
    assert batch.mask_known.tolist() == [False, True, True]
    assert batch.masks.sum(dim=(1, 2, 3)).tolist() == [0, 40 * 60, 0]
    assert batch.labels.tolist() == [1, 1, 0]
    assert batch.label_known.tolist() == [True, True, True]


def test_an_unknown_label_is_zero_and_not_known(store):
    targets = find_targets(store.table.assign(label=pd.NA), {"a": SourceConfig(layout="lgg")})
    batch = load_batch(store, targets, np.array([0, 1]))
    assert batch.labels.tolist() == [0, 0]
    assert batch.label_known.tolist() == [False, False]


def test_a_sample_does_not_depend_on_the_batch_it_is_in(store, targets):
    order = np.array([8, 3, 0, 1, 5, 3, 7, 2])
    runs = {}
    for size in (1, 2, 4, 8):
        parts = list(Epoch(store, targets, order, TrainingConfig(batch_size=size), AugmentationConfig(), (5, 2, 0)))
        runs[size] = [torch.cat([getattr(part, name) for part in parts]) for name in ("images", "masks", "labels")]
    for size in (1, 2, 4):
        for name, found, expected in zip(("images", "masks", "labels"), runs[size], runs[8], strict=True):
            assert torch.equal(found, expected), (name, size)
    # The same slice at another place is another sample.
    assert not torch.equal(runs[8][0][1], runs[8][0][5])


def test_processes_share_each_batch_and_an_interrupted_epoch_goes_on(store, targets):
    order, config = np.array([8, 3, 0, 1, 5, 3, 7, 2, 4]), TrainingConfig(batch_size=4)
    whole = list(Epoch(store, targets, order, config, AugmentationConfig(), (5, 2, 0)))
    assert [len(batch.images) for batch in whole] == [4, 4]
    for rank in (0, 1):
        parts = list(Epoch(store, targets, order, config, AugmentationConfig(), (5, 2, 0), share=Share(rank, 2)))
        for part, batch in zip(parts, whole, strict=True):
            assert torch.equal(part.images, batch.images[rank::2])
            assert torch.equal(part.labels, batch.labels[rank::2])
    second = Epoch(store, targets, order, config, AugmentationConfig(), (5, 2, 0))[1]
    assert torch.equal(second.images, whole[1].images)


def test_the_key_of_a_sample_is_the_epochs_and_its_place(store, targets):
    order = np.array([0, 3, 6, 1])
    parts = list(Epoch(store, targets, order, TrainingConfig(batch_size=2), AugmentationConfig(), (5, 2, 7)))
    plain = load_batch(store, targets, order[2:])
    images, masks = augment(plain.images, plain.masks, AugmentationConfig(), [(5, 2, 7, 2), (5, 2, 7, 3)])
    assert torch.equal(parts[1].images, images)
    assert torch.equal(parts[1].masks, masks)


@pytest.mark.parametrize(("count", "sizes"), [(6, [3, 3]), (7, [3, 3]), (8, [3, 3]), (3, [3]), (2, [2])])
def test_a_last_batch_that_is_not_whole_is_left_out(store, targets, count, sizes):
    parts = Epoch(store, targets, np.arange(count), TrainingConfig(batch_size=3), AugmentationConfig(), (0,))
    assert [len(part.images) for part in parts] == sizes
    assert count_steps(count, TrainingConfig(batch_size=3)) == len(sizes)


@pytest.mark.parametrize("count", [0, 1])
def test_an_epoch_of_fewer_than_two_slices_is_refused(store, targets, count):
    with pytest.raises(TrainingError, match=f"got {count}"):
        Epoch(store, targets, np.arange(count), TrainingConfig(), AugmentationConfig(), (0,))
