"""BRISC 2025: T1 slices in three planes, a PNG mask for every slice with tumor; the class and plane are in the name.

``segmentation_task/{train,val,test}/{images,masks}`` and ``classification_task/*/no_tumor``, and, where it is there,
``groups.csv`` with what is known of a picture's patient: its duplicate group, and its number in the older figshare set
(``image``, ``class``, ``dup_group``, ``figshare_index``, ``split``).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slicewise.config import SourceConfig
from slicewise.errors import InputError, LabelError
from slicewise.records import MaskState, Slice, Study
from slicewise.sources.folders import by_number, root_of
from slicewise.sources.images import Mask, is_picture_name, read_mask_of, read_picture

__all__ = ["find_studies", "read_study"]

_LAYOUT = "segmentation_task/{train,val,test}/{images,masks} and classification_task (BRISC 2025)"
_PLANES = {"ax": "axial", "co": "coronal", "sa": "sagittal"}


def find_studies(source: str, config: SourceConfig) -> list[Study]:
    """One study a picture; pictures of one duplicate group, or with consecutive numbers, are one patient.

    Raises:
        InputError: The folder is missing, empty or of another layout.
    """
    root = root_of(source, config, _LAYOUT)
    groups = _read_groups(root / "groups.csv")
    studies = []
    for images in sorted(root.glob("segmentation_task/*/images")):
        for file in sorted(filter(is_picture_name, images.iterdir()), key=by_number):
            mask = images.parent / "masks" / f"{file.stem}.png"
            studies.append(_study(source, file, (file, mask), images.parent.name, groups))
    for folder in sorted(root.glob("classification_task/*/no_tumor")):
        for file in sorted(filter(is_picture_name, folder.iterdir()), key=by_number):
            studies.append(_study(source, file, (file,), folder.parent.name, groups))  # noqa: PERF401 - as above
    if not studies:
        raise InputError(f"Expected {_LAYOUT} for source {source}, found no pictures below {root}.")
    return studies


def read_study(study: Study) -> Iterator[Slice]:
    """The one picture and its mask.

    Raises:
        UnreadableFileError: One of them cannot be read.
        LabelError: The mask is missing, empty, or of another size than the picture.
    """
    file, *masks = study.files
    image, color_share = read_picture(file)
    mask, soft_share = np.zeros(image.shape, dtype=np.bool_), 0.0
    if masks:
        mask, soft_share = _read_tumor_mask(masks[0], file, image.shape)
    words = file.stem.split("_")
    yield Slice(
        image=image,
        mask=mask,
        mask_state=MaskState.PRESENT if masks else MaskState.EMPTY,
        label=bool(masks),
        slice_index=0,
        # The names say t1 throughout; the slices with tumor, of the older figshare set, are all after contrast.
        sequence="t1ce" if masks else "t1",
        plane=next((plane for word, plane in _PLANES.items() if word in words), "unknown"),
        file=file,
        mask_file=masks[0] if masks else None,
        color_share=color_share,
        mask_soft_share=soft_share,
    )


def _read_tumor_mask(mask_file: Path, file: Path, shape: tuple[int, ...]) -> Mask:
    read = read_mask_of(file, mask_file, shape)
    if not read.mask.any():
        raise LabelError(
            f"Expected tumor in the mask of {file}, {mask_file} is empty. Check it or remove both files.",
            "label-mask-conflict",
            mask_file,
        )
    return read


def _study(source: str, file: Path, files: tuple[Path, ...], published: str, groups: dict[str, str]) -> Study:
    return Study("brisc", source, file.stem, groups.get(file.name, file.stem), files, published_split=published)


def _read_groups(file: Path) -> dict[str, str]:
    """Patient by file name, as far as can be known: pictures of one duplicate group, and those that follow each other in the
    older set, in which a patient's slices stand together. Neighbors there may be two patients; parted they must not be.
    """
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    groups = [f"{row['class']}-{row['dup_group']}" for row in rows]
    sequels = _number_sequels(rows)
    # A picture ties its group to its sequel; what is tied, however far around, is one patient.
    nodes = {name: node for node, name in enumerate(sorted({*groups, *sequels.values()}))}
    ties = np.array([(nodes[groups[place]], nodes[sequel]) for place, sequel in sequels.items()], dtype=int).reshape(-1, 2)
    matrix = coo_array((np.ones(len(ties)), (ties[:, 0], ties[:, 1])), shape=(len(nodes), len(nodes)))
    _, patients = connected_components(matrix, directed=False)
    names = dict(zip(patients[::-1], sorted(nodes, reverse=True), strict=True))  # the first in order names the patient
    return {row["image"]: names[patients[nodes[group]]] for row, group in zip(rows, groups, strict=True)}


def _number_sequels(rows: list[dict[str, str]]) -> dict[int, str]:
    """By row: which run of consecutive ``figshare_index`` of its class and side it is in, where it has such a number."""
    numbered = sorted(
        (row["class"], row.get("split") or "", int(float(row["figshare_index"])), place)
        for place, row in enumerate(rows)
        if row.get("figshare_index")
    )
    sequels: dict[int, str] = {}
    before: tuple[str, str, int] | None = None
    name = ""
    for kind, side, number, place in numbered:
        if before is None or before[:2] != (kind, side) or number - before[2] > 1:
            name = f"{kind}-from-{number}"
        sequels[place], before = name, (kind, side, number)
    return sequels
