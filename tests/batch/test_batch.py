import csv
import errno
import hashlib
import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from slicewise.batch import batch, explain
from slicewise.batch.batch import predict_job, predict_jobs, write_results
from slicewise.batch.inputs import Job, find_inputs
from slicewise.errors import InputError, OutputError, UnreadableFileError
from slicewise.inference import outputs


def files_below(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def stamps(folder):
    return {file: (folder / file).stat().st_mtime_ns for file in files_below(folder)}


def test_every_kind_of_input_leaves_what_its_kind_has(data, make_worker):
    worker = make_worker()
    records, refusals = predict_jobs(find_inputs([data], worker.output), worker)
    assert refusals == []
    assert files_below(worker.output) == [
        "both/a_mask.png",
        "both/a_overlay.png",
        "both/volume_mask.nii.gz",
        "both/volume_montage.png",
        "both_result.json",
        "deep/volume_mask.nii.gz",
        "deep/volume_montage.png",
        "deep/volume_result.json",
        "picture_mask.png",
        "picture_overlay.png",
        "picture_result.json",
        "series_montage.png",
        "series_result.json",
        "series_seg.dcm",
        "series_sr.dcm",
    ]
    assert {len(record.scans) for record in records} == {1, 2}


def test_the_files_hold_the_mask_of_the_record(data, make_worker):
    worker = make_worker(formats=("nifti", "png"))
    by_name = {Path(record.file).name: record for record in predict_jobs(find_inputs([data], worker.output), worker)[0]}
    with Image.open(worker.output / "picture_mask.png") as mask, Image.open(data / "picture.png") as picture:
        assert mask.size == picture.size
        assert set(np.unique(mask)) == {0, 255}
        assert np.count_nonzero(mask) == by_name["picture.png"].scans[0].mask_px
    volume = nib.load(worker.output / "deep" / "volume_mask.nii.gz")
    assert volume.shape == (72, 64, 4)
    record = by_name["volume.nii.gz"].scans[0]
    assert int(np.asarray(volume.dataobj).sum()) == record.mask_px > 0
    assert record.volume_ml == pytest.approx(record.mask_px * 0.9 * 0.9 * 3 / 1000)


def test_the_same_slices_get_the_same_mask_as_nifti_and_as_dicom(data, make_worker):
    worker = make_worker(formats=("nifti",))
    jobs = [Job(data / "series", Path("s")), Job(data / "deep" / "volume.nii.gz", Path("v"))]
    predict_jobs(jobs, worker)
    series, volume = (np.asarray(nib.load(worker.output / f"{name}_mask.nii.gz").dataobj) for name in "sv")
    assert np.array_equal(series, volume.transpose(2, 1, 0))
    assert series.any()


def test_what_is_finished_is_not_done_again(data, make_worker):
    worker = make_worker()
    jobs = find_inputs([data], worker.output)
    first, _ = predict_jobs(jobs, worker)
    before = stamps(worker.output)
    again, _ = predict_jobs(jobs, worker)
    assert stamps(worker.output) == before
    assert again == first


@pytest.mark.parametrize("change", ["input", "output damaged", "output gone", "record damaged", "options"])
def test_what_is_not_as_it_was_left_is_done_again(data, make_worker, change):
    worker = make_worker()
    job = Job(data / "picture.png", Path("picture"))
    first = predict_job(job, worker)
    mask = worker.output / "picture_mask.png"
    before = mask.read_bytes()
    stamp = mask.stat().st_mtime_ns
    if change == "input":
        Image.fromarray(np.full((20, 30), 9, np.uint8)).save(job.path)
    elif change == "output damaged":
        mask.write_bytes(b"half")
    elif change == "output gone":
        mask.unlink()
    elif change == "record damaged":
        (worker.output / "picture_result.json").write_text(first.model_dump_json()[:-9])
    else:
        worker = make_worker(statistics=True)
    again = predict_job(job, worker)
    assert mask.stat().st_mtime_ns != stamp
    assert (mask.read_bytes() == before) == (change != "input")
    assert (again.scans[0].statistics is not None) == (change == "options")
    assert again.scans[0].outputs["picture_mask.png"] == hashlib.sha256(mask.read_bytes()).hexdigest()


def test_more_time_for_decoding_is_no_other_answer(data, make_worker):
    job = Job(data / "picture.png", Path("picture"))
    predict_job(job, make_worker())
    before = stamps(make_worker().output)
    predict_job(job, make_worker(timeout_s=60.0))
    assert stamps(make_worker().output) == before


def test_what_was_refused_of_an_input_is_tried_again(data, make_worker):
    worker, real = make_worker(), make_worker().decoder
    job = Job(data / "both.zip", Path("both"))

    class WithoutNifti:
        def read(self, *arguments, **options):
            picture, _ = real.read(*arguments, **options)
            return [picture, UnreadableFileError("Expected a decoder, it is not installed.")]

    worker.decoder = WithoutNifti()
    first = predict_job(job, worker)
    assert first.refusals == ["Expected a decoder, it is not installed."]
    worker.decoder = real
    again = predict_job(job, worker)
    assert (len(again.scans), again.refusals) == (2, [])
    assert sorted(files_below(worker.output)) == [
        "both/a_mask.png",
        "both/a_overlay.png",
        "both/volume_mask.nii.gz",
        "both/volume_montage.png",
        "both_result.json",
    ]


def test_what_cannot_be_read_is_named_and_leaves_nothing(data, make_worker):
    (data / "broken.png").write_bytes((data / "picture.png").read_bytes()[:90])
    worker = make_worker()
    records, (refusal,) = predict_jobs(find_inputs([data / "broken.png", data / "picture.png"], worker.output), worker)
    assert "broken.png" in refusal
    assert [Path(record.file).name for record in records] == ["picture.png"]
    assert not [name for name in files_below(worker.output) if "broken" in name]


def test_a_broken_member_of_a_zip_does_not_cost_the_others(data, make_worker):
    with zipfile.ZipFile(data / "both.zip", "a") as archive:
        archive.writestr("c.png", (data / "picture.png").read_bytes()[:90])
    record = predict_job(Job(data / "both.zip", Path("both")), make_worker())
    assert len(record.scans) == 2
    assert len(record.refusals) == 1


def test_a_member_that_stays_broken_costs_no_prediction_again(data, make_worker, monkeypatch):
    with zipfile.ZipFile(data / "both.zip", "a") as archive:
        archive.writestr("c.png", (data / "picture.png").read_bytes()[:90])
    worker, job = make_worker(), Job(data / "both.zip", Path("both"))
    first = predict_job(job, worker)
    before = stamps(worker.output)
    assert predict_job(job, worker) == first
    assert stamps(worker.output) == before
    monkeypatch.chdir(data)
    again = predict_job(Job(Path("both.zip"), Path("both")), worker)
    assert stamps(worker.output) == before
    assert (again.scans, "c.png" in again.refusals[0]) == (first.scans, True)
    (worker.output / "both" / "a_mask.png").unlink()
    predict_job(job, worker)
    assert stamps(worker.output).keys() == before.keys()


def test_a_zipped_series_has_its_dicom_results(data, make_worker):
    with zipfile.ZipFile(data / "series.zip", "w") as archive:
        for file in (data / "series").iterdir():
            archive.write(file, f"deep/{file.name}")
    worker = make_worker()
    zipped = predict_job(Job(data / "series.zip", Path("zipped")), worker)
    plain = predict_job(Job(data / "series", Path("plain")), worker)
    assert sorted(zipped.scans[0].outputs) == ["zipped_montage.png", "zipped_seg.dcm", "zipped_sr.dcm"]
    assert zipped.scans[0].slice_probabilities == plain.scans[0].slice_probabilities


@pytest.mark.parametrize("allow", [False, True])
def test_text_in_the_pixels_is_taken_only_where_allowed(data, make_worker, allow):
    for file in (data / "series").iterdir():
        header = pydicom.dcmread(file)
        header.BurnedInAnnotation = "YES"
        header.save_as(file)
    worker = make_worker(allow_burned_in=allow)
    records, refusals = predict_jobs([Job(data / "series", Path("s"))], worker)
    assert (len(records), len(refusals)) == ((1, 0) if allow else (0, 1))


def test_a_format_that_an_input_cannot_have_is_refused_for_it_alone(data, make_worker):
    worker = make_worker(formats=("dicom-seg",))
    records, refusals = predict_jobs(find_inputs([data / "series", data / "picture.png"], worker.output), worker)
    assert files_below(worker.output) == ["series_result.json", "series_seg.dcm"]
    assert len(records) == len(refusals) == 1
    assert "dicom-seg" in refusals[0]


def take_off_the_map(file):
    header = pydicom.dcmread(file)
    del header.ImagePositionPatient, header.ImageOrientationPatient
    header.save_as(file)
    return file


def test_a_slice_that_lies_nowhere_has_its_picture_and_no_dicom_objects(data, make_worker):
    record = predict_job(Job(take_off_the_map(data / "series" / "IM0000"), Path("lost")), make_worker())
    assert sorted(record.scans[0].outputs) == ["lost_mask.png", "lost_overlay.png"]
    assert record.refusals == []
    assert "ImagePositionPatient" in record.notes[0]


def without(folder, *keywords):
    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        for keyword in keywords:
            delattr(header, keyword)
        header.save_as(file)
    return folder


def test_a_series_that_can_have_no_dicom_objects_has_a_nifti_and_says_so(data, make_worker):
    worker, job = make_worker(), Job(without(data / "series", "FrameOfReferenceUID"), Path("s"))
    record = predict_job(job, worker)
    assert sorted(record.scans[0].outputs) == ["s_mask.nii.gz", "s_montage.png"]
    assert np.asarray(nib.load(worker.output / "s_mask.nii.gz").dataobj).sum() == record.scans[0].mask_px > 0
    assert record.refusals == []
    (note,) = record.notes
    assert "missing: FrameOfReferenceUID" in note
    assert note.endswith("Its mask is in s_mask.nii.gz.")
    before = stamps(worker.output)
    assert predict_job(job, worker) == record
    assert stamps(worker.output) == before
    assert predict_job(job, make_worker(segment=False)).notes == [note.removesuffix(" Its mask is in s_mask.nii.gz.")]


def test_a_series_that_lies_nowhere_says_that_its_mask_is_in_a_picture_alone(data, make_worker):
    series = without(data / "series", "ImagePositionPatient", "ImageOrientationPatient")
    record = predict_job(Job(series, Path("s")), make_worker())
    assert sorted(record.scans[0].outputs) == ["s_montage.png"]
    assert record.notes[0].endswith("Its mask is in a picture alone.")


def test_a_mask_in_the_way_of_the_nifti_instead_is_not_overwritten(data, make_worker):
    worker = make_worker()
    worker.output.mkdir()
    (worker.output / "s_mask.nii.gz").write_bytes(b"drawn by hand")
    with pytest.raises(InputError, match="s_mask"):
        predict_job(Job(without(data / "series", "FrameOfReferenceUID"), Path("s")), worker)
    assert (worker.output / "s_mask.nii.gz").read_bytes() == b"drawn by hand"


def test_a_scan_that_cannot_have_a_named_format_costs_itself_alone(data, make_worker):
    with zipfile.ZipFile(data / "mixed.zip", "w") as archive:
        archive.write(data / "picture.png", "a.png")
        archive.write(take_off_the_map(data / "series" / "IM0000"), "lost.dcm")
    worker = make_worker(formats=("png", "dicom-seg"))
    record = predict_job(Job(data / "mixed.zip", Path("mixed")), worker)
    assert files_below(worker.output) == ["mixed/a_mask.png", "mixed/a_overlay.png", "mixed_result.json"]
    assert len(record.refusals) == 1
    assert "where they lie" in record.refusals[0]


def test_slices_are_counted_from_0_as_in_the_montage(data, make_worker, monkeypatch):
    captions = []

    def draw(*_, caption, **__):
        captions.append(caption)
        return b""

    monkeypatch.setattr(explain, "draw_panel", draw)
    record = predict_job(Job(data / "deep" / "volume.nii.gz", Path("v")), make_worker(explain=True))
    probabilities = record.scans[0].slice_probabilities
    assert f"slice {probabilities.index(max(probabilities))} " in captions[0]


def test_an_explanation_and_statistics_stand_beside(data, make_worker):
    worker = make_worker(explain=True, statistics=True, uncertainty=True)
    record = predict_job(Job(data / "deep" / "volume.nii.gz", Path("v")), worker)
    with Image.open(worker.output / "v_gradcam.png") as picture:
        assert picture.width > 300
    assert "v_gradcam.png" in record.scans[0].outputs
    assert record.scans[0].statistics
    assert 0 < record.scans[0].uncertainty <= 0.5


def test_without_masks_the_probability_is_the_same(data, make_worker):
    job = Job(data / "picture.png", Path("picture"))
    full, quick = predict_job(job, make_worker()), predict_job(job, make_worker(segment=False))
    assert quick.scans[0].probability == full.scans[0].probability
    assert quick.scans[0].mask_px is None
    assert list(quick.scans[0].outputs) == ["picture_overlay.png"]


def test_results_of_all_inputs_stand_in_one_table_and_one_json(data, make_worker):
    worker = make_worker()
    records, refusals = predict_jobs(find_inputs([data], worker.output), worker)
    write_results(records, [*refusals, "Expected more."], worker.output, {"engine": "cpu"})
    written = json.loads((worker.output / "results.json").read_text())
    assert [item["file"] for item in written] == [record.file for record in records]
    with (worker.output / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == [scan.name for record in records for scan in record.scans]
    assert float(rows[0]["probability"]) == records[0].scans[0].probability
    manifest = json.loads((worker.output / "manifest.json").read_text())
    assert manifest["refusals"] == ["Expected more."]
    for name, digest in {**manifest["outputs"], "results.csv": manifest["results.csv"]}.items():
        assert hashlib.sha256((worker.output / name).read_bytes()).hexdigest() == digest


def test_a_name_that_looks_like_a_formula_is_a_name_in_the_table(data, make_worker, tmp_path):
    worker = make_worker(segment=False)
    (tmp_path / "=1+1.png").write_bytes((data / "picture.png").read_bytes())
    record = predict_job(Job(tmp_path / "=1+1.png", Path("=1+1")), worker)
    write_results([record.model_copy(update={"file": "=1+1.png"})], [], worker.output, {})
    with (worker.output / "results.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["file"], row["name"]) == ("'=1+1.png", "'=1+1")
    assert json.loads((worker.output / "results.json").read_text())[0]["file"] == "=1+1.png"


def test_nothing_of_a_header_is_in_names_records_or_pictures(data, make_worker):
    worker = make_worker(formats=("nifti", "png"), statistics=True)
    record = predict_job(Job(data / "series", Path("s")), worker)
    assert "lanted" not in record.model_dump_json()
    for name in files_below(worker.output):
        assert b"lanted" not in (worker.output / name).read_bytes()


def test_a_name_too_long_for_its_results_costs_itself_alone(data, make_worker):
    file = (data / "picture.png").rename(data / f"{'b' * 245}.png")
    worker = make_worker()
    records, (refusal,) = predict_jobs(find_inputs([file, data / "series"], worker.output), worker)
    assert len(records) == 1
    assert file.name in refusal
    assert "File name too long. Check both" in refusal
    assert not [name for name in files_below(worker.output) if "bbb" in name]


def test_an_input_that_went_away_meanwhile_costs_itself_alone(data, make_worker):
    worker = make_worker()
    jobs = find_inputs([data / "picture.png", data / "both.zip", data / "series"], worker.output)
    (data / "both.zip").unlink()
    for file in (data / "series").iterdir():
        file.unlink()
    (data / "series").rmdir()
    records, refusals = predict_jobs(jobs, worker)
    assert [Path(record.file).name for record in records] == ["picture.png"]
    assert len(refusals) == 2
    assert "both.zip" in refusals[0]
    assert "No such file" in refusals[0]


def test_what_cannot_be_written_to_its_end_leaves_nothing(data, make_worker, monkeypatch):
    written = outputs.write_png

    def refuse(pixels, file):
        if file.name.endswith("overlay.png"):
            raise PermissionError(errno.EACCES, "Permission denied")
        written(pixels, file)

    monkeypatch.setattr(outputs, "write_png", refuse)
    worker = make_worker()
    with pytest.raises(InputError, match=r"picture\.png.*Permission denied"):
        predict_job(Job(data / "picture.png", Path("picture")), worker)
    assert files_below(worker.output) == []


def test_a_full_disk_ends_the_call_and_keeps_what_is_finished(data, make_worker, monkeypatch):
    worker = make_worker()
    jobs = find_inputs([data / "picture.png", data / "both.zip", data / "series"], worker.output)
    first = predict_job(jobs[0], worker)
    before = stamps(worker.output)

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_png", refuse)
        with pytest.raises(OutputError, match="out, its disk is full"):
            predict_jobs(jobs, worker)
        assert stamps(worker.output) == before
        patch.setattr(batch, "write_atomically", refuse)
        with pytest.raises(OutputError, match="out, its disk is full"):
            write_results([first], [], worker.output, {})
    records, refusals = predict_jobs(jobs, worker)
    assert (records[0], len(records), refusals) == (first, 3, [])
    assert stamps(worker.output).items() >= before.items()


def test_an_input_of_which_nothing_can_be_read_raises(tmp_path, make_worker):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.png"):
        predict_job(Job(tmp_path / "empty.png", Path("empty")), make_worker())
