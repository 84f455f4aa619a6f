"""From sources to the slice store: in parallel, resumable, every broken file named and counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slicewise.config import SourceConfig
from slicewise.data.preprocess import PREPROCESSING, SIDE_PX, preprocess, preprocess_mask
from slicewise.data.store import SliceStore, StoreWriter
from slicewise.errors import InputError, LabelError, UnreadableFileError
from slicewise.records import Slice, Study
from slicewise.sources import find_studies, read_study

__all__ = ["ingest", "refuse_skipped"]

Progress = Callable[[int, int], None]


class _StudySlices(NamedTuple):
    images: NDArray[np.float16]
    masks: NDArray[np.bool_]
    rows: list[dict[str, Any]]
    skipped: list[dict[str, str]]


def ingest(
    sources: Mapping[str, SourceConfig],
    folder: Path,
    *,
    workers: int = 2,
    strict: bool = False,
    progress: Progress = lambda done, total: None,
) -> SliceStore:
    """Read, preprocess and store every slice of ``sources``.

    A file whose bytes are broken is skipped and listed in the store's description. A file that contradicts its layout (a
    mask of another size, an unknown label integer) means that the source is not what the configuration says: it ends the
    ingest, because a model trained past it would be wrong without a sign.

    Args:
        sources: Data sources by name.
        folder: Where the store will be; must not exist.
        workers: Processes that read and preprocess.
        strict: Refuse instead of skipping broken files.
        progress: Called with the number of studies done and their total.

    Raises:
        InputError: A folder is missing, empty or of another layout; ``folder`` exists; no slice could be read; with
            ``strict``, a file is broken. Nothing is left behind.
        LabelError: A mask contradicts its image or its layout. Nothing is left behind.
    """
    if folder.exists():
        raise InputError(f"Expected a new folder for the slice store, {folder} exists. Remove it or name another.")
    studies = [study for name, source in sources.items() for study in find_studies(name, source)]
    writer = StoreWriter(folder, plan=_digest(studies))
    try:
        left = [study for study in studies if (study.source, study.study_id) not in writer.done]
        progress(len(studies) - len(left), len(studies))
        refused = []
        for number, (study, outcome) in enumerate(_read_all(left, workers), start=len(studies) - len(left) + 1):
            if isinstance(outcome, LabelError):
                refused.append(str(outcome))
            else:
                writer.append(study.source, study.study_id, *outcome)
            progress(number, len(studies))
        if refused:
            more = f" ({len(refused) - 1} more studies have a problem of this kind.)" if len(refused) > 1 else ""
            raise LabelError(refused[0] + more)
        if strict:
            refuse_skipped(writer.skipped)
        return writer.finish([(study.source, study.study_id) for study in studies])
    except InputError:
        writer.discard()
        raise


def refuse_skipped(skipped: Sequence[Mapping[str, str]]) -> None:
    """What ``strict`` asks of a store, whether it is new or was made before.

    Raises:
        InputError: Files were skipped.
    """
    if skipped:
        names = "; ".join(item["reason"] for item in skipped)
        raise InputError(f"Expected every file to be readable (--strict), {len(skipped)} are not: {names}")


def _digest(studies: Iterable[Study]) -> str:
    """What is to be ingested: studies, files, their sizes and times, and the preprocessing."""
    digest = hashlib.sha256(PREPROCESSING.encode())
    for study in studies:
        digest.update(repr((study.layout, study.source, study.study_id, study.patient_id, study.options)).encode())
        for file in study.files:
            state = file.stat() if file.exists() else None
            digest.update(repr((str(file), state and (state.st_size, state.st_mtime_ns))).encode())
    return digest.hexdigest()


def _read_all(studies: list[Study], workers: int) -> Iterator[tuple[Study, _StudySlices | LabelError]]:
    """Results as they come, with a bounded number of studies in flight so that memory stays flat."""
    if workers == 1 or len(studies) < 2:
        yield from ((study, _read(study)) for study in studies)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = iter(studies)
        running = {pool.submit(_read, study): study for study in islice(waiting, 4 * workers)}
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                study = running.pop(future)
                for following in islice(waiting, 1):
                    running[pool.submit(_read, following)] = following
                yield study, future.result()


def _read(study: Study) -> _StudySlices | LabelError:
    """One study, in a worker process; what could be read of it, and what could not."""
    images, masks, rows, skipped = [], [], [], []
    try:
        for item in read_study(study):
            if isinstance(item, UnreadableFileError):
                skipped.append({"study": f"{study.source}/{study.study_id}", "reason": str(item)})
                continue
            image, geometry = preprocess(item.image)
            mask = np.zeros((SIDE_PX, SIDE_PX), np.bool_) if item.mask is None else preprocess_mask(item.mask, geometry)
            images.append(image)
            masks.append(mask)
            rows.append(_row(study, item, image, mask))
    except LabelError as error:
        return error
    return _StudySlices(*_stack(images, masks), rows, skipped)


def _stack(
    images: list[NDArray[np.float16]], masks: list[NDArray[np.bool_]]
) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    shape = (len(images), SIDE_PX, SIDE_PX)
    return np.array(images, dtype=np.float16).reshape(shape), np.array(masks, dtype=np.bool_).reshape(shape)


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
        "height_px": item.image.shape[0],
        "width_px": item.image.shape[1],
        "published_split": study.published_split,
        "file": str(item.file) if item.file else None,
    }
