"""Many slices at once: a table that fills as answers come."""

from __future__ import annotations

import base64
from typing import Any

import pandas as pd
import streamlit as st

from slicewise.service.schemas import BatchLine, Prediction
from slicewise.ui.choosing import SLICES, choose_files
from slicewise.ui.client import File
from slicewise.ui.drawing import draw_slice, read_png, to_png
from slicewise.ui.frame import answering, chosen_service, digest_of, offer, remember, show_concerns, show_decision
from slicewise.ui.slice_view import mask_of, style_controls
from slicewise.ui.wording import SYMBOLS

__all__ = ["show"]

_THUMBNAIL_PX = 96
_COLUMNS = ("file", "slice", "decision", "probability", "mask_px", "area_mm2", "concerns", "problem")


def show() -> None:
    """Draw the page."""
    st.header("Batch")
    files = choose_files("batch", "Upload pictures and DICOM slices, as many as there are", examples=SLICES)
    if not files:
        st.info("Each file is one slice. Volumes and series are read on the page *Read*.", icon=":material/info:")
        return
    service = chosen_service()
    with answering():
        lines = remember(("batch", service.url, digest_of(files)), lambda: _predict(files))
    table = pd.DataFrame([_row(name, lines[place]) for place, (name, _) in enumerate(files)], columns=list(_COLUMNS))
    doubtful, refused = int((table["concerns"] != "").sum()), int((table["problem"] != "").sum())
    if doubtful:
        st.error(
            f"**{doubtful} of {len(table)} answers are in doubt**: see the column *concerns*.", icon=":material/warning:"
        )
    if refused:
        st.warning(f"{refused} of {len(table)} files got no answer: see the column *problem*.", icon=":material/warning:")
    st.caption("Click a column's head to sort by it, a row's box to see the slice.")
    chosen = st.dataframe(
        table,
        hide_index=True,
        row_height=64,
        on_select="rerun",
        selection_mode="single-row",
        key="batch table",
        column_config={
            "slice": st.column_config.ImageColumn("slice", help="With the mask"),
            "probability": st.column_config.ProgressColumn("probability", min_value=0.0, max_value=1.0, format="%.3f"),
            "mask_px": st.column_config.NumberColumn("mask, px"),
            "area_mm2": st.column_config.NumberColumn("area, mm²", format="%.0f"),
        },
        alt="One row a file",
    )
    written = table.drop(columns="slice").assign(decision=[_decision(lines[place]) for place in range(len(files))])
    offer("CSV", written.to_csv(index=False), "batch.csv", "text/csv")
    for place in chosen["selection"]["rows"]:
        prediction = lines[place].prediction
        if prediction is not None:
            _show_one(files[place][0], prediction)


def _predict(files: list[File]) -> dict[int, BatchLine]:
    lines: dict[int, BatchLine] = {}
    progress = st.progress(0.0, "Predicting")
    for line in chosen_service().predict_batch(files):
        lines[line.index] = line
        progress.progress(len(lines) / len(files), f"{len(lines)} of {len(files)} answered")
    progress.empty()
    return lines


def _row(name: str, line: BatchLine) -> dict[str, Any]:
    prediction = line.prediction
    if prediction is None:
        return {"file": name, "concerns": "", "problem": (line.problem or {}).get("detail", f"status {line.status}")}
    return {
        "file": name,
        "slice": _thumbnail(prediction),
        "decision": f"{SYMBOLS[prediction.decision]} {prediction.decision}",
        "probability": prediction.probability,
        "mask_px": prediction.mask_px,
        "area_mm2": prediction.area_mm2,
        "concerns": ", ".join(concern.rule for concern in prediction.concerns),
        "problem": "",
    }


def _decision(line: BatchLine) -> str:
    return line.prediction.decision if line.prediction else ""


def _thumbnail(prediction: Prediction) -> str:
    assert prediction.picture is not None
    drawn = draw_slice(read_png(prediction.picture), mask_of(prediction), side_px=_THUMBNAIL_PX)
    return f"data:image/png;base64,{base64.b64encode(to_png(drawn)).decode('ascii')}"


def _show_one(name: str, prediction: Prediction) -> None:
    assert prediction.picture is not None
    st.subheader(name)
    show_concerns(prediction.concerns)
    left, right = st.columns([3, 2], gap="medium")
    with right:
        show_decision(prediction, prediction.model_id)
        style, opacity = style_controls("batch")
    with left:
        drawn = draw_slice(read_png(prediction.picture), mask_of(prediction), style=style, opacity=opacity)
        st.image(
            drawn,
            width="stretch",
            alt=f"{prediction.decision}, {prediction.mask_px or 0} pixels outlined",
        )
