"""A study: sent as a job, followed, and shown. What the service holds of it is removed once it is fetched."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import streamlit as st

from slicewise.inference.record import ScanRecord
from slicewise.service.schemas import StudyResult
from slicewise.ui.client import File, Service, ServiceError
from slicewise.ui.frame import answering, chosen_service, describe_model, digest_of, offer, show_concerns, show_decision
from slicewise.ui.volume_view import Volume, show_volume

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
class _Study:
    """One study of this session, on its way or finished."""

    key: tuple[str, str, bool]
    service: Service
    id: str
    result: StudyResult | None = None
    files: dict[tuple[int, str], bytes] | None = None
    volumes: dict[int, Volume] | None = None


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
                study.volumes[scan] = Volume(arrays["picture"], arrays["mask"], arrays["spacing_mm"])
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
        show_volume(f"{study.id} {number}", volume, record, study.files.get((number, "montage")))


def _name_of(place: int, record: ScanRecord) -> str:
    return f"{place + 1}: {record.kind}, {record.slices} slices, {record.decision}"
