"""The files written for one result. Names follow from the input's; nothing of a header is in them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from slicewise.errors import InputError
from slicewise.files import write_atomically
from slicewise.inference.dicom_seg import make_segmentation
from slicewise.inference.dicom_source import write_dicom
from slicewise.inference.dicom_sr import make_report
from slicewise.inference.montage import montage
from slicewise.inference.nifti_out import make_nifti, write_nifti
from slicewise.inference.result import Result
from slicewise.inference.writers import overlay
from slicewise.records import Scan

__all__ = ["FORMATS", "Format", "formats_for", "possible_files", "write_outputs"]

Format = Literal["png", "nifti", "dicom-seg", "dicom-sr"]

FORMATS: tuple[Format, ...] = get_args(Format)

_POSSIBLE: dict[str, tuple[Format, ...]] = {
    "picture": ("png",),
    "array": ("png",),
    "nifti": ("nifti", "png"),
    "dicom": ("dicom-seg", "dicom-sr", "nifti", "png"),
}
_ENDINGS: dict[Format, tuple[str, ...]] = {"nifti": ("mask.nii.gz",), "dicom-seg": ("seg.dcm",), "dicom-sr": ("sr.dcm",)}
_OF_A_MASK = ("mask.nii.gz", "seg.dcm", "mask.png")
_USUAL: dict[str, tuple[Format, ...]] = {
    "picture": ("png",),
    "array": ("png",),
    "nifti": ("nifti", "png"),
    "dicom": ("dicom-seg", "dicom-sr", "png"),
}


def formats_for(kind: str, wanted: Sequence[Format]) -> tuple[Format, ...]:
    """What is written for an input of a kind: of what is wanted all that it can have; where nothing is named, the usual.

    Raises:
        InputError: It can have none of what is wanted.

    >>> formats_for("picture", ())
    ('png',)
    >>> formats_for("dicom", ("dicom-seg", "nifti"))
    ('dicom-seg', 'nifti')
    """
    if not wanted:
        return _USUAL[kind]
    chosen = tuple(name for name in wanted if name in _POSSIBLE[kind])
    if not chosen:
        raise InputError(
            f"Expected a format that results of a {kind} input can have ({', '.join(_POSSIBLE[kind])}), got "
            f"{', '.join(wanted)}. Name one with --format, or none."
        )
    return chosen


def possible_files(scan: Scan, target: Path, wanted: Sequence[Format] = (), *, segment: bool = True) -> list[Path]:
    """All that `write_outputs` may write for the result of a scan.

    Args:
        scan: What will be predicted.
        target: As of `write_outputs`.
        wanted: As of `write_outputs`.
        segment: Whether a mask is looked for.

    Raises:
        InputError: The scan can have none of the formats, or its headers allow no DICOM object of which one is wanted by
            name.
    """
    pictures = ("montage.png",) if len(scan.slices) > 1 else ("mask.png", "overlay.png")
    formats = formats_for(scan.kind, wanted)
    if wanted:
        # What highdicom refuses is known only by trying; the answer of a result changes nothing in it.
        _make_dicom(_placeholder(scan, segment=segment), formats)
    if not wanted and "dicom-seg" in formats and scan.affine is not None:
        formats = (*formats, "nifti")  # should there be no segmentation
    endings = [ending for name in formats for ending in _ENDINGS.get(name, pictures)]
    return [target.with_name(f"{target.name}_{ending}") for ending in endings if segment or ending not in _OF_A_MASK]


def write_outputs(
    result: Result,
    target: Path,
    wanted: Sequence[Format] = (),
    note: Callable[[str], None] = lambda sentence: None,
) -> list[Path]:
    """Write a result, each file whole or not at all.

    Args:
        result: Of one scan.
        target: Path without endings.
        wanted: Formats; empty: those of the usual ones that the scan can have, and NIfTI where DICOM is none of them and the
            scan says where it lies.
        note: Told, in a sentence, of usual ones that the scan cannot have.

    Returns:
        The files: ``…_mask.nii.gz``, ``…_mask.png``, ``…_overlay.png`` of one slice, ``…_montage.png`` of several,
        ``…_seg.dcm``, ``…_sr.dcm``. Pictures are in the view of the scan's slices, the others on the grid of the input.

    Raises:
        InputError: As of `possible_files`. Nothing is left behind.
    """
    formats = formats_for(result.scan.kind, wanted)
    written: list[Path] = []

    def place(ending: str) -> Path:
        written.append(target.with_name(f"{target.name}_{ending}"))
        return written[-1]

    try:
        if "nifti" in formats and result.segmented:
            write_nifti(make_nifti(result), place("mask.nii.gz"))
        try:
            objects = _make_dicom(result, formats)
        except InputError as error:
            if wanted:
                raise
            note(f"{error} {_write_instead(result, place)}".rstrip())
        else:
            for ending, made in objects.items():
                write_dicom(made, place(ending))
        if "png" in formats:
            _write_pictures(result, place)
    except (InputError, OSError):
        for file in written:
            file.unlink(missing_ok=True)
        raise
    return written


def _make_dicom(result: Result, formats: Sequence[Format]) -> dict[str, Dataset]:
    """The DICOM objects among the formats, by the endings of their names."""
    objects = {}
    if "dicom-seg" in formats and result.segmented:
        objects["seg.dcm"] = make_segmentation(result)
    if "dicom-sr" in formats:
        objects["sr.dcm"] = make_report(result, objects.get("seg.dcm"))
    return objects


def _placeholder(scan: Scan, *, segment: bool) -> Result:
    """Any result of a scan, before it is predicted: with a voxel in its mask, without which objects leave out much."""
    count = len(scan.slices)
    masks = np.zeros(scan.slices.shape, dtype=np.bool_)
    masks[0, 0, 0] = segment
    return Result(
        scan=scan,
        probabilities=np.ones(count),
        raw_probabilities=np.ones(count),
        is_tumor=np.ones(count, dtype=np.bool_),
        masks=masks,
        threshold=0.5,
        model_id="0" * 12,
        engine="none",
        segmented=segment,
    )


def _write_instead(result: Result, place: Callable[[str], Path]) -> str:
    """Write the mask of a DICOM scan that can have no DICOM results, and say where it is."""
    if not result.segmented:
        return ""
    if result.scan.affine is None:
        return "Its mask is in a picture alone."
    file = place("mask.nii.gz")
    write_nifti(make_nifti(result), file)
    return f"Its mask is in {file.name}."


def _write_pictures(result: Result, place: Callable[[str], Path]) -> None:
    if len(result.masks) > 1:
        write_png(montage(result), place("montage.png"))
        return
    if result.segmented:
        write_png(result.masks[0].astype(np.uint8) * 255, place("mask.png"))
    write_png(overlay(result.scan.slices[0], result.masks[0]), place("overlay.png"))


def write_png(pixels: NDArray[np.uint8], file: Path) -> None:
    """Write a gray ``(H, W)`` or colored ``(H, W, 3)`` picture."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    write_atomically(file, stream.getvalue())
