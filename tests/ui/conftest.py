"""A service of the packaged model, and the reading room in front of it, as a person would start them."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from service.running import KEY, Service
from slicewise.model.description import PACKAGED
from slicewise.ui import client
from slicewise.ui.choosing import EXAMPLES
from slicewise.ui.launch import APP


class ReadingRoom:
    """`slicewise ui` with some options, in a process of its own; ready when entered."""

    def __init__(self, *options, keys=KEY):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {name: value for name, value in os.environ.items() if name != "SLICEWISE_API_KEYS"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "slicewise", "ui", "--port", str(self.port), *map(str, options)],
            env=environment | ({"SLICEWISE_API_KEYS": keys} if keys else {}),
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        assert re.match(rf"The reading room is at http://[\d.]+:{self.port}\.", self.process.stdout.readline())
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30) and None
        finally:
            self.process.kill()
            self.process.stdout.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    with Service(PACKAGED, tmp_path_factory.mktemp("service") / "log") as started:
        yield started


@pytest.fixture(scope="session")
def service_url(service):
    return str(service.client.base_url).rstrip("/")


@pytest.fixture
def connect():
    """Makes clients, closed when the test is over."""
    made = []
    yield lambda *words: made.append(client.Service(*words)) or made[-1]
    for one in made:
        one.close()


@pytest.fixture
def asked(connect, service_url):
    return connect(service_url, KEY)


@pytest.fixture(scope="session")
def example():
    """The bytes of an example of the reading room, by its name on the page."""

    def read(name):
        return (APP.parent / "examples" / EXAMPLES[name]).read_bytes()

    return read


# Playwright's event loop runs in this thread while it is open, and tests in other files want one of their own.
@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox needs more rights than a container has.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()
