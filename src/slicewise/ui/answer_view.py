"""An answer, whatever it is of: warnings first, then the decision and why."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from slicewise.inference.record import ConcernRecord, ScanRecord
from slicewise.service.schemas import Prediction
from slicewise.ui.wording import SYMBOLS, describe_extent, describe_probability, describe_uncertainty, give_reason

__all__ = ["show_concerns", "show_decision"]


def show_concerns(concerns: Sequence[ConcernRecord]) -> None:
    """The gatekeeper's warnings, before any answer."""
    if not concerns:
        return
    lines = "\n".join(f"- **{concern.rule}**: {concern.message}" for concern in concerns)
    count = "a reason" if len(concerns) == 1 else f"{len(concerns)} reasons"
    st.error(f"### Do not trust this answer without a look: {count} for doubt\n{lines}", icon=":material/warning:")


def show_decision(answer: Prediction | ScanRecord, model_id: str, tasks: Sequence[str]) -> None:
    """The decision, its probability, why, and how much is outlined.

    Args:
        answer: Of a slice or a scan.
        model_id: Of the model that gave it.
        tasks: Of the same.
    """
    st.markdown(f"## {SYMBOLS[answer.decision]} {answer.decision.capitalize()}")
    if isinstance(answer, ScanRecord) and answer.slices > 1:
        label = f"Highest probability, of slice {answer.most_probable_slice}"
    else:
        label = "Probability of tumor"
    st.metric(label, describe_probability(answer.probability), help="Calibrated on validation patients.")
    if answer.uncertainty is not None:
        st.caption(describe_uncertainty(answer.uncertainty, tasks))
    st.metric(*describe_extent(answer))
    st.markdown(give_reason(answer))
    plane = "the plane is not known" if answer.plane == "unknown" else f"{answer.plane} slices"
    st.caption(f"Model {model_id}, threshold {answer.threshold:.3f}; {plane}")
