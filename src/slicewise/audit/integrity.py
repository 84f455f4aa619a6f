"""Files that are broken, odd, or unlike the rest of their source."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from slicewise.audit.findings import Finding
from slicewise.audit.survey import Survey

__all__ = ["check_integrity"]

_BLANK_SHARE = 0.005
_BLANK_8_BIT = 10.0  # of 255: a lone picture has no other slices to tell that it is faint
_COLOR_SHARE = 0.002
_SPACING_MM = (0.2, 3.0)
_FIELD_OF_VIEW_MM = (110.0, 400.0)
_ANISOTROPY = 1.5


def check_integrity(survey: Survey) -> Iterator[Finding]:
    """Findings about files and their pixels, labels and neighbors left out."""
    for problem in survey.problems:
        yield Finding.of(problem.rule, problem.message, [problem.file])
    for source, slices in survey.table.groupby("source"):
        for finding in (*_pixels(slices), *_files(slices), *_geometry(slices)):
            yield Finding.of(finding.rule, finding.message, finding.files, severity=finding.severity, source=str(source))


def is_blank(slices: pd.DataFrame) -> pd.Series[bool]:
    """Rows that hold no head: nothing, or noise alone."""
    flat = slices["intensity_high"] <= slices["intensity_low"]
    faint = (slices["bit_depth"] == 8) & (slices["intensity_high"] < _BLANK_8_BIT)
    return flat | faint.fillna(False).astype(bool) | (slices["bright_share"] < _BLANK_SHARE)


def _pixels(slices: pd.DataFrame) -> Iterator[Finding]:
    blank = slices[is_blank(slices)]
    if len(blank):
        yield Finding.of("blank-slice", f"{len(blank)} of {len(slices)} slices are nearly blank.", blank["file"])
    colored = slices[slices["color_share"] > _COLOR_SHARE].sort_values("color_share", ascending=False)
    if len(colored):
        most = colored["color_share"].iloc[0]
        yield Finding.of(
            "color-in-picture",
            f"{len(colored)} of {len(slices)} pictures hold color, up to {100 * most:.1f} % of the pixels.",
            colored["file"],
        )


def _files(slices: pd.DataFrame) -> Iterator[Finding]:
    files = slices.drop_duplicates("file")
    modes = files["color_mode"].value_counts()
    if len(modes) > 1:
        rare = files[files["color_mode"] != modes.index[0]]
        yield Finding.of("mixed-color-modes", f"Color modes differ: {_counts(modes)}.", rare["file"])
    deep = files[files["bit_depth"] > 8]
    if 0 < len(deep) < len(files.dropna(subset="bit_depth")):
        yield Finding.of(
            "mixed-bit-depth",
            f"{len(deep)} of {len(files)} files have more than 8 bits a pixel, the others have 8.",
            deep["file"],
        )
    axes = files["orientation"].value_counts()
    if len(axes) > 1:
        rare = files[files["orientation"] != axes.index[0]]
        yield Finding.of("mixed-orientation", f"Stored orientations differ: {_counts(axes)}.", rare["file"])


def _geometry(slices: pd.DataFrame) -> Iterator[Finding]:
    known = slices.dropna(subset=["spacing_row_mm", "spacing_column_mm"])
    spacing = known[["spacing_row_mm", "spacing_column_mm"]]
    low, high = spacing.min(axis=1), spacing.max(axis=1)
    view = pd.concat(
        [known["height_px"] * known["spacing_row_mm"], known["width_px"] * known["spacing_column_mm"]], axis=1
    ).max(axis=1)
    odd = (low < _SPACING_MM[0]) | (high > _SPACING_MM[1]) | (high > _ANISOTROPY * low)
    odd |= (view < _FIELD_OF_VIEW_MM[0]) | (view > _FIELD_OF_VIEW_MM[1])
    files = known[odd].drop_duplicates("file")
    if len(files):
        first = files.iloc[0]
        yield Finding.of(
            "implausible-spacing",
            f"{len(files)} files have pixels or a field of view of an unlikely size, the first one "
            f"{first['spacing_row_mm']:g} × {first['spacing_column_mm']:g} mm for {first['height_px']} × "
            f"{first['width_px']} pixels.",
            files["file"],
        )


def _counts(counts: pd.Series[int]) -> str:
    return ", ".join(f"{name or 'as stored'} {count}" for name, count in counts.items())
