"""Studies to preprocessed slices, in worker processes: what ingest stores and what an audit looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slicewise.data.facts import bright_shares, describe_slice
from slicewise.data.preprocess import SIDE_PX, preprocess, preprocess_mask
from slicewise.errors import FileError, SlicewiseError
from slicewise.records import Slice, Study
from slicewise.sources import read_study
from slicewise.sources.headers import read_header

__all__ = ["StudySlices", "read_studies"]


class StudySlices(NamedTuple):
    """What one study gives."""

    images: NDArray[np.float16]
    """``(n, 256, 256)``, preprocessed."""
    masks: NDArray[np.bool_]
    """``(n, 256, 256)``, all False where the mask is not known or empty."""
    rows: list[dict[str, Any]]
    """A row of the store's table each, less the checksums of the pixels."""
    problems: list[FileError]
    """What could not be used of it."""


def read_studies(
    studies: Sequence[Study], workers: int, excluded: frozenset[Path] = frozenset()
) -> Iterator[tuple[Study, StudySlices]]:
    """Results as they come, with a bounded number of studies in flight so that memory stays flat.

    Args:
        studies: What to read.
        workers: Processes.
        excluded: Image files that are left out, with whatever is wrong about them; absolute paths.

    Raises:
        SlicewiseError: A process was killed, as for want of memory. What was read before can be kept.
    """
    if workers == 1 or len(studies) < 2:
        yield from ((study, _read(study, excluded)) for study in studies)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = iter(studies)
        running = {pool.submit(_read, study, excluded): study for study in islice(waiting, 4 * workers)}
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                study = running.pop(future)
                for following in islice(waiting, 1):
                    running[pool.submit(_read, following, excluded)] = following
                try:
                    yield study, future.result()
                except BrokenProcessPool:
                    raise SlicewiseError(
                        f"Expected the processes that read to stay, one was ended from outside while {workers} of them read "
                        f"{study.study_id} and others: the memory may be too small for so many. Set workers=1 and go on."
                    ) from None


def _read(study: Study, excluded: frozenset[Path]) -> StudySlices:
    slices: list[Slice] = []
    problems: list[FileError] = []
    for item in read_study(study):
        if item.file is not None and item.file.absolute() in excluded:
            continue
        (problems if isinstance(item, FileError) else slices).append(item)  # type: ignore[arg-type]
    images = np.zeros((len(slices), SIDE_PX, SIDE_PX), dtype=np.float16)
    masks = np.zeros(images.shape, dtype=np.bool_)
    rows = []
    headers = {file: read_header(file)._asdict() for file in {item.file for item in slices} if file is not None}
    for number, item in enumerate(slices):
        images[number], geometry = preprocess(item.image, item.spacing_mm)
        if item.mask is not None:
            masks[number] = preprocess_mask(item.mask, geometry)
        row = _row(study, item, images[number], masks[number])
        rows.append(row | (headers[item.file] if item.file else {}) | describe_slice(item))
    _compare_brightness(slices, rows)
    return StudySlices(images, masks, rows, problems)


def _compare_brightness(slices: Sequence[Slice], rows: Sequence[dict[str, Any]]) -> None:
    """Each sequence has a range of its own."""
    for sequence in {item.sequence for item in slices}:
        places = [place for place, item in enumerate(slices) if item.sequence == sequence]
        ranges = [(rows[place]["intensity_low"], rows[place]["intensity_high"]) for place in places]
        shares = bright_shares([slices[place].image for place in places], ranges)
        for place, share in zip(places, shares, strict=True):
            rows[place]["bright_share"] = share


def _row(study: Study, item: Slice, image: NDArray[np.float16], mask: NDArray[np.bool_]) -> dict[str, Any]:
    spacing = item.spacing_mm or (None, None)
    return {
        "slice_id": f"{study.source}/{study.study_id}/{item.sequence}/{item.slice_index}",
        "source": study.source,
        "patient_id": study.patient_id,
        "study_id": study.study_id,
        "slice_index": item.slice_index,
        "sequence": item.sequence,
        "plane": item.plane,
        "label": item.label,
        "mask_state": str(item.mask_state),
        "reference_area_px": int(mask.sum()),
        "foreground_share": float((image > image.min()).mean()),
        "spacing_row_mm": spacing[0],
        "spacing_column_mm": spacing[1],
        "spacing_slice_mm": item.slice_spacing_mm,
        "height_px": item.image.shape[0],
        "width_px": item.image.shape[1],
        "published_split": study.published_split,
        "file": str(item.file) if item.file else None,
        "mask_file": str(item.mask_file) if item.mask_file else None,
    }
