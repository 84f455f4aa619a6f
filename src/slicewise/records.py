"""The values handed from room to room. Frozen; each field says its shape, unit or range."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MaskState", "Prediction", "Slice", "Study"]


class MaskState(StrEnum):
    """The label contract: what is known about the mask of a slice."""

    PRESENT = "present"
    """A reference mask with tumor pixels exists: segmentation is supervised with it."""
    EMPTY = "empty"
    """The slice is known to be tumor-free: segmentation is supervised with an all-zero mask."""
    UNKNOWN = "unknown"
    """Only yes/no is known, or nothing: no segmentation loss, no segmentation score."""


@dataclass(frozen=True, slots=True)
class Study:
    """One scan of one patient as its publisher ships it: paths only, nothing decoded yet."""

    layout: str
    """The reader that understands these files: ``brats``, ``lgg``, ``brisc`` or ``labelled_folders``."""
    source: str
    """Name of the data source in the configuration, such as ``lgg``."""
    study_id: str
    """Unique within the source."""
    patient_id: str
    """Unique within the source; the unit that a split never divides."""
    files: tuple[Path, ...]
    """Every file that is read for this study, images and masks, in reading order."""
    published_split: str | None = None
    """The side the publisher put this study on (``train``, ``val``, ``test``), where one did."""
    options: tuple[tuple[str, Any], ...] = ()
    """What the configuration told the reader (sequences, year), as sorted pairs so that a study can be hashed."""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One two-dimensional image as decoded: original grid, original intensities."""

    image: NDArray[np.float32]
    """``(H, W)``, finite, any range; rows run anterior to posterior or top to bottom, columns left to right as displayed."""
    mask: NDArray[np.bool_] | None
    """``(H, W)``, True where the reference says tumor; None unless ``mask_state`` is *present* or *empty*."""
    mask_state: MaskState
    """What is known about the mask."""
    label: bool | None
    """True: the slice shows tumor; False: it is known not to; None: not known."""
    slice_index: int
    """Position within the study, in the publisher's numbering; 0 for a lone picture."""
    sequence: str = "unknown"
    """``t1``, ``t1ce``, ``t2``, ``flair`` or ``unknown``."""
    plane: str = "unknown"
    """``axial``, ``coronal``, ``sagittal`` or ``unknown``."""
    spacing_mm: tuple[float, float] | None = None
    """Distance between rows and between columns; None where the file does not say."""
    slice_spacing_mm: float | None = None
    """Distance to the next slice of the scan; None where the file does not say."""
    file: Path | None = None
    """The file the image came from."""
    mask_file: Path | None = None
    """The file the mask came from."""
    color_share: float = 0.0
    """Share of the pixels that had a color, in [0, 1]; the image keeps their brightness alone."""
    mask_soft_share: float = 0.0
    """Share of the mask file's non-zero pixels that were neither dark nor bright, in [0, 1]; a threshold decided on them."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the model says of one slice, on the grid of the input."""

    probability: float
    """That the slice shows tumor, in [0, 1], after temperature scaling."""
    raw_probability: float
    """The same before it."""
    is_tumor: bool
    """``probability`` is at least the checkpoint's threshold."""
    mask: NDArray[np.bool_]
    """``(H, W)``; all False where ``is_tumor`` is False (the one rule that joins the two heads)."""
    tumor_probabilities: NDArray[np.float32]
    """``(H, W)``, per pixel, in [0, 1], before the rule is applied; all NaN where the model does not segment."""
    threshold: float
    """The operating threshold, chosen on validation and read from the checkpoint."""
    model_id: str
    """First 12 hexadecimal digits of the SHA-256 of the weights."""
    duration_s: float = 0.0
    """From decoded array to this record."""
    spacing_mm: tuple[float, float] | None = None
    """As given by the input; None where it does not say."""
    file: str | None = None
    """The input's path, as given."""

    @property
    def area_px(self) -> int:
        """Number of pixels in the mask."""
        return int(self.mask.sum())

    @property
    def area_mm2(self) -> float | None:
        """Area of the mask in mm²; None where the spacing is not known."""
        if self.spacing_mm is None:
            return None
        return self.area_px * self.spacing_mm[0] * self.spacing_mm[1]

    @property
    def is_localized(self) -> bool:
        """False for "tumor, not localized": a positive decision with an empty mask."""
        return not self.is_tumor or bool(self.mask.any())

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``results.json``: everything but the arrays."""
        return {
            "file": self.file,
            "probability": self.probability,
            "raw_probability": self.raw_probability,
            "is_tumor": self.is_tumor,
            "is_localized": self.is_localized,
            "area_px": self.area_px,
            "area_mm2": self.area_mm2,
            "threshold": self.threshold,
            "model_id": self.model_id,
            "duration_s": self.duration_s,
        }
