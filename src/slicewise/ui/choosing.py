"""Files to read: uploaded, or one of the examples, which are generated phantoms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from slicewise.ui.client import File
from slicewise.ui.session import digest_of

__all__ = ["EXAMPLES", "SLICES", "Chosen", "choose_files"]

EXAMPLES = {
    "Slice with a tumor": "phantom_tumor.jpg",
    "Slice without": "phantom_no_tumor.jpg",
    "NIfTI volume": "phantom_volume.nii.gz",
    "DICOM series": "phantom_series.zip",
}
"""Names on the page, and the files beside this module."""

SLICES = tuple(EXAMPLES)[:2]
"""Those that are one slice."""

_FOLDER = Path(__file__).with_name("examples")


class Chosen(NamedTuple):
    """What a page is about."""

    files: tuple[File, ...]
    """At least one."""
    digest: str
    """Of their contents."""

    @property
    def is_zip(self) -> bool:
        """One file, which holds others."""
        return len(self.files) == 1 and self.files[0][1].startswith(b"PK")


def choose_files(page: str, label: str, *, examples: Sequence[str] = tuple(EXAMPLES), many: bool = True) -> Chosen | None:
    """What the person chose last, an upload or an example; None at first. It stays while other pages are looked at.

    Args:
        page: Name of the page, by which its choice is kept.
        label: What can be uploaded.
        examples: Those that fit the page.
        many: Whether several files, or a folder, can be uploaded.
    """
    turn = st.session_state.setdefault(f"{page} turn", 0)  # a new key empties the uploader
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with right:
        picked = st.pills(
            "… or take an example (a generated phantom)",
            examples,
            key=f"{page} example",
            on_change=partial(_take_example, page),
            wrap=True,
        )
        is_folder = many and st.toggle("Upload a whole folder", key=f"{page} folder", help="Such as that of a series.")
    with left:
        key = f"{page} upload {turn} {is_folder}"
        uploaded = st.file_uploader(
            label,
            accept_multiple_files="directory" if is_folder else many,
            key=key,
            on_change=partial(_take_upload, page, key),
        )
    chosen: Chosen | None = st.session_state.get(f"{page} files")
    if chosen and not uploaded and not picked:
        first, count = chosen.files[0][0], len(chosen.files)
        with st.container(horizontal=True, vertical_alignment="center"):
            # As text: a file's name may hold what would be a picture or a link in Markdown.
            st.text(f"Still open: {first if count == 1 else f'{count} files, the first of them {first}'}")
            st.button("Close", on_click=partial(_hold, page, ()), icon=":material/close:")
    return chosen


def _hold(page: str, files: Sequence[File]) -> None:
    st.session_state[f"{page} files"] = Chosen(tuple(files), digest_of(files)) if files else None


def _take_example(page: str) -> None:
    picked = st.session_state[f"{page} example"]
    st.session_state[f"{page} turn"] += 1
    _hold(page, [(EXAMPLES[picked], (_FOLDER / EXAMPLES[picked]).read_bytes())] if picked else [])


def _take_upload(page: str, key: str) -> None:
    uploaded = st.session_state[key] or []
    st.session_state[f"{page} example"] = None
    together = uploaded if isinstance(uploaded, list) else [uploaded]
    _hold(page, [(Path(file.name).name, file.getvalue()) for file in together])
