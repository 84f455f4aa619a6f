"""The network run by OpenVINO on a CPU, from what `slicewise export` wrote. Loads no torch.

::

    phases/joint/cpu/
      model.onnx     slice -> logit of the head, largest logit of the mask, one probability a pixel
      export.json    which weights these are, and the SHA-256 of the file

One graph, because both heads decide: whoever is asked for an answer has run all of it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from slicewise.errors import CheckpointError
from slicewise.model.description import Description
from slicewise.model.engine import Outputs

__all__ = ["EXPORT", "FOLDER", "GRAPH", "SETTINGS", "CpuEngine"]

FOLDER, GRAPH, EXPORT = "cpu", "model.onnx", "export.json"

# One stream on all cores; float32 wherever the CPU could do with less, so that every machine gives the same answer.
SETTINGS: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class CpuEngine:
    """An `slicewise.model.engine.Engine`.

    Args:
        folder: Of a checkpoint that was exported.
        description: Of the checkpoint.
        threads: Of the CPU; None: all cores. Their number changes no bit of an answer.

    Raises:
        CheckpointError: It was not exported, the export is damaged, or it is that of other weights.
    """

    name = "openvino"
    batch = 1

    def __init__(self, folder: Path, description: Description, threads: int | None = None) -> None:
        core = ov.Core()
        # Pinned, the threads of two processes would share a core and leave another idle.
        few = {} if threads is None else {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        settings = SETTINGS | few
        graph = core.read_model(_read_export(folder / FOLDER, description), b"")
        self._request = core.compile_model(graph, "CPU", settings).create_infer_request()
        # Views of the engine's own memory: asking for them takes longer than what is done with them.
        self._image = self._request.get_input_tensor(0).data
        self._head, self._peak, self._mask = (self._request.get_output_tensor(place).data for place in range(3))

    @staticmethod
    def is_exported(folder: Path) -> bool:
        """Whether a checkpoint's folder holds an export."""
        return (folder / FOLDER / EXPORT).is_file()

    def run(self, pixels: NDArray[np.float32]) -> Outputs:
        """``(1, 256, 256)`` through the encoder and both heads."""
        self._image[:, 0] = pixels
        # Not `infer`, which copies every result once more.
        self._request.start_async()
        self._request.wait()
        return Outputs(self._head.astype(np.float64), self._peak.astype(np.float64), self._mask[:, 0].copy())


def _read_export(folder: Path, description: Description) -> bytes:
    try:
        facts = json.loads((folder / EXPORT).read_text(encoding="utf-8"))
        content = (folder / GRAPH).read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected an exported model in {folder}, could not read it: {error}. Run `slicewise export` on the checkpoint."
        ) from None
    if facts.get("weights_sha256") != description.weights_sha256:
        raise CheckpointError(
            f"Expected in {folder} an export of the weights {description.model_id}…, found one of "
            f"{str(facts.get('weights_sha256'))[:12]}…. Run `slicewise export` again."
        )
    if hashlib.sha256(content).hexdigest() != facts.get(GRAPH):
        raise CheckpointError(f"Expected {folder / GRAPH} as it was exported, it is damaged. Run `slicewise export` again.")
    return content
