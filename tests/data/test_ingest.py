import numpy as np
import pytest
from PIL import Image

from slicewise.config import SourceConfig
from slicewise.data.ingest import ingest
from slicewise.data.preprocess import preprocess
from slicewise.data.store import StoreWriter
from slicewise.errors import InputError, LabelError


def save(values, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(file)


@pytest.fixture
def pictures(tmp_path):
    """Two tumor pictures and one without, in a folder yes and a folder no."""
    random = np.random.default_rng(0)
    for name in ("yes/1.png", "yes/2.png", "no/1.png"):
        save(random.integers(0, 256, size=(20, 24)), tmp_path / "pictures" / name)
    return tmp_path / "pictures"


@pytest.fixture
def glioma(tmp_path):
    """Two patients of two slices; the second slice of each has a tumor in its upper left quarter."""
    random = np.random.default_rng(1)
    for patient in ("TCGA_A", "TCGA_B"):
        for index in (1, 2):
            mask = np.zeros((256, 256))
            mask[:128, :128] = 255 * (index == 2)
            file = tmp_path / "glioma" / patient / f"{patient}_{index}.tif"
            save(random.integers(0, 256, size=(256, 256, 3)), file)
            save(mask, file.with_name(f"{file.stem}_mask.tif"))
    return tmp_path / "glioma"


@pytest.fixture
def sources(pictures, glioma):
    return {
        "yes_no": SourceConfig(layout="labelled_folders", path=pictures),
        "lgg": SourceConfig(layout="lgg", path=glioma),
    }


def test_every_slice_gets_its_row_its_pixels_and_its_mask(sources, glioma, tmp_path):
    calls = []
    store = ingest(sources, tmp_path / "store", workers=1, progress=lambda *call: calls.append(call))
    table = store.table
    assert table["study_id"].tolist() == ["no/1.png", "yes/1.png", "yes/2.png", "TCGA_A", "TCGA_A", "TCGA_B", "TCGA_B"]
    assert table["label"].tolist() == [False, True, True, False, True, False, True]
    assert table["mask_state"].tolist() == ["empty", "unknown", "unknown", "empty", "present", "empty", "present"]
    assert table["reference_area_px"].tolist() == [0, 0, 0, 0, 128 * 128, 0, 128 * 128]
    assert table["slice_index"].tolist() == [0, 0, 0, 1, 2, 1, 2]
    assert table["height_px"].tolist() == [20] * 3 + [256] * 4
    assert table["width_px"].tolist() == [24] * 3 + [256] * 4
    assert table["slice_id"].is_unique
    file = glioma / "TCGA_B" / "TCGA_B_2.tif"
    assert table["file"].iloc[6] == str(file)
    flair = np.asarray(Image.open(file))[..., 1].astype(np.float32)
    assert np.array_equal(store.images[6], preprocess(flair)[0])
    assert store.masks([6])[0, :128, :128].all()
    assert calls[0] == (0, 5)
    assert calls[-1] == (5, 5)


def test_the_number_of_workers_changes_nothing(sources, tmp_path):
    one, two = (ingest(sources, tmp_path / f"store{workers}", workers=workers) for workers in (1, 2))
    for name in ("images.f16", "masks.u1", "slices.parquet", "store.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


def test_foreground_is_what_is_brighter_than_air(tmp_path):
    blank, quarter = np.zeros((256, 256)), np.zeros((256, 256))
    quarter[:128, :128] = 99
    save(blank, tmp_path / "pictures/no/1.png")
    save(quarter, tmp_path / "pictures/yes/1.png")
    source = SourceConfig(layout="labelled_folders", path=tmp_path / "pictures")
    assert ingest({"a": source}, tmp_path / "store", workers=1).table["foreground_share"].tolist() == [0, 0.25]


def test_a_broken_picture_is_named_skipped_and_counted(sources, pictures, glioma, tmp_path):
    (pictures / "yes" / "1.png").write_bytes(b"no picture")
    file = glioma / "TCGA_A" / "TCGA_A_1.tif"
    file.write_bytes(file.read_bytes()[:200])
    store = ingest(sources, tmp_path / "store", workers=1)
    assert store.table["study_id"].tolist() == ["no/1.png", "yes/2.png", "TCGA_A", "TCGA_B", "TCGA_B"]
    skipped = store.description["skipped"]
    assert [item["study"] for item in skipped] == ["yes_no/yes/1.png", "lgg/TCGA_A"]
    assert str(pictures / "yes" / "1.png") in skipped[0]["reason"]
    assert str(file) in skipped[1]["reason"]


def test_strict_refuses_a_broken_picture_and_leaves_nothing(sources, pictures, tmp_path):
    (pictures / "yes" / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1 are not: .*yes/1\.png"):
        ingest(sources, tmp_path / "stores" / "store", workers=1, strict=True)
    assert list((tmp_path / "stores").iterdir()) == []


def test_a_source_of_broken_pictures_only_is_refused_with_the_reason(pictures, tmp_path):
    for file in pictures.rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no/1\.png"):
        ingest({"a": SourceConfig(layout="labelled_folders", path=pictures)}, tmp_path / "stores" / "store", workers=1)
    assert list((tmp_path / "stores").iterdir()) == []


def test_a_mask_that_contradicts_its_slice_ends_the_ingest_and_leaves_nothing(sources, glioma, tmp_path):
    save(np.zeros((128, 256)), glioma / "TCGA_A" / "TCGA_A_2_mask.tif")
    (glioma / "TCGA_B" / "TCGA_B_1_mask.tif").unlink()
    with pytest.raises(LabelError, match=r"TCGA_A_2_mask\.tif.*1 more;"):
        ingest(sources, tmp_path / "stores" / "store", workers=1)
    assert list((tmp_path / "stores").iterdir()) == []


def test_a_missing_or_empty_folder_is_refused_before_anything_is_written(sources, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "missing", tmp_path / "empty"):
        wrong = sources | {"lgg": SourceConfig(layout="lgg", path=path)}
        with pytest.raises(InputError, match=str(path)):
            ingest(wrong, tmp_path / "stores" / "store", workers=1)
    assert not (tmp_path / "stores").exists()


def test_an_existing_folder_is_refused_and_kept(sources, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists"):
        ingest(sources, tmp_path / "store", workers=1)
    assert (tmp_path / "store" / "mine.txt").read_text() == "keep"


class _PowerCutError(Exception):
    pass


@pytest.fixture
def interrupted(monkeypatch):
    """Ingest until three studies are stored; returns how many are appended from then on."""
    append, appended = StoreWriter.append, []

    def run(sources, folder):
        def cut(writer, *study):
            if len(appended) == 3:
                raise _PowerCutError
            appended.append(study[1])
            append(writer, *study)

        monkeypatch.setattr(StoreWriter, "append", cut)
        with pytest.raises(_PowerCutError):
            ingest(sources, folder, workers=1)
        appended.clear()
        monkeypatch.setattr(StoreWriter, "append", lambda *study: (appended.append(study[2]), append(*study)))
        return appended

    return run


def test_an_interrupted_ingest_goes_on(sources, tmp_path, interrupted):
    whole = ingest(sources, tmp_path / "whole", workers=1)
    appended = interrupted(sources, tmp_path / "store")
    calls = []
    resumed = ingest(sources, tmp_path / "store", workers=1, progress=lambda *call: calls.append(call))
    assert appended == ["TCGA_A", "TCGA_B"]
    assert calls[0] == (3, 5)
    assert resumed.fingerprint == whole.fingerprint
    assert resumed.check_pixels() is None


def test_a_contradiction_met_before_a_kill_is_met_again(sources, glioma, tmp_path, interrupted):
    (glioma / "TCGA_A" / "TCGA_A_1_mask.tif").unlink()
    sources = {"lgg": sources["lgg"], "yes_no": sources["yes_no"]}
    interrupted(sources, tmp_path / "store")
    with pytest.raises(LabelError, match=r"TCGA_A_1_mask\.tif"):
        ingest(sources, tmp_path / "store", workers=1)


def test_excluded_files_are_left_out_with_what_is_wrong_about_them(sources, glioma, tmp_path):
    (glioma / "TCGA_A" / "TCGA_A_1_mask.tif").unlink()
    excluded = frozenset({glioma / "TCGA_A" / "TCGA_A_1.tif", sources["yes_no"].path / "yes" / "2.png"})
    store = ingest(sources, tmp_path / "store", workers=1, excluded=excluded)
    assert len(store) == 5
    assert not set(store.table["file"]) & set(map(str, excluded))


def test_a_changed_file_makes_the_ingest_start_over(sources, pictures, tmp_path, interrupted):
    appended = interrupted(sources, tmp_path / "store")
    save(np.arange(480).reshape(20, 24) % 251, pictures / "no" / "1.png")
    store = ingest(sources, tmp_path / "store", workers=1)
    assert len(appended) == 5
    changed = preprocess((np.arange(480).reshape(20, 24) % 251).astype(np.float32))[0]
    assert np.array_equal(store.images[0], changed)


def test_a_changed_mask_makes_the_ingest_start_over(sources, glioma, tmp_path, interrupted):
    appended = interrupted(sources, tmp_path / "store")
    save(np.full((256, 256), 255), glioma / "TCGA_B" / "TCGA_B_1_mask.tif")
    ingest(sources, tmp_path / "store", workers=1)
    assert len(appended) == 5
