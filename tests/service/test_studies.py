import gzip
import io
import os
import signal

import nibabel as nib
import numpy as np
import pydicom
import pytest

from service.running import SHAPE, Service, archive, dicom, is_problem, picture, volume, wait_until
from slicewise.errors import ConfigError
from slicewise.inference.record import ScanRecord
from slicewise.inference.writers import gray_window
from slicewise.service.house import House
from slicewise.service.settings import ServiceSettings

SERIES = [("file", (f"PLANTED-{number}.dcm", dicom(number))) for number in range(SHAPE[0])]


@pytest.fixture(scope="module")
def nifti(service):
    sent = service.predict(gzip.compress(volume()), "/v1/studies", name="PLANTED.nii.gz")
    assert sent.status_code == 202
    assert sent.headers["location"] == f"/v1/studies/{sent.json()['id']}"
    return service.finish(sent.json()["id"])


@pytest.fixture(scope="module")
def series(service):
    return service.finish(service.client.post("/v1/studies", files=SERIES).json()["id"])


def result_of(service, study):
    return service.client.get(f"/v1/studies/{study['id']}/result").json()


def test_a_volume_is_answered_as_by_the_predictor(service, predictor, nifti, tmp_path):
    assert (nifti["status"], nifti["done"], nifti["total"], nifti["problem"]) == ("done", 4, 4, None)
    result = result_of(service, nifti)
    (tmp_path / "volume.nii.gz").write_bytes(gzip.compress(volume()))
    own = predictor.predict(tmp_path / "volume.nii.gz")
    (record,) = result["scans"]
    expected = ScanRecord.of(own, {}).model_dump(mode="json")
    changing = ("name", "timings_s", "outputs")
    assert {name: value for name, value in record.items() if name not in changing} == {
        name: value for name, value in expected.items() if name not in changing
    }
    assert record["name"] == "0"
    assert {file["name"] for file in result["files"]} == {"mask", "montage", "slices"}
    files = {file["name"]: service.client.get(file["href"]) for file in result["files"]}
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(files["mask"].content))
    assert np.array_equal(np.asarray(mask.dataobj) > 0, own.mask)
    assert np.array_equal(mask.affine, own.scan.affine)
    assert files["montage"].content.startswith(b"\x89PNG")
    with np.load(io.BytesIO(files["slices"].content)) as slices:
        assert np.array_equal(slices["mask"], own.masks)
        low, high = own.scan.slices.min(), own.scan.slices.max()
        back = slices["values"] / 65535 * (high - low) + low
        assert slices["values"].dtype == np.uint16
        assert np.allclose(back, own.scan.slices, atol=(high - low) / 65535)
        assert np.allclose(slices["window"] / 65535 * (high - low) + low, gray_window(own.scan.slices))
        assert slices["spacing_mm"].tolist() == pytest.approx([3.0, 0.9, 0.9])
    assert is_problem(service.client.get(f"/v1/studies/{nifti['id']}/scans/0/report"), 404, "no-such-file")
    assert is_problem(service.client.get(f"/v1/studies/{nifti['id']}/scans/7/mask"), 404, "no-such-file")
    assert is_problem(service.client.get(f"/v1/studies/{nifti['id']}/scans/0/passwd"), 422, "invalid-request")


def test_a_series_gets_a_dicom_segmentation(service, series):
    result = result_of(service, series)
    assert {file["name"] for file in result["files"]} == {"mask", "segmentation", "report", "montage", "slices"}
    answer = service.client.get(f"/v1/studies/{series['id']}/scans/0/segmentation")
    assert answer.headers["content-type"] == "application/dicom"
    segmentation = pydicom.dcmread(io.BytesIO(answer.content))
    assert segmentation.Modality == "SEG"
    assert segmentation.PatientName == "Planted^Identity"  # who sent it gets it back, to be filed


def test_an_archive_may_hold_several(service):
    content = archive(**{"PLANTED/a.png": picture(), "b.nii": volume(), "../c.png": picture()[:100], "d.txt": b"text"})
    study = service.finish(service.predict(content, "/v1/studies").json()["id"])
    result = result_of(service, study)
    assert [record["name"] for record in result["scans"]] == ["0", "1"]
    assert {record["kind"] for record in result["scans"]} == {"picture", "nifti"}
    assert result["refusals"]
    assert "PLANTED" not in str(result)


def test_what_cannot_be_read_fails_by_name(service):
    study = service.finish(service.predict(b"nothing", "/v1/studies").json()["id"])
    assert study["status"] == "failed"
    assert study["problem"]["type"] == "urn:slicewise:problem:unknown-format"
    assert is_problem(service.client.get(f"/v1/studies/{study['id']}/result"), 409, "not-finished")


def test_a_study_is_of_the_key_that_sent_it(service, nifti):
    other = {"Authorization": "Bearer other"}
    for path in ("", "/result", "/scans/0/mask"):
        answer = service.client.get(f"/v1/studies/{nifti['id']}{path}", headers=other)
        assert is_problem(answer, 404, "no-such-study")
    assert is_problem(service.client.delete(f"/v1/studies/{nifti['id']}", headers=other), 404, "no-such-study")
    assert is_problem(service.client.get(f"/v1/studies/{'0' * 32}"), 404, "no-such-study")


def test_a_running_study_is_cancelled_with_its_worker(service, series):
    (worker,) = service.workers("studies")
    os.kill(worker, signal.SIGSTOP)  # as slow as can be
    study = service.client.post("/v1/studies", files=SERIES).json()["id"]
    waiting = service.client.post("/v1/studies", files=SERIES).json()["id"]
    assert service.client.get(f"/v1/studies/{study}").json()["status"] in ("queued", "running")
    assert service.client.delete(f"/v1/studies/{study}").json()["status"] == "cancelled"
    assert service.client.get(f"/v1/studies/{study}").json()["status"] == "cancelled"
    assert is_problem(service.client.get(f"/v1/studies/{study}/result"), 409, "not-finished")
    assert service.finish(waiting)["status"] == "done"
    assert worker not in service.workers("studies")


def test_a_finished_study_is_removed(service):
    study = service.finish(service.predict(volume(), "/v1/studies").json()["id"])
    assert service.client.delete(f"/v1/studies/{study['id']}").json()["status"] == "cancelled"
    assert is_problem(service.client.get(f"/v1/studies/{study['id']}/scans/0/mask"), 409, "not-finished")


def test_jobs_survive_a_crash_or_are_lost_by_name(checkpoint, tmp_path):
    state = tmp_path / "state"
    with Service(checkpoint, tmp_path / "log", state=str(state)) as service:
        kept, lost, done = (service.predict(volume(), "/v1/studies").json()["id"] for _ in range(3))
        service.kill()
    for file in (state / "studies" / lost / "upload").iterdir():
        file.unlink()
    (state / "studies" / lost / "upload").rmdir()
    with Service(checkpoint, tmp_path / "log2", state=str(state), keep_s=4) as service:
        status = service.client.get(f"/v1/studies/{lost}").json()
        assert (status["status"], status["problem"]["type"]) == ("lost", "urn:slicewise:problem:study-lost")
        assert service.finish(kept)["status"] == "done"
        assert service.client.get(f"/v1/studies/{kept}/result").status_code == 200
        assert not (state / "studies" / kept / "upload").exists()
        with pytest.raises(ConfigError, match="another one uses"):
            House(ServiceSettings(model=checkpoint, state=state))
        assert service.finish(done)["status"] == "done"
        wait_until(lambda: service.client.get(f"/v1/studies/{kept}").status_code == 404, 20)
        assert not (state / "studies" / kept).exists()
