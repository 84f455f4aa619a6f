"""How fast the service answers, what overload, dying workers and hostile uploads do to it. Wants an idle machine.

python benchmarks/serving.py [--quick] [--json FILE]

The model is that of benchmarks/inference.py: untrained, of the default size, every slice has a mask. Service and
clients share the machine, as loopback has it; the clients run in a process of their own and parse next to nothing.

================================  ====================================================================================
figure                            what it is
================================  ====================================================================================
ready                             start of the process to 200 from /readyz
slice_p50, slice_p99              one client, one 256 × 256 PNG after the other, upload to answer with mask
bare_rate                         `Predictor.predict` in one process with all cores, decoded arrays, before and after
bare_rate_of_all                  the same in as many processes at once, and with as few threads each, as the service has
saturation_rate                   answers a second to 16 clients that always ask
saturation_fraction               saturation_rate / bare_rate
saturation_fraction_of_all        saturation_rate / bare_rate_of_all
overload_goodput                  answers a second at five times the saturation rate / saturation_rate
overload_p99                      of the accepted requests; ``overload_bound`` is length of the queue / saturation_rate
overload_memory_growth            of all processes of the service, from the first second of overload to the last
lost_requests                     without any answer while a worker is killed every few seconds; beside them, those that
                                  were answered with an error
hostile_uploads                   damaged files of ten formats, bombs and odd names, by turns to each route
hostile_retries                   answers that the queue was full, after which the same file was sent again
server_errors                     of the others, answered with 5xx, and files of studies and batches that failed for no
                                  reason of their own
deaths                            how often the service itself ended
worker_deaths                     how often a worker did, but for those that the benchmark killed
hostile_health_worst              of /healthz, asked all the while
================================  ====================================================================================
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hostile import damaged_files, valid_files
from machine import Figure, run_benchmark
from nibabel import Nifti1Image
from PIL import Image

from inference import draw_heads, make_model

CLIENTS, OVERLOAD, QUEUE, PICTURES = 16, 5, 64, 16
LIMIT_S = 10.0
NAMES = ("a.png", "b.nii.gz", "../../etc/passwd", "e.zip", "\u202egnp.exe", "DOE^JANE.dcm")
ROUTES = ("/v1/predict", "/v1/predict", "/v1/predict", "/v1/studies", "/v1/predict/batch")

START = """
import json, sys
from slicewise.service.server import serve
from slicewise.service.settings import ServiceSettings
serve(ServiceSettings(**json.loads(sys.argv[1])))
"""

BARE = """
import sys, time
import numpy as np
from slicewise.inference.predictor import Predictor
folder, seconds, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]) or None
predictor = Predictor.from_checkpoint(f"{folder}/model", "cpu", threads=threads)
images = np.load(f"{folder}/slices.npy")
for image in images:
    predictor.predict(image)
print("ready", flush=True)
sys.stdin.readline()
count, began = 0, time.perf_counter()
while time.perf_counter() - began < seconds:
    predictor.predict(images[count % len(images)])
    count += 1
print(count / (time.perf_counter() - began))
"""

CLIENT = """
import asyncio, json, sys, time
import uvloop
port, folder, seconds, clients, rate = int(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:6])
requests = [open(f"{folder}/{number}.http", "rb").read() for number in range(int(sys.argv[6]))]
codes, durations = {}, []
async def ask(connection, number):
    began = time.perf_counter()
    try:
        if connection is None:
            connection = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        writer.write(requests[number % len(requests)])
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        code = int(head[9:12])
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
    except (OSError, asyncio.IncompleteReadError):
        code, connection = 0, None
    codes[code] = codes.get(code, 0) + 1
    if code == 200:
        durations.append(time.perf_counter() - began)
    return connection
async def closed(first, end):
    connection, number = None, first
    while time.perf_counter() < end:
        connection = await ask(connection, number)
        number += 1
async def open_loop(end):
    free, busy, number, began = [None] * 400, set(), 0, time.perf_counter()
    async def one(number):
        connection = free.pop() if free else None
        free.append(await ask(connection, number))
    while time.perf_counter() < end:
        due = int((time.perf_counter() - began) * rate)
        while number < due:
            task = asyncio.create_task(one(number))
            busy.add(task)
            task.add_done_callback(busy.discard)
            number += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*busy)
async def main():
    began = time.perf_counter()
    end = began + seconds
    if rate:
        await open_loop(end)
    else:
        await asyncio.gather(*(closed(37 * number, end) for number in range(int(clients))))
    print(json.dumps({"codes": codes, "durations": durations, "duration": time.perf_counter() - began}))
uvloop.run(main())
"""


class Service:
    """One service, ready when made."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        began = time.perf_counter()
        self.log = folder / f"log-{time.monotonic_ns()}"
        given = {"model": str(folder / "model"), "port": 0, "queue": QUEUE, "rate_per_s": 0} | settings
        with self.log.open("w") as stream:
            self.process = psutil.Popen([sys.executable, "-c", START, json.dumps(given)], stderr=stream)
        while not (listening := self.lines("listening")):
            time.sleep(0.01)
        self.port, self.workers = listening[0]["port"], listening[0]["workers"]
        while self.get("/readyz")[0] != 200:
            time.sleep(0.01)
        self.ready_s = time.perf_counter() - began

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Of the log."""
        whole = self.log.read_text().rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, whole) if line["event"] == event]

    def get(self, path: str) -> tuple[int, float]:
        """Status and duration in s; 0 without an answer."""
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=LIMIT_S) as answer:
                code = answer.status
        except urllib.error.HTTPError as error:
            code = error.code
        except OSError:
            code = 0
        return code, time.perf_counter() - began

    def metric(self, name: str) -> float:
        """As Prometheus reads it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=LIMIT_S) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")))

    def wait_for_workers(self) -> None:
        """Until all are there."""
        while self.metric('slicewise_workers_ready{pool="slices"}') < self.workers:
            time.sleep(0.02)

    def memory_mb(self) -> float:
        """Resident memory of all its processes; what they share is counted in each."""
        total = 0
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        return total / 1e6

    def worker_pids(self) -> list[int]:
        """Of the workers that are running."""
        return [one.pid for one in self.process.children() if "slicewise.service.worker" in one.cmdline()]

    def stop(self) -> int:
        """Its exit code."""
        self.process.terminate()
        return int(self.process.wait(30))


@contextmanager
def sampled(measure: Callable[[], float], every_s: float) -> Iterator[list[float]]:
    """What is measured again and again meanwhile."""
    values, done = [measure()], threading.Event()

    def sample() -> None:
        while not done.wait(every_s):
            values.append(measure())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield values
    finally:
        done.set()
        thread.join()


def multipart(content: bytes, name: str, path: str) -> bytes:
    """A whole request."""
    edge = b"edge-of-the-parts"
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: application/octet-stream'
    body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (edge, head.encode(), content, edge)
    start = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=%b\r\n" % (
        path.encode(),
        edge,
    )
    return start + b"Content-Length: %d\r\n\r\n" % len(body) + body


def bare_rate(folder: Path, seconds: float, processes: int, threads: int) -> float:
    """Slices a second of so many predictors at once, without any service."""
    words = [sys.executable, "-c", BARE, str(folder), str(seconds), str(threads)]
    started = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


def load(service: Service, folder: Path, seconds: float, clients: int = 1, rate: float = 0.0) -> dict[str, Any]:
    """Statuses and durations of slices asked by clients that always ask, or at a rate."""
    words = [str(value) for value in (service.port, folder, seconds, clients, rate, PICTURES)]
    done = subprocess.run([sys.executable, "-c", CLIENT, *words], capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    answer["codes"] = Counter({int(code): number for code, number in answer["codes"].items()})
    return answer


def bombs() -> list[bytes]:
    """Small files that grow, and archives with names that lead elsewhere."""
    pixels, archive = io.BytesIO(), io.BytesIO()
    Image.new("1", (30_000, 2_000)).save(pixels, "PNG")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", bytes(2**26))
        made.writestr("../../escaped.png", valid_files()["png"][0])
    volume = gzip.compress(Nifti1Image(np.zeros((512, 512, 250), np.uint8), np.eye(4)).to_bytes(), 1)
    return [pixels.getvalue(), archive.getvalue(), volume, b"", b"\x89PNG\r\n\x1a\n" + bytes(1000)]


def hostile_requests(number: int) -> Iterator[bytes]:
    """Requests with damaged files, the formats by turns."""
    formats = list(valid_files())
    sources = [damaged_files(name, number) for name in formats]
    routes, names, extra = cycle(ROUTES), cycle(NAMES), cycle(bombs())
    for place in range(number):
        content = next(extra) if place % 250 == 249 else next(sources[place % len(sources)])
        yield multipart(content, next(names), next(routes))


def measure_hostile_uploads(service: Service, number: int) -> dict[str, Figure]:
    """Four clients send what they are given."""
    import socket

    requests, lock = hostile_requests(number), threading.Lock()
    codes: Counter[int] = Counter()
    slowest_s, retries = [0.0], count()

    def send(request: bytes) -> bytes:
        """The whole answer: the lines of a batch come one by one. Empty without one."""
        request = request.replace(b"Host:", b"Connection: close\r\nHost:", 1)
        answer = b""
        try:
            with socket.create_connection(("127.0.0.1", service.port), timeout=3 * LIMIT_S) as connection:
                connection.sendall(request)
                while piece := connection.recv(65536):
                    answer += piece
        except OSError:
            return b""
        return answer

    def send_all() -> None:
        while True:
            with lock:
                request = next(requests, None)
            if request is None:
                return
            answer = b"queue-full"
            while b"queue-full" in answer:  # a file that was turned back at the door has shown nothing: it comes again
                began = time.perf_counter()
                answer = send(request)
                if b"queue-full" in answer:
                    next(retries)
                    time.sleep(0.05)
            with lock:
                codes[int(answer[9:12] or 0)] += 1
                slowest_s[0] = max(slowest_s[0], time.perf_counter() - began)

    before = len(service.lines("worker-ended"))
    clients = [threading.Thread(target=send_all) for _ in range(4)]
    began = time.perf_counter()
    with sampled(lambda: service.get("/healthz")[1], 0.1) as health, sampled(service.memory_mb, 0.2) as memory:
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        while service.metric("slicewise_studies_unfinished"):
            time.sleep(0.1)
    print("hostile uploads:", dict(sorted(codes.items())), file=sys.stderr)
    total = sum(codes.values())
    # Studies and batches are accepted before their files are looked at: what fails in them stands in the log alone.
    failed = sum(n for code, n in codes.items() if code >= 500) + len(service.lines("task-failed"))
    return {
        "hostile_uploads": Figure(total, "", total),
        "hostile_retries": Figure(next(retries), "", total),
        "server_errors": Figure(failed, "", total),
        "deaths": Figure(int(service.process.poll() is not None), "", 1),
        "worker_deaths": Figure(len(service.lines("worker-ended")) - before, "", total),
        "dropped_connections": Figure(codes[0], "", total),
        "hostile_rate": Figure(total / (time.perf_counter() - began), "1/s", total),
        "hostile_slowest": Figure(slowest_s[0], "s", total),
        "hostile_health_worst": Figure(max(health), "s", len(health)),
        "hostile_peak_memory": Figure(max(memory), "MB", len(memory)),
    }


def measure_overload(service: Service, folder: Path, seconds: float, capacity: float) -> dict[str, Figure]:
    """Five times what it can do."""
    load(service, folder, 2.0, rate=OVERLOAD * capacity)  # what is held for so many connections is no growth
    with sampled(service.memory_mb, 0.5) as memory:
        answer = load(service, folder, seconds, rate=OVERLOAD * capacity)
    print("overload:", dict(answer["codes"]), file=sys.stderr)
    sent, good = sum(answer["codes"].values()), answer["codes"][200]
    return {
        "overload_goodput": Figure(good / answer["duration"] / capacity, "", sent),
        "overload_offered": Figure(sent / answer["duration"] / capacity, "", sent),
        "overload_p99": Figure(float(np.percentile(answer["durations"], 99)), "s", good),
        "overload_bound": Figure(QUEUE / capacity, "s", 1),
        "overload_memory_growth": Figure(np.mean(memory[-3:]) / np.mean(memory[:3]) - 1, "", len(memory)),
    }


def measure_killing(service: Service, folder: Path, seconds: float, every_s: float) -> dict[str, Figure]:
    """A worker dies every few seconds, each in its turn."""
    turns, kills = count(), count(1)
    killed = 0

    def kill() -> float:
        nonlocal killed
        pids = service.worker_pids()
        if pids:
            psutil.Process(pids[next(turns) % len(pids)]).send_signal(signal.SIGKILL)
            killed = next(kills)
        return 0.0

    with sampled(kill, every_s):
        answer = load(service, folder, seconds, CLIENTS)
    print("killing:", killed, "kills", dict(answer["codes"]), file=sys.stderr)
    sent = sum(answer["codes"].values())
    return {
        "killed_workers": Figure(killed, "", killed),
        "lost_requests": Figure(answer["codes"][0], "", sent),
        "killing_errors": Figure(sent - answer["codes"][200] - answer["codes"][0], "", sent),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Figure]:
    """All figures; speed first, while nothing else has run."""
    quick = arguments.quick
    seconds, hostile, long_s = (3.0, 300, 6.0) if quick else (15.0, arguments.hostile, 60.0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_model(folder / "model")
        images = draw_heads(PICTURES)
        pixels = images.clip(0, 700) * (255 / 700)
        np.save(folder / "slices.npy", pixels.astype(np.uint8).astype(np.float32))
        for number, image in enumerate(pixels):
            stream = io.BytesIO()
            Image.fromarray(image.astype(np.uint8)).save(stream, "PNG")
            (folder / f"{number}.http").write_bytes(multipart(stream.getvalue(), "slice.png", "/v1/predict"))
        ready = []
        for _ in range(3):
            service = Service(folder)
            ready.append(service.ready_s)
            if service.stop() != 0:
                raise RuntimeError("a service that was asked to end did not end with 0")
        service = Service(folder)
        service.wait_for_workers()
        load(service, folder, 2.0, CLIENTS)
        alone = [1000 * duration for duration in load(service, folder, seconds, 1)["durations"]]
        threads = max(1, (psutil.cpu_count() or 1) // service.workers)
        # The service is idle meanwhile; around the load, because machines change their pace.
        bare = [bare_rate(folder, seconds, 1, 0)]
        saturated = load(service, folder, seconds, CLIENTS)
        capacity = saturated["codes"][200] / saturated["duration"]
        bare.append(bare_rate(folder, seconds, 1, 0))
        every = bare_rate(folder, seconds, service.workers, threads)
        figures = measure_overload(service, folder, long_s, capacity)
        figures |= measure_killing(service, folder, long_s, 2.0 if quick else 5.0)
        service.wait_for_workers()
        figures |= measure_hostile_uploads(service, hostile)
        exit_code = service.stop()
    rate = float(np.mean(bare))
    return {
        "ready": Figure.of(ready, "s"),
        "slice_p50": Figure.of(alone, "ms"),
        "slice_p99": Figure(float(np.percentile(alone, 99)), "ms", len(alone)),
        "bare_rate": Figure(rate, "slices/s", 2),
        "bare_rate_of_all": Figure(every, "slices/s", service.workers),
        "saturation_rate": Figure(capacity, "slices/s", saturated["codes"][200]),
        "saturation_fraction": Figure(capacity / rate, "", saturated["codes"][200]),
        "saturation_fraction_of_all": Figure(capacity / every, "", saturated["codes"][200]),
        **figures,
        "exit_code": Figure(exit_code, "", 1),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much is measured."""
    parser.add_argument("--quick", action="store_true", help="a short form: seconds in place of minutes")
    parser.add_argument("--hostile", type=int, default=10_000, help="hostile uploads (default: 10,000)")


if __name__ == "__main__":
    run_benchmark(__doc__, measure, add_options)
