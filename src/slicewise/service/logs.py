"""Logs of one JSON object a line, made of names and numbers of our own: nothing that a client or a file says is in them."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

__all__ = ["configure_logs", "log", "place_of"]


class _Libraries(logging.Formatter):
    """Where a library spoke, but not what it said: it may quote what it was given."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"logger": record.name, "where": f"{record.module}:{record.lineno}"}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = type(record.exc_info[1]).__name__
        return _line("library", record.levelno, fields)


def configure_logs() -> None:
    """Send what libraries log in this process to standard error, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Libraries())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line to standard error.

    Args:
        event: What happened, a fixed word.
        level: Of `logging`.
        **fields: Ids, templates and numbers of our own; never text of a request.
    """
    # Not by a logger: under overload every refusal is a line, and a logger looks up its caller for each.
    sys.stderr.write(_line(event, level, fields) + "\n")
    sys.stderr.flush()


def _line(event: str, level: int, fields: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "level": logging.getLevelName(level).lower(), "event": event, **fields}, default=str)


def place_of(error: BaseException) -> str:
    """Where an error came from, as ``file:line function``. Its message is left out: it may quote its input."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "slicewise" in frame.filename] or frames
    return f"{ours[-1].filename.rsplit('/', 1)[-1]}:{ours[-1].lineno} {ours[-1].name}" if ours else "unknown"
