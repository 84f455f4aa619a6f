import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from slicewise.batch import place, ray_pool
from slicewise.batch.batch import Options, predict_jobs
from slicewise.batch.inputs import find_inputs

pytest.importorskip("ray", reason="needs Ray: pip install slicewise[ray]")

COUNT = 120


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def start(pictures, checkpoint, out):
    command = [
        "-m",
        "slicewise",
        "predict",
        pictures,
        "--model",
        checkpoint,
        "--out",
        out,
        "--engine",
        "ray",
        "--workers",
        "2",
    ]
    return subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(out):
    return len(list(out.glob("*_result.json")))


def wait_for(out, count, process):
    deadline = time.monotonic() + 120
    while finished(out) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers_of(process):
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "_Actor" in " ".join(child.cmdline())]


def check(out, stderr, pictures, checkpoint, make_worker):
    """Every input once, and as one process alone predicts it."""
    records = json.loads((out / "results.json").read_text())
    assert [Path(record["file"]).name for record in records] == [f"{number:03d}.png" for number in range(COUNT)]
    assert "broken.png" in stderr
    alone = make_worker()
    predict_jobs(find_inputs([pictures], alone.output)[:5], alone)
    for mask in sorted(alone.output.glob("*_mask.png")):
        assert mask.read_bytes() == (out / mask.name).read_bytes()
    assert not [file for file in out.rglob("*") if file.name.endswith(".tmp")]


def test_a_worker_killed_in_the_middle_loses_nothing_and_nothing_is_done_twice(pictures, checkpoint, tmp_path, make_worker):
    out = tmp_path / "ray"
    out.mkdir()
    process = start(pictures, checkpoint, out)
    wait_for(out, 10, process)
    before = {file: file.stat().st_mtime_ns for file in out.glob("*_result.json")}
    (victim, *_) = workers_of(process)
    os.kill(victim.pid, signal.SIGKILL)
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == 2  # one input was broken
    check(out, stderr, pictures, checkpoint, make_worker)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_worker_tells_the_driver_of_a_full_disk(pictures, checkpoint, tmp_path, monkeypatch):
    worker = ray_pool._Actor(str(checkpoint), str(tmp_path / "out"), Options())

    def refuse(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(place, "write_atomically", refuse)
    answer = worker({"number": 3, "path": str(pictures / "000.png"), "target": "000"})
    worker.worker.decoder.close()
    assert answer.pop("full").startswith("Expected room")
    assert answer == {"number": 3, "record": "", "refusal": ""}


def test_a_killed_driver_is_taken_up_again(pictures, checkpoint, tmp_path, make_worker):
    out = tmp_path / "ray"
    out.mkdir()
    process = start(pictures, checkpoint, out)
    wait_for(out, 10, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    for member in family:
        member.kill() if member.is_running() else None
    done = {file: file.stat().st_mtime_ns for file in out.glob("*_result.json")}
    assert 10 <= len(done) <= COUNT
    for leftover in out.glob(".*.tmp"):  # of a write that was cut short
        leftover.unlink()
    process = start(pictures, checkpoint, out)
    _, stderr = process.communicate(timeout=180)
    check(out, stderr, pictures, checkpoint, make_worker)
    assert {file: file.stat().st_mtime_ns for file in done} == done
