"""Masks that contradict their image, their label or themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from slicewise.audit.findings import Finding
from slicewise.audit.survey import Survey
from slicewise.records import MaskState
from slicewise.sources.names import MASK_FOLDERS, MASK_WORDS

__all__ = ["check_masks"]

_OUTSIDE_SHARE = 0.05
_SOFT_SHARE = 0.25


def check_masks(survey: Survey) -> Iterator[Finding]:
    """Findings about masks that could be read; those that could not are findings of integrity."""
    orphans = [file for file in survey.strangers if _is_mask_name(file)]
    if orphans:
        yield Finding.of("orphaned-mask", f"{len(orphans)} masks have no image.", orphans)
    others = [file for file in survey.strangers if not _is_mask_name(file)]
    if others:
        yield Finding.of(
            "unrecognized-file", f"{len(others)} pictures or volumes lie where the layout expects none.", others
        )
    for source, slices in survey.table.groupby("source"):
        yield from _conflicts(slices, str(source))
        yield from _outlines(slices[slices["mask_state"] == MaskState.PRESENT], str(source))


def _is_mask_name(file: Path) -> bool:
    """A word of masks counts anywhere, unlike in a prediction: of what the layout has no place for, nothing is lost."""
    return file.parent.name.lower() in MASK_FOLDERS or any(word in file.name.lower() for word in MASK_WORDS)


def _conflicts(slices: pd.DataFrame, source: str) -> Iterator[Finding]:
    present, empty = (slices["mask_state"] == state for state in (MaskState.PRESENT, MaskState.EMPTY))
    free_with_mask = slices[slices["label"].eq(False).fillna(False) & present]
    tumor_without = slices[slices["label"].fillna(False) & empty]
    for conflicting, words in ((free_with_mask, "tumor-free with a mask"), (tumor_without, "tumor with an empty mask")):
        if len(conflicting):
            message = f"{len(conflicting)} slices are labelled {words}."
            yield Finding.of("label-mask-conflict", message, conflicting["file"], source=source)


def _outlines(masked: pd.DataFrame, source: str) -> Iterator[Finding]:
    specked = masked[masked["mask_speck_px"].fillna(0) > 0]
    if len(specked):
        yield Finding.of(
            "mask-specks",
            f"{len(specked)} of {len(masked)} masks hold regions of a few pixels, {int(specked['mask_speck_px'].sum())} "
            "pixels in all.",
            specked["mask_file"].dropna(),
            source=source,
        )
    outside = masked[masked["mask_outside_share"] > _OUTSIDE_SHARE].sort_values("mask_outside_share", ascending=False)
    if len(outside):
        yield Finding.of(
            "mask-outside-head",
            f"{len(outside)} of {len(masked)} masks reach beyond the head, the worst with "
            f"{100 * outside['mask_outside_share'].iloc[0]:.0f} % of its area.",
            outside["mask_file"].dropna(),
            source=source,
        )
    soft = masked[masked["mask_soft_share"] > _SOFT_SHARE].sort_values("mask_soft_share", ascending=False)
    if len(soft):
        yield Finding.of(
            "soft-mask",
            f"In {len(soft)} of {len(masked)} masks more than {100 * _SOFT_SHARE:.0f} % of the pixels are neither "
            "dark nor bright.",
            soft["mask_file"].dropna(),
            source=source,
        )
