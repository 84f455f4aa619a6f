"""A study: sent as a job, followed, and read slice by slice. What the service holds of it is removed once it is fetched."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from slicewise.inference.record import ScanRecord
from slicewise.service.schemas import StudyResult
from slicewise.ui.client import File, Service, ServiceError
from slicewise.ui.drawing import cut_volume, draw_slice, to_png
from slicewise.ui.frame import answering, chosen_service, describe_model, digest_of, offer, show_concerns, show_decision
from slicewise.ui.slice_view import show_explanation, style_controls

__all__ = ["show_study"]

_POLL_S = 0.5
_STUDY = "study"
_ENDINGS = {
    "mask": ("Mask (NIfTI)", "mask.nii.gz", "application/gzip"),
    "segmentation": ("DICOM SEG", "segmentation.dcm", "application/dicom"),
    "report": ("DICOM SR", "report.dcm", "application/dicom"),
    "montage": ("Montage", "montage.png", "image/png"),
}


@dataclass(slots=True)
class _Volume:
    """What can be looked at of a scan."""

    picture: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    spacing_mm: NDArray[np.float64]


@dataclass(slots=True)
class _Study:
    """One study of this session, on its way or finished."""

    key: tuple[str, str, bool]
    service: Service
    id: str
    result: StudyResult | None = None
    files: dict[tuple[int, str], bytes] | None = None
    volumes: dict[int, _Volume] | None = None


def show_study(files: list[File]) -> None:
    """Draw the answer for a volume, a series or an archive.

    Args:
        files: Of it.
    """
    can_be_unsure = False
    with answering():
        can_be_unsure = describe_model().can_explain
    wants_uncertainty = can_be_unsure and st.toggle(
        "Say how sure the model is (about ten times slower)", key="study uncertainty"
    )
    service = chosen_service()
    key = (service.url, digest_of(files), wants_uncertainty)
    study: _Study | None = st.session_state.get(_STUDY)
    if study is None or study.key != key:
        if study is not None and study.result is None:
            _forget(study)
        with answering(), st.spinner("Sending"):
            study = _Study(key, service, service.send_study(files, uncertainty=wants_uncertainty).id)
        st.session_state[_STUDY] = study
    if study.result is None:
        _follow(study)
        return
    _show_result(study)


@st.fragment(run_every=_POLL_S)
def _follow(study: _Study) -> None:
    try:
        status = study.service.follow_study(study.id)
    except ServiceError as error:
        st.error(f"**{error.title}.** {error.detail}", icon=":material/block:")
        if error.problem != "unreachable":  # a service that was started anew knows nothing of it
            st.button("Send it again", on_click=_drop)
        return
    if status.status == "done":
        with answering(), st.spinner("Fetching the result"):
            _fetch(study)
        st.rerun(scope="app")
    if status.status in ("failed", "lost", "cancelled"):
        problem = status.problem or {}
        title, detail = problem.get("title", f"The study is {status.status}"), problem.get("detail", "")
        st.error(f"**{title}.** {detail}", icon=":material/block:")
        st.button("Send it again", on_click=_drop)
        return
    total = status.total or 0
    words = f"{status.done} of {total} slices" if total else f"{status.status.capitalize()}: reading the files"
    st.progress(min(1.0, status.done / total) if total else 0.0, words)
    if st.button("Cancel", icon=":material/close:"):
        _forget(study)
        st.rerun(scope="app")


def _fetch(study: _Study) -> None:
    """Everything at once; then nothing of a patient needs to stay at the service."""
    result = study.service.study_result(study.id)
    files = {(file.scan, file.name): study.service.fetch(file.href) for file in result.files}
    study.volumes = {}
    for (scan, name), content in list(files.items()):
        if name == "slices":
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                study.volumes[scan] = _Volume(arrays["picture"], arrays["mask"], arrays["spacing_mm"])
            del files[scan, name]
    study.files, study.result = files, result
    _forget(study)


def _forget(study: _Study) -> None:
    try:
        study.service.remove_study(study.id)
    except ServiceError:
        return  # its results go by themselves after an hour


def _drop() -> None:
    st.session_state.pop(_STUDY, None)


def _show_result(study: _Study) -> None:
    result = study.result
    assert result is not None
    assert study.files is not None
    assert study.volumes is not None
    for refusal in result.refusals:
        st.warning(
            f"A file of the upload could not be read ({refusal.problem}): {refusal.detail}", icon=":material/warning:"
        )
    scans = result.scans
    number = 0
    if len(scans) > 1:
        number = st.selectbox(
            "Scan", range(len(scans)), format_func=lambda place: _name_of(place, scans[place]), key=f"scan of {study.id}"
        )
    record = scans[number]
    show_concerns(record.concerns)
    left, right = st.columns([10, 4], gap="medium")
    with right:
        show_decision(record, result.model_id)
        with st.container(horizontal=True):
            for name, (label, file_name, kind) in _ENDINGS.items():
                if (number, name) in study.files:
                    content = study.files[number, name]
                    offer(label, content, f"scan_{number}_{file_name}", kind)
            answer = result.model_dump_json(indent=2, exclude={"files", "id"})
            offer("JSON", answer, "study.json", "application/json")
    with left:
        volume = study.volumes.get(number)
        if volume is None:
            st.info("This scan is too large to be shown slice by slice; its files can be downloaded.")
            return
        _show_volume(f"{study.id} {number}", volume, record, study.files.get((number, "montage")))


def _name_of(place: int, record: ScanRecord) -> str:
    return f"{place + 1}: {record.kind}, {record.slices} slices, {record.decision}"


@st.fragment
def _show_volume(key: str, volume: _Volume, record: ScanRecord, montage: bytes | None) -> None:
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


def _show_slices(at: str, key: str, volume: _Volume, record: ScanRecord) -> None:
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


def _show_planes(at: str, key: str, volume: _Volume, record: ScanRecord) -> None:
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
        drawn = draw_slice(cut.picture, cut.mask, cut.spacing_mm, side_px=420)
        place.image(drawn, width="stretch", caption=cut.plane, alt=f"{cut.plane} plane with the mask outlined")
    if not np.isfinite(volume.spacing_mm).all():
        st.caption("The spacing of the voxels is not known: lengths are not to scale.")
