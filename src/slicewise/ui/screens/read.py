"""Read one slice or one study."""

from __future__ import annotations

import streamlit as st

from slicewise.service.schemas import Prediction
from slicewise.ui.choosing import choose_files
from slicewise.ui.client import File, ServiceError
from slicewise.ui.frame import answering
from slicewise.ui.slice_view import predict_slice, show_slice
from slicewise.ui.study_view import show_study

__all__ = ["show"]

_STUDY_ENDINGS = (".nii", ".nii.gz", ".zip")


def show() -> None:
    """Draw the page."""
    st.header("Read a slice or a study")
    files = choose_files("read", "Upload a picture, a NIfTI volume, a zip, or the DICOM files of a series")
    if not files:
        st.info(
            "The answer says whether there is a tumor, how sure that is, and where. Volumes are read slice by slice. What "
            "is uploaded goes to the service named on the left and nowhere else, and is not kept.",
            icon=":material/info:",
        )
        return
    prediction = _predict_one_slice(files) if len(files) == 1 else None
    if prediction is not None and prediction.kind == "dicom" and st.toggle("Read as a series, which gives a DICOM SEG"):
        prediction = None
    if prediction is not None:
        show_slice(files[0], prediction)
    else:
        show_study(files)


def _predict_one_slice(files: list[File]) -> Prediction | None:
    """The answer, or None where there is more to it: the ending alone does not tell how much a DICOM or TIFF file holds."""
    ((name, content),) = files
    if name.lower().endswith(_STUDY_ENDINGS):
        return None
    with answering(), st.spinner("Predicting"):
        try:
            return predict_slice(content)
        except ServiceError as error:
            if error.problem == "not-one-slice":
                return None
            raise
