"""No file is overwritten or removed that is not known to be an earlier result of the same input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from slicewise.batch import batch
from slicewise.batch.batch import predict_job, predict_jobs
from slicewise.batch.inputs import Job, find_inputs
from slicewise.batch.place import Place
from slicewise.errors import InputError
from slicewise.inference import dicom_seg


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def draw(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64), value, np.uint8)).save(file)
    return file


@pytest.fixture
def job(data):
    return Job(data / "picture.png", Path("picture"))


@pytest.mark.parametrize("name", ["picture_mask.png", "picture_gradcam.png", "picture_result.json", ".picture_claim.json"])
def test_a_file_that_no_call_wrote_refuses_the_input_and_stays(job, make_worker, name):
    worker = make_worker(explain=True)
    file = worker.output / name
    file.parent.mkdir()
    file.write_bytes(b"drawn by hand")
    with pytest.raises(InputError, match=r"picture\.png.*--out") as refusal:
        predict_job(job, worker)
    assert str(file) in str(refusal.value)
    assert contents(worker.output) == {name: b"drawn by hand"}


def test_masks_drawn_beside_the_inputs_are_not_overwritten(data, make_worker):
    worker = make_worker()
    worker.output = data
    (data / "deep" / "volume_mask.nii.gz").write_bytes(b"drawn by hand")
    (data / "both").mkdir()
    (data / "both" / "a_mask.png").write_bytes(b"drawn by hand")
    before = contents(data)
    for path, target in (("deep/volume.nii.gz", "deep/volume"), ("both.zip", "both")):
        with pytest.raises(InputError, match="_mask"):
            predict_job(Job(data / path, Path(target)), worker)
    assert contents(data) == before


@pytest.mark.parametrize("formats", [(), ("nifti", "png"), ("dicom-seg", "dicom-sr", "png")])
@pytest.mark.parametrize("segment", [False, True])
def test_all_that_is_written_was_claimed(data, make_worker, monkeypatch, formats, segment):
    worker = make_worker(formats=formats, segment=segment, explain=segment)
    claimed = []

    class Watched(Place):
        def claim(self, files):
            claimed.extend(file.relative_to(worker.output).as_posix() for file in files)
            super().claim(files)

    monkeypatch.setattr(batch, "Place", Watched)
    records, refusals = predict_jobs(find_inputs([data], worker.output), worker)
    assert refusals == []
    written = {name for record in records for scan in record.scans for name in scan.outputs}
    instead = set() if formats or not segment else {"series_mask.nii.gz"}  # it had a segmentation
    assert set(claimed) - written == instead
    assert written <= set(claimed)


def test_a_file_that_would_not_be_written_is_in_nobodys_way(job, make_worker):
    worker = make_worker(segment=False)
    draw(worker.output / "picture_mask.png", 255)
    before = contents(worker.output)
    predict_job(job, worker)
    assert contents(worker.output).items() >= before.items()
    with pytest.raises(InputError, match=r"picture_mask\.png"):  # drawn after a call that wrote none
        predict_job(job, make_worker())
    assert contents(worker.output).items() >= before.items()


@pytest.mark.parametrize("relative", [False, True])
def test_another_input_of_the_same_name_is_refused(tmp_path, make_worker, monkeypatch, relative):
    files = [draw(tmp_path / name / "t2.png", value) for name, value in (("p1", 1), ("p2", 2))]
    worker = make_worker()
    jobs = [Job(Path(file.name) if relative else file, Path("t2")) for file in files]
    monkeypatch.chdir(files[0].parent)
    predict_job(jobs[0], worker)
    before = contents(worker.output)
    monkeypatch.chdir(files[1].parent)
    with pytest.raises(InputError, match=r"t2_result\.json, which is of .*t2\.png"):
        predict_job(jobs[1], worker)
    assert contents(worker.output) == before


@pytest.mark.parametrize("first", ["relative", "absolute"])
def test_an_input_that_changed_is_known_by_its_path_however_it_is_given(tmp_path, job, make_worker, monkeypatch, first):
    worker = make_worker()
    monkeypatch.chdir(tmp_path)
    jobs = [job, Job(Path("in/picture.png"), job.target)]
    if first == "relative":
        jobs.reverse()
    predict_job(jobs[0], worker)
    before = contents(worker.output)
    draw(job.path, 7)
    predict_job(jobs[1], worker)
    assert contents(worker.output)["picture_result.json"] != before["picture_result.json"]


def test_an_input_that_moved_is_known_by_its_bytes(data, job, make_worker):
    worker = make_worker()
    record = predict_job(job, worker)
    moved = Job(job.path.rename(data / "deep" / "picture.png"), job.target)
    found = predict_job(moved, worker)
    assert found.scans == record.scans
    assert (found.file, found.file_from_output) == (str(moved.path), "../in/deep/picture.png")
    assert predict_job(moved, make_worker(statistics=True)).scans[0].statistics


def test_a_record_of_an_earlier_version_is_known(job, make_worker):
    worker = make_worker()
    predict_job(job, worker)
    file = worker.output / "picture_result.json"
    earlier = json.loads(file.read_text())
    del earlier["file_from_output"], earlier["engine"]
    file.write_text(json.dumps(earlier | {"novelty": 1}))
    draw(job.path, 7)
    assert predict_job(job, worker).file_sha256 != earlier["file_sha256"]


def test_an_interrupted_input_is_taken_up_and_nobody_elses(tmp_path, job, make_worker, monkeypatch):
    worker = make_worker()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch, "describe_result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict_job(job, make_worker(statistics=True))
    assert sorted(contents(worker.output)) == [".picture_claim.json", "picture_mask.png", "picture_overlay.png"]
    other = Job(draw(tmp_path / "other" / "picture.png", 3), job.target)
    with pytest.raises(InputError, match=r"claim\.json, which is of .*in/picture\.png"):
        predict_job(other, worker)
    record = predict_job(job, worker)
    assert sorted(contents(worker.output)) == ["picture_mask.png", "picture_overlay.png", "picture_result.json"]
    assert predict_job(job, worker) == record


def test_other_options_leave_nothing_that_their_record_does_not_name(job, make_worker):
    predict_job(job, make_worker(explain=True))
    worker = make_worker(segment=False)
    predict_job(job, worker)
    assert sorted(contents(worker.output)) == ["picture_overlay.png", "picture_result.json"]


def test_an_input_that_broke_leaves_no_results_of_what_it_was(job, make_worker):
    worker = make_worker()
    predict_job(job, worker)
    job.path.write_bytes(job.path.read_bytes()[:90])
    with pytest.raises(InputError, match=r"picture\.png"):
        predict_job(job, worker)
    assert contents(worker.output) == {}


def test_a_format_that_it_cannot_have_costs_an_input_no_earlier_results(job, make_worker):
    worker = make_worker()
    predict_job(job, worker)
    before = contents(worker.output)
    with pytest.raises(InputError, match="dicom-seg"):
        predict_job(job, make_worker(formats=("dicom-seg",)))
    assert contents(worker.output) == before


@pytest.mark.parametrize("formats", [("dicom-seg",), ("dicom-sr", "png")])
def test_headers_that_allow_no_named_format_cost_a_series_no_earlier_results(data, make_worker, formats):
    for file in (data / "series").iterdir():
        header = pydicom.dcmread(file)
        del header.FrameOfReferenceUID
        header.save_as(file)
    series, worker = Job(data / "series", Path("series")), make_worker()
    record = predict_job(series, worker)
    before = contents(worker.output)
    assert before.keys() == {"series_result.json", *record.scans[0].outputs}
    with pytest.raises(InputError, match="missing: FrameOfReferenceUID"):
        predict_job(series, make_worker(formats=formats))
    assert contents(worker.output) == before


def test_what_highdicom_alone_refuses_costs_a_series_no_earlier_results(data, make_worker, monkeypatch):
    series, worker = Job(data / "series", Path("series")), make_worker()
    predict_job(series, worker)
    before = contents(worker.output)

    def refuse(**_):
        raise ValueError("planted")

    monkeypatch.setattr(dicom_seg, "Segmentation", refuse)
    with pytest.raises(InputError, match="refused by highdicom"):
        predict_job(series, make_worker(formats=("dicom-seg",)))
    assert contents(worker.output) == before


def test_lesions_of_unknown_size_cost_a_series_no_earlier_results(data, make_worker):
    for file in (data / "series").iterdir():
        header = pydicom.dcmread(file)
        del header.PixelSpacing
        header.save_as(file)
    series, worker = Job(data / "series", Path("series")), make_worker()
    predict_job(series, worker)
    before = contents(worker.output)
    with pytest.raises(InputError, match="known spacing to remove lesions"):
        predict_job(series, make_worker(smallest_mm3=5.0))
    assert contents(worker.output) == before


def test_a_record_can_name_no_file_but_a_result_of_its_input(tmp_path, data, job, make_worker):
    worker = make_worker()
    predict_job(job, worker)
    shutil.copytree(data / "deep", worker.output / "deep")
    foreign = [draw(tmp_path / "out" / name, 1) for name in ("other_mask.png", "deep/picture_mask.png", "../x_mask.png")]
    file = worker.output / "picture_result.json"
    record = json.loads(file.read_text())
    names = ["other_mask.png", "deep/picture_mask.png", "../x_mask.png", str(foreign[0]), "deep/volume.nii.gz"]
    record["scans"][0]["outputs"] |= dict.fromkeys(names, "")
    file.write_text(json.dumps(record))
    before = contents(tmp_path)
    predict_job(job, make_worker(statistics=True))
    assert contents(tmp_path).keys() == before.keys()
