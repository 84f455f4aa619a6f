"""The report of a run, as it was written."""

from __future__ import annotations

import streamlit as st

from slicewise.ui.frame import offer
from slicewise.ui.session import room

__all__ = ["show"]

_HEIGHT_PX = 1400
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_LOCK = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
"""Before the report: nothing in it runs, and nothing is fetched. What is shown in a page's frame could reach the page."""
_ITSELF = "about:srcdoc"
"""The address of what is shown in the frame. Without it, a link to a section leads to that section of the reading room."""


def show() -> None:
    """Draw the page."""
    st.header("The report of a run")
    runs = room().runs
    if not runs:
        st.info("Name a run with `slicewise ui --run runs/NAME`, and its report is shown here.", icon=":material/info:")
        return
    run = st.selectbox("Run", runs, format_func=str) if len(runs) > 1 else runs[0]
    file = run / "report.html"
    try:
        content = file.read_bytes()
    except OSError as error:
        reason = f"it cannot be read ({error.strerror}). Run `slicewise report {run}`."
        st.error(f"Expected the run's report at {file}, {reason}", icon=":material/block:")
        return
    offer("Report", content, f"{run.name}_report.html", "text/html")
    shown = content.decode("utf-8").replace('href="#', f'href="{_ITSELF}#')
    st.iframe(_LOCK + shown, height=_HEIGHT_PX, alt="The report")
