"""The slice store: two flat files that are memory-mapped, and one table with a row a slice.

::

    store/
      images.f16      (N, 256, 256) float16, preprocessed
      masks.u1        (N, 8192) uint8, the reference masks as packed bits
      slices.parquet  one row a slice, see COLUMNS
      store.json      preprocessing, counts, skipped files, fingerprint

A store under construction is called ``store.partial`` and holds a journal in place of the table. Images and masks of a
study are on disk before its line is in the journal; an interrupted ingest cuts the files back to the journal's last whole
line and goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slicewise.data.preprocess import PREPROCESSING, SIDE_PX
from slicewise.errors import InputError
from slicewise.files import write_atomically

__all__ = ["COLUMNS", "SliceStore", "StoreWriter", "checksum_of"]

_MASK_BYTES = SIDE_PX * SIDE_PX // 8
_AGAIN = "Remove this folder and ingest again, with --resume."

COLUMNS = {
    "slice_id": "string",
    "source": "string",
    "patient_id": "string",
    "study_id": "string",
    "slice_index": "int64",
    "sequence": "string",
    "plane": "string",
    "label": "boolean",
    "mask_state": "string",
    "reference_area_px": "int64",
    "foreground_share": "float64",
    "spacing_row_mm": "float64",
    "spacing_column_mm": "float64",
    "spacing_slice_mm": "float64",
    "height_px": "int64",
    "width_px": "int64",
    "published_split": "string",
    "file": "string",
    "mask_file": "string",
    "file_bytes": "Int64",
    "file_sha256": "string",
    "file_format": "string",
    "color_mode": "string",
    "bit_depth": "Int64",
    "orientation": "string",
    "pixel_checksum": "string",
    "intensity_low": "float64",
    "intensity_high": "float64",
    "intensity_mean": "float64",
    "intensity_std": "float64",
    "bright_share": "float64",
    "color_share": "float64",
    "border_mean": "float64",
    "border_std": "float64",
    "border_dark_share": "float64",
    "mask_pieces": "Int64",
    "mask_speck_px": "Int64",
    "mask_outside_share": "float64",
    "mask_soft_share": "float64",
    "image_checksum": "string",
    "checksum": "string",
}
"""Columns of the table and their pandas types. Spacing is that of the input's own grid; the area is counted on the store's.
``foreground_share`` is the share of the store's grid that is brighter than air; 0 marks a blank slice. Columns from
``file_bytes`` to ``orientation`` are those of `slicewise.sources.headers.Header`, from ``pixel_checksum`` on those of
`slicewise.data.facts`. ``image_checksum`` tells equal pictures, ``checksum`` equal pictures with equal masks."""


class SliceStore:
    """A finished store, read-only."""

    def __init__(self, folder: Path) -> None:
        """Open a store.

        Raises:
            InputError: There is no finished store, its files have other sizes than its table says, or it was made by
                another version of the preprocessing.
        """
        self.folder = folder
        description = folder / "store.json"
        if not description.is_file():
            raise InputError(
                f"Expected a slice store with store.json in {folder}, found none. Run `slicewise ingest` first."
            )
        try:
            self.description: dict[str, Any] = dict(json.loads(description.read_text(encoding="utf-8")))
            made_by = self.description.get("preprocessing")
            if made_by != PREPROCESSING:
                raise InputError(f"Expected a store made by preprocessing {PREPROCESSING}, {folder} has {made_by}. {_AGAIN}")
            self.table: pd.DataFrame = pd.read_parquet(folder / "slices.parquet").astype(COLUMNS)
        except (OSError, ValueError, TypeError, KeyError) as error:  # pyarrow's errors are OSErrors and ValueErrors
            raise InputError(
                f"Expected store.json and slices.parquet in {folder}, could not read them: {error}. {_AGAIN}"
            ) from None
        count = len(self.table)
        for name, size in (("images.f16", count * SIDE_PX * SIDE_PX * 2), ("masks.u1", count * _MASK_BYTES)):
            got = (folder / name).stat().st_size if (folder / name).is_file() else 0
            if got != size:
                raise InputError(f"Expected {size} bytes in {folder / name} for {count} slices, got {got}. {_AGAIN}")
        self.images: NDArray[np.float16] = np.memmap(
            folder / "images.f16", dtype=np.float16, mode="r", shape=(count, SIDE_PX, SIDE_PX)
        )
        self._packed_masks = np.memmap(folder / "masks.u1", dtype=np.uint8, mode="r", shape=(count, _MASK_BYTES))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of all slices, in order: equal data, equal fingerprint."""
        return str(self.description["fingerprint"])

    def masks(self, rows: NDArray[np.int64] | Sequence[int]) -> NDArray[np.bool_]:
        """Reference masks of ``rows``: ``(len(rows), 256, 256)`` bool, all False where there is none."""
        packed = self._packed_masks[np.asarray(rows, dtype=np.int64)]
        return np.unpackbits(packed, axis=1).astype(np.bool_).reshape(-1, SIDE_PX, SIDE_PX)

    def check_pixels(self) -> None:
        """Read every slice again and compare it with its checksum.

        Raises:
            InputError: Pixels have changed since the ingest.
        """
        damaged = [
            slice_id
            for row, (slice_id, checksum) in enumerate(self.table[["slice_id", "checksum"]].itertuples(index=False))
            if checksum_of(self.images[row], self._packed_masks[row]) != checksum
        ]
        if damaged:
            raise InputError(
                f"Expected the pixels that were ingested in {self.folder}, {len(damaged)} slices have changed, first: "
                f"{damaged[0]}. {_AGAIN}"
            )


class StoreWriter:
    """Appends studies to ``<folder>.partial`` and turns it into a store at the end."""

    def __init__(self, folder: Path, plan: str) -> None:
        """Begin a store, or go on with an interrupted one.

        Args:
            folder: Where the finished store will be.
            plan: A digest of what will be ingested; a partial store of another plan is discarded.
        """
        self.folder = folder
        self.partial = folder.with_name(folder.name + ".partial")
        self._images, self._masks = self.partial / "images.f16", self.partial / "masks.u1"
        self._journal = self.partial / "journal.jsonl"
        if self._journal.is_file() and self._lines()[:1] != [{"plan": plan}]:
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True, exist_ok=True)
        if not self._lines():
            self._journal.write_text(json.dumps({"plan": plan}) + "\n", encoding="utf-8")
        entries = self._lines()[1:]
        self.done = {(entry["source"], entry["study_id"]) for entry in entries}
        """Studies that an earlier, interrupted ingest has finished."""
        count = sum(len(entry["rows"]) for entry in entries)
        # A line cut off by a crash is dropped with the pixels behind it.
        _rewrite(self._journal, [{"plan": plan}, *entries])
        for file, item_bytes in ((self._images, SIDE_PX * SIDE_PX * 2), (self._masks, _MASK_BYTES)):
            file.touch()
            os.truncate(file, count * item_bytes)

    def append(
        self,
        source: str,
        study_id: str,
        images: NDArray[np.float16],
        masks: NDArray[np.bool_],
        rows: list[dict[str, Any]],
        skipped: list[dict[str, str]],
    ) -> None:
        """Add one study: ``images`` ``(n, 256, 256)``, ``masks`` alike, a table row for each, and the files it lost."""
        packed = np.packbits(masks.reshape(len(rows), -1), axis=1) if rows else np.zeros((0, _MASK_BYTES), np.uint8)
        for row, image, mask in zip(rows, images, packed, strict=True):
            row["image_checksum"] = checksum_of(image)
            row["checksum"] = checksum_of(image, mask)
        entry = {"source": source, "study_id": study_id, "rows": rows, "skipped": skipped}
        _append(self._images, images.tobytes())
        _append(self._masks, packed.tobytes())
        _append(self._journal, (json.dumps(entry) + "\n").encode())

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Files that could not be read: ``file`` and ``reason``."""
        return [item for entry in self._lines()[1:] for item in entry["skipped"]]

    def finish(self, order: Sequence[tuple[str, str]]) -> SliceStore:
        """Sort the studies into ``order``, write the table, and give the store its name.

        Studies arrive in the order in which the workers finish; the sorted table makes equal data an equal store.

        Raises:
            InputError: Not one slice could be read.
        """
        place = {key: number for number, key in enumerate(order)}
        start, blocks = 0, []
        for entry in self._lines()[1:]:
            blocks.append((place[entry["source"], entry["study_id"]], start, entry))
            start += len(entry["rows"])
        if start == 0:
            reasons = "; ".join(item["reason"] for item in self.skipped[:3]) or "The files hold no slice with any contrast."
            raise InputError(f"Expected at least one readable slice, got none. {reasons}")
        blocks.sort(key=lambda block: block[0])
        # From here on the files no longer match the journal: were it kept, a crash would resume to pixels of other rows.
        self._journal.unlink()
        if [block[1] for block in blocks] != sorted(block[1] for block in blocks):
            ranges = [(begin, begin + len(entry["rows"])) for _, begin, entry in blocks]
            _reorder(self._images, ranges, SIDE_PX * SIDE_PX * 2)
            _reorder(self._masks, ranges, _MASK_BYTES)
        table = pd.DataFrame([row for _, _, entry in blocks for row in entry["rows"]], columns=list(COLUMNS)).astype(COLUMNS)
        write_atomically(self.partial / "slices.parquet", lambda temporary: table.to_parquet(temporary, index=False))
        description = {
            "preprocessing": PREPROCESSING,
            "slices": len(table),
            "patients": int(table.groupby("source")["patient_id"].nunique().sum()),
            "skipped": [item for _, _, entry in blocks for item in entry["skipped"]],
            "fingerprint": hashlib.sha256("".join(table["checksum"]).encode()).hexdigest(),
        }
        write_atomically(self.partial / "store.json", json.dumps(description, indent=2))
        self.partial.rename(self.folder)
        return SliceStore(self.folder)

    def discard(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def _lines(self) -> list[dict[str, Any]]:
        """The journal's whole lines; the last one may have been cut off by a crash."""
        if not self._journal.is_file():
            return []
        whole = self._journal.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in whole]


def checksum_of(*arrays: NDArray[Any]) -> str:
    """SHA-256 of the bytes of arrays, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _append(file: Path, data: bytes) -> None:
    """Add to a file, and return when it is on disk."""
    with file.open("ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _rewrite(journal: Path, entries: list[dict[str, Any]]) -> None:
    replacement = journal.with_suffix(".new")
    replacement.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    replacement.replace(journal)


def _reorder(file: Path, ranges: list[tuple[int, int]], item_bytes: int) -> None:
    """Rewrite a flat file of items so that ``ranges`` follow one another, a block at a time."""
    replacement = file.with_suffix(".new")
    with file.open("rb") as old, replacement.open("wb") as new:
        for begin, end in ranges:
            old.seek(begin * item_bytes)
            new.write(old.read((end - begin) * item_bytes))
    replacement.replace(file)
