"""Whatever a path or an array holds, as scans; the bytes decide, not the ending.

==============================================  =================================================================
first bytes                                     what is read
==============================================  =================================================================
``DICM`` at 128, or whatever `is_dicom` knows   DICOM: all such files of a folder or zip together, as series
of PNG, JPEG, TIFF, BMP, GIF or WebP            a picture; of a file with several frames the first
NIfTI-1 or -2 in a single file, gzipped or not  a volume
zip                                             every file in it, but for another zip, masks and results
anything else, and what is no regular file      refused
==============================================  =================================================================

No reader is loaded before it is needed: a picture waits for no other format's.
"""

from __future__ import annotations

import secrets
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slicewise.errors import FileError, InputError, UnreadableFileError
from slicewise.files import printable
from slicewise.records import Scan
from slicewise.sources.names import is_no_scan, name_of
from slicewise.sources.nifti_start import START_BYTES, parse_start

__all__ = ["PASSED_OVER", "PIXEL_LIMIT", "check_name", "read_scans", "scan_of_array"]

PIXEL_LIMIT = 2 * 512**3
"""Pixels, or voxels, that one path may hold in all its scans."""

PASSED_OVER = "passed-over"
"""Problem of files that are called like masks or results. What they lie among is read all the same."""

_FILE_LIMIT = 10_000
_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_INFLATED_LIMIT = 2 * 2**30
# Volumes of mostly air shrink to less than a hundredth. Below the second number that harms nobody.
_RATIO_LIMIT, _RATIO_FREE = 200, 64 * 2**20

_HEAD_BYTES = 4096
_CHUNK_BYTES = 2**20
_NAME_LENGTH = 100
_NAMED = 3
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PICTURE_STARTS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
)

_Kind = Literal["picture", "nifti", "nifti-gzip", "dicom", "zip"]


class _Source(NamedTuple):
    """One file to read, and what it is called where people see it."""

    file: Path
    label: str
    """In messages."""
    name: str
    """The end of its path, or of its path in an archive."""


def read_scans(path: Path, scratch: Path | None = None, *, allow_burned_in: bool = False) -> list[Scan | FileError]:
    """Decode a file, a zip, or the DICOM files of a folder. What cannot be read comes as an error in its place.

    Args:
        path: A picture, a NIfTI volume, a DICOM file, a zip of them, or a folder with DICOM files; those in folders within
            it, its files of other kinds, and what is called like a mask or a result, are not of it. A file that is called
            DICOM's and is none is an error. What of a zip is called like masks or results is an error of the problem
            `PASSED_OVER`.
        scratch: Where a zip's files are extracted to, in a new folder with a random name, and stay; each is called by its
            place in the zip's list, from 0. Without it they are removed after reading, the scans name no ``files``, and
            the file of an error is the zip.
        allow_burned_in: As of `slicewise.sources.dicom.read_dicom`.
    """
    try:
        check_name(path)
        if path.is_dir():
            return _within_limit(_read_series(_dicom_files(path), path, allow_burned_in), path)
        kind = _kind_of(path, str(path))
        if kind == "zip":
            return _read_zip(path, scratch, allow_burned_in)
        if kind == "dicom":
            return _within_limit(_read_series([path], path, allow_burned_in), path)
        return [_read_file(_Source(path, str(path), path.name), kind)]
    except FileError as error:
        return [error]
    except OSError as error:
        return [_not_opened(str(path), error, path)]


def scan_of_array(
    image: NDArray[Any], spacing_mm: tuple[float, float] | None = None, slice_spacing_mm: float | None = None
) -> Scan:
    """An array that is in memory already, as a scan.

    Args:
        image: ``(H, W)``, or ``(D, H, W)`` for slices that are one volume's; real numbers, finite, any range and size.
        spacing_mm: Between rows and between columns, where known.
        slice_spacing_mm: Between slices, where known.

    Raises:
        InputError: The array has another number of dimensions, is empty, holds no real numbers or some that are not finite,
            or a spacing is not above 0.
    """
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise InputError(f"Expected an image of shape (H, W) or (D, H, W), got {image.shape}. Pass gray, and no batch.")
    if image.dtype.kind not in "biuf":
        raise InputError(f"Expected real numbers, got an array of {image.dtype}. Convert it to float32.")
    for spacing in (*(spacing_mm or ()), *(() if slice_spacing_mm is None else (slice_spacing_mm,))):
        if not (np.isfinite(spacing) and spacing > 0):
            raise InputError(f"Expected spacings above 0 mm, got {spacing:g}. Leave out what is not known.")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, and is refused as such
        pixels = np.ascontiguousarray(image, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise InputError("Expected finite intensities, got NaN or infinity. Repair the file they came from.")
    return Scan(
        pixels.reshape(-1, *pixels.shape[-2:]),
        kind="array",
        name="array",
        spacing_mm=spacing_mm,
        slice_spacing_mm=slice_spacing_mm,
        grid_shape=image.shape,
    )


def _kind_of(file: Path, label: str) -> _Kind:
    """What the first bytes say; a pipe or device is never opened, for it might never answer."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise UnreadableFileError(
                f"Expected a regular file, {label} is a pipe or a device. Copy it to a file.", file=file
            )
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise _not_opened(label, error, file) from None
    if not head:
        raise UnreadableFileError(f"Expected a picture, NIfTI, DICOM or zip, {label} is empty. Copy it again.", file=file)
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(_PICTURE_STARTS) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
        return "picture"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if _is_nifti(head):
        return "nifti"
    if head.startswith(b"\x1f\x8b") and _is_nifti(_inflate(head)):
        return "nifti-gzip"
    from slicewise.sources.dicom import is_dicom

    if is_dicom(file):
        return "dicom"
    raise UnreadableFileError(
        f"Expected a picture, NIfTI (in one file), DICOM or zip, {label} is none by its first bytes. Convert or remove it.",
        "unknown-format",
        file,
    )


def _is_nifti(head: bytes) -> bool:
    start = parse_start(head)
    return start is not None and start.is_single_file


def _inflate(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, START_BYTES)
    except zlib.error:
        return b""


def _dicom_files(folder: Path) -> list[Path]:
    from slicewise.sources.dicom import is_dicom

    visible = (file for file in folder.iterdir() if not (file.name.startswith(".") or is_no_scan(file)))
    files = sorted(file for file in visible if file.is_file())
    if len(files) > _FILE_LIMIT:
        raise UnreadableFileError(
            f"Expected at most {_FILE_LIMIT:,} files in {folder}, found {len(files):,}. Keep one scan in a folder.",
            file=folder,
        )
    # A slice that was copied badly begins like nothing; left out without a word, its tumor would be missing.
    found = [file for file in files if is_dicom(file) or file.suffix.lower() in _DICOM_ENDINGS]
    for file in found:
        check_name(file)
    if not found:
        raise UnreadableFileError(
            f"Expected DICOM files in {folder}, found none. Name files of another kind themselves.", "unknown-format", folder
        )
    return found


def _read_series(files: list[Path], path: Path, allow_burned_in: bool) -> list[Scan | FileError]:
    from slicewise.sources.dicom import read_dicom

    name = path.absolute().name if path.is_dir() else path.stem
    return read_dicom(files, _plain(name), allow_burned_in=allow_burned_in)


def _within_limit(found: Iterable[Scan | FileError], path: Path) -> list[Scan | FileError]:
    held, kept = 0, []
    for scan in found:
        held += scan.slices.size if isinstance(scan, Scan) else 0
        if held > PIXEL_LIMIT:
            raise UnreadableFileError(
                f"Expected at most {PIXEL_LIMIT:,} pixels in all of {path}, there are more. Give its scans one by one.",
                file=path,
            )
        kept.append(scan)
    return kept


def _read_file(source: _Source, kind: _Kind) -> Scan:
    if kind == "picture":
        from slicewise.sources.images import read_picture

        gray = read_picture(source.file)
        return Scan(
            gray.image[np.newaxis],
            kind="picture",
            name=_plain(Path(source.name).stem),
            files=(source.file,),
            grid_shape=gray.image.shape,
            color_share=gray.color_share,
        )
    from slicewise.sources.nifti import read_volume

    with _ending_in(".nii.gz" if kind == "nifti-gzip" else ".nii", source.file) as file:
        try:
            scan = read_volume(file)
        except FileError as error:
            raise type(error)(str(error).replace(str(file), str(source.file)), error.problem, source.file) from None
    return replace(scan, name=_plain(name_of(Path(source.name))), files=(source.file,))


@contextmanager
def _ending_in(ending: str, file: Path) -> Iterator[Path]:
    """The file under a name that ends as given: nibabel goes by it."""
    if file.name.lower().endswith(ending):
        yield file
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / f"volume{ending}"
        link.symlink_to(file.absolute())
        yield link


def _read_zip(path: Path, scratch: Path | None, allow_burned_in: bool) -> list[Scan | FileError]:
    with TemporaryDirectory() if scratch is None else nullcontext(scratch) as parent:
        folder = Path(parent) / secrets.token_hex(8)
        folder.mkdir(parents=True)
        try:
            sources, errors = _extract(path, folder)
            read = _read_sources(sources, path, allow_burned_in) if sources or not errors else ()
            found = _named_apart(_within_limit(read, path))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    labels = {source.file: source.label for source in sources}
    return [_of_archive(item, path, labels, keep_files=scratch is not None) for item in (*errors, *found)]


def _read_sources(sources: list[_Source], path: Path, allow_burned_in: bool) -> Iterator[Scan | FileError]:
    """Pictures and volumes in order, then what DICOM files there are, then how many files are neither."""
    series, unknown = [], []
    for source in sources:
        try:
            kind = _kind_of(source.file, source.label)
            if kind == "zip":
                raise UnreadableFileError(f"Expected no zip in a zip, {source.label} is one. Unpack it.", file=source.file)
            if kind == "dicom":
                series.append(source.file)
            else:
                yield _read_file(source, kind)
        except FileError as error:
            if error.problem == "unknown-format":  # such as the viewer that a DICOM disc brings along
                unknown.append(source)
            else:
                yield error
    if series:
        yield from _read_series(series, path, allow_burned_in)
    if unknown or not sources:
        yield UnreadableFileError(
            f"Expected pictures, NIfTI or DICOM in {path}, {len(unknown)} of its {len(sources)} files are none of them"
            f"{_named(unknown)}. Convert them, if they are scans.",
            "unknown-format",
            unknown[0].file if len(unknown) == 1 else None,
            [source.file for source in unknown],
        )


def _named(sources: Sequence[_Source]) -> str:
    """The first of them, and how many more there are; behind a colon."""
    more = f" and {len(sources) - _NAMED} more" if len(sources) > _NAMED else ""
    return f": {', '.join(printable(source.name) for source in sources[:_NAMED])}{more}" if sources else ""


def _of_archive(scan: Scan | FileError, path: Path, labels: dict[Path, str], *, keep_files: bool) -> Scan | FileError:
    """What was read of an extracted file, with the archive's name for it."""
    if isinstance(scan, Scan):
        return scan if keep_files else replace(scan, files=())
    message = str(scan) if scan.file is None else str(scan).replace(str(scan.file), labels.get(scan.file, str(path)))
    return type(scan)(message, scan.problem, *((scan.file, scan.files) if keep_files else (path,)))


def _named_apart(found: list[Scan | FileError]) -> list[Scan | FileError]:
    """Where two scans would write results of the same name, each gets its number in front."""
    taken = Counter(scan.name for scan in found if isinstance(scan, Scan))
    if all(count == 1 for count in taken.values()):
        return found
    return [
        replace(scan, name=f"{number:03}_{scan.name}") if isinstance(scan, Scan) else scan
        for number, scan in enumerate(found, start=1)
    ]


def _extract(path: Path, folder: Path) -> tuple[list[_Source], list[FileError]]:
    """Inflate what is a file into files called by their places in the archive; the names in it only label them.

    Returns:
        What was extracted, and what of the archive is damaged or passed over.
    """
    limit = min(_INFLATED_LIMIT, max(_RATIO_FREE, _RATIO_LIMIT * path.stat().st_size))
    inflated = 0
    sources: list[_Source] = []
    errors: list[FileError] = []
    passed_over: list[_Source] = []
    with _opened_zip(path) as archive:
        members = _members(archive, path)
        for place, member in members:
            label = f"{path} ({printable(member.filename)})"
            *folders, name = _parts(member)
            source = _Source(folder / f"{place:05}", label, name)
            if is_no_scan(Path(name), folders):
                passed_over.append(source)
                continue
            with source.file.open("xb") as target:
                try:
                    for chunk in _chunks(archive, member, source):
                        inflated += len(chunk)
                        if inflated > limit:
                            break
                        target.write(chunk)
                    else:
                        sources.append(source)
                except FileError as error:
                    errors.append(error)
            if inflated > limit:
                raise UnreadableFileError(
                    f"Expected a zip that inflates to at most {limit // 2**20:,} MiB, {path} holds more. Give its scans one "
                    "by one.",
                    file=path,
                )
    if passed_over:
        message = (
            f"Expected no masks or results in {path}, {len(passed_over)} of its {len(members)} files are called like them"
            f"{_named(passed_over)}. Unpack a file and name it itself to have it predicted."
        )
        errors.append(UnreadableFileError(message, PASSED_OVER, files=[source.file for source in passed_over]))
    return sources, errors


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: _Source) -> Iterator[bytes]:
    try:
        with archive.open(member) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
    except Exception as error:  # damaged bytes fail in more ways than can be listed
        raise _damaged(source.label, error, source.file) from None


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # as above
        raise _damaged(str(path), error, path) from None
    with archive:
        yield archive


def _members(archive: zipfile.ZipFile, path: Path) -> list[tuple[int, zipfile.ZipInfo]]:
    """The archive's files, with their places in it; folders, links, devices and what is hidden are passed over."""
    members = archive.infolist()
    if len(members) > _FILE_LIMIT:
        raise UnreadableFileError(
            f"Expected at most {_FILE_LIMIT:,} files in {path}, it lists {len(members):,}. Zip one scan at a time.",
            file=path,
        )
    kept = []
    for place, member in enumerate(members):
        parts = _parts(member)
        kind = stat.S_IFMT(member.external_attr >> 16)
        is_hidden = parts[0] == "__MACOSX" or parts[-1].startswith(".")
        if not parts[-1] or kind not in (0, stat.S_IFREG) or is_hidden:
            continue
        if member.flag_bits & _ENCRYPTED:
            raise UnreadableFileError(f"Expected a zip without a password, {path} has one. Unpack it first.", file=path)
        if member.compress_type not in _METHODS:
            raise UnreadableFileError(
                f"Expected a zip that is stored or deflated, {path} is compressed in another way. Zip it anew.", file=path
            )
        kept.append((place, member))
    return kept


def _parts(member: zipfile.ZipInfo) -> list[str]:
    """Of the path in the archive, some of which are written as on Windows; the last is empty for a folder."""
    return member.filename.replace("\\", "/").split("/")


def _damaged(label: str, error: Exception, path: Path) -> UnreadableFileError:
    reason = printable(" ".join(str(error).split())[:200] or type(error).__name__)
    return UnreadableFileError(f"Expected a readable zip, could not unpack {label}: {reason}. Copy it again.", file=path)


def _not_opened(label: str, error: OSError, file: Path) -> UnreadableFileError:
    if isinstance(error, FileNotFoundError):
        return UnreadableFileError(f"Expected a file or folder, found nothing at {label}. Check the path.", file=file)
    return UnreadableFileError(
        f"Expected a file that can be opened, got from {label}: {error.strerror}. Check its permissions and the disk.",
        file=file,
    )


def _plain(name: str) -> str:
    """A name for results, in characters that harm no path and no terminal.

    >>> _plain("case\\x1b 1/2"), _plain("..")
    ('case_ 1_2', 'scan')
    """
    kept = printable(name.replace("/", "_").replace("\\", "_"))[:_NAME_LENGTH]
    return kept if kept.strip(". ") else "scan"


def check_name(file: Path) -> None:
    """Bytes of a name that are not UTF-8 reach Python as lone surrogates, which cannot be written anywhere again.

    Raises:
        UnreadableFileError: The name has such bytes, or a null byte.
    """
    try:
        is_text = b"\0" not in str(file).encode()
    except UnicodeEncodeError:
        is_text = False
    if not is_text:
        raise UnreadableFileError(
            f"Expected a file name in UTF-8, got {str(file).encode(errors='backslashreplace')!r}. Rename the file.",
            file=file,
        )
