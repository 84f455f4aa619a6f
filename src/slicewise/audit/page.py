"""``audit.html``: self-contained, with thumbnails of what was found."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from slicewise.audit.audit import Audit
from slicewise.audit.findings import RULES, Finding
from slicewise.audit.survey import Survey

__all__ = ["render"]

_SHOWN = 12
_SHOWN_GROUPS = 8
_COPY_RULES = ("duplicate-bytes", "duplicate-pixels", "near-duplicate", "duplicate-across-labels")


class _Picture(NamedTuple):
    name: str
    label: str
    png: str
    """Data of an ``<img>``."""


class _Card(NamedTuple):
    finding: Finding
    pictures: list[list[_Picture]]
    """Rows of pictures; copies stand side by side."""


def render(result: Audit, survey: Survey) -> str:
    """The page of an audit; equal input gives equal text.

    Args:
        result: What was found.
        survey: What it was found in.
    """
    environment = Environment(
        loader=PackageLoader("slicewise.audit"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    rows: dict[str, int] = {}
    for row, file in enumerate(survey.table["file"]):
        rows.setdefault(str(file), row)
    masks = survey.table.drop_duplicates("mask_file").dropna(subset="mask_file")
    rows |= {str(file): int(row) for row, file in zip(masks.index, masks["mask_file"], strict=True)}
    return environment.get_template("audit.html.j2").render(
        cards=[_Card(finding, _pictures(finding, result, survey, rows)) for finding in result.findings],
        summary=result.summary(),
        rules=RULES,
        shortcuts=result.shortcuts,
        counts=result.counts,
        slices=len(survey.table),
        files=int(survey.table["file"].nunique()),
        sources=list(survey.sources),
    )


def _pictures(finding: Finding, result: Audit, survey: Survey, rows: dict[str, int]) -> list[list[_Picture]]:
    if finding.rule in _COPY_RULES:
        named = set(finding.files)
        groups = [group for group in result.copies.groups if named >= set(group)] or result.copies.conflicting
        return [_draw(group[:_SHOWN], survey, rows) for group in groups[:_SHOWN_GROUPS]]
    return [pictures] if (pictures := _draw(finding.files[:_SHOWN], survey, rows)) else []


def _draw(files: Iterable[str], survey: Survey, rows: dict[str, int]) -> list[_Picture]:
    return [
        _Picture(Path(file).name, _label(survey.table["label"].iloc[rows[file]]), _encode(survey.thumbnails[rows[file]]))
        for file in files
        if file in rows
    ]


def _label(label: Any) -> str:
    return {True: "tumor", False: "no tumor"}.get(label, "label not known")


def _encode(thumbnail: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(thumbnail).save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
