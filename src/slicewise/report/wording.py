"""Figures in words: a value, its interval and what stands behind it are never told apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["behind", "percent", "percent_with_interval", "with_interval"]


def with_interval(figure: Mapping[str, Any]) -> str:
    """A value with its interval, where it has one.

    >>> with_interval({"value": 0.9131, "low": 0.8594, "high": 0.9474})
    '0.913 (0.859 to 0.947)'
    >>> with_interval({"value": None})
    'not defined'
    """
    if figure["value"] is None:
        return "not defined"
    if figure.get("low") is None or figure.get("high") is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def percent_with_interval(figure: Mapping[str, Any]) -> str:
    """A share with its interval, where it has one.

    >>> percent_with_interval({"value": 0.0333, "low": 0.016, "high": 0.056})
    '3.3 % (1.6 % to 5.6 %)'
    """
    if figure["low"] is None or figure["high"] is None:
        return percent(figure["value"])
    return f"{percent(figure['value'])} ({percent(figure['low'])} to {percent(figure['high'])})"


def behind(figure: Mapping[str, Any]) -> str:
    """What a figure was computed from.

    >>> behind({"n_slices": 161, "n_patients": 1})
    'n = 161 slices of 1 patient'
    """
    patients = figure["n_patients"]
    return f"n = {figure['n_slices']:,} slices of {patients:,} patient{'' if patients == 1 else 's'}"


def percent(share: float) -> str:
    """A share as readers expect it.

    >>> percent(0.0333)
    '3.3 %'
    """
    return f"{100 * share:.1f} %"
