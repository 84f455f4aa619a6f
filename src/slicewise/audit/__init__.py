"""Traps in data, found before a minute of training is spent on them."""
