"""Too much, too fast, too large, too slow; and workers that die."""

import asyncio
import errno
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from service.running import KEY, Service, archive, is_problem, picture, wait_until
from slicewise.service import pool as pools
from slicewise.service.pool import Pool
from slicewise.service.problems import Problem
from slicewise.service.wire import SliceTask, WorkerSettings


@pytest.fixture(scope="module")
def strict(checkpoint, tmp_path_factory):
    limits = {
        "queue": 2,
        "slice_bytes": 20_000,
        "slice_pixels": 10_000,
        "batch_files": 3,
        "studies": 1,
        "body_timeout_s": 0.5,
    }
    with Service(checkpoint, tmp_path_factory.mktemp("strict") / "log", **limits) as started:
        yield started


@pytest.fixture
def crowd():
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_more_than_the_queue_holds_is_sent_away_with_a_time_to_come_back(strict, crowd):
    (worker,) = strict.workers()
    os.kill(worker, signal.SIGSTOP)
    held = [crowd.submit(strict.predict, picture()) for _ in range(2)]
    wait_until(lambda: strict.metric('slicewise_in_house{lane="predict"}') == 2)
    refused = strict.predict(picture())
    assert is_problem(refused, 503, "queue-full")
    assert int(refused.headers["retry-after"]) >= 1
    began = time.monotonic()
    assert strict.client.get("/healthz").status_code == 200
    assert time.monotonic() - began < 1
    os.kill(worker, signal.SIGCONT)
    assert [answer.result().status_code for answer in held] == [200, 200]
    assert strict.predict(picture()).status_code == 200


def test_what_a_killed_worker_held_is_answered_by_the_next(strict, crowd):
    (worker,) = strict.workers()
    os.kill(worker, signal.SIGSTOP)
    held = [crowd.submit(strict.predict, picture()) for _ in range(2)]
    wait_until(lambda: strict.metric('slicewise_tasks_running{pool="slices"}') == 2)
    os.kill(worker, signal.SIGKILL)
    assert [answer.result().status_code for answer in held] == [200, 200]
    assert worker not in strict.workers()
    assert strict.metric('slicewise_worker_restarts_total{pool="slices"}') == 1


def test_what_is_too_large_is_refused_however_it_is_sent(strict):
    assert is_problem(strict.predict(bytes(30_000)), 413, "too-large")
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(30_000) + b"\r\n--x--\r\n"
    chunks = (body[start : start + 1000] for start in range(0, len(body), 1000))
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert is_problem(strict.client.post("/v1/predict", content=chunks, headers=headers), 413, "too-large")
    assert is_problem(strict.client.post("/v1/nothing", content=bytes(100_000)), 404, "not-found")
    assert is_problem(strict.predict(large_picture()), 413, "too-many-pixels")
    files = [("file", picture())] * 4
    assert is_problem(strict.client.post("/v1/predict/batch", files=files), 413, "too-many-files")
    for length in (b"1e3", b"-5", b"9" * 30):
        head = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nContent-Length: %b\r\n\r\n"
        assert raw(strict, head % (KEY.encode(), length)).split()[1] in (b"400", b"413")


def test_an_upload_that_pauses_too_long_is_ended(strict):
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x"
    )
    assert raw(strict, head % KEY.encode()).startswith(b"HTTP/1.1 408")
    wait_until(lambda: strict.metric('slicewise_in_house{lane="predict"}') == 0)


def test_studies_have_a_queue_of_their_own(strict):
    first = strict.predict(picture(), "/v1/studies")
    assert first.status_code == 202
    refused = strict.predict(picture(), "/v1/studies")
    assert is_problem(refused, 503, "queue-full")
    assert refused.headers["retry-after"] == "10"
    # By its head: of a body that never comes, nothing is waited for.
    head = b"POST /v1/studies HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n"
    head += b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
    assert raw(strict, head % KEY.encode()).startswith(b"HTTP/1.1 503")
    assert strict.predict(picture()).status_code == 200
    assert strict.finish(first.json()["id"])["status"] == "done"


def test_a_key_that_asks_too_often_waits_and_others_do_not(checkpoint, tmp_path):
    with Service(checkpoint, tmp_path / "log", rate_per_s=2) as service:
        answers = [service.client.get("/v1/model") for _ in range(8)]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 1 <= len(refused) <= 4
        assert all(is_problem(answer, 429, "too-many-requests") for answer in refused)
        assert refused[0].headers["retry-after"] == "1"
        assert service.client.get("/v1/model", headers={"Authorization": "Bearer other"}).status_code == 200
        assert service.client.get("/healthz").status_code == 200


def test_sigterm_answers_what_was_accepted_and_ends_with_zero(checkpoint, tmp_path, crowd):
    with Service(checkpoint, tmp_path / "log", workers=2) as service:
        wait_until(lambda: len(service.workers()) == 2)
        workers = service.workers()
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        held = [crowd.submit(service.predict, picture()) for _ in range(5)]
        wait_until(lambda: service.metric('slicewise_in_house{lane="predict"}') == 5)
        service.process.terminate()
        time.sleep(0.3)
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        assert [answer.result().status_code for answer in held] == [200] * 5
        assert service.process.wait(20) == 0
        assert service.lines("ended")


def test_sigterm_does_not_wait_for_ever(checkpoint, tmp_path, crowd):
    with Service(checkpoint, tmp_path / "log", drain_s=1) as service:
        (worker,) = service.workers()
        os.kill(worker, signal.SIGSTOP)
        held = crowd.submit(lambda: service.client.post("/v1/predict", files={"file": picture()}))
        wait_until(lambda: service.metric('slicewise_in_house{lane="predict"}') == 1)
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 10
        assert held.exception() or held.result().status_code >= 500


WORKER = """
import json, os, struct, subprocess, sys, time
def send(header):
    head = json.dumps(header).encode()
    os.write(1, struct.pack("<II", len(head), 0) + head)
sys.stdin.readline()
send({"kind": "ready"})
for line in sys.stdin:
    task = json.loads(line)
    if task["path"] == "die":
        sys.exit(3)
    if task["path"] == "hang":
        time.sleep(60)
    if task["path"] == "babble":
        os.write(1, struct.pack("<II", 3, 0) + b"{{{")
    if task["path"] == "decode":
        decoder = subprocess.Popen(["sleep", "60"])
        with open(os.path.join(os.environ["TMPDIR"], "extracted"), "w") as file:
            file.write(str(decoder.pid))
        time.sleep(60)
    if task["path"] == "tell":
        send({"kind": "progress", "number": task["number"], "done": 1, "total": 2})
    if task["path"] == "fail":
        send({"kind": "error", "number": task["number"], "error": "ValueError", "where": "there"})
    send({"kind": "answer", "number": task["number"]})
"""


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Of one worker, which does as it is told: the answers, or the names of the problems, and how many workers ended."""
    monkeypatch.setattr(pools, "_COMMAND", (sys.executable, "-c", WORKER))

    async def answer_of(pool, path, options):
        try:
            return await pool.ask(SliceTask(path, "id", 0.0), **options)
        except Problem as problem:
            return problem.name

    async def run(paths, options):
        pool = Pool("test", WorkerSettings("", None, 0, 1.0, 1, 1), tmp_path, workers=1, depth=2, timeout_s=1.0)
        pool.start()
        try:
            async with asyncio.timeout(20):
                await pool.wait_until_spawned()
                return *await asyncio.gather(*(answer_of(pool, path, options) for path in paths)), pool.restarts
        finally:
            await pool.close()

    return lambda *paths, **options: asyncio.run(run(paths, options))


def test_what_has_cost_two_workers_is_refused(ask):
    name, restarts = ask("die")
    assert name == "worker-died"
    assert restarts >= 1


def test_what_waits_behind_it_is_not(ask):
    assert ask("die", "fine")[:2] == ("worker-died", b"")


def test_a_worker_that_hangs_is_killed(ask):
    assert ask("hang")[0] == "answer-timeout"


def test_nobody_waits_longer_than_their_patience(ask):
    assert ask("hang", patience_s=0.0)[0] == "not-ready"


def test_an_error_in_a_worker_is_one_answer(ask):
    assert ask("fail") == ("internal", 0)


def test_a_worker_that_talks_nonsense_is_one_that_died(ask, capsys):
    assert ask("babble", "fine")[:2] == ("worker-died", b"")
    assert '"error": "JSONDecodeError"' in capsys.readouterr().err


def test_what_keeps_workers_from_starting_does_not_keep_them_for_ever(ask, monkeypatch, capsys):
    spawn, refusals = asyncio.create_subprocess_exec, [OSError(errno.EMFILE, "files"), OSError(errno.EAGAIN, "processes")]

    async def spawn_later(*words, **options):
        if refusals:
            raise refusals.pop()
        return await spawn(*words, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn_later)
    assert ask("fine") == (b"", 2)
    assert capsys.readouterr().err.count("pool-failed") == 2


def test_trouble_with_telling_of_progress_is_no_death(ask, capsys):
    def fail(done, total):
        raise OSError("PLANTED")

    assert ask("tell", progress=fail) == (b"", 0)
    written = capsys.readouterr().err
    assert written.count("progress-failed") == 2
    assert "PLANTED" not in written


def test_progress_begins_when_a_worker_is_sent_the_task(ask):
    told = []
    ask("tell", progress=lambda *what: told.append(what))
    assert told == [(0, 0), (1, 2)]
    told.clear()
    ask("die", progress=lambda *what: told.append(what))
    assert told == [(0, 0)] * 2


def test_a_killed_worker_takes_its_decoder_and_its_files_along(ask, tmp_path):
    found = []

    async def look(*_):
        while not (written := [file.read_text() for file in tmp_path.rglob("extracted")]) or not written[0]:
            await asyncio.sleep(0.01)
        found.append(psutil.Process(int(written[0])))

    looking = []
    assert ask("decode", progress=lambda *_: looking.append(asyncio.create_task(look())))[0] == "answer-timeout"
    (decoder,) = found
    _, alive = psutil.wait_procs([decoder], timeout=1)
    assert not alive or decoder.status() == psutil.STATUS_ZOMBIE
    assert list(tmp_path.iterdir()) == []


def test_a_worker_and_its_decoder_are_one_group_and_have_one_place_for_files(strict):
    assert strict.predict(archive(slice=picture())).status_code == 200
    (worker,) = strict.workers()
    (decoder,) = psutil.Process(worker).children()
    assert os.getpgid(decoder.pid) == worker
    (extracted,) = [file for file in strict.log.parent.glob("*/workers/*/*/*/*") if file.read_bytes() == picture()]
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: strict.workers() not in ([], [worker]))
    assert not extracted.exists()
    psutil.wait_procs([decoder], timeout=1)
    assert not decoder.is_running() or decoder.status() == psutil.STATUS_ZOMBIE


def large_picture():
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (200, 200), 7).save(stream, "PNG")
    return stream.getvalue()


def raw(service, content):
    with socket.create_connection(("127.0.0.1", service.client.base_url.port), timeout=20) as connection:
        connection.sendall(content)
        return connection.recv(65536)
