"""The script that Streamlit runs for every view of every page."""

import streamlit as st
from PIL import Image

from slicewise.service.schemas import NOTICE
from slicewise.ui.drawing import draw_icon
from slicewise.ui.frame import guarding, show_notice, show_service
from slicewise.ui.screens import batch, compare, model, read, report


def main() -> None:
    """Draw the frame, and the page in it."""
    st.set_page_config(
        page_title="slicewise reading room",
        page_icon=Image.fromarray(draw_icon()),  # an emoji or a symbol would be fetched from a public network
        layout="wide",
        menu_items={"About": f"**slicewise**: is there a tumor, and where? {NOTICE}"},
    )
    page = st.navigation(
        {
            "Slices and studies": [
                st.Page(read.show, title="Read", icon=":material/search:", default=True),
                st.Page(batch.show, title="Batch", icon=":material/table_rows:", url_path="batch"),
                st.Page(compare.show, title="Compare", icon=":material/compare:", url_path="compare"),
            ],
            "What answers": [
                st.Page(model.show, title="Model", icon=":material/badge:", url_path="model"),
                st.Page(report.show, title="Report", icon=":material/description:", url_path="report"),
            ],
        }
    )
    show_notice()
    show_service()
    with guarding(page.title):
        page.run()


if __name__ == "__main__":
    main()
