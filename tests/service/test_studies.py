import asyncio
import gzip
import io
import os
import shutil
import signal
import sqlite3
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from starlette.datastructures import UploadFile

from service.running import SHAPE, Service, archive, dicom, draw_head, is_problem, picture, volume, wait_until
from slicewise.errors import ConfigError
from slicewise.inference.record import ScanRecord
from slicewise.inference.writers import gray_window
from slicewise.service.house import House
from slicewise.service.jobs import JobStore
from slicewise.service.problems import Problem
from slicewise.service.settings import ServiceSettings
from slicewise.service.studies import Studies
from slicewise.service.study import predict_study
from slicewise.service.wire import StudyTask
from slicewise.sources.scans import scan_of_array

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
    assert result["sources"] == [[0]]
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


@pytest.mark.parametrize("asked", ["bytes=0-3", "bytes=99999999-", "bytes=abc", "lines=1-2", "bytes=0-1,4-5"])
def test_a_file_comes_whole_whatever_part_of_it_is_asked_for(service, nifti, asked):
    for path in ("result", "scans/0/mask"):
        whole, part = (
            service.client.get(f"/v1/studies/{nifti['id']}/{path}", headers=headers) for headers in ({}, {"Range": asked})
        )
        assert part.status_code == 200
        assert part.content == whole.content
        assert part.headers["accept-ranges"] == "none"


def test_a_damaged_list_of_jobs_is_a_sentence(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(
        ConfigError, match=r"jobs\.sqlite, SQLite refuses the file \(file is not a database\)\. Move it away"
    ):
        JobStore(tmp_path / "jobs.sqlite")
    assert (tmp_path / "jobs.sqlite").read_bytes() == b"no database" * 100


def test_a_series_gets_a_dicom_segmentation(service, series):
    result = result_of(service, series)
    assert {file["name"] for file in result["files"]} == {"mask", "segmentation", "report", "montage", "slices"}
    answer = service.client.get(f"/v1/studies/{series['id']}/scans/0/segmentation")
    assert answer.headers["content-type"] == "application/dicom"
    segmentation = pydicom.dcmread(io.BytesIO(answer.content))
    assert segmentation.Modality == "SEG"
    assert segmentation.PatientName == "Planted^Identity"  # who sent it gets it back, to be filed


def test_an_archive_may_hold_several(service):
    members = {"PLANTED/a.png": picture(), "b.nii": volume(), "../c.png": picture()[:100]}
    members |= {"d.txt": b"text", "PLANTED.txt": b"text"}
    content = bytearray(archive(**{"damaged.png": picture(), "folder/": b""} | members))
    content[60] ^= 255
    study = service.finish(service.predict(bytes(content), "/v1/studies").json()["id"])
    result = result_of(service, study)
    assert result["sources"] == [[2], [3]]
    assert [refusal["sources"] for refusal in result["refusals"]] == [[0], [4], [5, 6]]
    assert [record["name"] for record in result["scans"]] == ["0", "1"]
    assert {record["kind"] for record in result["scans"]} == {"picture", "nifti"}
    assert result["refusals"]
    assert "PLANTED" not in str(result)


def test_of_several_files_each_is_read_for_what_it_is(service):
    damaged = [("file", ("d.png", picture()[:100])), ("file", ("e.dcm", dicom(9)[:700]))]
    others = [("file", ("b.nii", volume())), ("file", ("c.nii.gz", gzip.compress(volume()))), ("file", ("a.png", picture()))]
    study = service.finish(service.client.post("/v1/studies", files=damaged + SERIES + others).json()["id"])
    result = result_of(service, study)
    slices = sorted((record["kind"], record["slices"]) for record in result["scans"])
    assert slices == [("dicom", 4), ("nifti", 4), ("nifti", 4), ("picture", 1)]
    assert [refusal["problem"] for refusal in result["refusals"]] == ["unreadable-file", "no-pixels"]
    assert [refusal["sources"] for refusal in result["refusals"]] == [[0], [1]]
    assert sorted(result["sources"]) == [[2, 3, 4, 5], [6], [7], [8]]
    assert result["sources"][[record["kind"] for record in result["scans"]].index("dicom")] == [2, 3, 4, 5]
    (series,) = [number for number, record in enumerate(result["scans"]) if record["kind"] == "dicom"]
    kinds = {file["name"] for file in result["files"] if file["scan"] == series}
    assert kinds == {"mask", "segmentation", "report", "montage", "slices"}


def test_a_study_is_at_its_end_when_its_last_uncertainty_is_known(predictor, monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(predictor, "uncertainty", lambda _: told.append("uncertainty") or 0.1)
    scans = [scan_of_array(np.stack([draw_head(number) for number in range(count)])) for count in (2, 1)]
    task = StudyTask("", "study", str(tmp_path / "results"), uncertainty=True)
    predict_study(predictor, scans, task, lambda *done: told.append(done))
    assert told == [(0, 3), "uncertainty", (1, 3), "uncertainty", (2, 3), "uncertainty", (3, 3)]


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
        service.finish(service.predict(volume(), "/v1/studies").json()["id"])  # which starts the worker
        (worker,) = service.workers("studies")
        os.kill(worker, signal.SIGSTOP)  # so that none is finished
        kept, lost, done = (service.predict(volume(), "/v1/studies").json()["id"] for _ in range(3))
        several = service.client.post("/v1/studies", files=[*SERIES, ("file", picture())]).json()["id"]
        assert len(list((state / "scratch" / "workers").iterdir())) >= 1
        (state / "scratch" / "uploads" / "left").write_bytes(picture())
        service.kill()
        os.kill(worker, signal.SIGCONT)
    for file in (state / "studies" / lost / "upload").iterdir():
        file.unlink()
    (state / "studies" / lost / "upload").rmdir()
    with Service(checkpoint, tmp_path / "log2", state=str(state), keep_s=4) as service:
        status = service.client.get(f"/v1/studies/{lost}").json()
        assert (status["status"], status["problem"]["type"]) == ("lost", "urn:slicewise:problem:study-lost")
        assert service.finish(kept)["status"] == "done"
        assert service.client.get(f"/v1/studies/{kept}/result").status_code == 200
        assert not (state / "studies" / kept / "upload").exists()
        assert list((state / "scratch" / "uploads").iterdir()) == []
        with pytest.raises(ConfigError, match="another one uses"):
            House(ServiceSettings(model=checkpoint, state=state))
        assert service.finish(done)["status"] == "done"
        assert service.finish(several)["status"] == "done"
        kinds = {record["kind"]: record["slices"] for record in result_of(service, {"id": several})["scans"]}
        assert kinds == {"dicom": SHAPE[0], "picture": 1}
        wait_until(lambda: service.client.get(f"/v1/studies/{kept}").status_code == 404, 20)
        wait_until(lambda: not (state / "studies" / kept).exists())
        assert service.stop() == 0
    assert not (state / "scratch").exists()
    assert not list(tmp_path.glob("slicewise-*")), "nothing of it lies elsewhere"


class Worker:
    """A pool's `ask`: says that the task was begun, and answers when it may."""

    def __init__(self, is_free=True):
        self.is_free = asyncio.Event()
        self.asked = 0
        if is_free:
            self.is_free.set()

    async def ask(self, task, progress):
        self.asked += 1
        progress(0, 0)
        await self.is_free.wait()
        (folder := Path(task.output)).mkdir()
        (folder / "result.json").write_text("{}")


def opened(folder, worker, keep_s=60.0):
    return Studies(folder, worker, keep_s=keep_s)


async def sent(studies):
    study = (await studies.add("owner", [UploadFile(io.BytesIO(b"content"))], uncertainty=False, segment="auto")).id
    await asyncio.sleep(0)
    return study


async def until(find):
    async with asyncio.timeout(10):
        while not (found := find()):
            await asyncio.sleep(0.01)
    return found


def test_while_files_are_removed_nobody_is_promised_them(tmp_path, monkeypatch):
    is_removing, may_remove, remove = threading.Event(), threading.Event(), shutil.rmtree

    def remove_slowly(folder, *options, **more):
        remove(folder, *options, **more)
        if threading.current_thread() is not threading.main_thread():
            is_removing.set()
            may_remove.wait(10)

    async def run(keep_s, status):
        (folder := tmp_path / status).mkdir()
        studies = opened(folder, Worker(), keep_s)
        study = await sent(studies)
        await until(lambda: studies.unfinished == 0)
        assert studies.result("owner", study).is_file()
        monkeypatch.setattr(shutil, "rmtree", remove_slowly)
        if keep_s < 1:
            studies.start()
            ending = asyncio.create_task(asyncio.sleep(0))
        else:
            ending = asyncio.create_task(studies.cancel("owner", study))
        await until(is_removing.is_set)
        with pytest.raises(Problem) as refusal:
            studies.result("owner", study)
        assert refusal.value.name == status
        assert studies._store.find(study) is None or studies.status("owner", study).status == "cancelled"
        may_remove.set()
        await ending
        await studies.close()

    asyncio.run(run(60.0, "not-finished"))
    is_removing.clear()
    may_remove.clear()
    monkeypatch.undo()
    asyncio.run(run(0.01, "no-such-study"))


def test_a_result_that_is_gone_is_no_error_of_the_service(tmp_path):
    async def run():
        studies = opened(tmp_path, Worker())
        study = await sent(studies)
        await until(lambda: studies.unfinished == 0)
        shutil.rmtree(tmp_path / "studies" / study)
        for ask in (lambda: studies.result("owner", study), lambda: studies.file("owner", study, 0, "mask")):
            with pytest.raises(Problem) as refusal:
                ask()
            assert refusal.value.name == "no-such-study"
        await studies.close()

    asyncio.run(run())


def test_a_cancelled_study_says_nothing_of_why_it_had_failed(tmp_path):
    class Failing:
        async def ask(self, task, progress):
            raise Problem("unreadable-file")

    async def run():
        studies = opened(tmp_path, Failing())
        study = await sent(studies)
        await until(lambda: studies.unfinished == 0)
        assert studies.status("owner", study).problem is not None
        status = await studies.cancel("owner", study)
        assert (status.status, status.problem) == ("cancelled", None)
        await studies.close()

    asyncio.run(run())


def test_a_full_disk_costs_neither_the_place_in_the_queue_nor_the_sweeper(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise sqlite3.OperationalError("full")

    async def run():
        worker = Worker(is_free=False)
        studies = opened(tmp_path, worker, keep_s=0.05)
        with monkeypatch.context() as patch:
            patch.setattr(studies._store, "all", list)
            studies.start()
            patch.setattr(studies._store, "change", fail)
            patch.setattr(studies._store, "all", fail)
            study = await sent(studies)
            worker.is_free.set()
            await until(lambda: studies.unfinished == 0)
            assert list((tmp_path / "studies" / study / "upload").iterdir()), "for the next service"
            await asyncio.sleep(0.2)
        studies._store.change(study, status="done")
        await until(lambda: studies._store.find(study) is None)
        await until(lambda: not (tmp_path / "studies" / study).exists())
        await studies.close()

    asyncio.run(run())


def test_a_study_that_cannot_be_begun_gives_its_place_back(tmp_path):
    async def run():
        studies = opened(tmp_path, Worker())
        study = await sent(studies)
        await until(lambda: studies.unfinished == 0)
        studies._queue(studies._store.find(study))  # its upload is gone
        await until(lambda: studies.unfinished == 0)
        assert studies.status("owner", study).status == "failed"
        await studies.close()

    asyncio.run(run())


@pytest.mark.parametrize("is_orderly", [True, False])
def test_starts_that_ended_in_order_are_not_held_against_a_study(tmp_path, is_orderly):
    async def run(study=None):
        worker = Worker(is_free=False)
        studies = opened(tmp_path, worker)
        studies.start()
        study = study or await sent(studies)
        await until(lambda: worker.asked or studies.status("owner", study).status == "failed")
        status = studies.status("owner", study)
        if is_orderly:
            await studies.close()
        else:  # it dies, before a single slice was predicted
            studies._store.close()
        return study, status

    study, _ = asyncio.run(run())
    seen = [asyncio.run(run(study))[1] for _ in range(4)]
    if is_orderly:
        assert [status.status for status in seen] == ["running"] * 4
    else:
        assert [status.status for status in seen] == ["running"] * 2 + ["failed"] * 2
        assert seen[-1].problem["type"] == "urn:slicewise:problem:worker-died"
