"""What is to be predicted: files, folders and patterns to one job an input."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from slicewise.errors import InputError
from slicewise.files import sha256_of
from slicewise.sources.dicom import is_dicom
from slicewise.sources.images import PICTURE_ENDINGS, is_picture_name
from slicewise.sources.names import MASK_FOLDERS, MASK_WORDS, NIFTI_ENDINGS, RESULT_ENDINGS, is_no_scan, name_of

__all__ = ["Job", "digest_of", "files_of", "find_inputs"]

_ZIP = ".zip"
_PATTERN = frozenset("*?[")


class Job(NamedTuple):
    """One input and where its results go."""

    path: Path
    """A picture, a NIfTI volume, a DICOM file, a zip, or a folder that holds DICOM files."""
    target: Path
    """Below the output folder, without ending."""


def find_inputs(inputs: Sequence[Path], output: Path, pass_over: Callable[[Path], None] = lambda file: None) -> list[Job]:
    """Expand folders and patterns, in order; the folders' structure is kept for the results.

    All DICOM files of one folder are one input; every other file is one of its own. A file that is named itself is taken
    whatever its name; in folders, pictures, NIfTI and zip files go by their ending, DICOM files by their content. In folders
    and patterns, what is called like a mask or a result is passed over.

    Args:
        inputs: As named.
        output: Folder for the results; where it lies inside an input, it is not searched.
        pass_over: Told of each file that is passed over.

    Raises:
        InputError: An input does not exist, a folder holds nothing to predict, two inputs would write the same files, or a
            result could take the place of an input.
    """
    jobs: dict[Path, Job] = {}
    passed_over: dict[Path, Path] = {}
    for given, is_named in _expanded(inputs, passed_over):
        if given.is_dir():
            others: dict[Path, Path] = {}
            found = list(_in_folder(given, output.resolve(), others))
            passed_over |= others
            if not found and not others:
                raise InputError(
                    f"Expected pictures ({', '.join(sorted(PICTURE_ENDINGS))}), volumes ({', '.join(NIFTI_ENDINGS)}), DICOM "
                    f"or zip files in {given}, found none."
                )
            if not found and is_named:
                raise _nothing_left(given)
        elif given.is_file():
            found = [Job(given, Path(name_of(given)))]
        else:
            raise InputError(f"Expected a file or a folder, found nothing at {given}. Check the path.")
        for job in found:
            jobs.setdefault(job.path.resolve(), job)
    if not jobs and passed_over:
        raise _nothing_left(inputs[0])
    for place, file in passed_over.items():
        if place not in jobs:
            pass_over(file)
    taken = Counter(job.target for job in jobs.values())
    # Y1.jpg and Y1.png would write the same files, and a.zip of several scans those of a/: these keep their endings in the
    # names of the results.
    taken.update({folder for target in taken for folder in target.parents})
    named = [job if taken[job.target] == 1 else _with_ending(job) for job in jobs.values()]
    twins = [target for target, count in Counter(job.target for job in named).items() if count > 1]
    if twins:
        raise InputError(
            f"Expected inputs of different names, several are called {twins[0].name}: their results "
            "would overwrite each other. Give the folder above them, or predict them into folders of their own."
        )
    for job in named:
        for file in files_of(job):
            if file.name.endswith(RESULT_ENDINGS) and output.resolve() in file.resolve().parents:
                raise InputError(
                    f"Expected results beside the inputs, not in their place: the input {file} is called like a result, and "
                    f"one could overwrite it. Name another folder than {output}, or take earlier results out of the inputs."
                )
    return named


def files_of(job: Job) -> list[Path]:
    """The files of an input, in order: itself, or those of its folder."""
    return sorted(file for file in job.path.iterdir() if file.is_file()) if job.path.is_dir() else [job.path]


def digest_of(job: Job) -> str:
    """SHA-256 of an input's bytes; of a folder, of its files' names and digests."""
    if job.path.is_file():
        return sha256_of(job.path)
    digest = hashlib.sha256()
    for file in files_of(job):
        digest.update(os.fsencode(file.name) + b"\0" + sha256_of(file).encode())
    return digest.hexdigest()


def _with_ending(job: Job) -> Job:
    return job if job.path.is_dir() else Job(job.path, job.target.with_name(job.path.name))


def _expanded(inputs: Sequence[Path], passed_over: dict[Path, Path]) -> Iterator[tuple[Path, bool]]:
    """Each path, and whether it was named itself: not by a pattern that no shell has expanded, such as one in quotes."""
    for given in inputs:
        if given.exists() or not _PATTERN & set(str(given)):
            yield given, True
            continue
        root = Path(given.anchor or ".")
        matches = sorted(root.glob(str(given.relative_to(given.anchor))))
        if not matches:
            raise InputError(f"Expected files that match {given}, found none. Check the pattern.")
        others = [match for match in matches if match.is_file() and is_no_scan(match, [match.absolute().parent.name])]
        passed_over.update((match.resolve(), match) for match in others)
        yield from ((match, False) for match in matches if match not in others)


def _in_folder(folder: Path, output: Path, passed_over: dict[Path, Path]) -> Iterator[Job]:
    for inside, names in sorted(_walk(folder)):
        if inside != folder and output in (inside.resolve(), *inside.resolve().parents):
            continue
        files = [inside / name for name in sorted(names) if not name.startswith(".")]
        files = [file for file in files if file.is_file()]
        above = (folder.resolve().name, *inside.relative_to(folder).parts)
        others = [file for file in files if is_no_scan(file, above)]
        passed_over.update((file.resolve(), file) for file in others if _has_ending(file) or is_dicom(file))
        scans = [file for file in files if file not in others]
        for file in filter(_has_ending, scans):
            yield Job(file, file.relative_to(folder).with_name(name_of(file)))
        if any(is_dicom(file) for file in scans if not _has_ending(file)):
            below = inside.relative_to(folder)
            yield Job(inside, below if below.name else Path(folder.resolve().name))


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder below once, with its files' names; those that only a link leads to come last."""
    seen: set[Path] = set()
    starts = [folder]
    for start in starts:
        for place, folders, names in os.walk(start):
            inside = Path(place)
            if inside.resolve() in seen:
                folders.clear()
                continue
            seen.add(inside.resolve())
            starts += [inside / name for name in sorted(folders) if (inside / name).is_symlink()]
            yield inside, names


def _has_ending(file: Path) -> bool:
    return is_picture_name(file) or file.name.lower().endswith((*NIFTI_ENDINGS, _ZIP))


def _nothing_left(given: Path) -> InputError:
    return InputError(
        f"Expected scans in {given}, all that it has is called like masks (…{', …'.join(MASK_WORDS)}, folders "
        f"{' and '.join(sorted(MASK_FOLDERS))}) or like results. Name a file itself to have it predicted."
    )
