"""Logs of one JSON object a line, made of names and numbers of our own: nothing that a client or a file says is in them."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

__all__ = ["configure_logs", "log", "place_of"]

_LOGGER = logging.getLogger("slicewise.service")


class _JsonLines(logging.Formatter):
    """Our own records in full; of a library's, where it spoke, but not what it said: it may quote what it was given."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if record.name == _LOGGER.name:
            line |= {"event": record.getMessage(), **getattr(record, "fields", {})}
        else:
            line |= {"event": "library", "logger": record.name, "where": f"{record.module}:{record.lineno}"}
            if record.exc_info and record.exc_info[1] is not None:
                line["error"] = type(record.exc_info[1]).__name__
        return json.dumps(line, default=str)


def configure_logs() -> None:
    """Send every log line of this process to standard error, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(logging.INFO)
    logging.captureWarnings(True)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line.

    Args:
        event: What happened, a fixed word.
        level: Of `logging`.
        **fields: Ids, templates and numbers of our own; never text of a request.
    """
    _LOGGER.log(level, event, extra={"fields": fields})


def place_of(error: BaseException) -> str:
    """Where an error came from, as ``file:line function``. Its message is left out: it may quote its input."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "slicewise" in frame.filename] or frames
    return f"{ours[-1].filename.rsplit('/', 1)[-1]}:{ours[-1].lineno} {ours[-1].name}" if ours else "unknown"
