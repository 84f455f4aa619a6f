"""The table of cases: one row a slice and model, from which every figure is computed; and one row a scan beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.data.preprocess import Geometry

__all__ = [
    "CASE_COLUMNS",
    "FROM_STORE",
    "VOLUME_COLUMNS",
    "VOLUME_KEYS",
    "Column",
    "are_judged",
    "are_outlined",
    "make_cases",
    "make_volumes",
    "pixel_counts",
]

Column = tuple[str, str]
"""A column's pandas type, and what it holds."""

CASE_COLUMNS: dict[str, Column] = {
    "model": ("string", "Which model answers, such as `joint`."),
    "split": ("string", "Side of the patient: `val` or `test`."),
    "slice_id": ("string", "Unique among the slices of a model and side."),
    "study_id": ("string", "The scan's, unique within the source."),
    "patient_id": ("string", "The patient's, unique within the source; the unit of every interval."),
    "source": ("string", "The data source's name."),
    "institution": ("string", "Where the patient was scanned, as TCGA's barcodes say; missing elsewhere."),
    "duplicate_group": ("Int64", "Number shared by copies of the same slice; patients who share one count as one."),
    "sequence": ("string", "MR sequence: `t1`, `t1ce`, `t2`, `flair` or `unknown`."),
    "plane": ("string", "`axial`, `coronal`, `sagittal` or `unknown`."),
    "slice_index": ("Int64", "Position within the scan, in the publisher's numbering."),
    "slice_position": ("float64", "The same from 0, the scan's first slice, to 1, its last; missing for a lone picture."),
    "label": ("boolean", "True: the slice shows tumor; missing where not known."),
    "mask_state": ("string", "What is known of the mask: `present`, `empty` or `unknown`."),
    "classification": ("boolean", "The source's labels take part in scoring classification."),
    "probability": ("float64", "That the slice shows tumor, in [0, 1], calibrated."),
    "raw_probability": ("float64", "The same before it is calibrated."),
    "threshold": ("float64", "Probability from which the answer is \"tumor\"."),
    "is_tumor": ("boolean", "The answer."),
    "uncertainty": ("float64", "Standard deviation of the probability over augmented views and dropout draws."),
    "tp": ("Int64", "Pixels of the mask that are tumor; like the next three on the 256×256 grid, missing if unknown."),
    "fp": ("Int64", "Pixels of the mask that are not."),
    "fn": ("Int64", "Pixels of tumor outside the mask."),
    "tn": ("Int64", "All others."),
    "predicted_area_px": ("Int64", "Pixels of the mask."),
    "decoder_area_px": ("Int64", "Pixels the decoder alone marks, before the decision rule empties the mask."),
    "reference_area_px": ("Int64", "Pixels of the reference mask."),
    "hausdorff95": ("float64", "95th percentile of the distances between outlines; missing if one is empty."),
    "surface_dice": ("float64", "Share of the outlines within 2 mm or px of one another; missing if both are empty."),
    "distance_unit": ("string", "Of both: `mm` where the spacing is known, else `px`."),
    "spacing_row_mm": ("float64", "Distance between rows of the 256×256 grid; missing where not known."),
    "spacing_column_mm": ("float64", "Distance between its columns."),
    "spacing_slice_mm": ("float64", "Distance between the scan's slices."),
    "cam_pointing": ("float64", "Grad-CAM's strongest point lies on the tumor: 1 or 0, a share where several tie."),
    "cam_mass_in_mask": ("float64", "Share of Grad-CAM's heat on the tumor, in [0, 1]."),
    "cam_iou": ("float64", "IoU of the tumor and the hottest pixels, as many as it has."),
    "center_pointing": ("float64", "`cam_pointing` of a map that fades from the brain's center."),
    "center_mass_in_mask": ("float64", "Its `cam_mass_in_mask`."),
    "center_iou": ("float64", "Its `cam_iou`."),
    "randomized_pointing": ("float64", "`cam_pointing` of the network with its weights shuffled."),
    "randomized_mass_in_mask": ("float64", "Its `cam_mass_in_mask`."),
    "randomized_iou": ("float64", "Its `cam_iou`."),
    "randomized_similarity": ("float64", "Rank correlation of both networks' heat, in [-1, 1]; near 0 as it should be."),
    "row": ("Int64", "The slice's row in the store."),
}  # fmt: skip
"""Columns by name. A table of another system needs `slicewise.evaluation.table.REQUIRED` of them alone."""

VOLUME_KEYS = ["model", "split", "source", "patient_id", "study_id", "sequence"]
"""What a scan is told apart by."""

VOLUME_COLUMNS: dict[str, Column] = {
    **{name: CASE_COLUMNS[name] for name in VOLUME_KEYS},
    "n_slices": ("Int64", "Slices of the scan."),
    "tp": ("float64", "Sum over them, as the next two; in pixels of the 256×256 grid."),
    "fp": ("float64", "Alike."),
    "fn": ("float64", "Alike."),
    "predicted_ml": ("float64", "Volume of the mask; missing where the spacing is not known in all three directions."),
    "reference_ml": ("float64", "Volume of the reference mask, alike."),
    "hausdorff95": ("float64", "As of a slice, in three dimensions."),
    "surface_dice": ("float64", "As of a slice, in three dimensions."),
    "distance_unit": (
        "string",
        "`mm` where the spacing is known in all three directions, else `px`, with slices 1 px apart.",
    ),
}
"""Columns of the table of scans, see `make_volumes`."""

FROM_STORE = (
    "slice_id",
    "study_id",
    "patient_id",
    "source",
    "sequence",
    "plane",
    "slice_index",
    "label",
    "mask_state",
    "reference_area_px",
    "spacing_row_mm",
    "spacing_column_mm",
    "spacing_slice_mm",
)
"""Columns of `CASE_COLUMNS` that the store's table has; those of spacing and area are on the 256×256 grid here."""

_TCGA_BARCODE = re.compile(r"^TCGA[-_]([A-Z0-9]{2})[-_]")


def pixel_counts(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> dict[str, int]:
    """True and false positives and negatives of one slice, in pixels.

    >>> mask = np.array([[True, True, False, False]])
    >>> pixel_counts(mask, np.array([[True, False, True, False]]))
    {'tp': 1, 'fp': 1, 'fn': 1, 'tn': 1}
    """
    tp = int(np.count_nonzero(prediction & reference))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    return {"tp": tp, "fp": fp, "fn": fn, "tn": prediction.size - tp - fp - fn}


def make_cases(
    table: pd.DataFrame,
    rows: NDArray[np.int64],
    outcomes: list[dict[str, object]],
    *,
    duplicates: Mapping[str, int] | None = None,
    **constants: Any,
) -> pd.DataFrame:
    """Join what the store knows of slices with what a model said of them.

    Args:
        table: The store's table.
        rows: The slices, as rows of the store.
        outcomes: For each, the columns that the model decides.
        duplicates: Number of the group of each file that has copies.
        **constants: Columns equal in all rows, such as ``model`` and ``split``.
    """
    cases = table.iloc[rows][list(FROM_STORE)].reset_index(drop=True)
    scans = table.groupby(["source", "study_id", "sequence"], dropna=False)["slice_index"]
    first, last = scans.transform("min"), scans.transform("max")
    position = (table["slice_index"] - first) / (last - first).where(last > first)
    cases[["spacing_row_mm", "spacing_column_mm"]] *= _scales(table.iloc[rows])
    cases = cases.assign(
        slice_position=position.to_numpy(float)[rows],
        institution=cases["patient_id"].str.extract(_TCGA_BARCODE, expand=False),
        duplicate_group=table["file"].map(dict(duplicates or {})).astype("Int64").to_numpy()[rows],
    )
    cases = cases.join(pd.DataFrame(outcomes)).assign(row=rows, **constants)
    return cases.reindex(columns=list(CASE_COLUMNS)).astype({name: kind for name, (kind, _) in CASE_COLUMNS.items()})


def make_volumes(cases: pd.DataFrame, distances: pd.DataFrame | None = None) -> pd.DataFrame:
    """Add up the slices of each scan.

    Only scans of which every mask is known, of sources and sequences in which tumors are outlined, see `are_outlined`: where
    the tumor's own slices cannot be scored, what is left of a scan is no volume. A scan without a pixel of tumor or mask has
    volumes of 0, and no Dice.

    Args:
        cases: A table of cases, of any number of models.
        distances: `VOLUME_KEYS` with ``hausdorff95``, ``surface_dice`` and ``distance_unit`` of the scans, where measured.
    """
    outlined = cases[are_outlined(cases).to_numpy()]
    spacing = outlined[["spacing_row_mm", "spacing_column_mm", "spacing_slice_mm"]]
    numbers = outlined[VOLUME_KEYS].assign(
        known=outlined["tp"].notna(),
        tp=outlined["tp"].astype(float),
        fp=outlined["fp"].astype(float),
        fn=outlined["fn"].astype(float),
        voxel_ml=spacing.prod(axis=1, skipna=False) / 1000,
    )
    grouped = numbers.groupby(VOLUME_KEYS, dropna=False, sort=True)
    volumes = grouped.agg(
        n_slices=("tp", "size"),
        known=("known", "all"),
        tp=("tp", "sum"),
        fp=("fp", "sum"),
        fn=("fn", "sum"),
        voxel_ml=("voxel_ml", "mean"),
    ).reset_index()
    volumes = volumes[volumes["known"]]
    volumes["predicted_ml"] = (volumes["tp"] + volumes["fp"]) * volumes["voxel_ml"]
    volumes["reference_ml"] = (volumes["tp"] + volumes["fn"]) * volumes["voxel_ml"]
    if distances is not None and len(distances):
        volumes = volumes.merge(distances, on=VOLUME_KEYS, how="left", validate="one_to_one")
    columns = {name: kind for name, (kind, _) in VOLUME_COLUMNS.items()}
    return volumes.reindex(columns=list(columns)).astype(columns).reset_index(drop=True)


def are_judged(cases: pd.DataFrame) -> pd.Series[bool]:
    """Rows whose answer is scored: there is one, the label is known, and the source's labels take part.

    Args:
        cases: A table of cases, of any number of models.
    """
    judged = cases["label"].notna() & cases["classification"].fillna(False) & cases["probability"].notna()
    return judged.astype(bool)


def are_outlined(cases: pd.DataFrame) -> pd.Series[bool]:
    """Rows of sources and sequences in which the same side has an outlined tumor, as `slicewise.data.dataset.find_targets`
    has it.

    In all others, such as a yes/no set or T1 slices beside outlines drawn on FLAIR, a Dice could only be 0 or undefined; the
    false-mask rate says that better.

    Args:
        cases: A table of cases, of any number of models.
    """
    groups = [cases[name] for name in ("split", "source", "sequence")]
    return (cases["mask_state"] == "present").fillna(False).groupby(groups, dropna=False).transform("any").astype(bool)


def _scales(table: pd.DataFrame) -> NDArray[np.float64]:
    """Pixels of the input to a pixel of the grid, from row to row and from column to column: ``(N, 2)``."""
    shapes = table[["height_px", "width_px"]].to_numpy()
    spacings = table[["spacing_row_mm", "spacing_column_mm"]].to_numpy(float)
    contents = [
        Geometry.of(tuple(shape), None if np.isnan(spacing).any() else tuple(spacing)).content
        for shape, spacing in zip(shapes, spacings, strict=True)
    ]
    return shapes / np.array(contents, dtype=float).reshape(-1, 2)
