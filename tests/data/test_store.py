import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slicewise.data import store as store_module
from slicewise.data.store import COLUMNS, SliceStore, StoreWriter
from slicewise.errors import InputError

NAMES = ("a", "b", "c")
ORDER = [("lgg", name) for name in NAMES]
NOTHING = (np.zeros((0, 256, 256), np.float16), np.zeros((0, 256, 256), bool), [])


def study(name):
    """Two or three slices that follow from the name, as `StoreWriter.append` takes them."""
    random = np.random.default_rng(ord(name))
    count = 2 + ord(name) % 2
    images = random.normal(size=(count, 256, 256)).astype(np.float16)
    masks = random.random((count, 256, 256)) < 0.1
    row = dict.fromkeys(COLUMNS) | {"source": "lgg", "patient_id": f"p{name}", "study_id": name, "label": True}
    row |= {"mask_state": "present", "foreground_share": 0.5, "height_px": 256, "width_px": 256}
    rows = [
        row | {"slice_id": f"lgg/{name}/{index}", "slice_index": index, "reference_area_px": int(masks[index].sum())}
        for index in range(count)
    ]
    return "lgg", name, images, masks, rows, [{"study": f"lgg/{name}", "reason": f"one of {name} is broken"}]


def build(folder, arrival=NAMES, plan="plan"):
    writer = StoreWriter(folder, plan)
    for name in arrival:
        if ("lgg", name) not in writer.done:
            writer.append(*study(name))
    return writer.finish(ORDER)


def die_at(point, folder):
    """Run in a process of its own: end it, as by a power cut, at one point of the ingest."""

    def die(*_):
        os._exit(9)

    name = "_reorder" if point == "sorted masks.u1" else "_append"
    write = getattr(store_module, name)
    writer = StoreWriter(Path(folder), "plan")
    writer.append(*study("c"))
    setattr(store_module, name, lambda file, *rest: die() if point.endswith(file.name) else write(file, *rest))
    writer.append(*study("b"))
    writer.append(*study("a"))
    writer.finish(ORDER)


def content(store):
    return {file.name: file.read_bytes() for file in sorted(store.folder.iterdir())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return build(tmp_path_factory.mktemp("whole") / "store")


@pytest.fixture
def copy(finished, tmp_path):
    """A store of its own, to be damaged."""
    folder = tmp_path / "store"
    folder.mkdir()
    for name, data in content(finished).items():
        (folder / name).write_bytes(data)
    return folder


def test_what_was_appended_is_read(finished):
    images, masks = (np.concatenate([study(name)[part] for name in NAMES]) for part in (2, 3))
    reopened = SliceStore(finished.folder)
    assert len(reopened) == 8
    assert np.array_equal(reopened.images, images)
    assert np.array_equal(reopened.masks(range(8)), masks)
    assert np.array_equal(reopened.masks([7, 0]), masks[[7, 0]])
    counts = {"a": 3, "b": 2, "c": 3}
    assert reopened.table["slice_id"].tolist() == [f"lgg/{name}/{i}" for name in NAMES for i in range(counts[name])]
    assert reopened.table["reference_area_px"].tolist() == masks.sum(axis=(1, 2)).tolist()
    assert {name: str(kind) for name, kind in reopened.table.dtypes.items()} == COLUMNS
    assert reopened.description["slices"] == 8
    assert reopened.description["patients"] == 3
    assert [item["study"] for item in reopened.description["skipped"]] == ["lgg/a", "lgg/b", "lgg/c"]
    assert not finished.folder.with_name("store.partial").exists()


def test_a_store_is_read_only(finished):
    with pytest.raises(ValueError, match="read-only"):
        finished.images[0, 0, 0] = 1


@pytest.mark.parametrize("arrival", ["cba", "bca"])
def test_the_order_of_arrival_does_not_matter(finished, tmp_path, arrival):
    assert content(build(tmp_path / "store", arrival)) == content(finished)


def test_other_pixels_are_another_fingerprint(finished, tmp_path):
    source, name, images, masks, rows, skipped = study("a")
    masks[1, 5, 5] ^= True
    writer = StoreWriter(tmp_path / "store", "plan")
    writer.append(source, name, images, masks, rows, skipped)
    for other in "bc":
        writer.append(*study(other))
    assert writer.finish(ORDER).fingerprint != finished.fingerprint


def test_a_flipped_bit_is_found(copy):
    assert SliceStore(copy).check_pixels() is None
    for name, row, size in (("images.f16", 2, 256 * 256 * 2), ("masks.u1", 5, 256 * 256 // 8)):
        data = bytearray((copy / name).read_bytes())
        data[row * size + 17] ^= 0x10
        (copy / name).write_bytes(data)
    store = SliceStore(copy)
    with pytest.raises(InputError, match=f"2 slices have changed, first: {store.table['slice_id'][2]}"):
        store.check_pixels()


@pytest.mark.parametrize("name", ["images.f16", "masks.u1"])
def test_files_of_another_size_are_refused(copy, name):
    os.truncate(copy / name, (copy / name).stat().st_size - 1)
    with pytest.raises(InputError, match=name):
        SliceStore(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=name):
        SliceStore(copy)


@pytest.mark.parametrize("name", ["store.json", "slices.parquet"])
@pytest.mark.parametrize(
    "damage", [b"", b"not what it says", b"[]", b"3", None], ids=["emptied", "overwritten", "a list", "a number", "removed"]
)
def test_a_damaged_table_is_refused_with_its_folder(copy, name, damage):
    (copy / name).unlink()
    if damage is not None:
        (copy / name).write_bytes(damage)
    with pytest.raises(InputError, match=f"{copy}.*Run `slicewise ingest`|{copy}.*ingest again"):
        SliceStore(copy)


def test_another_preprocessing_is_refused(copy):
    description = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps(description | {"preprocessing": "stretched/0"}))
    with pytest.raises(InputError, match="stretched/0"):
        SliceStore(copy)


def test_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="slicewise ingest"):
        SliceStore(tmp_path)


@pytest.mark.parametrize("point", ["masks.u1", "journal.jsonl", "sorted masks.u1"])
def test_a_killed_ingest_resumes_to_the_same_bytes(finished, tmp_path, point):
    folder = tmp_path / "store"
    script = "import sys, test_store; test_store.die_at(*sys.argv[1:])"
    command = [sys.executable, "-c", script, point, str(folder)]
    killed = subprocess.run(command, cwd=Path(__file__).parent, check=False, capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()
    assert not folder.exists()
    assert (tmp_path / "store.partial").is_dir()
    store = build(folder)
    assert content(store) == content(finished)
    assert store.check_pixels() is None


@pytest.mark.parametrize("lost", [1, 40])
def test_a_torn_journal_line_is_read_again(finished, tmp_path, lost):
    writer = StoreWriter(tmp_path / "store", "plan")
    for name in "cb":
        writer.append(*study(name))
    journal = tmp_path / "store.partial" / "journal.jsonl"
    os.truncate(journal, journal.stat().st_size - lost)
    resumed = StoreWriter(tmp_path / "store", "plan")
    assert resumed.done == {("lgg", "c")}
    assert (tmp_path / "store.partial" / "images.f16").stat().st_size == 3 * 256 * 256 * 2
    assert content(build(tmp_path / "store")) == content(finished)


def test_finished_studies_are_not_read_again(tmp_path):
    writer = StoreWriter(tmp_path / "store", "plan")
    writer.append(*study("b"))
    resumed = StoreWriter(tmp_path / "store", "plan")
    assert resumed.done == {("lgg", "b")}
    assert resumed.skipped == study("b")[-1]


def test_a_partial_store_of_another_plan_is_discarded(tmp_path):
    writer = StoreWriter(tmp_path / "store", "plan")
    writer.append(*study("b"))
    other = StoreWriter(tmp_path / "store", "another plan")
    assert other.done == set()
    other.append(*study("c"))
    store = other.finish([("lgg", "c")])
    assert np.array_equal(store.images, study("c")[2])
    assert store.check_pixels() is None


def test_a_study_of_which_nothing_could_be_read_is_done(tmp_path):
    writer = StoreWriter(tmp_path / "store", "plan")
    writer.append("lgg", "b", *NOTHING, [{"study": "lgg/b", "reason": "broken"}])
    writer.append(*study("a"))
    assert StoreWriter(tmp_path / "store", "plan").done == {("lgg", "a"), ("lgg", "b")}
    store = build(tmp_path / "store", "c")
    assert [item["reason"] for item in store.description["skipped"]] == [
        "one of a is broken",
        "broken",
        "one of c is broken",
    ]
    assert store.table["study_id"].tolist() == ["a"] * 3 + ["c"] * 3
    assert store.check_pixels() is None


def test_a_store_of_nothing_is_refused_with_the_reason(tmp_path):
    writer = StoreWriter(tmp_path / "store", "plan")
    nothing = np.zeros((0, 256, 256))
    writer.append(
        "lgg", "b", nothing.astype(np.float16), nothing.astype(bool), [], [{"study": "lgg/b", "reason": "b broke"}]
    )
    with pytest.raises(InputError, match="b broke"):
        writer.finish(ORDER)


def test_discard_leaves_nothing(tmp_path):
    writer = StoreWriter(tmp_path / "store", "plan")
    writer.append(*study("b"))
    writer.discard()
    assert list(tmp_path.iterdir()) == []
