"""The predictor: a checkpoint made ready. Evaluation, explanation and the command all answer through it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slicewise.data.preprocess import Geometry, preprocess, restore
from slicewise.errors import InputError
from slicewise.model.checkpoint import Description, load_checkpoint
from slicewise.model.infer import Probabilities, infer
from slicewise.model.network import MultiTaskUNet
from slicewise.records import Prediction

__all__ = ["Predictor"]


class Predictor:
    """Answers "is there a tumor, and where" for slices.

    One rule joins the two heads: where the probability of the slice is below the checkpoint's threshold the answer is "no
    tumor" and the mask is empty; elsewhere the mask is the decoder's. A positive answer with an empty mask is said as such
    (`Prediction.is_localized`). Nothing else ever changes a mask.
    """

    def __init__(self, network: MultiTaskUNet, description: Description) -> None:
        self.network = network.folded()
        self.description = description

    @classmethod
    def from_checkpoint(cls, path: Path) -> Predictor:
        """Load a checkpoint, or the joint model of a run's folder.

        Raises:
            CheckpointError: There is none, or it is damaged.
        """
        return cls(*load_checkpoint(path))

    def predict(
        self,
        image: NDArray[np.float32],
        *,
        spacing_mm: tuple[float, float] | None = None,
        file: str | None = None,
    ) -> Prediction:
        """Predict one slice as decoded.

        Args:
            image: ``(H, W)``, finite, any range and size.
            spacing_mm: Distance between rows and columns, where known.
            file: Where it came from, for the record.

        Raises:
            InputError: The array is not two-dimensional, empty, or not finite.
        """
        if image.ndim != 2 or 0 in image.shape:
            raise InputError(f"Expected a slice of shape (H, W), got {image.shape}. Pass one slice at a time, in gray.")
        if not np.isfinite(image).all():
            raise InputError("Expected finite intensities, got NaN or infinity. Repair the file it came from.")
        started = time.perf_counter()
        pixels, geometry = preprocess(image)
        return self._answer(self.probabilities(pixels), geometry, started, spacing_mm, file)

    def predict_preprocessed(self, pixels: NDArray[np.float16]) -> Prediction:
        """Predict a slice of a store: ``(256, 256)``, preprocessed; the answer is on the same grid."""
        return self._answer(
            self.probabilities(pixels), Geometry.of((pixels.shape[0], pixels.shape[1])), time.perf_counter(), None, None
        )

    def probabilities(self, pixels: NDArray[np.float16]) -> Probabilities:
        """The network's outputs for a preprocessed slice, on the network's grid, before any decision."""
        tasks = self.description.tasks
        return infer(
            self.network,
            pixels,
            segment="segmentation" in tasks,
            classify="classification" in tasks,
            temperature=self.description.temperature,
        )

    def _answer(
        self,
        probabilities: Probabilities,
        geometry: Geometry,
        started: float,
        spacing_mm: tuple[float, float] | None,
        file: str | None,
    ) -> Prediction:
        if probabilities.mask is None:
            pixels = np.full(geometry.shape, np.nan, dtype=np.float32)
        else:
            pixels = restore(probabilities.mask, geometry)
        is_tumor = probabilities.tumor >= self.description.threshold
        # NaN, of a model that does not segment, compares as False: its mask stays empty.
        mask = (pixels >= self.description.mask_threshold) & is_tumor
        return Prediction(
            probability=probabilities.tumor,
            raw_probability=probabilities.raw_tumor,
            is_tumor=bool(is_tumor),
            mask=mask,
            tumor_probabilities=pixels,
            threshold=self.description.threshold,
            model_id=self.description.model_id,
            duration_s=time.perf_counter() - started,
            spacing_mm=spacing_mm,
            file=file,
        )
