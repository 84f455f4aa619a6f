"""`slicewise ui` as a person starts and ends it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from service.running import wait_until
from slicewise.errors import ConfigError
from slicewise.ui import own_service
from slicewise.ui.launch import open_reading_room
from ui.conftest import ReadingRoom


def ui(*options):
    return subprocess.run(
        [sys.executable, "-m", "slicewise", "ui", *map(str, options)], capture_output=True, text=True, timeout=60
    )


def services_of(room):
    """Processes of `slicewise serve` below it."""
    return [child for child in psutil.Process(room.process.pid).children() if serves(child)]


def serves(process):
    try:
        return "serve" in process.cmdline()
    except psutil.NoSuchProcess:  # it ended a moment ago, and may be a zombie
        return False


@pytest.fixture(scope="module")
def own():
    """A reading room with a service of its own."""
    with ReadingRoom(keys=None) as started:
        yield started


def test_it_listens_on_the_loopback_address_and_its_service_asks_for_a_key(own):
    assert httpx.get(own.url, trust_env=False).status_code == 200
    family = [psutil.Process(own.process.pid), *psutil.Process(own.process.pid).children(recursive=True)]
    listening = [at for one in family for at in one.net_connections("tcp") if at.status == psutil.CONN_LISTEN]
    assert len(listening) >= 2
    assert {at.laddr.ip for at in listening} == {"127.0.0.1"}
    (port,) = {at.laddr.port for at in listening} - {own.port}
    assert httpx.get(f"http://127.0.0.1:{port}/v1/model", trust_env=False).status_code == 401


def test_its_key_is_on_no_command_line(own):
    (service,) = services_of(own)
    key = service.environ()["SLICEWISE_API_KEYS"]
    assert len(key) == 48
    for one in psutil.Process(own.process.pid).children(recursive=True):
        assert key not in " ".join(one.cmdline())


def test_a_service_that_dies_is_started_again_where_it_was(own):
    (service,) = services_of(own)
    (port,) = {at.laddr.port for at in service.net_connections("tcp") if at.status == psutil.CONN_LISTEN}
    wait_until(lambda: _is_ready(port))
    key = service.environ()["SLICEWISE_API_KEYS"]
    service.kill()
    again = wait_until(lambda: [one for one in services_of(own) if one.pid != service.pid])
    wait_until(lambda: _is_ready(port))
    assert again[0].environ()["SLICEWISE_API_KEYS"] == key, "the pages know no other"


def _is_ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def is_alive(one):
    return one.is_running() and one.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGHUP])
def test_it_ends_with_all_that_it_started(end):
    with ReadingRoom(keys=None) as room:
        family = psutil.Process(room.process.pid).children(recursive=True)
        assert len(family) > 2, "pages, service, workers"
        os.kill(room.process.pid, end)
        assert room.process.wait(30) == 0
        wait_until(lambda: not any(map(is_alive, family)))


def test_ended_while_it_starts_it_leaves_nothing_behind():
    room = ReadingRoom(keys=None)
    (service,) = wait_until(lambda: services_of(room))
    os.kill(room.process.pid, signal.SIGTERM)
    room.__exit__()
    wait_until(lambda: not is_alive(service))


MANY_SIGNALS = """
import os, signal, time
from slicewise.ui.launch import _closed_by_signals
with _closed_by_signals() as is_closing:
    assert not is_closing()
    room = os.getpid()
    if not os.fork():
        end = time.monotonic() + 1
        while time.monotonic() < end:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(room, number)
        os._exit(0)
    os.wait()
    assert is_closing()
"""


def test_one_signal_after_another_does_not_make_it_hang():
    assert subprocess.run([sys.executable, "-c", MANY_SIGNALS], timeout=20, check=False).returncode == 0


def test_a_service_that_ends_again_and_again_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(own_service, "_FIRST_PAUSE_S", 0.01)
    service = own_service.OwnService(tmp_path)

    def spawn():
        service._started_s = time.monotonic()
        service._process = subprocess.Popen([sys.executable, "-c", ""])
        service._process.wait()

    monkeypatch.setattr(service, "_spawn", spawn)
    spawn()
    with pytest.raises(ConfigError, match="it ended 6 times in a row"):
        wait_until(service.revive)


def test_a_network_is_not_listened_to_without_a_proxy():
    done = ui("--host", "0.0.0.0", "--service", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "Expected --public-name to listen on 0.0.0.0" in " ".join(done.stderr.split())
    with pytest.raises(ConfigError, match="Expected the URL of a service"):  # the next that is looked at
        open_reading_room((), ("no URL",), (), host="0.0.0.0", public_names=("reading.example.org",))


def test_on_a_network_nobody_is_asked_for_the_machines_address(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as public_network:
        public_network.setblocking(False)
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{public_network.getsockname()[1]}")
        with ReadingRoom("--host", "0.0.0.0", "--public-name", "localhost", "--service", "http://127.0.0.1:9") as room:
            assert httpx.get(room.url, trust_env=False).status_code == 200
        with pytest.raises(BlockingIOError):
            public_network.accept()


def test_the_container_says_under_which_name_it_is_reached():
    root = Path(__file__).resolve().parents[2]
    stage = (root / "Dockerfile").read_text(encoding="utf-8").partition("FROM base AS ui")[2].partition("\nFROM ")[0]
    alone = json.loads(re.search(r"^CMD (\[\"ui\".*)$", stage, re.MULTILINE)[1])
    composed = yaml.safe_load((root / "compose.yaml").read_text(encoding="utf-8"))["services"]["ui"]["command"]
    for command, name in ((alone, "localhost"), (composed, "${SLICEWISE_PUBLIC_NAME:-localhost}")):
        assert command[0] == "ui"
        options = dict(zip(command[1::2], command[2::2], strict=True))
        assert options == {"--host": "0.0.0.0", "--public-name": name, "--service": "http://service:8000"}


def test_what_is_no_url_is_said():
    done = ui("--service", "localhost:8000")
    assert done.returncode == 2
    assert "Expected the URL of a service" in done.stderr


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = ui("--port", listener.getsockname()[1], "--service", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "Name another with --port" in done.stderr


def test_a_model_that_is_none_is_said(tmp_path):
    done = ui("--port", _free_port(), "--model", tmp_path)
    assert done.returncode == 2
    assert "Expected a checkpoint (model.json)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_a_report_is_said(tmp_path):
    done = ui("--run", tmp_path)
    assert done.returncode == 2
    assert "Expected a run with a report" in done.stderr


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
