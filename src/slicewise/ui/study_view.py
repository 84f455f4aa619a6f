"""A study: sent as a job, followed, and shown. What the service holds of it is removed once it is fetched."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import streamlit as st

from slicewise.inference.record import ScanRecord
from slicewise.service.schemas import ModelCard, StudyResult, StudyStatus
from slicewise.ui.answer_view import show_concerns, show_decision
from slicewise.ui.choosing import Chosen
from slicewise.ui.client import Service, ServiceError
from slicewise.ui.frame import ANSWER, answering, guarding, offer, show_refusal
from slicewise.ui.session import chosen_service, describe_model
from slicewise.ui.volume_view import Volume, show_volume
from slicewise.ui.wording import SYMBOLS, describe_probability, describe_rule, describe_sources, escape

__all__ = ["leave_study", "show_study"]

_POLL_S = 0.5
_NAMED = 5
_STUDY = "study"
_ENDED = ("failed", "lost", "cancelled")
_FILES = {
    "mask": ("Mask (NIfTI)", "mask.nii.gz", "application/gzip"),
    "segmentation": ("DICOM SEG", "segmentation.dcm", "application/dicom"),
    "report": ("DICOM SR", "report.dcm", "application/dicom"),
    "montage": ("Montage", "montage.png", "image/png"),
}


@dataclass(slots=True)
class _Answer:
    """All of a finished study; nothing of it needs to stay at the service."""

    result: StudyResult
    files: dict[tuple[int, str], bytes] = field(default_factory=dict)
    volumes: dict[int, Volume] = field(default_factory=dict)


@dataclass(slots=True)
class _Study:
    """The study of this session, on its way or finished."""

    key: tuple[str, str, bool]
    service: Service
    id: str
    ended: StudyStatus | None = None
    answer: _Answer | None = None


def show_study(chosen: Chosen) -> None:
    """Draw the answer for a volume, a series or an archive.

    Args:
        chosen: Its files.
    """
    service = chosen_service()
    with answering():
        card = describe_model(service)
    wants_uncertainty = card.can_tell_uncertainty and st.toggle(
        "Say how sure the model is (about ten times slower)", key="study uncertainty", persist_state="session"
    )
    key = (service.url, chosen.digest, wants_uncertainty)
    study: _Study | None = st.session_state.get(_STUDY)
    is_of_other_weights = study is not None and study.answer is not None and study.answer.result.model_id != card.model_id
    if study is None or study.key != key or is_of_other_weights:
        leave_study()
        with answering(), st.spinner("Sending"):
            study = _Study(key, service, service.send_study(chosen.files, uncertainty=wants_uncertainty).id)
        st.session_state[_STUDY] = study
    if study.answer is not None:
        _show_answer(study.id, study.answer, card, chosen)
    elif study.ended is not None:
        _show_end(study.ended)
    else:
        _follow(study)


def leave_study() -> None:
    """Forget the study of this session, here and at the service."""
    study: _Study | None = st.session_state.pop(_STUDY, None)
    if study is not None and study.answer is None:
        _remove(study)


@st.fragment(run_every=_POLL_S)
def _follow(study: _Study) -> None:
    is_over = False
    with guarding("following a study"):
        try:
            status = study.service.follow_study(study.id)
            if status.status == "done":
                with st.spinner("Fetching the result"):
                    study.answer = _fetch(study)
                _remove(study)
        except ServiceError as error:
            show_refusal(error)
            # A service that was started anew knows nothing of it.
            is_over = error.problem == "no-such-study" and st.button("Send it again", on_click=leave_study)
        else:
            study.ended = status if status.status in _ENDED else None
            total = status.total or 0
            words = f"{status.done} of {total} slices" if total else f"{status.status.capitalize()}: reading the files"
            st.progress(min(1.0, status.done / total) if total else 0.0, words)
            if st.button("Cancel", icon=":material/close:"):
                _remove(study)
            is_over = study.answer is not None or study.ended is not None
    if is_over:
        st.rerun(scope="app")


def _fetch(study: _Study) -> _Answer:
    answer = _Answer(study.service.study_result(study.id))
    for file in answer.result.files:
        content = study.service.fetch(file.href)
        if file.name == "slices":
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                answer.volumes[file.scan] = Volume(**{part.name: arrays[part.name] for part in fields(Volume)})
        else:
            answer.files[file.scan, file.name] = content
    return answer


def _remove(study: _Study) -> None:
    try:
        study.service.remove_study(study.id)
    except ServiceError:
        return  # its results go by themselves after an hour


def _show_end(status: StudyStatus) -> None:
    problem = status.problem or {}
    title, detail = problem.get("title", f"The study is {status.status}"), problem.get("detail", "")
    st.error(f"**{title}.** {detail}", icon=":material/block:")
    st.button("Send it again", on_click=leave_study)


def _show_answer(study_id: str, answer: _Answer, card: ModelCard, chosen: Chosen) -> None:
    scans = answer.result.scans
    _say_what_is_in_it(answer.result, chosen)
    # The most probable first: what matters most is not left in a list that is closed.
    best = max(range(len(scans)), key=lambda place: scans[place].probability)
    number = best
    if len(scans) > 1:
        names = [
            _name_of(place, record, _files_of(sources, chosen))
            for place, (record, sources) in enumerate(zip(scans, answer.result.sources, strict=True))
        ]
        number = st.selectbox(
            "Scan", range(len(scans)), index=best, format_func=names.__getitem__, key=f"scan of {study_id}"
        )
    record = scans[number]
    show_concerns(record.concerns)
    left, right = st.columns([10, 4], gap="medium")
    with right, st.container(key=ANSWER):
        show_decision(record, answer.result.model_id, card.tasks)
        if record.slices > 1:
            st.markdown(describe_rule(record.slices, card.metrics))
        with st.container(horizontal=True):
            for name, (label, file_name, media_type) in _FILES.items():
                if (number, name) in answer.files:
                    offer(label, answer.files[number, name], f"scan_{number}_{file_name}", media_type)
            whole = answer.result.model_dump_json(indent=2, exclude={"files", "id"})
            offer("JSON", whole, "study.json", "application/json")
    with left:
        volume = answer.volumes.get(number)
        if volume is None:
            st.info("This scan is too large to be shown slice by slice; its files can be downloaded.")
        else:
            montage = answer.files.get((number, "montage"))
            show_volume(f"{study_id} {number}", volume, record, montage, card)


def _say_what_is_in_it(result: StudyResult, chosen: Chosen) -> None:
    found: dict[tuple[str, str], list[str]] = {}
    for refusal in result.refusals:
        files = escape(_files_of(refusal.sources, chosen)) if refusal.sources else "Some files of the upload"
        found.setdefault((refusal.problem, refusal.detail), []).append(files)
    for (problem, detail), names in found.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        words = f"{', '.join(names[:_NAMED])}{more} could not be read ({problem}): {detail}"
        st.warning(words, icon=":material/warning:")
    if len(result.scans) > 1:
        positive = sum(record.decision.startswith("tumor") for record in result.scans)
        doubtful = sum(bool(record.concerns) for record in result.scans)
        words = f"**{len(result.scans)} scans: {positive} with a tumor, {doubtful} in doubt.** The most probable is shown."
        (st.warning if positive or doubtful else st.info)(words, icon=":material/stacks:")


def _files_of(sources: Sequence[int], chosen: Chosen) -> str:
    return describe_sources(sources, [name for name, _ in chosen.files], is_zip=chosen.is_zip)


def _name_of(place: int, record: ScanRecord, files: str) -> str:
    decision = f"{SYMBOLS[record.decision]} {record.decision} ({describe_probability(record.probability)})"
    return f"{place}, {files}: {decision}, {record.kind}, {record.slices} slices{', in doubt' if record.concerns else ''}"
