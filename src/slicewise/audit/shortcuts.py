"""What tells the label without a tumor being seen: the file's metadata, the picture's border, the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.audit.findings import Finding, Severity
from slicewise.audit.predictability import Predictability, predictability

__all__ = ["SHORTCUTS", "check_shortcuts", "measure_shortcuts"]

_WORDS = {"metadata": "Metadata alone", "border": "The border alone", "source": "The source alone"}
_ERROR_ABOVE = 0.7  # of the interval's lower end; anatomy alone brings the borders of a clean set to 0.67
_WARNING_ABOVE = 0.6


def measure_shortcuts(labelled: pd.DataFrame, groups: NDArray[np.int64]) -> dict[str, Predictability]:
    """Cross-validated ROC-AUC of the label from each kind of shortcut.

    Args:
        labelled: One row a slice that teaches classification, blank ones left out; every label known.
        groups: ``(N,)``; patients and their copies.

    Returns:
        By name: ``metadata``, ``border`` and ``source`` of all sources together, and, where there are several, the first two
        of each, such as ``metadata of lgg``.
    """
    kinds = {name: features(labelled) for name, features in SHORTCUTS.items()}
    labels = labelled["label"].to_numpy(bool)
    measured = {name: predictability(features, labels, groups) for name, features in kinds.items()}
    sources = labelled["source"].unique()
    for source in sources if len(sources) > 1 else ():
        rows = (labelled["source"] == source).to_numpy(bool)
        for name in ("metadata", "border"):
            measured[f"{name} of {source}"] = predictability(kinds[name][rows], labels[rows], groups[rows])
    return measured


def check_shortcuts(labelled: pd.DataFrame, shortcuts: Mapping[str, Predictability]) -> Iterator[Finding]:
    """Findings about sources of one class, and about shortcuts that tell the label.

    Args:
        labelled: As for `measure_shortcuts`.
        shortcuts: What it gave.
    """
    for source, slices in labelled.groupby("source"):
        if slices["label"].nunique() == 1:
            words = "a tumor" if slices["label"].iloc[0] else "no tumor"
            message = f"All {len(slices)} labelled slices show {words}, and the source is used for classification."
            yield Finding.of("shortcut-one-class", message, source=str(source))
    for name, shortcut in shortcuts.items():
        if shortcut.value is None or shortcut.low is None or shortcut.low <= _WARNING_ABOVE:
            continue
        kind, _, source = name.partition(" of ")
        yield Finding.of(
            f"shortcut-{kind}",
            f"{_WORDS[kind]} tells the label with ROC-AUC {shortcut.value:.3f} (95 % interval {shortcut.low:.3f} to "
            f"{shortcut.high:.3f}; {shortcut.n_slices} slices of {shortcut.n_groups} patients).",
            severity=Severity.ERROR if shortcut.low > _ERROR_ABOVE else Severity.WARNING,
            source=source or None,
        )


def _metadata(table: pd.DataFrame) -> pd.DataFrame:
    """What is known of a file without looking at a pixel."""
    height, width = table["height_px"].astype(float), table["width_px"].astype(float)
    size = table["file_bytes"].astype(float)
    return pd.DataFrame(
        {
            "height": height,
            "width": width,
            "aspect": width / height,
            "bytes": size,
            "bytes_per_pixel": size / (height * width),
            "color_mode": table["color_mode"].fillna("").astype(object),
            "orientation": table["orientation"].fillna("").astype(object),
            "file_format": table["file_format"].fillna("").astype(object),
            "ending": [PurePath(str(file)).suffix for file in table["file"]],
        },
        index=table.index,
    ).astype({"ending": object})


def _border(table: pd.DataFrame) -> pd.DataFrame:
    return table[["border_mean", "border_std", "border_dark_share"]].astype(float)


def _source(table: pd.DataFrame) -> pd.DataFrame:
    return table[["source"]].astype(object)


SHORTCUTS = {"metadata": _metadata, "border": _border, "source": _source}
"""By name, what makes the features of a shortcut from a store's table, one row a slice."""
