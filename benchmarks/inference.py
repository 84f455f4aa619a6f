"""How fast and how small prediction is, on an idle machine, and what hostile files do to it.

python benchmarks/inference.py [--slices 300] [--mutated 5000] [--json FILE]

The model is untrained, of the default size, exported; its threshold is 0, so that every slice has a mask, as in a volume
full of tumor. A slice is timed from the decoded array to the result, gatekeeper included; a volume of 155
slices from its .nii.gz to its mask on disk, decoding in the child included. Both run in a process of their own that loads no
torch, whose memory, with its decoder's, is the peak. Beside them, in the same call: torch itself, ONNX Runtime where it is
installed, and a plain U-Net at full resolution in torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from hostile import measure_hostile
from machine import Figure, run_benchmark
from numpy.typing import NDArray
from plain_unet import plain_unet

from slicewise.config import ModelConfig
from slicewise.data.descriptors import DESCRIPTORS, Domain
from slicewise.inference.cpu_engine import FOLDER, GRAPH
from slicewise.inference.export import export
from slicewise.inference.predictor import Predictor
from slicewise.model.checkpoint import save_checkpoint
from slicewise.model.network import MultiTaskNetwork

SIDE_PX, UNCOUNTED, VOLUMES = 256, 20, 5
VOLUME_SHAPE = (240, 240, 155)

ALONE = """
import time
started = time.perf_counter()
from slicewise.inference.predictor import Predictor
from slicewise.inference.decoding import Decoder
imported = time.perf_counter()
import json, sys
from pathlib import Path
import numpy as np
from slicewise.inference.nifti_out import make_nifti, write_nifti
folder, count = Path(sys.argv[1]), int(sys.argv[2])
def peak_mb(pid):
    # Not getrusage's: that of a new process begins with its parent's.
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000
predictor = Predictor.from_checkpoint(folder / "model", "cpu")
ready = time.perf_counter()
images = np.load(folder / "slices.npy")
def times(predict):
    durations = []
    for number in range(count + 20):
        image = images[number % len(images)]
        began = time.perf_counter()
        predict(image)
        durations.append(1000 * (time.perf_counter() - began))
    return durations[20:]
parts = [predictor.predict(image).timings_s for image in images]
answer = {
    "import": imported - started,
    "start": ready - started,
    "slice": times(predictor.predict),
    "preprocess": [1000 * part["preprocess"] for part in parts],
    "restore": [1000 * part["restore"] for part in parts],
}
with Decoder() as decoder:
    def volume():
        (scan,) = decoder.read(folder / "volume.nii.gz")
        write_nifti(make_nifti(predictor.predict(scan)), folder / "mask.nii.gz")
    volume()
    answer["volume"] = []
    for _ in range(int(sys.argv[3])):
        began = time.perf_counter()
        volume()
        answer["volume"].append(time.perf_counter() - began)
    answer["memory"] = [peak_mb("self"), peak_mb(decoder.pid)]
answer["torch"] = "torch" in sys.modules
print(json.dumps(answer))
"""


def draw_heads(count: int) -> NDArray[np.float32]:
    """Slices ``(count, 256, 256)``: a textured ellipse on dark noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    inside = (rows - 128) ** 2 / 100**2 + (columns - 128) ** 2 / 80**2 < 1
    texture = random.normal(400, 60, size=(count, SIDE_PX, SIDE_PX))
    return np.where(inside, texture, np.abs(random.normal(0, 8, size=texture.shape))).astype(np.float32)


def make_model(folder: Path) -> Path:
    """An exported checkpoint that answers "tumor" to everything."""
    torch.manual_seed(0)
    config = ModelConfig()
    network = MultiTaskNetwork(config).train()
    with torch.no_grad():
        network(torch.randn(4, 1, 128, 128))
    facts = {"patients": {}, "metrics": {}, "history": [], "provenance": {}, "data_fingerprint": ""}
    count = len(DESCRIPTORS)
    facts["domain"] = Domain(
        descriptors=tuple(DESCRIPTORS),
        mean=(0.0,) * count,
        inverse_covariance=tuple(map(tuple, np.eye(count).tolist())),
        limit=1e9,
        planes={"axial": 1},
        sequences={"flair": 1},
    )
    facts |= {"threshold": 0.0, "mask_threshold": 0.5, "parameters": network.count_parameters()}
    save_checkpoint(
        folder, network.eval(), name="joint", tasks=("segmentation", "classification"), architecture=config, **facts
    )
    export(folder)
    return folder


def durations_ms(predict: Callable[[NDArray[np.float32]], object], images: NDArray[np.float32], count: int) -> list[float]:
    """Of ``count`` slices, after some that are not counted."""
    durations = []
    for number in range(count + UNCOUNTED):
        started = time.perf_counter()
        predict(images[number % len(images)])
        durations.append(1000 * (time.perf_counter() - started))
    return durations[UNCOUNTED:]


def measure_alone(folder: Path, count: int) -> dict[str, Figure]:
    """What a process that only predicts takes."""
    words = [sys.executable, "-c", ALONE, str(folder), str(count), str(VOLUMES)]
    answer = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    if answer["torch"]:
        raise RuntimeError("the process that should do without torch has loaded it")
    own, child = answer["memory"]
    return {
        "slice_p50": Figure.of(answer["slice"], "ms"),
        "slice_p99": Figure(float(np.percentile(answer["slice"], 99)), "ms", count),
        "slice_preprocess_p50": Figure.of(answer["preprocess"], "ms"),
        "slice_restore_p50": Figure.of(answer["restore"], "ms"),
        "volume_time": Figure.of(answer["volume"], "s"),
        "import_time": Figure(answer["import"], "s", 1),
        "start_time": Figure(answer["start"], "s", 1),
        "peak_memory": Figure(own + child, "MB", 1),
        "peak_memory_of_decoder": Figure(child, "MB", 1),
    }


def measure_others(folder: Path, images: NDArray[np.float32], count: int) -> dict[str, Figure]:
    """The same with torch, the bare network in ONNX Runtime and OpenVINO, and a plain U-Net."""
    predictor = Predictor.from_checkpoint(folder / "model", "torch")
    figures = {"torch_slice_p50": Figure.of(durations_ms(predictor.predict, images, count), "ms")}
    plain = plain_unet().eval()

    @torch.inference_mode()
    def predict_plainly(image: NDArray[np.float32]) -> object:
        return torch.sigmoid(plain(torch.from_numpy((image - image.mean()) / image.std())[None, None])).numpy()

    figures["baseline_slice_p50"] = Figure.of(durations_ms(predict_plainly, images, count // 3), "ms")
    if find_spec("onnxruntime"):
        import onnxruntime

        graph = onnxruntime.InferenceSession(folder / "model" / FOLDER / GRAPH, providers=["CPUExecutionProvider"])

        def predict_by_onnxruntime(image: NDArray[np.float32]) -> object:
            return graph.run(None, {"image": image[None, None]})

        figures["onnxruntime_network_p50"] = Figure.of(durations_ms(predict_by_onnxruntime, images, count), "ms")
    engine = Predictor.from_checkpoint(folder / "model", "cpu").engine

    def predict_by_openvino(image: NDArray[np.float32]) -> object:
        return engine.run(image[None])

    figures["openvino_network_p50"] = Figure.of(durations_ms(predict_by_openvino, images, count), "ms")
    return figures


def measure(arguments: argparse.Namespace) -> dict[str, Figure]:
    """All figures; speed first, while nothing else has run."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_model(folder / "model")
        images = draw_heads(32)
        np.save(folder / "slices.npy", images)
        volume = np.resize(images[:, :240, :240].transpose(1, 2, 0), VOLUME_SHAPE).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1.0, 1.0, 1.0])), folder / "volume.nii.gz")
        figures = measure_alone(folder, arguments.slices) | measure_others(folder, images, arguments.slices)
    return figures | (measure_hostile(arguments.mutated) if arguments.mutated else {})


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much is measured."""
    parser.add_argument("--slices", type=int, default=300, help="slices timed (default: 300)")
    parser.add_argument("--mutated", type=int, default=5000, help="mutated files of each format (default: 5000; 0: none)")


if __name__ == "__main__":
    run_benchmark(__doc__, measure, add_options)
