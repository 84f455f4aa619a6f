"""Many inputs into a folder of results: files found, predicted, written and taken up again after an interruption."""
