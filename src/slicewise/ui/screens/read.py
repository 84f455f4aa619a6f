"""Read one slice or one study."""

from __future__ import annotations

import streamlit as st

from slicewise.service.schemas import Prediction
from slicewise.ui.choosing import Chosen, choose_files
from slicewise.ui.client import ServiceError
from slicewise.ui.frame import answering
from slicewise.ui.session import chosen_service, remember
from slicewise.ui.slice_view import show_slice
from slicewise.ui.study_view import leave_study, show_study

__all__ = ["show"]

_STUDY_ENDINGS = (".nii", ".nii.gz", ".zip")
_MORE_THAN_A_SLICE = ("not-one-slice", "too-large", "decoder-timeout", "decoder-memory")
"""Refusals of a file as a slice after which it may still be a study, for which more is allowed."""


def show() -> None:
    """Draw the page."""
    st.header("Read a slice or a study")
    chosen = choose_files("read", "Upload a picture, a NIfTI volume, a zip, or the DICOM files of a series")
    if chosen is None:
        leave_study()
        st.info(
            "The answer says whether there is a tumor, how sure that is, and where. Volumes are read slice by slice. What "
            "is uploaded goes to the service named on the left and nowhere else, and is removed there when it is answered.",
            icon=":material/info:",
        )
        return
    prediction = _predict_one_slice(chosen)
    if prediction is not None and prediction.kind == "dicom" and _wants_series():
        prediction = None
    if prediction is None:
        show_study(chosen)
        return
    leave_study()
    ((name, content),) = chosen.files
    show_slice(name, content, prediction)


def _wants_series() -> bool:
    return st.toggle("Read as a series, which gives a DICOM SEG", key="as a series", persist_state="session")


def _predict_one_slice(chosen: Chosen) -> Prediction | None:
    """The answer, or None where there is more to it: the ending alone does not tell how much a DICOM file holds."""
    name, content = chosen.files[0]
    if len(chosen.files) > 1 or name.lower().endswith(_STUDY_ENDINGS):
        return None
    service = chosen_service()

    def ask() -> Prediction | None:
        try:
            return service.predict(content)
        except ServiceError as error:
            if error.problem in _MORE_THAN_A_SLICE:
                return None
            raise

    with answering(), st.spinner("Predicting"):
        return remember(("slice", service.url, chosen.digest), ask)
