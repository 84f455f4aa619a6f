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
from slicewise.service.schemas import ModelCard
from slicewise.ui.drawing import STYLES, draw_slice, to_gray, to_png
from slicewise.ui.frame import answering, draw_chart, guarding, offer
from slicewise.ui.planes import cut_volume
from slicewise.ui.slice_view import ask_thoroughly, draw_explanation, style_controls
from slicewise.ui.wording import describe_lack, describe_probability, describe_slice, describe_uncertainty

__all__ = ["Volume", "show_volume"]

_RUN = {
    "axial": "from inferior to superior",
    "coronal": "from anterior to posterior",
    "sagittal": "from the right to the left",
}
"""How slices follow one another, as `slicewise.orientation` has them."""
_RULE = "#0072B2"
"""Of Okabe and Ito's palette; it stands out from the bars, and from a page that is light or dark."""


@dataclass(frozen=True, slots=True)
class Volume:
    """What can be looked at of a scan, in the view of its slices."""

    values: NDArray[np.uint16]
    """``(D, H, W)``, linear from the least to the greatest of the scan."""
    window: NDArray[np.float64]
    """``(2,)``: the values that are drawn black and white."""
    mask: NDArray[np.bool_]
    """``(D, H, W)``."""
    spacing_mm: NDArray[np.float64]
    """``(3,)``: between slices, rows and columns; NaN where not known."""


@st.fragment
def show_volume(key: str, volume: Volume, record: ScanRecord, montage: bytes | None, card: ModelCard) -> None:
    """Draw it.

    Args:
        key: By which what is chosen in it is kept.
        volume: What is shown.
        record: The answer.
        montage: A PNG of its slices in rows; None where there is none.
        card: Of the model that answered.
    """
    at = f"slice of {key}"
    with guarding("a volume"):
        st.session_state.setdefault(at, record.most_probable_slice)
        names = ["Slices", "Three planes", *(["Montage"] if montage else [])]
        # What is not looked at is not drawn: stepping through slices shall not wait for it.
        slices, planes, *sheet = st.tabs(names, key=f"tabs of {key}", on_change="rerun")
        if slices.open:
            with slices:
                _show_slices(at, key, volume, record, card)
        elif planes.open:
            with planes:
                _show_planes(at, key, volume, record)
        elif montage:
            with sheet[0]:
                st.image(montage, width="stretch", alt="Slices in rows, the mask outlined")


def _show_slices(at: str, key: str, volume: Volume, record: ScanRecord, card: ModelCard) -> None:
    left, right = st.columns(2, gap="medium")
    with right:
        if record.slices > 1:
            _show_strip(at, key, record)
            st.slider("Slice", 0, record.slices - 1, key=at, persist_state="session")
            run = f", {_RUN[record.plane]}" if record.plane in _RUN else ""
            st.caption(f"Counted from 0, as in the JSON{run}.")
            _show_steps(at, record)
        style, opacity = style_controls("volume") if record.mask_px is not None else (STYLES[0], 0.0)
    number = int(st.session_state[at])
    rows_mm, columns_mm = volume.spacing_mm[1:].tolist()
    spacing_mm = (rows_mm, columns_mm) if np.isfinite(volume.spacing_mm[1:]).all() else None
    picture = to_gray(volume.values[number], volume.window)
    drawn = draw_slice(
        picture,
        volume.mask[number],
        spacing_mm,
        style=style,
        opacity=opacity,
        plane=record.plane,
    )
    pixels = int(volume.mask[number].sum())
    with left:
        st.image(drawn, width="stretch", alt=f"Slice {number}, {pixels} pixels outlined")
        st.caption(f"Slice {number}: {describe_slice(record, number, pixels)}")
        with st.container(horizontal=True):
            if record.mask_px is not None:
                offer("Mask of this slice", to_png(volume.mask[number]), f"slice_{number}_mask.png", "image/png")
            offer("Overlay of this slice", to_png(drawn), f"slice_{number}_overlay.png", "image/png")
        if lack := describe_lack(card):
            st.info(lack)
        offered = "Grad-CAM of this slice" if card.can_explain else "Standard deviation of this slice"
        if card.can_tell_uncertainty and st.toggle(offered, key=f"thorough {key}", persist_state="session"):
            with answering(), st.spinner("Asking for more (slow the first time)"):
                answer = ask_thoroughly(to_png(volume.values[number]), card)
            if card.can_explain:
                draw_explanation(picture, answer, spacing_mm)
            assert answer.uncertainty is not None
            st.caption(describe_uncertainty(answer.uncertainty, card.tasks))


def _show_strip(at: str, key: str, record: ScanRecord) -> None:
    """A bar a slice; choosing one goes there."""
    table = pd.DataFrame({"slice": range(record.slices), "probability": record.slice_probabilities})
    table["answer"] = np.where(table["probability"] >= record.threshold, "tumor", "no tumor")
    table["shown"] = table["probability"].map(describe_probability)
    chosen = int(st.session_state[at])
    point = alt.selection_point(name="chosen", fields=["slice"], on="click", empty=False)
    slices = alt.Chart(table).encode(x=alt.X("slice:O", axis=alt.Axis(labelOverlap=True, labelAngle=0, title="slice")))
    bars = slices.mark_bar().encode(
        y=alt.Y("probability:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=3, title="probability")),
        color=alt.Color(
            "answer:N",
            scale=alt.Scale(domain=["tumor", "no tumor"], range=["#E69F00", "#999999"]),
            legend=alt.Legend(orient="top", title=None),
        ),
        stroke=alt.condition(alt.datum["slice"] == chosen, alt.value(_RULE), alt.value(None)),
        strokeWidth=alt.value(3),
    )
    # A bar of a low probability could hardly be hit, so it is the column that is clicked.
    columns = (
        slices.mark_bar(fillOpacity=0)
        .encode(y=alt.datum(1), tooltip=["slice", alt.Tooltip("shown", title="probability"), "answer"])
        .add_params(point)
    )
    at_threshold = alt.Chart(pd.DataFrame({"threshold": [record.threshold]}))
    rule = at_threshold.mark_rule(strokeDash=[4, 3], strokeWidth=2, color=_RULE).encode(y="threshold:Q")
    # A chart keeps what was clicked in it: each slice has one of its own, so that the same bar can be clicked again.
    chart = f"strip {key} {chosen}"
    draw_chart(
        bars + rule + columns,
        "Probability of tumor of each slice; the dashed line is the threshold",
        height=220,
        key=chart,
        on_select=partial(_go_to_bar, at, chart),
    )


def _go_to_bar(at: str, chart: str) -> None:
    clicked = st.session_state[chart]["selection"].get("chosen")
    if clicked:
        st.session_state[at] = int(clicked[0]["slice"])


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
    depth, height, width = volume.mask.shape
    if min(depth, height, width) < 2:
        st.info("A single slice, row or column has no planes across it.")
        return
    number = int(st.session_state[at])
    row_at, column_at = f"row {key}", f"column {key}"
    if row_at not in st.session_state:  # through the middle of the mask of that slice, or of the slice
        rows, columns = np.nonzero(volume.mask[number])
        st.session_state[row_at] = int(np.median(rows)) if len(rows) else height // 2
        st.session_state[column_at] = int(np.median(columns)) if len(columns) else width // 2
    places = st.columns(3, gap="small")
    with places[1]:
        row = st.slider("Row", 0, height - 1, key=row_at, persist_state="session")
    with places[2]:
        column = st.slider("Column", 0, width - 1, key=column_at, persist_state="session")
    with places[0]:
        st.caption(f"Slice {number}, as chosen under Slices. The blue lines are where the other two planes lie.")
    cuts = cut_volume(volume.values, volume.mask, volume.spacing_mm, record.plane, (number, row, column))
    for place, cut in zip(places, cuts, strict=True):
        picture = to_gray(cut.values, volume.window)
        drawn = draw_slice(picture, cut.mask, cut.spacing_mm, side_px=420, plane=cut.plane, cross=cut.cross)
        place.image(drawn, width="stretch", caption=cut.plane, alt=f"{cut.plane} plane with the mask outlined")
    if not np.isfinite(volume.spacing_mm).all():
        st.caption("The spacing of the voxels is not known: lengths are not to scale.")
