"""What files are called like: volumes, masks, results of an earlier prediction."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["MASK_FOLDERS", "MASK_WORDS", "NIFTI_ENDINGS", "RESULT_ENDINGS", "is_no_scan", "name_of"]

NIFTI_ENDINGS = (".nii", ".nii.gz")
"""Of volumes, in lower case."""

MASK_WORDS = ("_mask", "-mask", "_seg", "-seg")
"""In the names of masks, in lower case."""

MASK_FOLDERS = frozenset({"masks", "labels"})
"""That masks lie in, in lower case."""

RESULT_ENDINGS = (
    "_mask.nii.gz",
    "_mask.png",
    "_overlay.png",
    "_montage.png",
    "_gradcam.png",
    "_seg.dcm",
    "_sr.dcm",
    "_result.json",
)
"""How the names of results end."""


def name_of(file: Path) -> str:
    """The file's name without its endings.

    >>> name_of(Path("scans/case.01.nii.gz"))
    'case.01'
    """
    return next((file.name[: -len(ending)] for ending in NIFTI_ENDINGS if file.name.lower().endswith(ending)), file.stem)


def is_no_scan(file: Path, folders: Iterable[str] = ()) -> bool:
    """The file is called like a mask or a result, or lies in a folder that is called like those of masks.

    A word of masks counts at the end alone, unlike in an audit: a scan that is taken for a mask here, such as
    ``t1_segmented.nii``, goes without an answer.

    Args:
        file: Of which the name alone is looked at.
        folders: Names of those that it lies in.

    >>> is_no_scan(Path("case_seg.nii.gz")), is_no_scan(Path("1.png"), ["Masks"]), is_no_scan(Path("t1_segmented.nii"))
    (True, True, False)
    """
    return (
        name_of(file).lower().endswith(MASK_WORDS)
        or file.name.endswith(RESULT_ENDINGS)
        or not MASK_FOLDERS.isdisjoint(name.lower() for name in folders)
    )
