"""Frames of DICOM files to volumes: which frames belong together, in which order, and where they lie.

A series becomes one volume for each kind of frame it holds:

1. Frames are kept apart that differ in matrix, spacing, direction, modality or color, and those of different multi-frame
   files; a localizer of three planes is three volumes.
2. Where several frames lie at one place, the first tag of `MARKS` that tells them apart divides them (or the first two of
   them), such as the echoes of a series. Where none does, the frames are refused: which of them is meant cannot be known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slicewise.errors import UnreadableFileError
from slicewise.records import Concern

__all__ = ["MARKS", "Frame", "Layout", "divide_repeats", "group_frames", "lay_out"]

MARKS = (
    "EchoNumbers",
    "EffectiveEchoTime",
    "EchoTime",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "DiffusionBValue",
    "InversionTime",
    "FlipAngle",
    "TriggerTime",
    "ImageType",
    "FrameType",
    "StackID",
)
"""Tags that tell volumes of one series apart, in the order in which they are tried."""

_GROUP_LIMIT = 100
# Of spacings in millimeters, and of unit vectors: headers are rounded.
_NEAR = 1e-3
_SAME_PLACE_MM = 0.01
_UNEVEN_SHARE = 0.05
_UNSAID_THICKNESS_MM = 1.0
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What the header says of one frame; every number is finite."""

    file: Path
    """The file that holds it."""
    number: int
    """Its place in the file, from 0."""
    instance: int
    """InstanceNumber of the file."""
    shape: tuple[int, int]
    """Rows and columns."""
    kind: tuple[str, ...]
    """What the frames of a volume have in common beside their geometry; never shown."""
    marks: tuple[str, ...]
    """Its values of `MARKS`; never shown."""
    modality: str
    """DICOM's code, ``OT`` for one that is not known, or ``unknown``."""
    is_inverted: bool
    """Its lowest value is meant to be the brightest."""
    slope: float
    """Not 0."""
    intercept: float
    """Added after the slope."""
    spacing_mm: tuple[float, float] | None
    """Between rows and between columns."""
    gap_mm: float | None
    """SpacingBetweenSlices, where it is above 0."""
    thickness_mm: float | None
    """SliceThickness, where it is above 0."""
    position: NDArray[np.float64] | None
    """``(3,)``, LPS: center of the first pixel; None unless spacing and directions are known too."""
    directions: NDArray[np.float64] | None
    """``(2, 3)``, LPS, orthonormal: where column indices, then row indices grow; None unless the position is known too."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the frames of a volume lie."""

    affine: NDArray[np.float64] | None
    """``(4, 4)``: from (frame, row, column) to millimeters in RAS+ space; None where the frames do not say."""
    slice_spacing_mm: float | None
    """Between frames; None for a lone frame, and where they do not say."""
    concerns: tuple[Concern, ...] = ()
    """``no-geometry`` or ``uneven-slices``."""


def group_frames(frames: Iterable[Frame]) -> list[list[Frame]]:
    """Frames of a series by what a volume has in common, in the order of their numbers.

    Raises:
        UnreadableFileError: The frames are of more than 100 kinds.
    """
    groups: list[list[Frame]] = []
    for frame in sorted(frames, key=_count):
        group = next((group for group in groups if _is_alike(group[0], frame)), None)
        if group is None:
            if len(groups) == _GROUP_LIMIT:
                raise UnreadableFileError(
                    f"Expected a series of at most {_GROUP_LIMIT} directions and sizes of slices, {frame.file} brings one "
                    "more. Export each volume as a series.",
                    file=frame.file,
                )
            groups.append(group := [])
        group.append(frame)
    return groups


def divide_repeats(frames: list[Frame]) -> list[list[Frame]]:
    """A group of frames as volumes with one frame at a place, each in the order of its places along the slices' normal.

    Frames without a position stay in the order of their numbers.

    Raises:
        UnreadableFileError: Frames lie at one place, and no tag tells them apart.
    """
    if frames[0].directions is None:
        return [frames]
    distances = _along(frames, np.cross(*frames[0].directions))
    order = np.argsort(distances, kind="stable")
    places = np.cumsum(np.diff(distances[order], prepend=distances[order[0]]) > _SAME_PLACE_MM).tolist()
    placed = [(place, frames[number]) for place, number in zip(places, order, strict=True)]
    repeats = max(Counter(places).values())
    if repeats == 1:
        return [[frame for _, frame in placed]]
    varied = [mark for mark in range(len(MARKS)) if len({frame.marks[mark] for frame in frames}) > 1]
    for marks in (*combinations(varied, 1), *combinations(varied, 2)):
        parts: dict[tuple[str, ...], list[tuple[int, Frame]]] = {}
        for place, frame in placed:
            parts.setdefault(tuple(frame.marks[mark] for mark in marks), []).append((place, frame))
        # As many parts as repeats: a tag that differs from slice to slice would leave volumes of one slice.
        if len(parts) == repeats and all(len({place for place, _ in part}) == len(part) for part in parts.values()):
            volumes = [[frame for _, frame in part] for part in parts.values()]
            return sorted(volumes, key=lambda volume: min(map(_count, volume)))
    repeated = next(frame for (before, _), (place, frame) in pairwise(placed) if place == before)
    raise UnreadableFileError(
        f"Expected one slice at each place, {repeated.file} lies where another slice of its series lies, and neither echo, "
        "time, acquisition nor kind of image tells them apart. Remove the copy, or export each volume as a series.",
        file=repeated.file,
    )


def lay_out(frames: Sequence[Frame]) -> Layout:
    """Place the frames of a volume, which are in order.

    Of slices at unequal distances the affine has the median of the distances, so that a voxel keeps its size; beyond a gap
    it is wrong by the gap.

    Raises:
        UnreadableFileError: The frames lie beside each other rather than on one line along their normal, or too far away for
            numbers.
    """
    first, last = frames[0], frames[-1]
    if first.directions is None or first.position is None or last.position is None or first.spacing_mm is None:
        return _unplaced(frames)
    normal = np.cross(*first.directions)
    concerns: tuple[Concern, ...] = ()
    spacing = None
    if len(frames) == 1:
        step = normal * (first.gap_mm or first.thickness_mm or _UNSAID_THICKNESS_MM)
    else:
        _check_line(frames, normal, 0.5 * min(first.spacing_mm))
        gaps = np.diff(_along(frames, normal))
        spacing = float(np.median(gaps))
        step = (last.position - first.position) / len(gaps)
        if np.abs(gaps - spacing).max() > _UNEVEN_SHARE * spacing:
            concerns = (_uneven(float(gaps.max()) / spacing),)
            step = (last.position - first.position) * (spacing / gaps.sum())
    affine = np.eye(4)
    along_columns, along_rows = first.directions
    affine[:3, 0] = _LPS_TO_RAS @ step
    affine[:3, 1] = _LPS_TO_RAS @ along_rows * first.spacing_mm[0]
    affine[:3, 2] = _LPS_TO_RAS @ along_columns * first.spacing_mm[1]
    affine[:3, 3] = _LPS_TO_RAS @ first.position
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UnreadableFileError(
            f"Expected positions and a spacing that fit a patient, those of {first.file} do not. Repair its header.",
            "non-finite",
            first.file,
        )
    return Layout(affine, spacing, concerns)


def _count(frame: Frame) -> tuple[int, str, int]:
    return frame.instance, str(frame.file), frame.number


def _is_alike(one: Frame, other: Frame) -> bool:
    return (
        (one.shape, one.kind) == (other.shape, other.kind)
        and _is_near(one.spacing_mm, other.spacing_mm)
        and _is_near(one.directions, other.directions)
    )


def _is_near(one: ArrayLike | None, other: ArrayLike | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.abs(np.subtract(one, other)).max() < _NEAR)


def _along(frames: Sequence[Frame], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Millimeters of each frame along the normal."""
    return np.array([frame.position for frame in frames]) @ normal


def _check_line(frames: Sequence[Frame], normal: NDArray[np.float64], allowed_mm: float) -> None:
    moves = np.array([frame.position for frame in frames]) - frames[0].position
    aside = np.linalg.norm(moves - np.outer(moves @ normal, normal), axis=1)
    worst = int(aside.argmax())
    if not aside[worst] <= allowed_mm:
        raise UnreadableFileError(
            f"Expected slices that lie upon each other, {frames[worst].file} lies {aside[worst]:.1f} mm beside "
            f"{frames[0].file}: they form no grid. Export each volume as a series.",
            file=frames[worst].file,
        )


def _unplaced(frames: Sequence[Frame]) -> Layout:
    if len(frames) == 1:
        return Layout(None, None)
    # Several files may have been taken anywhere; the frames of one file at least are its publisher's stack.
    spacing = frames[0].gap_mm if frames[0].file == frames[-1].file else None
    message = (
        f"Expected slices that say where they lie, these {len(frames)} do not: they stand in the order of their numbers. "
        "Export the series again, with its positions."
    )
    return Layout(None, spacing, (Concern("no-geometry", message),))


def _uneven(ratio: float) -> Concern:
    message = (
        f"Expected slices at equal distances, the largest is {ratio:.2f} times the median. Slices may be missing: "
        "export the series again."
    )
    return Concern("uneven-slices", message, ratio)
