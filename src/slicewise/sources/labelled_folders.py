"""Pictures sorted into two folders, ``yes`` and ``no``, as yes/no sets are shared: any ending, size and color mode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slicewise.config import SourceConfig
from slicewise.errors import InputError
from slicewise.records import MaskState, Slice, Study
from slicewise.sources.folders import by_number, root_of, visible
from slicewise.sources.images import is_picture_name, read_picture

__all__ = ["find_studies", "read_study"]

_LAYOUT = "two folders of pictures, yes and no"
_LABELS = {
    "yes": True,
    "tumor": True,
    "tumour": True,
    "braintumor": True,
    "positive": True,
    "no": False,
    "notumor": False,
    "notumour": False,
    "normal": False,
    "negative": False,
    "healthy": False,
}
_SEPARATORS = re.compile(r"[\s_-]+")


def find_studies(source: str, config: SourceConfig) -> list[Study]:
    """One study, and one patient, a picture: nothing tells which pictures show the same person.

    Raises:
        InputError: The folder is missing, or one of the two classes is.
    """
    root = root_of(source, config, _LAYOUT)
    studies, found = [], set()
    for folder in filter(Path.is_dir, visible(root)):
        label = _LABELS.get(_SEPARATORS.sub("", folder.name.lower()))
        if label is None:
            continue
        for file in sorted((path for path in folder.iterdir() if is_picture_name(path)), key=by_number):
            name = f"{folder.name}/{file.name}"
            studies.append(Study("labelled_folders", source, name, name, (file,), options=(("label", label),)))
            found.add(label)
    for label, names in ((True, "yes"), (False, "no")):
        if label not in found:
            words = ", ".join(name for name, meaning in _LABELS.items() if meaning is label)
            raise InputError(
                f"Expected {_LAYOUT} for source {source}, found no pictures in a folder {names!r} below {root} "
                f"(its name may be one of {words}, in any case, with blanks or dashes)."
            )
    return studies


def read_study(study: Study) -> Iterator[Slice]:
    """The one picture.

    Raises:
        UnreadableFileError: It cannot be read.
    """
    (file,) = study.files
    image, color_share = read_picture(file)
    label: bool = dict(study.options)["label"]
    yield Slice(
        image=image,
        mask=None if label else np.zeros(image.shape, dtype=np.bool_),
        mask_state=MaskState.UNKNOWN if label else MaskState.EMPTY,
        label=label,
        slice_index=0,
        file=file,
        color_share=color_share,
    )
