"""One slice: the answer at once, then what takes longer."""

from __future__ import annotations

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from slicewise.service.schemas import Prediction
from slicewise.ui.client import File
from slicewise.ui.drawing import STYLES, Style, draw_heat, draw_slice, read_png, to_png
from slicewise.ui.frame import (
    answering,
    chosen_service,
    describe_model,
    digest_of,
    offer,
    remember,
    show_concerns,
    show_decision,
)

__all__ = ["mask_of", "predict_slice", "show_explanation", "show_slice", "style_controls"]


def show_slice(file: File, prediction: Prediction) -> None:
    """Draw the answer for one picture or slice.

    Args:
        file: Of it.
        prediction: The quick answer for it.
    """
    name, content = file
    stem = name.split(".")[0] or "slice"
    with answering():
        can_explain = describe_model().can_explain
    assert prediction.picture is not None
    picture, mask = read_png(prediction.picture), mask_of(prediction)
    show_concerns(prediction.concerns)
    left, middle, right = st.columns([5, 5, 4], gap="medium")
    with left:
        st.markdown("**Where** – the mask over the slice")
        image = st.empty()
        style, opacity = style_controls("slice")
        drawn = draw_slice(picture, mask, style=style, opacity=opacity, plane=prediction.plane)
        image.image(
            drawn, width="stretch", alt=f"The slice; {prediction.decision}, {prediction.mask_px or 0} pixels outlined"
        )
    with middle:
        st.markdown("**Why** – what spoke for tumor (Grad-CAM)")
        explained = st.empty()
    with right:
        decision = st.empty()
        with decision.container():
            show_decision(prediction, prediction.model_id)
        _offer_downloads(stem, prediction, mask, drawn)
    if not can_explain:
        explained.info("This service cannot explain or say how sure it is: it needs torch, and a model that classifies.")
        return
    with answering():
        thorough = show_explanation(content, picture, explained)
    with decision.container():
        show_decision(thorough, thorough.model_id)


def predict_slice(content: bytes) -> Prediction:
    """The chosen service's quick answer, found once."""
    service = chosen_service()
    return remember(("slice", service.url, digest_of([("", content)])), lambda: service.predict(content))


def mask_of(prediction: Prediction) -> NDArray[np.bool_]:
    """The mask on the slice's grid; empty where none was looked for."""
    if prediction.mask is None or not isinstance(prediction.mask.data, str):
        return np.zeros(prediction.shape, bool)
    return read_png(prediction.mask.data) > 0


def style_controls(key: str) -> tuple[Style, float]:
    """How the mask is drawn.

    Args:
        key: By which the choice is kept.

    Returns:
        What is drawn of it, and the opacity of its fill.
    """
    style = st.segmented_control("Mask as", STYLES, default="both", required=True, key=f"{key} style")
    opacity = st.slider(
        "Opacity of the fill", 0, 100, 25, 5, format="%d %%", key=f"{key} opacity", disabled=style == "outline"
    )
    return style or "both", opacity / 100


def show_explanation(content: bytes, picture: NDArray[np.uint8], place: st.delta_generator.DeltaGenerator) -> Prediction:
    """Ask for Grad-CAM and uncertainty of a slice, which take longer, and draw the first.

    Args:
        content: The slice's file.
        picture: ``(H, W)``, the slice.
        place: Where it is drawn.

    Returns:
        The answer, with its uncertainty.

    Raises:
        ServiceError: The service refused.
    """
    service = chosen_service()
    key = ("thorough", service.url, digest_of([("", content)]))
    with place, st.spinner("Explaining (slow the first time)"):
        answer = remember(key, lambda: service.predict(content, explain=True, uncertainty=True))
    assert answer.explanation is not None
    heat = draw_heat(picture, read_png(answer.explanation))
    with place.container():
        st.image(heat, width="stretch", alt="The slice under the heat map of what spoke for tumor")
        st.caption("Bright: spoke for tumor. Scaled to its own maximum, whatever the probability; it is no outline.")
    return answer


def _offer_downloads(stem: str, prediction: Prediction, mask: NDArray[np.bool_], drawn: NDArray[np.uint8]) -> None:
    with st.container(horizontal=True):
        if prediction.mask is not None:
            offer("Mask", to_png(mask), f"{stem}_mask.png", "image/png")
        offer("Overlay", to_png(drawn), f"{stem}_overlay.png", "image/png")
        answer = prediction.model_dump_json(indent=2, exclude={"picture", "explanation"})
        offer("JSON", answer, f"{stem}.json", "application/json")
