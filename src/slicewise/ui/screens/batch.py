"""Many slices at once: a table that fills as answers come."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import pandas as pd
import streamlit as st

from slicewise.files import as_cell
from slicewise.service.schemas import BatchLine, Prediction
from slicewise.ui.answer_view import show_concerns, show_decision
from slicewise.ui.choosing import SLICES, Chosen, choose_files
from slicewise.ui.client import Service, ServiceError
from slicewise.ui.drawing import draw_prediction, to_png
from slicewise.ui.frame import answering, offer, show_refusal
from slicewise.ui.session import chosen_service, describe_model
from slicewise.ui.slice_view import style_controls
from slicewise.ui.wording import SYMBOLS, describe_probability, describe_refusal

__all__ = ["show"]

_BATCH = "batch"
_THUMBNAIL_PX = 96
_ANSWERED = ("decision", "probability", "threshold", "mask_px", "area_mm2", "model_id", "version")
_WRITTEN = ("file", *_ANSWERED, "concerns", "problem")


@dataclass(slots=True)
class _Batch:
    """What was answered of the files that are open, by their place."""

    key: tuple[str, str, str]
    """Service, its model, and the files."""
    lines: dict[int, BatchLine] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    was_asked: bool = False


def show() -> None:
    """Draw the page."""
    st.header("Batch")
    chosen = choose_files("batch", "Upload pictures and DICOM slices, as many as there are", examples=SLICES)
    if chosen is None:
        st.session_state.pop(_BATCH, None)
        st.info("Each file is one slice. Volumes and series are read on the page *Read*.", icon=":material/info:")
        return
    service = chosen_service()
    with answering():
        key = (service.url, describe_model(service).model_id, chosen.digest)
    batch: _Batch | None = st.session_state.get(_BATCH)
    if batch is None or batch.key != key:
        batch = st.session_state[_BATCH] = _Batch(key)
    waiting = [place for place in range(len(chosen.files)) if _is_open(batch.lines.get(place))]
    if waiting and (not batch.was_asked or st.button(f"Ask again for {len(waiting)} files", icon=":material/refresh:")):
        batch.was_asked = True
        _ask(service, batch, chosen, waiting)
        st.rerun()
    _show_table(batch, chosen)


def _is_open(line: BatchLine | None) -> bool:
    """Not answered, or refused for a reason that passes."""
    passing = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT)
    return line is None or line.status >= HTTPStatus.INTERNAL_SERVER_ERROR or line.status in passing


def _ask(service: Service, batch: _Batch, chosen: Chosen, places: Sequence[int]) -> None:
    """Ask for some of the files; what is answered before the service fails is kept."""
    progress = st.progress(0.0, "Predicting")
    try:
        for count, line in enumerate(service.predict_batch([chosen.files[place] for place in places]), 1):
            place = places[line.index]
            batch.lines[place], batch.rows[place] = line, _row(line)
            progress.progress(count / len(places), f"{count} of {len(places)} answered")
    except ServiceError as error:
        show_refusal(error)
        _show_table(batch, chosen)
        st.stop()


def _show_table(batch: _Batch, chosen: Chosen) -> None:
    unanswered = {"problem": "Not answered yet."}
    rows = [{"file": name, **batch.rows.get(place, unanswered)} for place, (name, _) in enumerate(chosen.files)]
    table = pd.DataFrame(rows, columns=["slice", *_WRITTEN])
    doubtful = sum(bool(row.get("concerns")) for row in rows)
    problems = Counter(row["problem"] for row in rows if "decision" not in row)
    refused = problems.total()
    if doubtful:
        words = f"**{doubtful} of {len(table) - refused} answers are in doubt**: see the column *concerns*."
        st.error(words, icon=":material/warning:")
    if refused:
        # In whole sentences here: in the table, which is wide, they end at its edge.
        sentences = "\n".join(
            f"- {sentence} ({count} {'file' if count == 1 else 'files'})" for sentence, count in problems.items()
        )
        words = f"**{refused} of {len(table)} files got no answer**; the column *problem* says which:\n{sentences}"
        st.warning(words, icon=":material/warning:")
    st.caption("Click a column's head to sort by it, a row's box to see the slice.")
    shown = table.assign(decision=[_with_symbol(row.get("decision")) for row in rows])
    # In words, what three digits cannot tell from certainty is said as such, and it is still sorted by the number. A style
    # sends every cell in words: of pictures, which are not shown by them, none.
    words_of: dict[Any, Any] = {"probability": describe_probability, "slice": lambda _: ""}
    styled = shown.style
    styled.format(words_of, na_rep="")
    selection = st.dataframe(
        styled,
        placeholder="",
        hide_index=True,
        row_height=64,
        column_order=("file", "slice", "decision", "probability", "mask_px", "area_mm2", "concerns", "problem"),
        on_select="rerun",
        selection_mode="single-row",
        # A selection belongs to its files: of others, the row may not be there.
        key=f"table of {batch.key} {len(batch.rows)}",
        column_config={
            "slice": st.column_config.ImageColumn("slice", help="With the mask"),
            "probability": st.column_config.NumberColumn("probability"),
            "mask_px": st.column_config.NumberColumn("mask, px", format="%,d"),
            "area_mm2": st.column_config.NumberColumn("area, mm²", format="%.0f"),
        },
        alt="One row a file",
    )
    written = table[list(_WRITTEN)].assign(file=table["file"].map(as_cell))
    offer("CSV", written.to_csv(index=False), "batch.csv", "text/csv")
    for place in selection["selection"]["rows"]:
        line = batch.lines.get(place)
        if line is not None and line.prediction is not None:
            _show_one(chosen.files[place][0], line.prediction)


def _row(line: BatchLine) -> dict[str, Any]:
    prediction = line.prediction
    if prediction is None:
        problem = line.problem or {}
        name = problem.get("type", "").rpartition(":")[2]
        return {"problem": describe_refusal(name, problem.get("detail", f"status {line.status}"))}
    return {
        **{name: getattr(prediction, name) for name in _ANSWERED},
        "slice": _thumbnail(prediction),
        "concerns": ", ".join(concern.rule for concern in prediction.concerns),
    }


def _with_symbol(decision: Any) -> str:
    return f"{SYMBOLS[decision]} {decision}" if decision else ""


def _thumbnail(prediction: Prediction) -> str:
    drawn = draw_prediction(prediction, side_px=_THUMBNAIL_PX)
    return f"data:image/png;base64,{base64.b64encode(to_png(drawn)).decode('ascii')}"


def _show_one(name: str, prediction: Prediction) -> None:
    st.text(name)
    show_concerns(prediction.concerns)
    with answering():
        tasks = describe_model(chosen_service()).tasks
    left, right = st.columns([3, 2], gap="medium")
    with right:
        show_decision(prediction, prediction.model_id, tasks)
        style, opacity = style_controls("batch")
    with left:
        drawn = draw_prediction(prediction, style=style, opacity=opacity)
        st.image(drawn, width="stretch", alt=f"{prediction.decision}, {prediction.mask_px or 0} pixels outlined")
