"""One self-contained HTML file, every sentence and figure of which is computed from the run's files."""
