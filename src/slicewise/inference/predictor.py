"""The predictor: a checkpoint made ready. Evaluation, explanation, the command and the service all answer through it."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from slicewise.data.preprocess import preprocess_single, restore
from slicewise.errors import CheckpointError, FileError, InputError
from slicewise.inference.cpu_engine import CpuEngine
from slicewise.inference.decoding import Decoder
from slicewise.inference.gatekeeper import inspect
from slicewise.inference.lesions import remove_small
from slicewise.inference.result import Result
from slicewise.inference.views import VIEWS
from slicewise.model.description import Description, find_checkpoint, read_description
from slicewise.model.engine import Engine, Pixels, Probabilities, infer
from slicewise.records import Prediction, Scan
from slicewise.sources.scans import PASSED_OVER, scan_of_array

if TYPE_CHECKING:
    from slicewise.model.network import MultiTaskNetwork

__all__ = ["EngineName", "Predictor"]

EngineName = Literal["auto", "cpu", "torch"]


class Predictor:
    """Answers "is there a tumor, and where" for slices and scans.

    One rule joins the two heads: where the probability of the slice, in which both have a word
    (`slicewise.model.engine.Calibration`), is below the checkpoint's threshold the answer is "no tumor" and the mask is
    empty; elsewhere the mask is the decoder's, or empty where the probability is below the checkpoint's ``mask_from``. A
    positive answer with an empty mask is said as such (`Result.decision`).
    Nothing else ever changes a mask, but what is asked for by name: ``smallest_mm3``, and abstention.

    Args:
        engine: Runs the network.
        description: Of the checkpoint.
        folder: Of the checkpoint, from which `network` is loaded where the engine is not torch's.
    """

    def __init__(self, engine: Engine, description: Description, folder: Path | None = None) -> None:
        self.engine = engine
        self.description = description
        self._folder = folder
        self._network: MultiTaskNetwork | None = None
        self._decoder: Decoder | None = None
        # It looks while the network runs, which leaves a core idle between its layers.
        self._gatekeeper = ThreadPoolExecutor(1, "gatekeeper")

    @classmethod
    def from_checkpoint(
        cls, path: Path | str, engine: EngineName = "auto", device: str = "cpu", threads: int | None = None
    ) -> Predictor:
        """Load a checkpoint, or the joint model of a run's folder.

        Args:
            path: Of either.
            engine: ``cpu`` runs what `slicewise export` wrote, without torch; ``torch`` runs the weights; ``auto`` the first
                where it is there and the device is the CPU, else the second.
            device: Of torch, such as ``cuda``.
            threads: Of the CPU engine; None: all cores.

        Raises:
            CheckpointError: There is none, it is damaged, or it was not exported and ``cpu`` was asked for.
            InputError: The device cannot be used.
        """
        folder = find_checkpoint(Path(path))
        description = read_description(folder)
        if engine == "cpu" or (engine == "auto" and device == "cpu" and CpuEngine.is_exported(folder)):
            return cls(CpuEngine(folder, description, threads), description, folder)
        from slicewise.model.checkpoint import load_checkpoint
        from slicewise.model.torch_engine import TorchEngine

        network, *_ = load_checkpoint(folder)
        try:
            network = network.to(device)
        except (AssertionError, RuntimeError) as error:  # torch built without it, none there, or no word of torch's
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"Expected a device that torch can use here, got {device!r}: {reason}. Name another, or none for the CPU."
            ) from None
        return cls(TorchEngine(network, decodes="segmentation" in description.tasks), description, folder)

    @property
    def network(self) -> MultiTaskNetwork:
        """The network in torch, folded: what explanations and uncertainty look into. Loaded when first asked for."""
        if self._network is None:
            from slicewise.model.torch_engine import TorchEngine

            if isinstance(self.engine, TorchEngine):
                self._network = self.engine.network
            elif self._folder is not None:
                from slicewise.model.checkpoint import load_checkpoint

                self._network = load_checkpoint(self._folder)[0].folded()
            else:
                raise CheckpointError(
                    "Expected a predictor with torch or with the folder of its checkpoint; it has neither."
                )
        return self._network

    def predict(
        self,
        scan: Scan | NDArray[np.float32] | Path | str,
        *,
        spacing_mm: tuple[float, float] | None = None,
        tta: bool = False,
        uncertainty: bool = False,
        segment: bool = True,
        smallest_mm3: float = 0.0,
        abstain_on: Collection[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> Result:
        """Predict a picture or a volume.

        Args:
            scan: A file, zip or folder of DICOM files with one scan in it, which is decoded in a child process; a scan as a
                reader returns it; or an array: ``(H, W)``, or ``(D, H, W)`` for slices of one volume; finite.
            spacing_mm: Of an array: distance between rows and columns, where known.
            tta: Average the probabilities over the views of `slicewise.inference.views`; six times the work.
            uncertainty: Also say how much the answer moves with the views and with parts of the head left out; needs torch.
            segment: Find the mask; without, only the probability is wanted.
            smallest_mm3: Parts of the mask below this volume are left out; needs a volume with spacing.
            abstain_on: Rules of the gatekeeper on which no answer is given.
            progress: Told the number of slices that are finished: where the uncertainty is wanted, which takes most of the
                time, after each slice's; else after each batch of the network.

        Raises:
            InputError: The file cannot be read, or holds several scans; the array has other dimensions, is empty or not
                finite; or ``smallest_mm3`` without spacing.
        """
        if isinstance(scan, Path | str):
            scan = self._read(Path(scan))
        started = time.perf_counter()
        if isinstance(scan, np.ndarray):
            scan = scan_of_array(scan, spacing_mm)
        prepared = [preprocess_single(image, scan.spacing_mm) for image in scan.slices]
        pixels = np.stack([grid for grid, _ in prepared])
        preprocessed = time.perf_counter()
        looked = self._gatekeeper.submit(inspect, scan, list(pixels), self.description.domain)
        counted = None if uncertainty else progress
        views = self._views if tta else self.infer
        outputs = views(pixels, segment=segment, progress=counted)
        concerns = looked.result()
        inferred = time.perf_counter()
        abstained = any(concern.rule in abstain_on for concern in concerns)
        probabilities = np.array([output.tumor for output in outputs])
        is_tumor = (probabilities >= self.description.threshold) & (not abstained)
        masks = np.zeros(scan.slices.shape, dtype=np.bool_)
        for place in np.flatnonzero(is_tumor & (probabilities >= self.description.mask_from)):
            mask = outputs[place].mask
            if mask is not None:
                masks[place] = restore(mask, prepared[place][1]) >= self.description.mask_threshold
        if smallest_mm3 > 0:
            masks = remove_small(masks, smallest_mm3, scan.spacing_mm, scan.slice_spacing_mm)
        restored = time.perf_counter()
        uncertainties = self._uncertainties(pixels, progress) if uncertainty else None
        return Result(
            scan=scan,
            probabilities=probabilities,
            raw_probabilities=np.array([output.raw_tumor for output in outputs]),
            is_tumor=is_tumor,
            masks=masks,
            threshold=self.description.threshold,
            model_id=self.description.model_id,
            engine=self.engine.name,
            uncertainties=uncertainties,
            concerns=concerns,
            segmented=segment and "segmentation" in self.description.tasks,
            abstained=abstained,
            timings_s={
                "preprocess": preprocessed - started,
                "network": inferred - preprocessed,
                "restore": restored - inferred,
                "total": time.perf_counter() - started,
            },
        )

    def _read(self, path: Path) -> Scan:
        if self._decoder is None:
            self._decoder = Decoder()
            weakref.finalize(self, self._decoder.close)
        read = self._decoder.read(path)
        scans = [item for item in read if isinstance(item, Scan)]
        for item in read:
            if isinstance(item, FileError) and not (scans and item.problem == PASSED_OVER):
                raise item
        if len(scans) != 1:
            raise InputError(
                f"Expected one scan in {path}, found {len(scans)}. Read them with slicewise.inference.decoding.Decoder, and "
                "predict each."
            )
        return scans[0]

    def predict_preprocessed(self, pixels: NDArray[np.float16]) -> Prediction:
        """Predict a slice of a store, ``(256, 256)``; the answer is on the same grid, with the probability of each pixel."""
        (output,) = self.infer(pixels[None], mask_from=0.0)
        is_tumor = output.tumor >= self.description.threshold
        values = np.full(pixels.shape, np.nan, dtype=np.float32) if output.mask is None else output.mask
        # NaN, of a model that does not segment, compares as False: its mask stays empty.
        mask = (values >= self.description.mask_threshold) & is_tumor & (output.tumor >= self.description.mask_from)
        return Prediction(output.tumor, output.raw_tumor, bool(is_tumor), mask, values)

    def _views(self, pixels: Pixels, *, segment: bool, progress: Callable[[int], None] | None) -> list[Probabilities]:
        """The mean over the views; of the mask, too. A slice is finished with its last view."""
        views = [
            self.infer(
                np.stack([view.apply(slice_) for slice_ in pixels], dtype=np.float32),
                segment=segment,
                mask_from=0.0,
                progress=progress if view is VIEWS[-1] else None,
            )
            for view in VIEWS
        ]
        means = []
        for outputs in zip(*views, strict=True):
            masks = [view.undo(output.mask) for view, output in zip(VIEWS, outputs, strict=True) if output.mask is not None]
            means.append(
                Probabilities(
                    float(np.mean([output.tumor for output in outputs])),
                    float(np.mean([output.raw_tumor for output in outputs])),
                    np.mean(masks, axis=0) if masks else None,
                )
            )
        return means

    def _uncertainties(self, pixels: Pixels, progress: Callable[[int], None] | None) -> NDArray[np.float64]:
        values: list[float] = []
        for slice_ in pixels:
            values.append(self.uncertainty(slice_))
            if progress is not None:
                progress(len(values))
        return np.array(values)

    def uncertainty(self, pixels: Pixels) -> float:
        """How much the answer for a preprocessed slice ``(256, 256)`` moves with views and dropout draws, in [0, 0.5].

        Needs torch, whatever the engine.
        """
        from slicewise.inference.uncertainty import estimate_uncertainty

        estimate = estimate_uncertainty(
            self.network,
            pixels,
            classify="classification" in self.description.tasks,
            calibration=self.description.calibration,
        )
        return estimate.standard_deviation

    def infer(
        self,
        pixels: Pixels,
        *,
        segment: bool = True,
        mask_from: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Probabilities]:
        """The network's outputs for preprocessed slices ``(N, 256, 256)``, on its grid, before any decision.

        Args:
            pixels: The slices.
            segment: Masks are wanted.
            mask_from: Probability from which a slice gets one; None: from where one is kept.
            progress: As of `slicewise.model.engine.infer`.
        """
        tasks = self.description.tasks
        return infer(
            self.engine,
            pixels,
            segment=("segmentation" in tasks and segment) or "classification" not in tasks,
            classify="classification" in tasks,
            calibration=self.description.calibration,
            mask_from=max(self.description.threshold, self.description.mask_from) if mask_from is None else mask_from,
            progress=progress,
        )
