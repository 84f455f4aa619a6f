"""The values handed from room to room. Frozen; each field says its shape, unit or range."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slicewise.orientation import Orientation

__all__ = ["Concern", "MaskState", "Prediction", "Scan", "Slice", "Study"]


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


@dataclass(frozen=True, slots=True)
class Concern:
    """One reason to doubt that an input is what the model was made for."""

    rule: str
    """Name of the rule, such as ``inverted``; docs/prediction.md explains each."""
    message: str
    """What was expected, what came, and what to do, in a sentence or two; it never holds a header's text or a path."""
    value: float | None = None
    """What the rule measured, where it measures."""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What is predicted at once, as decoded: a picture, or all slices of a volume."""

    slices: NDArray[np.float32]
    """``(D, H, W)``, finite, any range, in the view of `slicewise.orientation`; D is 1 for a picture."""
    kind: Literal["array", "picture", "nifti", "dicom"]
    """What it was decoded from."""
    name: str
    """For the names of results: that of the file without its endings, or a number for a series; never a header's text."""
    files: tuple[Path, ...] = ()
    """What it was decoded from, in the order of the file grid's first axis for a series of DICOM files."""
    plane: str = "unknown"
    """``axial``, ``coronal``, ``sagittal`` or ``unknown``."""
    modality: str = "unknown"
    """DICOM's code, such as ``MR`` or ``CT``; ``unknown`` where the file does not say."""
    spacing_mm: tuple[float, float] | None = None
    """Distance between rows and between columns; None where the file does not say."""
    slice_spacing_mm: float | None = None
    """Distance between slices; None for a lone slice, and where the file does not say."""
    orientation: Orientation | None = None
    """The way back to the file's grid; None for a picture, whose grid is the slice's own."""
    grid_shape: tuple[int, ...] = ()
    """Shape of the file's array: ``(x, y, z)`` or ``(x, y, z, 1)`` of NIfTI, ``(frames, rows, columns)`` of DICOM,
    ``(H, W)`` of a picture."""
    affine: NDArray[np.float64] | None = None
    """``(4, 4)``: from indices of the file's array (its first three axes) to millimeters in RAS+ space."""
    color_share: float = 0.0
    """Share of the pixels that had a color, in [0, 1]."""
    concerns: tuple[Concern, ...] = field(default=())
    """What the reader noticed, such as slices that are missing."""

    def to_grid(self, slices: NDArray[Any]) -> NDArray[Any]:
        """``(D, H, W)``, such as the slices' masks, on the grid of the file."""
        values = slices if self.orientation is None else self.orientation.to_file(slices)
        return values.reshape(self.grid_shape) if self.grid_shape else values

    @property
    def slice_affine(self) -> NDArray[np.float64]:
        """``(4, 4)``: from (slice, row, column) to millimeters in RAS+ space.

        Raises:
            ValueError: The scan does not say where it lies; a picture never does.
        """
        if self.affine is None or self.orientation is None:
            raise ValueError(f"Expected a scan with an affine, {self.name} has none.")
        return self.affine @ self.orientation.affine(self.slices.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the model says of one preprocessed slice."""

    probability: float
    """That the slice shows tumor, in [0, 1], calibrated."""
    raw_probability: float
    """The same before it."""
    is_tumor: bool
    """``probability`` is at least the checkpoint's threshold."""
    mask: NDArray[np.bool_]
    """``(H, W)``; all False where ``is_tumor`` is False, or the probability below the checkpoint's ``mask_from``."""
    tumor_probabilities: NDArray[np.float32]
    """``(H, W)``, per pixel, in [0, 1], before the rule is applied; all NaN where the model does not segment."""

    @property
    def area_px(self) -> int:
        """Number of pixels in the mask."""
        return int(self.mask.sum())
