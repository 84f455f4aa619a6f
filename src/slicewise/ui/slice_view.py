"""One slice: the answer at once, then what takes longer."""

from __future__ import annotations

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from slicewise.service.schemas import ModelCard, Prediction
from slicewise.ui.answer_view import show_concerns, show_decision
from slicewise.ui.drawing import STYLES, Style, draw_heat, draw_prediction, mask_of, picture_of, read_png, to_png
from slicewise.ui.frame import ANSWER, answering, offer
from slicewise.ui.session import chosen_service, describe_model, digest_of, has_answer, remember
from slicewise.ui.wording import describe_lack

__all__ = ["ask_thoroughly", "draw_explanation", "show_slice", "style_controls"]


def show_slice(name: str, content: bytes, prediction: Prediction) -> None:
    """Draw the answer for one picture or slice.

    Args:
        name: Of its file.
        content: Of its file.
        prediction: The quick answer for it.
    """
    with answering():
        card = describe_model(chosen_service())
    is_thorough = has_answer(_key_of(content))
    answer = ask_thoroughly(content, card) if is_thorough else prediction
    lack = describe_lack(card)
    show_concerns(answer.concerns)
    left, middle, right = st.columns([5, 5, 4], gap="medium")
    with left:
        st.markdown("**Where** – the mask over the slice")
        image = st.empty()
        style, opacity = style_controls("slice") if answer.mask else (STYLES[0], 0.0)
        drawn = draw_prediction(answer, style=style, opacity=opacity)
        image.image(drawn, width="stretch", alt=f"{answer.decision}, {answer.mask_px or 0} pixels outlined")
    with right, st.container(key=ANSWER):
        show_decision(answer, answer.model_id, card.tasks)
        _offer_downloads(name.split(".")[0] or "slice", answer, drawn)
    with middle:
        st.markdown("**Why** – what spoke for tumor (Grad-CAM)")
        if lack:
            st.info(lack)
        elif is_thorough:
            draw_explanation(picture_of(answer), answer, answer.spacing_mm)
        if card.can_tell_uncertainty and not is_thorough:
            with answering(), st.spinner("Asking for more (slow the first time)"):
                ask_thoroughly(content, card)
            st.rerun()


def ask_thoroughly(content: bytes, card: ModelCard) -> Prediction:
    """The chosen service's answer with its uncertainty and, if the model can, Grad-CAM; it takes longer, and is found once.

    Args:
        content: Of the file.
        card: Of the service's model, which can tell its uncertainty.

    Raises:
        ServiceError: The service refused, or does not answer.
    """
    service = chosen_service()
    return remember(
        _key_of(content), lambda: service.predict(content, explain=card.can_explain, uncertainty=card.can_tell_uncertainty)
    )


def draw_explanation(picture: NDArray[np.uint8], answer: Prediction, spacing_mm: tuple[float, float] | None) -> None:
    """Grad-CAM over its slice.

    Args:
        picture: ``(H, W)``, the slice.
        answer: Of `ask_thoroughly`, by a model that can explain.
        spacing_mm: Between rows and columns; None takes the pixels as square.
    """
    assert answer.explanation is not None
    heat = draw_heat(picture, read_png(answer.explanation), spacing_mm)
    st.image(heat, width="stretch", alt="The slice under the heat map of what spoke for tumor")
    st.caption(
        "Bright: spoke for tumor to the classification head. Scaled to its own maximum, whatever the probability; it is no "
        "outline."
    )


def style_controls(key: str) -> tuple[Style, float]:
    """How the mask is drawn.

    Args:
        key: By which the choice is kept.

    Returns:
        What is drawn of it, and the opacity of its fill.
    """
    style = st.segmented_control(
        "Mask as", STYLES, default="both", required=True, key=f"{key} style", persist_state="session"
    )
    opacity = st.slider(
        *("Opacity of the fill", 0, 100, 25, 5),
        format="%d %%",
        key=f"{key} opacity",
        disabled=style == "outline",
        persist_state="session",
    )
    return style or "both", opacity / 100


def _key_of(content: bytes) -> tuple[str, str, str]:
    return "thorough", chosen_service().url, digest_of([("", content)])


def _offer_downloads(stem: str, answer: Prediction, drawn: NDArray[np.uint8]) -> None:
    with st.container(horizontal=True):
        if answer.mask is not None:
            offer("Mask", to_png(mask_of(answer)), f"{stem}_mask.png", "image/png")
        offer("Overlay", to_png(drawn), f"{stem}_overlay.png", "image/png")
        record = answer.model_dump_json(indent=2, exclude={"picture", "explanation"})
        offer("JSON", record, f"{stem}.json", "application/json")
