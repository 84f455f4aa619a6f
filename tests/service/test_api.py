"""The routes in this process, their workers replaced by what a test needs."""

import asyncio
import errno
import json
import shutil
import threading
import zipfile
from contextlib import asynccontextmanager

import httpx
import pytest

from service.running import is_problem
from slicewise.service import uploads
from slicewise.service.api import create_app
from slicewise.service.house import House
from slicewise.service.settings import ServiceSettings

LARGE = bytes(100_000)
"""Beyond what is copied at once."""


class Workers:
    """A pool's `ask`: answers, but for the files that it is told to keep waiting."""

    def __init__(self, quick=10**6):
        self.quick = quick
        self.asked = 0

    async def ask(self, task, **_):
        self.asked += 1
        if self.asked > self.quick:
            await asyncio.Event().wait()
        return b"{}"


@asynccontextmanager
async def opened(checkpoint, **settings):
    """A house whose workers do not start, its application, and a client."""
    house = House(ServiceSettings(model=checkpoint, workers=1, **settings))
    app = create_app(house)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        try:
            yield house, app, client
        finally:
            await house.close()


def files(count, content=b"content"):
    return [("file", (str(number), content)) for number in range(count)]


def kept(house):
    return list((house._scratch / "uploads").iterdir())


def test_a_batch_whose_client_has_gone_leaves_nothing(checkpoint):
    request = httpx.Request("POST", "http://localhost/v1/predict/batch", files=files(9))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},  # as of uvicorn
        "method": "POST",
        "path": "/v1/predict/batch",
        "raw_path": b"/v1/predict/batch",
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": "http",
        "http_version": "1.1",
    }

    async def run(quick):
        async with opened(checkpoint) as (house, app, _):
            house.slices.ask = Workers(quick).ask
            messages = [{"type": "http.request", "body": request.read(), "more_body": False}]
            has_begun, sent = asyncio.Event(), []

            async def receive():
                if messages:
                    return messages.pop()
                if quick:
                    await has_begun.wait()
                    assert kept(house)
                return {"type": "http.disconnect"}

            async def send(message):
                sent.append(message)
                if message.get("body"):
                    has_begun.set()

            await app(scope | {"state": {}}, receive, send)
            assert kept(house) == []
            return sent

    assert any(message.get("body") for message in asyncio.run(run(1)))
    asyncio.run(run(0))  # gone before the answer had begun


def test_a_batch_that_cannot_be_written_leaves_nothing(checkpoint, monkeypatch):
    copied = []

    def copy_some(source, target, length):
        if len(copied) == 2:
            target.write(source.read(10))
            raise OSError(errno.ENOSPC, "full")
        copied.append(shutil.copyfileobj(source, target, length))

    monkeypatch.setattr(uploads, "shutil", type("shutil", (), {"copyfileobj": copy_some, "rmtree": shutil.rmtree}))

    async def run():
        async with opened(checkpoint) as (house, _, client):
            assert is_problem(await client.post("/v1/predict/batch", files=files(4, LARGE)), 500, "internal")
            assert len(copied) == 2
            assert kept(house) == []
            assert is_problem(await client.post("/v1/predict", files=files(1, LARGE)), 500, "internal")
            assert kept(house) == []

    asyncio.run(run())


def test_the_files_of_a_study_are_stored_as_one_and_not_by_the_event_loop(checkpoint, monkeypatch):
    threads, held = set(), []

    def copy(source, target, length):
        threads.add(threading.current_thread())
        shutil.copyfileobj(source, target, length)

    async def hold(task, **_):
        with zipfile.ZipFile(task.path) as archive:
            held.extend((member.compress_type, archive.read(member)) for member in archive.infolist())

    monkeypatch.setattr(uploads, "shutil", type("shutil", (), {"copyfileobj": copy}))

    async def run():
        async with opened(checkpoint) as (house, _, client):
            house._studies_pool.ask = hold
            assert (await client.post("/v1/studies", files=files(2, LARGE) + files(1))).status_code == 202
            while house.studies.unfinished:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert held == [(zipfile.ZIP_STORED, content) for content in (LARGE, LARGE, b"content")]
    assert threading.main_thread() not in threads


def test_a_study_that_cannot_be_written_leaves_nothing(checkpoint, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    async def run():
        async with opened(checkpoint) as (house, _, client):
            with monkeypatch.context() as patch:
                patch.setattr(uploads, "shutil", type("shutil", (), {"copyfileobj": fail}))
                assert is_problem(await client.post("/v1/studies", files=files(2)), 500, "internal")
            assert list(house.studies._folder.iterdir()) == []
            assert house.studies.unfinished == 0

    asyncio.run(run())


def test_what_nobody_foresaw_is_a_problem_too_and_is_written_down_once(checkpoint, capsys):
    def fail(*_):
        raise ValueError("PLANTED")

    async def run():
        async with opened(checkpoint) as (house, _, client):
            house.studies.status = fail
            answer = await client.get(f"/v1/studies/{'0' * 32}")
            assert is_problem(answer, 500, "internal")
            return answer

    answer = asyncio.run(run())
    written = capsys.readouterr().err
    (line,) = [line for line in map(json.loads, written.splitlines()) if line["event"] == "request-failed"]
    assert (line["error"], line["request_id"]) == ("ValueError", answer.headers["x-request-id"])
    assert line["where"].startswith("api.py:")
    assert "PLANTED" not in written + answer.text


def test_as_many_files_come_as_the_limits_say_and_no_more(checkpoint):
    async def run():
        async with opened(checkpoint, batch_files=1200) as (house, _, client):
            house.slices.ask = Workers().ask
            answer = await client.post("/v1/predict/batch", files=files(1200))
            assert len(answer.text.splitlines()) == 1200
            assert is_problem(await client.post("/v1/predict/batch", files=files(1201)), 413, "too-many-files")
            assert is_problem(await client.post("/v1/studies", files=files(2001)), 413, "too-many-files")
            # It would have been the answer for the last of them.
            assert is_problem(await client.post("/v1/predict", files=files(2)), 413, "too-many-files")
            assert house.studies.unfinished == 0

    asyncio.run(run())


def test_a_batch_is_no_way_around_the_limit_of_a_slice(checkpoint):
    async def run():
        async with opened(checkpoint, slice_bytes=1024) as (house, _, client):
            house.slices.ask = (workers := Workers()).ask
            sent = files(1, bytes(1024)) + files(1, bytes(1025)) + files(1)
            answer = await client.post("/v1/predict/batch", files=sent)
            lines = sorted(map(json.loads, answer.text.splitlines()), key=lambda line: line["index"])
            assert [line["status"] for line in lines] == [200, 413, 200]
            assert lines[1]["problem"]["type"] == "urn:slicewise:problem:too-large"
            assert workers.asked == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "status", "name"), [(errno.EMFILE, 413, "too-many-files"), (errno.ENOSPC, 500, "internal")]
)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict/batch", "/v1/studies"])
def test_a_body_that_cannot_be_kept_is_not_called_broken(checkpoint, monkeypatch, capsys, path, code, status, name):
    def fail(**_):
        raise OSError(code, "PLANTED")

    async def run():
        async with opened(checkpoint) as (_, _, client):
            monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", fail)
            return await client.post(path, files=files(1))

    answer = asyncio.run(run())
    assert is_problem(answer, status, name)
    written = capsys.readouterr().err
    (line,) = [line for line in map(json.loads, written.splitlines()) if line["event"] == "request-failed"]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert "PLANTED" not in written


@pytest.mark.parametrize("path", ["/v1/predict/batch", "/v1/studies"])
def test_a_file_in_another_field_is_not_dropped(checkpoint, path):
    async def run():
        async with opened(checkpoint) as (house, _, client):
            house.slices.ask = house._studies_pool.ask = (workers := Workers()).ask
            other = [("file1", ("1", b"content"))]
            for sent in (files(2) + other, other + files(1), other):
                assert is_problem(await client.post(path, files=sent), 400, "bad-request")
            assert workers.asked == house.studies.unfinished == 0
            assert kept(house) == []

    asyncio.run(run())


@pytest.mark.parametrize("uploads_at_once", [1, 2, 9])
def test_a_flood_of_studies_finds_as_many_places_as_there_are(checkpoint, uploads_at_once):
    async def run():
        async with opened(checkpoint, studies=3, study_uploads=uploads_at_once) as (house, _, client):
            house._studies_pool.ask = Workers(quick=0).ask
            accepted, refused = [], []

            async def send(number):
                # Some are written in the event loop, some by a thread; so they overtake each other.
                answer = await client.post("/v1/studies", files=files(1 + number % 3, LARGE if number % 2 else b"content"))
                assert house.studies.unfinished <= 3
                (accepted if answer.status_code == 202 else refused).append(answer)

            for _ in range(3):
                await asyncio.gather(*(send(number) for number in range(20)))
            assert len(accepted) == house.studies.unfinished == 3
            assert all(is_problem(answer, 503, "queue-full") for answer in refused)
            assert refused[-1].headers["retry-after"] == "10"
            assert house.lanes["studies"].count == 0
            await client.delete(accepted[0].headers["location"])
            await asyncio.gather(*(send(number) for number in range(20)))
            assert len(accepted) == 4

    asyncio.run(run())


@pytest.mark.parametrize("option", ["explain", "uncertainty"])
def test_slow_answers_leave_room_for_quick_ones(checkpoint, option):
    async def run():
        async with opened(checkpoint, queue=20) as (house, _, client):
            house.slices.ask, house.thorough.ask = Workers().ask, Workers(quick=0).ask
            slow = [
                asyncio.create_task(client.post(f"/v1/predict?{option}=true", files=files(1)))
                for _ in range(house.settings.queue)
            ]
            done, waiting = await asyncio.wait(slow, timeout=2)
            refused = [task.result() for task in done]
            assert len(waiting) == house.lanes["thorough"].count == 8
            assert all(is_problem(answer, 503, "queue-full") for answer in refused)
            assert int(refused[0].headers["retry-after"]) >= 1
            assert (await client.post("/v1/predict", files=files(1))).status_code == 200
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert house.lanes["thorough"].count == 0

    asyncio.run(run())


def test_a_batch_of_slow_answers_is_asked_one_by_one(checkpoint):
    async def run():
        async with opened(checkpoint) as (house, _, client):
            house.thorough.ask = Workers(quick=5).ask
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await client.post("/v1/predict/batch?explain=true", files=files(9))
            return house.thorough.ask.__self__.asked

    assert asyncio.run(run()) == 6


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict/batch", "/v1/studies"])
def test_a_form_has_no_fields_but_files_and_no_charset_but_utf_8(checkpoint, path):
    async def run():
        async with opened(checkpoint) as (house, _, client):
            house.slices.ask = house._studies_pool.ask = Workers().ask

            async def send(charset, **fields):
                request = client.build_request("POST", path, files=files(1), data=fields)
                request.headers["Content-Type"] += charset
                return await client.send(request)

            for charset in ("", "; charset=utf-8", '; charset="UTF8"'):
                assert (await send(charset)).is_success
            for charset in ("; charset=punycode", "; charset=latin-1", "; charset="):
                assert is_problem(await send(charset), 400, "bad-request")
            assert is_problem(await send("", name="x"), 400, "bad-request")
            text = await client.post(path, data={"name": "x"})
            assert is_problem(text, 400, "bad-request")

    asyncio.run(run())
