"""Too much, too fast, too large, too slow; and workers that die."""

import asyncio
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.running import KEY, Service, is_problem, picture, wait_until
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
    assert "retry-after" in refused.headers
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
import json, os, struct, sys, time
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
    if task["path"] == "fail":
        send({"kind": "error", "number": task["number"], "error": "ValueError", "where": "there"})
    send({"kind": "answer", "number": task["number"]})
"""


def ask(monkeypatch, path, **options):
    """Of a worker that does as it is told."""
    monkeypatch.setattr(pools, "_COMMAND", (sys.executable, "-c", WORKER))

    async def run():
        pool = Pool("test", WorkerSettings("", None, 0, 1.0, 1, 1), workers=1, depth=2, timeout_s=0.3)
        try:
            answer = await pool.ask(SliceTask(path, "id", 0.0), **options)
            return answer, pool.restarts
        except Problem as problem:
            return problem.name, pool.restarts
        finally:
            await pool.close()

    return asyncio.run(run())


def test_what_has_cost_two_workers_is_refused(monkeypatch):
    name, restarts = ask(monkeypatch, "die")
    assert name == "worker-died"
    assert restarts >= 1


def test_a_worker_that_hangs_is_killed(monkeypatch):
    assert ask(monkeypatch, "hang")[0] == "answer-timeout"


def test_nobody_waits_longer_than_their_patience(monkeypatch):
    assert ask(monkeypatch, "hang", patience_s=0.0)[0] == "not-ready"


def test_an_error_in_a_worker_is_one_answer(monkeypatch):
    assert ask(monkeypatch, "fail") == ("internal", 0)


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
