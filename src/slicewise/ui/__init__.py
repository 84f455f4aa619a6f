"""The reading room: Streamlit pages, and nothing in them that the service does not answer."""
