"""What a prediction says of one input: the slices' answers together, on the grid of the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from slicewise.records import Concern, Scan

if TYPE_CHECKING:
    from slicewise.inference.outputs import Format

__all__ = ["Decision", "Result", "word_extent"]

Decision = Literal["tumor", "tumor, not localized", "no tumor", "abstained"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Result:
    """The answer for a picture, or for all slices of a volume."""

    scan: Scan
    """What was predicted, as decoded."""
    probabilities: NDArray[np.float64]
    """``(D,)``: that the slice shows tumor, in [0, 1], calibrated."""
    raw_probabilities: NDArray[np.float64]
    """``(D,)``: the same before it."""
    is_tumor: NDArray[np.bool_]
    """``(D,)``: the slice's probability is at least the threshold; all False where the model abstained."""
    masks: NDArray[np.bool_]
    """``(D, H, W)``, in the view of the scan's slices; empty where ``is_tumor`` is False, or the probability below
    ``mask_from``."""
    threshold: float
    """The operating threshold, chosen on validation and read from the checkpoint."""
    model_id: str
    """First 12 hexadecimal digits of the SHA-256 of the weights."""
    engine: str
    """What ran the network, ``openvino`` or ``torch``."""
    uncertainties: NDArray[np.float64] | None = None
    """``(D,)``: standard deviation of the probability over views and dropout draws, in [0, 0.5]; None: not asked for."""
    concerns: tuple[Concern, ...] = ()
    """Why the input may not be what the model was made for."""
    segmented: bool = True
    """Whether a mask was looked for: not where the probability alone was wanted, nor by a model that only classifies."""
    abstained: bool = False
    """A concern was among those on which the model was told to give no answer."""
    timings_s: Mapping[str, float] = field(default_factory=dict)
    """Where the time went: ``preprocess``, ``network`` (and beside it the gatekeeper), ``restore``, and the ``total``."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True on tumor, on the grid of the input: ``(H, W)`` of a picture, the file's array of a volume."""
        return self.scan.to_grid(self.masks)

    @property
    def probability(self) -> float:
        """That of the most probable slice, in [0, 1]."""
        return float(self.probabilities.max())

    @property
    def raw_probability(self) -> float:
        """The same before it is calibrated."""
        return float(self.raw_probabilities.max())

    @property
    def uncertainty(self) -> float | None:
        """That of the most probable slice; None where not asked for."""
        return None if self.uncertainties is None else float(self.uncertainties[int(self.probabilities.argmax())])

    @property
    def decision(self) -> Decision:
        """The answer is "tumor" if it is for one slice; "not localized" if a mask was looked for and has no pixel."""
        if self.abstained:
            return "abstained"
        if not self.is_tumor.any():
            return "no tumor"
        return "tumor" if self.masks.any() or not self.segmented else "tumor, not localized"

    @property
    def mask_px(self) -> int:
        """Number of pixels, or voxels, in the mask."""
        return int(np.count_nonzero(self.masks))

    @property
    def area_mm2(self) -> float | None:
        """Area of a single slice's mask in mm²; None for a volume, and where the spacing is not known."""
        if len(self.masks) > 1 or self.scan.spacing_mm is None:
            return None
        return self.mask_px * self.scan.spacing_mm[0] * self.scan.spacing_mm[1]

    @property
    def volume_ml(self) -> float | None:
        """Volume of the mask in milliliters; None for a lone slice, and where the spacing is not known."""
        if len(self.masks) == 1 or self.scan.spacing_mm is None or self.scan.slice_spacing_mm is None:
            return None
        return self.mask_px * self.scan.spacing_mm[0] * self.scan.spacing_mm[1] * self.scan.slice_spacing_mm / 1000

    def __repr__(self) -> str:
        extent = [f"probability {self.probability:.3f}, threshold {self.threshold:.3f}"]
        if self.uncertainty is not None:
            extent.append(f"uncertainty {self.uncertainty:.3f}")
        if len(self.masks) > 1:
            extent.append(f"{int(self.is_tumor.sum())} of {len(self.masks)} slices")
        if self.segmented:
            extent.append(word_extent(self.mask_px, len(self.masks), self.area_mm2, self.volume_ml))
        extent += [f"concern: {concern.rule}" for concern in self.concerns]
        return f"<{self.scan.name}: {self.decision} ({', '.join(extent)}; model {self.model_id})>"

    def save(self, folder: Path | str, formats: Sequence[Format] = ()) -> list[Path]:
        """Write mask and picture, in the usual formats of the input's kind or those named, and ``NAME_scan.json``.

        Where a usual format cannot be, its ``notes`` say why.

        Args:
            folder: Made where missing.
            formats: Of `slicewise.inference.outputs.FORMATS`.

        Returns:
            The files.

        Raises:
            InputError: The input can have none of the formats.
        """
        from slicewise.inference.outputs import write_outputs
        from slicewise.inference.record import write_record

        target = Path(folder) / self.scan.name
        notes: list[str] = []
        written = write_outputs(self, target, formats, notes.append)
        return [*written, write_record(self, target, written, notes)]


def word_extent(mask_px: int, slices: int, area_mm2: float | None, volume_ml: float | None) -> str:
    """How much is outlined, in the best unit that is known; a little is not said to be nothing.

    Args:
        mask_px: Pixels or voxels in the mask.
        slices: How many slices it is of.
        area_mm2: Of a single slice's mask, where known.
        volume_ml: Of a volume's mask, where known.

    >>> word_extent(812, 155, None, 2.436), word_extent(1, 155, None, 0.001), word_extent(1500, 1, None, None)
    ('2.44 ml', '< 0.01 ml', '1,500 pixels')
    """
    if volume_ml is not None:
        return "< 0.01 ml" if mask_px and volume_ml < 0.005 else f"{volume_ml:,.2f} ml"
    if area_mm2 is not None:
        return "< 1 mm²" if mask_px and area_mm2 < 0.5 else f"{area_mm2:,.0f} mm²"
    return f"{mask_px:,} {'pixels' if slices == 1 else 'voxels'}"
