"""Uploads on disk, under names of our own: what a client calls a file is never read."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from starlette.datastructures import UploadFile

from slicewise.sources.nifti_start import START_BYTES, parse_start

__all__ = ["Spool", "save_study"]

_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 2**20
_SMALL_BYTES = 64 * 1024


class Spool:
    """A folder of uploads that wait for their answers.

    Args:
        folder: Of this process alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def save(self, upload: UploadFile) -> Path:
        """Write an upload to a file; who asks for it removes it. Of one that cannot be written nothing stays."""
        file = self._folder / secrets.token_hex(16)
        try:
            await _copy(upload, file)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return file

    @contextmanager
    def divide(self) -> Iterator[Spool]:
        """A spool for the files of one request, removed with all of them at the end, whatever that is."""
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir()
        try:
            yield Spool(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


async def save_study(uploads: Sequence[UploadFile], folder: Path) -> None:
    """Write the files of a study into a new folder, as one: several become a zip of members called by their numbers.

    A lone one that begins like NIfTI ends so, for the library that reads its header again goes by that.
    """
    folder.mkdir(parents=True)
    file = folder / "study"
    if len(uploads) > 1:
        # Every file of a zip is read for what it is; of a folder, DICOM alone.
        await asyncio.to_thread(_pack_all, [upload.file for upload in uploads], file)
    else:
        await _copy(uploads[0], file)
        file.rename(file.with_name(file.name + _ending_of(file)))


def _ending_of(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(START_BYTES)
    if head.startswith(_GZIP):
        return ".nii.gz"
    start = parse_start(head)
    return ".nii" if start is not None and start.is_single_file else ""


async def _copy(upload: UploadFile, file: Path) -> None:
    source: BinaryIO = upload.file
    source.seek(0)
    # What is small is in memory still, and written faster than a thread is asked to.
    if (upload.size or 0) <= _SMALL_BYTES:
        file.write_bytes(source.read())
    else:
        await asyncio.to_thread(_copy_all, source, file)


def _copy_all(source: BinaryIO, file: Path) -> None:
    with file.open("xb") as target:
        shutil.copyfileobj(source, target, _CHUNK_BYTES)


def _pack_all(sources: Sequence[BinaryIO], file: Path) -> None:
    with zipfile.ZipFile(file, "x") as archive:  # stored: it is gone when the job ends
        for number, source in enumerate(sources):
            source.seek(0)
            with archive.open(f"{number:05}", "w", force_zip64=True) as member:
                shutil.copyfileobj(source, member, _CHUNK_BYTES)
