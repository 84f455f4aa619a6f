"""The network run by OpenVINO on a CPU, from what `slicewise export` wrote. Loads no torch.

::

    phases/joint/cpu/
      encoder.onnx   slice -> logit, one map a level
      decoder.onnx   maps -> one probability a pixel, and the largest logit
      export.json    which weights these are, and the SHA-256 of both files

Two files, because the decoder runs on few slices: those whose answer is "tumor".
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
from slicewise.model.engine import Decoded, Encoded

__all__ = ["DECODER", "ENCODER", "EXPORT", "FOLDER", "SETTINGS", "CpuEngine"]

FOLDER, ENCODER, DECODER, EXPORT = "cpu", "encoder.onnx", "decoder.onnx", "export.json"

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
        self._encoder, self._decoder = (
            core.compile_model(core.read_model(part, b""), "CPU", settings).create_infer_request()
            for part in _read_export(folder / FOLDER, description)
        )
        # The decoder reads the maps where the encoder leaves them.
        for place in range(len(self._decoder.model_inputs)):
            self._decoder.set_input_tensor(place, self._encoder.get_output_tensor(place + 1))
        # Views of the engine's own memory: asking for them takes longer than what is done with them.
        self._image = self._encoder.get_input_tensor(0).data
        self._logit = self._encoder.get_output_tensor(0).data
        self._mask, self._peak = (self._decoder.get_output_tensor(place).data for place in range(2))

    @staticmethod
    def is_exported(folder: Path) -> bool:
        """Whether a checkpoint's folder holds an export."""
        return (folder / FOLDER / EXPORT).is_file()

    def encode(self, pixels: NDArray[np.float32]) -> Encoded:
        """``(1, 256, 256)`` through encoder and classification head."""
        self._image[:, 0] = pixels
        self._run(self._encoder)
        return Encoded(self._logit.astype(np.float64), None)

    def decode(self, maps: Any, places: NDArray[np.int64]) -> Decoded:
        """The maps of the slice that was encoded last."""
        self._run(self._decoder)
        return Decoded(self._mask[:, 0].copy(), self._peak.astype(np.float64))

    @staticmethod
    def _run(request: Any) -> None:
        """Without the results of `infer`, each of which it copies."""
        request.start_async()
        request.wait()


def _read_export(folder: Path, description: Description) -> tuple[bytes, bytes]:
    try:
        facts = json.loads((folder / EXPORT).read_text(encoding="utf-8"))
        encoder, decoder = ((folder / name).read_bytes() for name in (ENCODER, DECODER))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected an exported model in {folder}, could not read it: {error}. Run `slicewise export` on the checkpoint."
        ) from None
    if facts.get("weights_sha256") != description.weights_sha256:
        raise CheckpointError(
            f"Expected in {folder} an export of the weights {description.model_id}…, found one of "
            f"{str(facts.get('weights_sha256'))[:12]}…. Run `slicewise export` again."
        )
    for name, content in ((ENCODER, encoder), (DECODER, decoder)):
        if hashlib.sha256(content).hexdigest() != facts.get(name):
            raise CheckpointError(
                f"Expected {folder / name} as it was exported, it is damaged. Run `slicewise export` again."
            )
    return encoder, decoder
