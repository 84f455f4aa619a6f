"""How often each rule of the gatekeeper is right: silent on real MR, not silent on inputs made for it.

python benchmarks/gatekeeper.py --data FOLDER [--json FILE]

FOLDER holds any of the sources named below. They are read and divided as in a run, and the domain is fitted on training and
validation patients: `far-from-training` is counted on test patients. The thresholds of the other rules were chosen with
all of these slices and with inputs made like those here, by other seeds. `NAME_RULE` is the share that the rule speaks of,
`NAME_any` that with a concern of any rule.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from machine import Figure, run_benchmark
from matplotlib import cbook
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from sklearn.datasets import load_sample_images

from slicewise.audit.integrity import is_blank
from slicewise.config import SourceConfig, SplitConfig
from slicewise.data.descriptors import Domain, fit_domain
from slicewise.data.ingest import ingest
from slicewise.data.preprocess import preprocess
from slicewise.data.split import assign_sides, split_patients
from slicewise.errors import FileError
from slicewise.inference.gatekeeper import RULES, inspect
from slicewise.records import Scan
from slicewise.sources import find_studies, read_study
from slicewise.sources.images import read_picture
from slicewise.sources.scans import read_scans

matplotlib.use("Agg")

SOURCES = {
    "lgg": SourceConfig(layout="lgg", path=Path("lgg"), sequences=("flair", "t1", "t1ce")),
    "brisc": SourceConfig(layout="brisc", path=Path("brisc2025"), classification=False),
    "yes_no": SourceConfig(layout="labelled_folders", path=Path("brain_tumor_dataset")),
}
VOLUMES = ("brats/*/*flair.nii.gz", "brats/*/*t1.nii.gz", "brats/*/*t1ce.nii.gz", "brats/*/*t2*.nii.gz", "dicom/*")
SEED = 20261123
MADE = 300
HEAD_SHARE = 0.1  # brighter than air: what is made of less, at the top of the head, shows little of what is meant
WORDS = ("model", "slice", "patient", "report", "figure", "mean", "tumor", "no", "image", "left", "axis", "mm", "12", "3.5")

Picture = NDArray[np.float32]
Random = np.random.Generator


class Tally:
    """What the rules say, by the kind of input."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.inputs: Counter[str] = Counter()
        self.spoken: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.durations_ms: list[float] = []

    def add(self, scan: Scan, *kinds: str) -> None:
        """Inspect an input that is of these kinds."""
        pixels = [preprocess(image)[0] for image in scan.slices]
        started = time.perf_counter()
        rules = {concern.rule for concern in inspect(scan, pixels, self.domain)}
        self.durations_ms.append(1000 * (time.perf_counter() - started) / len(pixels))
        for kind in kinds:
            self.inputs[kind] += 1
            self.spoken[kind].update(rules | ({"any"} if rules else set()))

    def share(self, kind: str, rule: str) -> Figure:
        """Of the inputs of a kind, those that the rule speaks of."""
        return Figure(self.spoken[kind][rule] / self.inputs[kind], "", self.inputs[kind])


def scan_of(image: Picture, color_share: float = 0.0) -> Scan:
    return Scan(np.ascontiguousarray(image, dtype=np.float32)[None], "picture", "made", color_share=color_share)


def of_photograph(colors: NDArray[np.uint8]) -> Scan:
    """As the command reads it, from a file without loss."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Image.fromarray(colors).save(file.name, compress_level=1)
        gray = read_picture(Path(file.name))
    return scan_of(gray.image, gray.color_share)


def photograph(random: Random, originals: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A part of one, perhaps mirrored."""
    original = originals[random.integers(len(originals))]
    height, width = (int(side * random.uniform(0.4, 1)) for side in original.shape[:2])
    top, left = random.integers(original.shape[0] - height + 1), random.integers(original.shape[1] - width + 1)
    return original[top : top + height, left : left + width][:, :: random.choice((-1, 1))]


def noise(random: Random) -> Picture:
    """White, or somewhat smooth."""
    shape = tuple(random.integers(128, 520, size=2))
    kinds: list[Callable[[], NDArray[np.float64]]] = [
        lambda: random.normal(100, 30, shape),
        lambda: random.uniform(0, 255, shape),
        lambda: random.rayleigh(20, shape),
        lambda: ndimage.gaussian_filter(random.normal(0, 100, shape), random.uniform(1, 4)),
    ]
    return kinds[random.integers(len(kinds))]().astype(np.float32)


def texture(random: Random) -> Picture:
    """Clouds, waves, a gradient or a chessboard."""
    shape = tuple(random.integers(128, 520, size=2))
    down, right = np.mgrid[: shape[0], : shape[1]]
    turned = down * np.sin(angle := random.uniform(0, np.pi)) + right * np.cos(angle)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])) + 1e-3
    field = int(random.integers(8, 50))
    kinds: list[Callable[[], NDArray[np.float64]]] = [
        lambda: np.fft.ifft2(np.fft.fft2(random.normal(size=shape)) / frequency ** random.uniform(1, 2)).real,
        lambda: np.sin(turned * random.uniform(0.05, 0.6)),
        lambda: turned,
        lambda: ((down // field + right // field) % 2).astype(float),
    ]
    values = kinds[random.integers(len(kinds))]()
    return (255 * (values - values.min()) / np.ptp(values)).astype(np.float32)


def page(random: Random) -> Picture:
    """A window of text and boxes, dark or light."""
    width, height = int(random.integers(400, 1600)), int(random.integers(300, 1200))
    back, front = (random.integers(0, 50), random.integers(180, 256))
    if random.random() < 0.6:
        back, front = 255 - back, 255 - front
    picture = Image.new("L", (width, height), int(back))
    draw, size = ImageDraw.Draw(picture), int(random.integers(11, 28))
    for top in range(int(random.integers(5, 60)), height - size, round(1.4 * size)):
        line = " ".join(random.choice(WORDS, int(width / (3.2 * size))))
        draw.text((int(random.integers(5, 60)), top), line, fill=int(front), font=ImageFont.load_default(size))
    for _ in range(random.integers(0, 3)):
        left, top = int(random.integers(0, width // 2)), int(random.integers(0, height // 2))
        box = (left, top, left + int(random.integers(30, width // 2)), top + int(random.integers(20, height // 3)))
        draw.rectangle(box, fill=int(random.integers(60, 220)), outline=int(front))
    return np.asarray(picture, dtype=np.float32)


def figure(random: Random) -> Scan:
    """A chart of matplotlib, dark or light."""
    with plt.style.context("dark_background" if random.random() < 0.4 else "default"):
        drawing, axes = plt.subplots(figsize=(random.uniform(3, 7), random.uniform(2.5, 5)), dpi=100)
        kinds: list[Callable[[], object]] = [
            lambda: axes.plot(random.normal(size=(50, 3)).cumsum(axis=0)),
            lambda: axes.bar(range(8), random.uniform(1, 5, 8)),
            lambda: axes.scatter(*random.normal(size=(2, 200))),
            lambda: axes.hist(random.normal(size=500), bins=30),
        ]
        kinds[random.integers(len(kinds))]()
        axes.set(title="Figure of values", xlabel="time (s)", ylabel="value")
        drawing.canvas.draw()
        colors = np.array(drawing.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
        plt.close(drawing)
    return of_photograph(colors)


def as_8_bit(image: Picture) -> NDArray[np.uint8]:
    shifted = image - image.min()
    return (shifted * (255 / max(float(np.percentile(shifted, 99.9)), 1e-6))).clip(0, 255).astype(np.uint8)


def with_letters(random: Random, image: Picture) -> Picture:
    """Words in some corners, as viewers burn them in."""
    picture = Image.fromarray(as_8_bit(image))
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    size = max(9, int(min(width, height) * random.uniform(0.035, 0.06)))
    font = ImageFont.load_default(size)
    for corner in random.permutation(4)[: random.integers(1, 4)]:
        for line in range(random.integers(1, 4)):
            words = " ".join(random.choice(WORDS, 2))
            left = 2 if corner % 2 else width - 2 - draw.textlength(words, font=font)
            top = 2 + 1.15 * size * line if corner < 2 else height - 2 - 1.2 * size * (line + 1)
            draw.text((left, top), words, fill=int(random.integers(200, 256)), font=font)
    return np.asarray(picture, dtype=np.float32)


def with_frame(random: Random, image: Picture) -> Picture:
    """A line around the picture; not on its very border, where the preprocessing takes it for air."""
    framed = as_8_bit(image).astype(np.float32)
    unit = min(framed.shape) / 256
    start, thickness = round(unit * random.uniform(1, 10)), max(1, round(unit * random.uniform(1, 4)))
    inside = np.zeros(framed.shape, dtype=np.bool_)
    inside[start:-start, start:-start] = True
    inside[start + thickness : -start - thickness, start + thickness : -start - thickness] = False
    framed[inside] = random.uniform(150, 255)
    return framed


def computed_tomography(random: Random) -> Picture:
    """A head in Hounsfield units: air, scalp, skull, brain, ventricles, noise."""
    down, right = np.mgrid[-1 : 1 : 256 * 1j, -1 : 1 : 256 * 1j]
    distance = np.hypot(right / random.uniform(0.55, 0.7), down / random.uniform(0.7, 0.85))
    layers = ((1.1, -60.0), (1.0, random.uniform(700, 1500)), (0.9, random.uniform(28, 40)), (0.25, 8.0))
    image = np.full(distance.shape, -1000.0)
    for radius, value in layers:
        image[distance < radius] = value
    return (image + random.normal(0, random.uniform(2, 8), image.shape)).clip(-1024, 3071).astype(np.float32)


def nearly_blank(random: Random) -> Picture:
    """One value, or a few next to it, and a few bright pixels."""
    shape = tuple(random.integers(100, 520, size=2))
    image = np.full(shape, float(random.integers(0, 250))) + random.integers(0, random.integers(1, 8), size=shape)
    return image.astype(np.float32)


def made_inputs(random: Random, heads: list[Picture]) -> Iterator[tuple[str, Scan]]:
    """Inputs that the model was not made for."""
    originals = [np.asarray(image) for image in load_sample_images().images]
    originals.append(np.asarray(Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")))
    for _ in range(MADE):
        head = heads[random.integers(len(heads))]
        colors = photograph(random, originals)
        small = Image.fromarray(head).resize((int(random.integers(24, 64)), int(random.integers(24, 64))))
        yield "inverted", scan_of(head.max() - head)
        yield "letters", scan_of(with_letters(random, head))
        yield "frame", scan_of(with_frame(random, head))
        yield "thumbnail", scan_of(np.asarray(small))
        yield "photograph", of_photograph(colors)
        yield "gray_photograph", of_photograph(np.asarray(Image.fromarray(colors).convert("L")))
        yield "noise", scan_of(noise(random))
        yield "texture", scan_of(texture(random))
        yield "page", scan_of(page(random))
        yield "figure", figure(random)
        yield "ct", replace(scan_of(computed_tomography(random)), kind="nifti")
        yield "nearly_blank", scan_of(nearly_blank(random))


MEANT = {
    "inverted": "inverted",
    "letters": "text",
    "frame": "text",
    "thumbnail": "small",
    "photograph": "color",
    "gray_photograph": "no-head",
    "noise": "no-head",
    "texture": "no-head",
    "page": "text",
    "figure": "text",
    "ct": "not-mr",
    "nearly_blank": "blank",
}
"""The rule that should speak of each kind of made input."""


def measure(arguments: argparse.Namespace) -> dict[str, Figure]:
    """Inspect every slice and volume of the folder, then the made inputs."""
    sources = {
        name: source.model_copy(update={"path": arguments.data / source.path})
        for name, source in SOURCES.items()
        if (arguments.data / source.path).is_dir()
    }
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        store = ingest(sources, Path(scratch) / "store", workers=1)
        sides = assign_sides(store.table, {}, split_patients(store.table, {}, SplitConfig(), SEED)).to_numpy()
        started = time.perf_counter()
        domain = fit_domain(store, np.flatnonzero(sides == "train"), np.flatnonzero(sides == "val"))
        fit = Figure(time.perf_counter() - started, "s", len(store))
        blank = is_blank(store.table).to_numpy()
        large = (store.table["bright_share"] >= HEAD_SHARE).to_numpy(bool)
        facts = dict(zip(store.table["slice_id"], zip(blank, sides, large, strict=True), strict=True))
    if domain is None:
        raise SystemExit(f"Expected slices that can be judged in {arguments.data}, found too few.")
    tally, heads = Tally(domain), []
    for name, source in sources.items():
        for study in find_studies(name, source):
            for item in read_study(study):
                if isinstance(item, FileError):
                    continue
                is_empty, side, is_large = facts[f"{name}/{study.study_id}/{item.sequence}/{item.slice_index}"]
                if not is_empty:
                    tally.add(scan_of(item.image, item.color_share), name, f"{name}_{side}")
                    heads += [item.image] if side == "test" and is_large else []
    for path in sorted(path for pattern in VOLUMES for path in arguments.data.glob(pattern)):
        for scan in read_scans(path):
            if isinstance(scan, Scan):
                tally.add(scan, "volumes")
    real = list(tally.durations_ms)
    random = np.random.default_rng(SEED)
    for kind, scan in made_inputs(random, heads):
        tally.add(scan, kind)
    figures = {}
    for name in (*sources, "volumes"):
        for rule in (*(rule for rule in RULES if rule != "far-from-training"), "any"):
            figures[f"{name}_{rule}"] = tally.share(name, rule)
        judged = name if name == "volumes" else f"{name}_test"
        figures[f"{judged}_far-from-training"] = tally.share(judged, "far-from-training")
    for kind, rule in MEANT.items():
        figures |= {f"{kind}_{rule}": tally.share(kind, rule), f"{kind}_any": tally.share(kind, "any")}
    return figures | {"slice_duration": Figure.of(real, "ms"), "fit_duration": fit}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the data lies, and where there is room for a store of it."""
    names = ", ".join([*(str(source.path) for source in SOURCES.values()), "brats", "dicom"])
    parser.add_argument("--data", type=Path, required=True, help=f"a folder with {names}")
    parser.add_argument(
        "--folder", type=Path, help="for a store of 1.5 GB while this runs; default: that of temporary files"
    )


if __name__ == "__main__":
    run_benchmark(__doc__, measure, add_options)
