"""A volume: slice by slice, along a strip of probabilities, in three planes, and as a montage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from slicewise.inference.record import ScanRecord
from slicewise.ui.drawing import cut_volume, draw_slice, to_png
from slicewise.ui.frame import answering, describe_model, offer
from slicewise.ui.slice_view import show_explanation, style_controls

__all__ = ["Volume", "show_volume"]


@dataclass(frozen=True, slots=True)
class Volume:
    """What can be looked at of a scan, in the view of its slices."""

    picture: NDArray[np.uint8]
    """``(D, H, W)``."""
    mask: NDArray[np.bool_]
    """``(D, H, W)``."""
    spacing_mm: NDArray[np.float64]
    """``(3,)``: between slices, rows and columns; NaN where not known."""


@st.fragment
def show_volume(key: str, volume: Volume, record: ScanRecord, montage: bytes | None) -> None:
    """Draw it.

    Args:
        key: By which what is chosen in it is kept.
        volume: What is shown.
        record: The answer.
        montage: A PNG of its slices in rows; None where there is none.
    """
    at = f"slice of {key}"
    st.session_state.setdefault(at, record.most_probable_slice)
    names = ["Slices", "Three planes", *(["Montage"] if montage else [])]
    slices, planes, *sheet = st.tabs(names)
    with slices:
        _show_slices(at, key, volume, record)
    with planes:
        _show_planes(at, key, volume, record)
    if montage:
        with sheet[0]:
            st.image(montage, width="stretch", alt="Slices in rows, the mask outlined")


def _show_slices(at: str, key: str, volume: Volume, record: ScanRecord) -> None:
    left, right = st.columns(2, gap="medium")
    with right:
        if record.slices > 1:
            _show_strip(at, key, record)
            st.slider("Slice", 0, record.slices - 1, key=at)
            _show_steps(at, record)
        style, opacity = style_controls("volume")
    number = int(st.session_state[at])
    spacing = volume.spacing_mm[1:]
    drawn = draw_slice(
        volume.picture[number],
        volume.mask[number],
        (float(spacing[0]), float(spacing[1])) if np.isfinite(spacing).all() else None,
        style=style,
        opacity=opacity,
        plane=record.plane,
    )
    pixels = int(volume.mask[number].sum())
    with left:
        st.image(drawn, width="stretch", alt=f"Slice {number}, {pixels} pixels outlined")
        st.caption(f"Slice {number}: probability {record.slice_probabilities[number]:.3f}, {pixels:,} pixels outlined")
        offer("Overlay of this slice", to_png(drawn), f"slice_{number}_overlay.png", "image/png")
        explained = st.empty()
        if not describe_model().can_explain:
            explained.info("This service cannot explain: it needs torch, and a model that classifies.")
        elif st.toggle("Grad-CAM of this slice", key=f"explain {key}"):
            with answering():
                show_explanation(to_png(volume.picture[number]), volume.picture[number], explained)
            st.caption("Asked as a picture of 8 bit: its own probability may differ in the last digits.")


def _show_strip(at: str, key: str, record: ScanRecord) -> None:
    """A bar a slice; choosing one goes there."""
    table = pd.DataFrame({"slice": range(record.slices), "probability": record.slice_probabilities})
    table["answer"] = np.where(table["probability"] >= record.threshold, "tumor", "no tumor")
    chosen = int(st.session_state[at])
    point = alt.selection_point(name="chosen", fields=["slice"], on="click", empty=False)
    bars = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("slice:O", axis=alt.Axis(labelOverlap=True, labelAngle=0, title="slice")),
            y=alt.Y("probability:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=3, title="probability")),
            color=alt.Color(
                "answer:N",
                scale=alt.Scale(domain=["tumor", "no tumor"], range=["#E69F00", "#999999"]),
                legend=alt.Legend(orient="top", title=None),
            ),
            stroke=alt.condition(alt.datum["slice"] == chosen, alt.value("#0072B2"), alt.value(None)),
            strokeWidth=alt.value(3),
            tooltip=["slice", alt.Tooltip("probability", format=".3f"), "answer"],
        )
        .add_params(point)
    )
    rule = alt.Chart(pd.DataFrame({"threshold": [record.threshold]})).mark_rule(strokeDash=[4, 3]).encode(y="threshold:Q")
    chart = f"strip {key}"
    st.altair_chart(
        bars + rule,
        height=220,
        key=chart,
        on_select=partial(_go_to_bar, at, chart),
        alt="Probability of tumor of each slice; the dashed line is the threshold",
    )


def _go_to_bar(at: str, chart: str) -> None:
    chosen = st.session_state[chart]["selection"].get("chosen")
    if chosen:
        st.session_state[at] = int(chosen[0]["slice"])


def _show_steps(at: str, record: ScanRecord) -> None:
    flagged = [number for number, value in enumerate(record.slice_probabilities) if value >= record.threshold]
    now = int(st.session_state[at])
    before = [number for number in flagged if number < now]
    after = [number for number in flagged if number > now]
    steps = (
        ("Previous", "Left", now - 1 if now > 0 else None),
        ("Next", "Right", now + 1 if now < record.slices - 1 else None),
        ("Most probable", "Home", record.most_probable_slice),
        ("Previous with tumor", "Shift+Left", before[-1] if before else None),
        ("Next with tumor", "Shift+Right", after[0] if after else None),
    )
    with st.container(horizontal=True):
        for label, shortcut, target in steps:
            st.button(
                label,
                key=f"{label} {at}",
                shortcut=shortcut,
                disabled=target is None,
                on_click=partial(st.session_state.__setitem__, at, target),
            )


def _show_planes(at: str, key: str, volume: Volume, record: ScanRecord) -> None:
    depth, height, width = volume.picture.shape
    if depth < 2:
        st.info("One slice has no other planes.")
        return
    number = int(st.session_state[at])
    mask = volume.mask
    if f"row {key}" not in st.session_state:  # through the middle of the mask of that slice, or of the slice
        rows, columns = np.nonzero(mask[number])
        st.session_state[f"row {key}"] = int(np.median(rows)) if len(rows) else height // 2
        st.session_state[f"column {key}"] = int(np.median(columns)) if len(columns) else width // 2
    places = st.columns(3, gap="small")
    with places[1]:
        row = st.slider("Row", 0, height - 1, key=f"row {key}")
    with places[2]:
        column = st.slider("Column", 0, width - 1, key=f"column {key}")
    with places[0]:
        st.caption(f"Slice {number}, as chosen under Slices")
    cuts = cut_volume(volume.picture, mask, volume.spacing_mm, record.plane, (number, row, column))
    for place, cut in zip(places, cuts, strict=True):
        drawn = draw_slice(cut.picture, cut.mask, cut.spacing_mm, side_px=420, plane=cut.plane)
        place.image(drawn, width="stretch", caption=cut.plane, alt=f"{cut.plane} plane with the mask outlined")
    if not np.isfinite(volume.spacing_mm).all():
        st.caption("The spacing of the voxels is not known: lengths are not to scale.")
