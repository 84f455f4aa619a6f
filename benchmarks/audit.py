"""`slicewise audit` as a whole process on generated pictures: time and memory by their number, and the copies it finds.

python benchmarks/audit.py [--slices 50000] [--folder FOLDER] [--json FILE]

Heads are drawn, two in a hundred are then copied: mirrored or turned, resized, compressed. The pictures take 40 kB each and
are kept in --folder for another time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from machine import Figure, run_benchmark
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SIDE_PX = 256
COPIES_SHARE = 0.02
SHARES = (0.25, 0.5, 1.0)
CHUNK = 250


def draw(number: int) -> NDArray[np.uint8]:
    """A head: skull, brain, ventricles, and a texture of its own; every second one has a bright disc in it."""
    random = np.random.default_rng((1, number))
    down, right = np.mgrid[-1 : 1 : SIDE_PX * 1j, -1 : 1 : SIDE_PX * 1j]
    high, wide = random.uniform(0.75, 0.85), random.uniform(0.6, 0.7)
    distance = np.hypot(right / wide, down / high)
    image = 120.0 * (np.abs(distance - 1) < 0.04) + 95.0 * (distance < 0.94)
    side, tilt = random.uniform(0.08, 0.16), random.uniform(-0.05, 0.05)
    for sign in (-1, 1):
        image[np.hypot((right - sign * side - tilt) / 0.08, (down + 0.05) / random.uniform(0.2, 0.3)) < 1] = 45
    coarse, fine = (ndimage.zoom(random.normal(size=(points, points)), SIDE_PX / points, order=1) for points in (16, 50))
    image += (distance < 0.94) * (18 * coarse + 18 * fine)
    if number % 2:
        row, column = random.uniform(-0.4, 0.4, size=2)
        image[np.hypot(right - column, down - row) < random.uniform(0.05, 0.2)] += 60
    return (image + random.normal(4, 1.5, size=image.shape)).clip(0, 255).astype(np.uint8)


def write_pictures(folder: Path, start: int, stop: int) -> None:
    """Pictures ``start`` to ``stop``, and the copies of some of them."""
    random = np.random.default_rng((2, start))
    for number in range(start, stop):
        place = folder / ("yes" if number % 2 else "no")
        picture = Image.fromarray(draw(number))
        picture.save(place / f"{number}.png", compress_level=1)
        if random.random() < COPIES_SHARE:
            pixels = np.rot90(np.asarray(picture)[:, :: random.choice((-1, 1))], random.integers(4))
            side = random.uniform(200, 400)
            size = (round(side), round(side * random.uniform(0.8, 1.25)))
            Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(place / f"{number}_copy.jpg", quality=85)


def make_set(folder: Path, count: int) -> None:
    """A yes/no folder of ``count`` pictures and their copies; one that is there is kept."""
    if (folder / "complete").is_file():
        return
    for answer in ("yes", "no"):
        (folder / answer).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as pool:
        starts = range(0, count, CHUNK)
        stops = [min(count, start + CHUNK) for start in starts]
        list(pool.map(write_pictures, itertools.repeat(folder), starts, stops))
    (folder / "complete").touch()


def make_part(folder: Path, whole: Path, count: int) -> None:
    """The first ``count`` pictures of a set and their copies, as links."""
    for answer in ("yes", "no"):
        (folder / answer).mkdir(parents=True, exist_ok=True)
        for file in (whole / answer).iterdir():
            if int(file.stem.removesuffix("_copy")) < count:
                (folder / answer / file.name).hardlink_to(file)


def audit(folder: Path, out: Path) -> tuple[float, float]:
    """Seconds, and the most memory in GB that the process and its children held together (shared pages count for each)."""
    started = time.perf_counter()
    words = [str(Path(sys.executable).with_name("slicewise")), "audit", str(folder), "--out", str(out), "--fail-on", "never"]
    with (out.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        watched, most = psutil.Process(process.pid), 0
        while process.poll() is None:
            most = max(most, _resident_bytes(watched))
            time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"slicewise audit ended with exit code {process.returncode}: see {log.name}")
    return time.perf_counter() - started, most / 1e9


def _resident_bytes(process: psutil.Process) -> int:
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def score(folder: Path, out: Path) -> dict[str, Figure]:
    """Copies found, and pairs that are none."""
    pairs = {frozenset((f"{file.stem.removesuffix('_copy')}.png", file.name)) for file in folder.rglob("*_copy.jpg")}
    groups = json.loads((out / "audit.json").read_text())["groups"]
    found = {frozenset(pair) for group in groups for pair in itertools.combinations([Path(file).name for file in group], 2)}
    return {
        "copies_recall": Figure(len(pairs & found) / len(pairs), "", len(pairs)),
        "copies_precision": Figure(len(pairs & found) / max(1, len(found)), "", len(found)),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Figure]:
    """Audit a quarter, a half, and all."""
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        whole = (arguments.folder or Path(scratch)) / f"pictures_{arguments.slices}"
        make_set(whole, arguments.slices)
        seconds = []
        for share in SHARES:
            count = round(arguments.slices * share)
            part, out = Path(scratch) / f"part_{count}", Path(scratch) / f"audit_{count}"
            make_part(part, whole, count)
            slices = sum(len(list((part / answer).iterdir())) for answer in ("yes", "no"))
            duration_s, memory_gb = audit(part, out)
            seconds.append(duration_s)
            figures[f"audit_{count}_duration"] = Figure(duration_s, "s", slices)
            figures[f"audit_{count}_memory"] = Figure(memory_gb, "GB", slices)
        figures |= score(part, out)
    # 1 is growth in proportion to the number of slices, 2 with its square; n log n lies at 1.1.
    growth = math.log(seconds[-1] / seconds[0]) / math.log(SHARES[-1] / SHARES[0])
    return figures | {"audit_growth_exponent": Figure(growth, "", len(SHARES))}


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many pictures, and where."""
    parser.add_argument("--slices", type=int, default=50_000, help="pictures in the largest set (default: 50000)")
    parser.add_argument("--folder", type=Path, help="an existing folder to keep the pictures in; default: keep none")


if __name__ == "__main__":
    run_benchmark(__doc__, measure, add_options)
