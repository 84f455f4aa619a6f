"""Clients that connect and say little, or never end what they begin; here in a server of this process, with short limits."""

import asyncio
import time

import pytest
import uvicorn
from starlette.datastructures import Headers

from slicewise.service import gate, protocol
from slicewise.service.problems import Problem

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


async def app(scope, receive, send):
    total, more = 0, scope["path"] != "/unread"
    while more:
        message = await receive()
        total, more = total + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d" % total
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def talk(monkeypatch):
    """Lets some clients talk to a server; with the answers comes how long it took."""
    monkeypatch.setattr(protocol, "_HEAD_S", 0.5)
    monkeypatch.setattr(protocol, "_HEAD_BYTES", 5000)

    async def serve(client, number):
        server = uvicorn.Server(uvicorn.Config(app, port=0, http=protocol.Protocol, lifespan="off", log_config=None))
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        began, connections = time.monotonic(), []
        try:
            async with asyncio.timeout(5):
                connections += [await asyncio.open_connection("127.0.0.1", port) for _ in range(number)]
                answers = await asyncio.gather(*(client(*connection) for connection in connections))
                duration_s = time.monotonic() - began
        finally:
            for _, writer in connections:
                writer.transport.abort()
            server.should_exit = True
            await running
        return answers, duration_s

    return lambda client, number=1: asyncio.run(serve(client, number))


async def rest(reader):
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize("said", [b"", HEAD], ids=["nothing", "half a head"])
def test_a_head_that_does_not_come_ends_the_connection(talk, said):
    async def client(reader, writer):
        writer.write(said)
        return await rest(reader)

    answers, duration_s = talk(client)
    assert answers == [b""]
    assert 0.4 < duration_s < 3


def test_a_client_that_was_answered_may_rest_longer_than_a_head_may_take(talk):
    async def client(reader, writer):
        answers = []
        for _ in range(2):
            writer.write(HEAD + b"Content-Length: 3\r\n\r\nabc")
            answers.append((await reader.readuntil(b"\r\n\r\n"))[:15] + await reader.readexactly(1))
            await asyncio.sleep(0.8)
        return answers

    assert talk(client)[0] == [[b"HTTP/1.1 200 OK3"] * 2]


@pytest.mark.parametrize(
    ("said", "then"),
    [(HEAD + b"\r\n", b"\r\n"), (HEAD.replace(b"/ ", b"/unread ", 1) + b"Content-Length: 9\r\n\r\n", b"a")],
    ids=["an empty line", "some of a body that nobody read"],
)
def test_what_comes_after_an_answer_has_to_become_a_head(talk, said, then):
    async def client(reader, writer):
        writer.write(said)
        answer = (await reader.readuntil(b"\r\n\r\n"))[:15] + await reader.readexactly(1)
        writer.write(then)
        return answer, await rest(reader)

    answers, duration_s = talk(client)
    assert answers == [(b"HTTP/1.1 200 OK0", b"")]
    assert 0.4 < duration_s < 3


@pytest.mark.parametrize("piece", [b"X-A: b\r\n", b"b"], ids=["many fields", "one field"])
def test_a_head_without_end_ends_the_connection(talk, piece):
    async def client(reader, writer):
        writer.write(HEAD + b"X-B: ")
        try:
            for _ in range(400):
                writer.write(piece * 100)
                await writer.drain()
        except ConnectionError:
            pass
        return await rest(reader)

    answers, duration_s = talk(client)
    assert answers == [b""]
    assert duration_s < 0.4  # not for its time


def test_a_body_is_not_a_head_but_what_follows_a_chunked_one_is(talk):
    async def whole(reader, writer):
        writer.write(HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(100_000))
        return (await reader.readuntil(b"\r\n\r\n"))[:15]

    async def trailed(reader, writer):
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
        for _ in range(20):
            writer.write(b"X-A: b\r\n" * 100)
            await asyncio.sleep(0.005)
        return await rest(reader)

    assert talk(whole)[0] == [b"HTTP/1.1 200 OK"]
    assert talk(trailed)[0] == [b""]


def test_more_connections_than_are_held_are_closed_at_once(talk, monkeypatch):
    monkeypatch.setattr(protocol, "_CONNECTIONS", 3)

    async def client(reader, writer):
        await asyncio.sleep(0.1)
        try:
            writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
            return (await reader.read(15))[9:12]
        except ConnectionError:
            return b""

    assert sorted(talk(client, 5)[0]) == [b"", b"", b"200", b"200", b"200"]


def test_a_body_that_trickles_is_given_up_on():
    async def receive():
        await asyncio.sleep(0.1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read_all():
        limited = gate._limited(receive, Headers({}), 10**6, timeout_s=0.5)
        while True:
            await limited()

    began = time.monotonic()
    with pytest.raises(Problem) as refused:
        asyncio.run(read_all())
    assert refused.value.name == "body-timeout"
    assert 0.4 < time.monotonic() - began < 1


def test_a_slow_but_steady_body_is_taken():
    async def receive():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": bytes(4096), "more_body": True}

    async def read_some():
        limited = gate._limited(receive, Headers({}), 10**6, timeout_s=0.3)
        return [len((await limited())["body"]) for _ in range(20)]

    assert asyncio.run(read_some()) == [4096] * 20
