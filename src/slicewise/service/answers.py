"""A result as the service answers it: numbers, and pictures in base64. Runs in the worker; the service passes it on."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slicewise import __version__
from slicewise.data.preprocess import preprocess, restore
from slicewise.inference.predictor import Predictor
from slicewise.inference.record import ConcernRecord
from slicewise.inference.result import Result
from slicewise.inference.writers import gray_window
from slicewise.records import Scan
from slicewise.service.schemas import Mask, Prediction, RunLengths
from slicewise.service.wire import SliceTask

__all__ = ["gray_of", "predict_slice", "run_lengths"]


def predict_slice(predictor: Predictor, scan: Scan, task: SliceTask, timings_s: dict[str, float]) -> bytes:
    """Predict, and write the answer as JSON.

    Args:
        predictor: What answers.
        scan: Of one slice.
        task: What was asked.
        timings_s: What was measured before.

    Raises:
        CheckpointError: An explanation is asked of a model that does not classify.
        ImportError: Explanation or uncertainty is asked for, and there is no torch.
    """
    result = predictor.predict(scan, uncertainty=task.uncertainty, segment=task.segment != "never")
    decision = result.decision
    if task.segment == "always" and result.segmented and not result.masks.any():
        result = _with_decoded_mask(predictor, result)
    explanation = _explanation(predictor, result) if task.explain else None
    timings_s = timings_s | {name: value for name, value in result.timings_s.items() if name != "total"}
    height, width = scan.slices.shape[1:]
    segmented = result.segmented
    return (
        Prediction(
            request_id=task.request_id,
            probability=result.probability,
            raw_probability=result.raw_probability,
            threshold=result.threshold,
            decision=decision,
            uncertainty=result.uncertainty,
            shape=(height, width),
            spacing_mm=scan.spacing_mm,
            kind=scan.kind,
            plane=scan.plane,
            mask=_mask_of(result.masks[0], task) if segmented and task.mask != "none" else None,
            mask_px=result.mask_px if segmented else None,
            area_mm2=result.area_mm2 if segmented else None,
            explanation=explanation,
            picture=_png(gray_of(scan.slices[0], gray_window(scan.slices[0]))) if task.picture else None,
            concerns=[ConcernRecord(rule=item.rule, message=item.message, value=item.value) for item in result.concerns],
            timings_s=timings_s | {"total": time.monotonic() - task.accepted_s},
            model_id=result.model_id,
            engine=result.engine,
            version=__version__,
        )
        .model_dump_json()
        .encode()
    )


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask ``(H, W)``, row by row, the first of them outside.

    >>> run_lengths(np.array([[False, True], [True, False]])), run_lengths(np.array([[True]]))
    ([1, 2, 1], [0, 1])
    """
    flat = mask.reshape(-1)
    edges = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    lengths = [int(length) for length in np.diff(edges)]
    return [0, *lengths] if flat[0] else lengths


def gray_of(image: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Values between black and white, of any shape, as 8 bit."""
    low, high = window
    scaled = (image.astype(np.float64) - low) / ((high - low) or 1.0)
    return (np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)


def _with_decoded_mask(predictor: Predictor, result: Result) -> Result:
    """What the decoder found, though there is too little evidence to show it; the decision stays."""
    pixels, geometry = preprocess(result.scan.slices[0], result.scan.spacing_mm)
    (output,) = predictor.infer(pixels[None], mask_from=0.0)
    if output.mask is None:
        return result
    mask = restore(output.mask, geometry) >= predictor.description.mask_threshold
    return replace(result, masks=mask[None])


def _explanation(predictor: Predictor, result: Result) -> str:
    from slicewise.errors import CheckpointError

    if "classification" not in predictor.description.tasks:
        raise CheckpointError("Expected a model that classifies, to explain its answer.")
    from slicewise.explanation.gradcam import explain

    pixels, geometry = preprocess(result.scan.slices[0], result.scan.spacing_mm)
    heat: Any = restore(explain(predictor.network, pixels), geometry)
    return _png((np.clip(heat, 0, 1) * 255).round().astype(np.uint8))


def _mask_of(mask: NDArray[np.bool_], task: SliceTask) -> Mask:
    shape = (mask.shape[0], mask.shape[1])
    if task.mask == "rle":
        return Mask(encoding="rle", shape=shape, data=RunLengths(counts=run_lengths(mask)))
    return Mask(encoding="png", shape=shape, data=_png(mask.astype(np.uint8) * 255))


def _png(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=3)
    return base64.b64encode(stream.getvalue()).decode("ascii")
