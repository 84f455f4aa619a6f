"""From sources to the slice store: in parallel, resumable, every broken file named and counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from slicewise.config import SourceConfig
from slicewise.data.preprocess import PREPROCESSING
from slicewise.data.reading import read_studies
from slicewise.data.store import SliceStore, StoreWriter
from slicewise.errors import FileError, InputError, LabelError
from slicewise.records import Study
from slicewise.sources import find_studies

__all__ = ["ingest", "refuse_skipped"]

Progress = Callable[[int, int], None]


def ingest(
    sources: Mapping[str, SourceConfig],
    folder: Path,
    *,
    workers: int = 2,
    strict: bool = False,
    excluded: frozenset[Path] = frozenset(),
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
        excluded: Files that are left out, with whatever is wrong about them; absolute paths.
        progress: Called with the number of studies done and their total.

    Raises:
        InputError: A folder is missing, empty or of another layout; ``folder`` exists; no slice could be read; with
            ``strict``, a file is broken. Nothing is left behind.
        LabelError: A mask contradicts its image or its layout. Nothing is left behind.
    """
    if folder.exists():
        raise InputError(f"Expected a new folder for the slice store, {folder} exists. Remove it or name another.")
    studies = [study for name, source in sources.items() for study in find_studies(name, source)]
    known = {file.absolute() for study in studies for file in study.files} if excluded else set()
    if excluded and not excluded & known:
        raise InputError(
            f"Expected the files to leave out among those of the sources, found none of {len(excluded)}, such as "
            f"{min(excluded)}. Audit these sources and write the table again."
        )
    writer = StoreWriter(folder, plan=_digest(studies, excluded))
    try:
        left = [study for study in studies if (study.source, study.study_id) not in writer.done]
        progress(len(studies) - len(left), len(studies))
        refused = []
        for number, (study, read) in enumerate(read_studies(left, workers, excluded), start=len(studies) - len(left) + 1):
            contradictions = [problem for problem in read.problems if isinstance(problem, LabelError)]
            refused += contradictions
            if not contradictions:  # a study in the journal counts as done, and would not be refused again after a kill
                skipped = [_describe(study, problem) for problem in read.problems]
                writer.append(study.source, study.study_id, read.images, read.masks, read.rows, skipped)
            progress(number, len(studies))
        if refused:
            more = f" ({len(refused) - 1} more; `slicewise audit` lists them.)" if len(refused) > 1 else ""
            raise LabelError(str(refused[0]) + more, refused[0].problem, refused[0].file)
        if strict:
            refuse_skipped(writer.skipped)
        return writer.finish([(study.source, study.study_id) for study in studies])
    except InputError:
        writer.discard()
        raise


def _describe(study: Study, problem: FileError) -> dict[str, str]:
    return {
        "study": f"{study.source}/{study.study_id}",
        "file": str(problem.file or ""),
        "problem": problem.problem,
        "reason": str(problem),
    }


def refuse_skipped(skipped: Sequence[Mapping[str, str]]) -> None:
    """What ``strict`` asks of a store, whether it is new or was made before.

    Raises:
        InputError: Files were skipped.
    """
    if skipped:
        names = "; ".join(item["reason"] for item in skipped)
        raise InputError(f"Expected every file to be readable (--strict), {len(skipped)} are not: {names}")


def _digest(studies: Iterable[Study], excluded: frozenset[Path]) -> str:
    """What is to be ingested: studies, files, their sizes and times, what is left out, and the preprocessing."""
    digest = hashlib.sha256(repr((PREPROCESSING, sorted(map(str, excluded)))).encode())
    for study in studies:
        digest.update(repr((study.layout, study.source, study.study_id, study.patient_id, study.options)).encode())
        for file in study.files:
            state = file.stat() if file.exists() else None
            digest.update(repr((str(file), state and (state.st_size, state.st_mtime_ns))).encode())
    return digest.hexdigest()
