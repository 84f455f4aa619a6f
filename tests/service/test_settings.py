import socket
import subprocess
import sys

import pytest
from pydantic import SecretStr

from slicewise.errors import CheckpointError, ConfigError
from slicewise.service.limits import Lane, RateLimit
from slicewise.service.server import serve
from slicewise.service.settings import ServiceSettings


def test_a_network_is_not_listened_to_without_keys(tmp_path):
    with pytest.raises(ConfigError, match=r"Expected API keys in SLICEWISE_API_KEYS to listen on 0\.0\.0\.0"):
        ServiceSettings(model=tmp_path, host="0.0.0.0").check()
    assert ServiceSettings(model=tmp_path, host="0.0.0.0", keys=(SecretStr("key"),)).check()
    assert ServiceSettings(model=tmp_path).check().is_open


def test_a_command_line_becomes_settings(tmp_path):
    words = ["slice_bytes=5000", "keep_s=7.5"]
    settings = ServiceSettings.of({"model": tmp_path, "port": 9, "state": None}, words, {"SLICEWISE_API_KEYS": "a,b"})
    assert (settings.port, settings.slice_bytes, settings.keep_s, len(settings.keys)) == (9, 5000, 7.5, 2)
    for word in ("slice_bytes", "speed=1", "keys=a"):
        with pytest.raises(ConfigError, match="Expected NAME=VALUE with one of host, port"):
            ServiceSettings.of({"model": tmp_path}, [word], {})
    with pytest.raises(ConfigError, match="Expected another value for queue"):
        ServiceSettings.of({"model": tmp_path}, ["queue=0"], {})


def test_keys_are_not_shown(tmp_path):
    assert "hidden-key" not in repr(ServiceSettings(model=tmp_path, keys=(SecretStr("hidden-key"),)))


def test_without_a_model_it_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr("slicewise.service.server.configure_logs", lambda: None)
    with pytest.raises(CheckpointError, match="Expected a checkpoint"):
        serve(ServiceSettings(model=tmp_path, port=0))


def test_a_taken_port_is_said(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match=r"Expected to listen on 127\.0\.0\.1"),
    ):
        serve(ServiceSettings(model=tmp_path, port=taken.getsockname()[1]))


def test_tokens_come_back_at_the_rate():
    now = 0.0
    limit = RateLimit(2.0, clock=lambda: now)
    assert [limit.take("a") for _ in range(5)] == [True] * 4 + [False]
    assert limit.take("b")
    now = 0.5
    assert [limit.take("a") for _ in range(2)] == [True, False]
    assert RateLimit(0.0).take("a")


@pytest.mark.parametrize("limit", [2, 64])
@pytest.mark.parametrize(
    ("stays_s", "retry_after_s"),
    [
        ([], 1),
        ([20.0] * 50, 10),  # half of those who stay for 20 s, and came one after the other, have gone after 10 s
        ([0.01] * 50, 1),
        ([300.0] * 50, 60),
        ([21.0], 2),  # 1 + (21 - 1) / 10 = 3 s, and the half of it, rounded up
        ([21.0, 23.0], 3),  # 3 + (23 - 3) / 10 = 5 s
    ],
)
def test_a_lane_says_when_half_of_it_is_free(limit, stays_s, retry_after_s):
    lane = Lane(limit)
    assert [lane.enter() for _ in range(limit + 1)] == [True] * limit + [False]
    for stay_s in stays_s:
        lane.leave(stay_s)
        assert lane.enter()
    assert lane.retry_after_s() == retry_after_s
    # How full it was is no matter.
    alone = Lane(limit)
    for stay_s in stays_s:
        alone.enter()
        alone.leave(stay_s)
    assert alone.retry_after_s() == retry_after_s


def test_neither_the_service_nor_a_worker_loads_torch():
    modules = ", ".join(f"slicewise.service.{name}" for name in ("api", "server", "worker", "study"))
    code = f"import {modules}, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
