"""DICOM files to volumes.

=============================  =======================================================================
what comes                     what becomes of it
=============================  =======================================================================
series of slices               a volume, in the order of their places (`slicewise.sources.dicom_geometry`)
multi-frame file               the same, of its frames (functional groups); without places as it is stored
slices without places          one: a slice; several: in the order of their numbers, with a concern
MONOCHROME1                    mirrored within its own range, so that bright is bright
color, palette                 luma on the scale of 8 bits, as `slicewise.sources.images`
DICOMDIR, segmentation, text   passed over; an error where nothing else could be read
mosaic, burned-in annotation   refused
=============================  =======================================================================

A series is read whole or not at all: a file that is refused refuses its series. Headers are read first and alone; pixels
only of what is of a possible size. Names, messages and concerns quote nothing of a header but sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slicewise.errors import FileError, UnreadableFileError
from slicewise.orientation import Orientation
from slicewise.records import Scan
from slicewise.sources.dicom_geometry import Frame, divide_repeats, group_frames, lay_out
from slicewise.sources.dicom_header import guarded, is_dicom, is_image, read_frames, read_header, series_of
from slicewise.sources.dicom_pixels import decode_frames

__all__ = ["is_dicom", "read_dicom"]

_VOXEL_LIMIT = 512**3
# Far enough from the end of float32 that a sum of two stays finite.
_INTENSITY_LIMIT = 1e30


def read_dicom(files: Sequence[Path], name: str, *, allow_burned_in: bool = False) -> list[Scan | FileError]:
    """Read the files of one folder, in any order.

    Args:
        files: Files that `is_dicom` knows; any other becomes an error.
        name: Of the folder or file; of several volumes each is named ``{name}_{number}``, from 1.
        allow_burned_in: Read pixels although their header says that text was burned into them.

    Returns:
        The volumes in the order of their series' numbers and UIDs, each a scan or the error that refused it; then an error
        for each file that cannot be told to belong to a series. Objects without an image are errors if there is no scan.
    """
    series: dict[tuple[int, str, str, str], list[Frame | UnreadableFileError]] = {}
    unreadable: list[Scan | FileError] = []
    passed_over: list[Scan | FileError] = []
    for file in sorted(set(files)):
        try:
            with guarded(file):
                header = read_header(file)
                found = series.setdefault(series_of(header), []) if is_image(header) else None
        except UnreadableFileError as error:
            unreadable.append(error)
            continue
        if found is None:
            passed_over.append(_no_image(file))
            continue
        try:
            with guarded(file):
                found += read_frames(file, header, allow_burned_in=allow_burned_in)
        except UnreadableFileError as error:
            found.append(error)
    volumes = [volume for key in sorted(series) for volume in _divide(series[key])]
    names = [name] if len(volumes) == 1 else [f"{name}_{number}" for number in range(1, len(volumes) + 1)]
    read = [_read_volume(volume, label) for volume, label in zip(volumes, names, strict=True)]
    return [*read, *unreadable, *([] if any(isinstance(one, Scan) for one in read) else passed_over)]


def _no_image(file: Path) -> UnreadableFileError:
    return UnreadableFileError(
        f"Expected a DICOM image, {file} holds none (a directory, text, a segmentation or the like). Choose another file.",
        "no-pixels",
        file,
    )


def _divide(found: Sequence[Frame | UnreadableFileError]) -> list[list[Frame] | UnreadableFileError]:
    """The frames of a series as volumes."""
    frames = []
    for one in found:
        if isinstance(one, UnreadableFileError):
            return [one]
        frames.append(one)
    try:
        with guarded(frames[0].file):
            groups = group_frames(frames)
    except UnreadableFileError as error:
        return [error]
    volumes: list[list[Frame] | UnreadableFileError] = []
    for group in groups:
        try:
            with guarded(group[0].file):
                volumes += divide_repeats(group)
        except UnreadableFileError as error:
            volumes.append(error)
    return volumes


def _read_volume(frames: list[Frame] | UnreadableFileError, name: str) -> Scan | FileError:
    if isinstance(frames, UnreadableFileError):
        return frames
    try:
        with guarded(frames[0].file):
            return _decode_volume(frames, name)
    except UnreadableFileError as error:
        return error


def _decode_volume(frames: list[Frame], name: str) -> Scan:
    first = frames[0]
    shape = (len(frames), *first.shape)
    if np.prod(shape, dtype=np.int64) > _VOXEL_LIMIT:
        raise UnreadableFileError(
            f"Expected at most {_VOXEL_LIMIT:,} voxels, the volume of {first.file} has {shape}. Crop or divide it.",
            file=first.file,
        )
    layout = lay_out(frames)
    voxels, color_share = _decode(frames)
    if first.is_inverted:
        voxels = voxels.min() + voxels.max() - voxels
    orientation = None if layout.affine is None else Orientation.of(layout.affine, shape)
    slices = voxels if orientation is None else np.ascontiguousarray(orientation.to_slices(voxels))
    spacing, between = first.spacing_mm, layout.slice_spacing_mm
    if orientation is not None:
        spacing, between = orientation.spacing_mm[1:], orientation.spacing_mm[0] if len(slices) > 1 else None
    return Scan(
        slices,
        kind="dicom",
        name=name,
        files=tuple(dict.fromkeys(frame.file for frame in frames)),
        plane="unknown" if orientation is None else orientation.plane,
        modality=first.modality,
        spacing_mm=spacing,
        slice_spacing_mm=between,
        orientation=orientation,
        grid_shape=shape,
        affine=layout.affine,
        color_share=color_share,
        concerns=layout.concerns,
    )


def _decode(frames: Sequence[Frame]) -> tuple[NDArray[np.float32], float]:
    """``(frames, rows, columns)``, finite, and the share of the pixels that had a color."""
    voxels = np.empty((len(frames), *frames[0].shape), np.float32)
    places: dict[Path, dict[int, int]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(frame.file, {})[frame.number] = place
    shares = np.zeros(len(frames))
    for file, of_file in places.items():
        with guarded(file):
            for number, stored, color_share in decode_frames(file, of_file.keys(), frames[0].shape):
                frame = frames[of_file[number]]
                intensities = stored * np.float64(frame.slope) + frame.intercept
                if not np.abs(intensities).max() <= _INTENSITY_LIMIT:
                    raise UnreadableFileError(
                        f"Expected finite intensities, {file} holds NaN, infinity or the like. Repair or remove it.",
                        "non-finite",
                        file,
                    )
                voxels[of_file[number]] = intensities
                shares[of_file[number]] = color_share
    return voxels, float(shares.mean())
