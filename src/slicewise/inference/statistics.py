"""What can be counted and measured of a result: `slicewise predict --statistics`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicewise.inference.lesions import find_lesions
from slicewise.inference.result import Result

__all__ = ["describe_result"]

_PERCENTILES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}
_RANGE_PERCENTILES, _HEAD_SHARE = (0.5, 99.9), 0.1  # as the foreground of data/preprocess.py


def describe_result(result: Result) -> dict[str, Any]:
    """Plain JSON values; None where something is undefined or not known, never NaN.

    Slices, rows and columns are counted from 0, in the view of `slicewise.orientation`.

    Returns:
        - ``slices``, ``positive_slices``: how many there are, and how many have the answer "tumor".
        - ``first_positive_slice``, ``last_positive_slice``, ``most_probable_slice``: their numbers.
        - ``mask_px``, ``area_mm2`` (of a lone slice), ``volume_ml`` (of a volume): size of the mask; like all else about
          it None where none was looked for.
        - ``extent``: the mask's box: first and last of ``slices``, ``rows`` and ``columns``, and ``size_mm`` along each.
        - ``lesion_count``, ``lesions``: the mask's connected parts, the largest first (`Lesion.to_json`).
        - ``intensity``: in the file's own units, of the ``mask`` and of the rest of the ``head``, everything else brighter
          than a tenth of the scan's range: ``voxels``, ``mean``, ``sd`` (of the population), and the percentiles ``p5``,
          ``p25``, ``median``, ``p75`` and ``p95``.
    """
    scan, masks = result.scan, result.masks
    positive = np.flatnonzero(result.is_tumor)
    slices = {
        "slices": len(masks),
        "positive_slices": len(positive),
        "first_positive_slice": int(positive[0]) if len(positive) else None,
        "last_positive_slice": int(positive[-1]) if len(positive) else None,
        "most_probable_slice": int(result.probabilities.argmax()),
    }
    head = _distribution(scan.slices[_find_head(scan.slices) & ~masks])
    if not result.segmented:
        unknown = ("mask_px", "area_mm2", "volume_ml", "extent", "lesion_count", "lesions")
        return slices | dict.fromkeys(unknown) | {"intensity": {"mask": None, "head": head}}
    affine = None if scan.affine is None or scan.orientation is None else scan.slice_affine
    lesions = find_lesions(masks, scan.spacing_mm, scan.slice_spacing_mm, affine)
    return slices | {
        "mask_px": result.mask_px,
        "area_mm2": result.area_mm2,
        "volume_ml": result.volume_ml,
        "extent": _extent(masks, (scan.slice_spacing_mm, *(scan.spacing_mm or (None, None)))),
        "lesion_count": len(lesions),
        "lesions": [lesion.to_json() for lesion in lesions],
        "intensity": {"mask": _distribution(scan.slices[masks]), "head": head},
    }


def _extent(masks: NDArray[np.bool_], spacing_mm: tuple[float | None, ...]) -> dict[str, list[Any]] | None:
    if not masks.any():
        return None
    places = [np.flatnonzero(masks.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    ends = [[int(place[0]), int(place[-1])] for place in places]
    size = [
        None if distance is None else (last - first + 1) * distance
        for (first, last), distance in zip(ends, spacing_mm, strict=True)
    ]
    return {"slices": ends[0], "rows": ends[1], "columns": ends[2], "size_mm": size}


def _find_head(slices: NDArray[np.float32]) -> NDArray[np.bool_]:
    """``(D, H, W)``: what is brighter than a tenth of the range, by the rule that `preprocess` has for one slice."""
    # Values that occur: between two of them, float32 could overflow.
    low, high = (float(value) for value in np.percentile(slices, _RANGE_PERCENTILES, method="nearest"))
    head = slices > low + _HEAD_SHARE * (high - low)
    # Volumes that were z-scored carry air as a 0 in the middle of the brain's own range.
    border = np.concatenate([slices[:, [0, -1]].ravel(), slices[:, :, [0, -1]].ravel()])
    air = np.partition(border, border.size // 2)[border.size // 2]
    if air > low and np.count_nonzero(border == air) * 2 > border.size:
        head &= slices != air
    return head


def _distribution(values: NDArray[np.float32]) -> dict[str, float | int | None]:
    exact = values.astype(np.float64)
    names = ("mean", "sd", *_PERCENTILES)
    if not exact.size:
        return {"voxels": 0, **dict.fromkeys(names)}
    figures = (exact.mean(), exact.std(), *np.percentile(exact, list(_PERCENTILES.values())))
    return {"voxels": exact.size, **{name: float(figure) for name, figure in zip(names, figures, strict=True)}}
