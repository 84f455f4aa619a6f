"""What one joint network costs against two of one task each with the same encoder: parameters, and time for one slice.

python benchmarks/one_for_two.py [--model FOLDER] [--repetitions 500] [--json FILE]

Segmentation alone is encoder and decoder, classification alone encoder and head. A share is joint / (segmentation +
classification), and shall be at most 55 %. Each network has weights of its own, and nothing that its task does not need. A
slice is timed from the preprocessed array to the numbers that answer, with a mask, as where there is a tumor:

- ``torch``: the joint one and segmentation alone are a `TorchEngine` each.
- ``openvino``: the joint one is the product's engine on a CPU, and the others are its graph without what they do not need.

A repetition times the three once, in random order, so that a slow moment of the machine hits all alike. A share of time is
the median over repetitions, with its 95 % interval. The machine shall be idle: on a busy one, calls for the same model came
out two percentage points apart, and the interval does not know.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import torch
from machine import Figure, run_benchmark
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from slicewise.data.preprocess import SIDE_PX
from slicewise.inference.cpu_engine import FOLDER, GRAPH, SETTINGS, CpuEngine
from slicewise.inference.export import export
from slicewise.model.checkpoint import load_checkpoint
from slicewise.model.description import PACKAGED, find_checkpoint, read_description
from slicewise.model.network import MultiTaskNetwork
from slicewise.model.torch_engine import TorchEngine

UNCOUNTED, FEWEST, CONFIDENCE, GOAL = 20, 6, 0.95, 55.0

Way = Callable[[NDArray[np.float32]], object]
"""From ``(1, 256, 256)`` to an answer."""


class Three(NamedTuple):
    """What is compared."""

    joint: Way
    segmentation: Way
    classification: Way


class NoHead(nn.Module):
    """In place of the classification head that segmentation alone does not have."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        """A logit that costs nothing."""
        return maps[-1].new_zeros(len(maps[-1]))


class Graph:
    """A graph, run as `CpuEngine` runs its own."""

    def __init__(self, graph: Any) -> None:
        # The engine's own settings, whatever they are: with others, it would be settings that are compared.
        self._request = ov.Core().compile_model(graph, "CPU", SETTINGS).create_infer_request()
        self._image = self._request.get_input_tensor(0).data
        self._answers = [self._request.get_output_tensor(place).data for place in range(len(self._request.model_outputs))]

    def __call__(self, pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Its outputs."""
        self._image[:, 0] = pixels
        self._request.start_async()
        self._request.wait()
        return [answer.copy() for answer in self._answers]


def with_torch(network: MultiTaskNetwork) -> Three:
    """A network each: engines copy theirs."""
    joint, segmentation, classification = (TorchEngine(network) for _ in range(3))
    segmentation.network.add_module("classifier", NoHead())

    @torch.inference_mode()
    def classify(pixels: NDArray[np.float32]) -> object:
        maps = classification.network.encoder(torch.from_numpy(pixels)[:, None])
        return classification.network.classifier(maps).double().numpy()

    return Three(joint.run, segmentation.run, classify)


def with_openvino(folder: Path) -> Three:
    """The product's engine, and its graph without what one task does not need."""
    # Of the exported outputs, the first is the head's.
    graphs = (ov.Core().read_model(folder / FOLDER / GRAPH) for _ in range(2))
    segmentation, classification = (
        Graph(ov.Model(graph.get_results()[outputs], graph.get_parameters(), "alone"))
        for graph, outputs in zip(graphs, (slice(1, None), slice(0, 1)), strict=True)
    )
    return Three(CpuEngine(folder, read_description(folder)).run, segmentation, classification)


def durations_ms(three: Three, repetitions: int) -> NDArray[np.float64]:
    """``(repetitions, 3)``, after some that are not counted."""
    random = np.random.default_rng(0)
    pixels = random.normal(size=(1, SIDE_PX, SIDE_PX)).astype(np.float32)
    durations = np.empty((UNCOUNTED + repetitions, len(three)))
    for row in durations:
        for place in random.permutation(len(three)):
            started = time.perf_counter()
            three[place](pixels)
            row[place] = 1000 * (time.perf_counter() - started)
    return durations[UNCOUNTED:]


def median_with_interval(values: NDArray[np.float64]) -> Figure:
    """Of percentages; the interval's ends are order statistics, so that it presumes no distribution."""
    rank = int(binom.ppf((1 - CONFIDENCE) / 2, len(values), 0.5))
    ordered = np.sort(values)
    return Figure(float(np.median(values)), "%", len(values), float(ordered[rank - 1]), float(ordered[-rank]))


def share_of(joint: Any, segmentation: Any, classification: Any) -> Any:
    """In percent."""
    return 100 * joint / (segmentation + classification)


def tabulate(name: str, costs: list[str], share: Figure) -> str:
    """A line of the table; within the goal or beyond it is only what is so with the whole interval."""
    low, high = (share.value if end is None else end for end in (share.low, share.high))
    verdict = "yes" if high <= GOAL else "no" if low > GOAL else "not certain"
    interval = "" if share.low is None else f" ({low:.1f} to {high:.1f})"
    return f"| {name} | {' | '.join(costs)} | {share.value:.1f} %{interval} | {share.n} | {verdict} |"


def measure(arguments: argparse.Namespace) -> dict[str, Figure]:
    """Count, time, print a line for each."""
    network, _ = load_checkpoint(arguments.model)
    parts = (("encoder", "decoder", "classifier"), ("encoder", "decoder"), ("encoder", "classifier"))
    counts = [network.count_parameters(names) for names in parts]
    figures = {"parameters_share": Figure(share_of(*counts), "%", 1)}
    figures |= {
        f"parameters_{name}": Figure(count / 1e6, "million", 1) for name, count in zip(Three._fields, counts, strict=True)
    }
    print(f"| what | {' | '.join(Three._fields)} | share (95 % interval) | n | at most {GOAL:.0f} % |")
    print("|---" * 7 + "|")
    print(tabulate("parameters", [f"{count:,}" for count in counts], figures["parameters_share"]), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = find_checkpoint(arguments.model)
        if not CpuEngine.is_exported(folder):  # a copy is: who measures a model shall not find it changed
            folder = Path(shutil.copytree(folder, Path(scratch) / "model"))
            export(folder)
        ways: dict[str, Callable[[], Three]] = {
            "torch": lambda: with_torch(network),
            "openvino": lambda: with_openvino(folder),
        }
        for engine, prepare in ways.items():
            durations = durations_ms(prepare(), arguments.repetitions)
            share = median_with_interval(share_of(*durations.T))
            times = {name: Figure.of(of_one, "ms") for name, of_one in zip(Three._fields, durations.T, strict=True)}
            print(tabulate(engine, [f"{cost.value:.2f} ms" for cost in times.values()], share), flush=True)
            figures[f"{engine}_share"] = share
            figures |= {f"{engine}_{name}": figure for name, figure in times.items()}
    print()
    return figures


def enough(word: str) -> int:
    """A number of repetitions; with fewer than six, no interval of 95 % is had from a median."""
    if (count := int(word)) < FEWEST:
        raise argparse.ArgumentTypeError(f"expected at least {FEWEST}, got {count}")
    return count


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which model, and how long it is timed."""
    parser.add_argument("--model", type=Path, default=PACKAGED, help="checkpoint or run (default: the model in the package)")
    parser.add_argument("--repetitions", type=enough, default=500, help="of each timing (default: 500)")


if __name__ == "__main__":
    run_benchmark(__doc__, measure, add_options)
