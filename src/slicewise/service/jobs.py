"""The jobs in SQLite: what was sent, how far it is, and whose it is. No file names, nothing of a header."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicewise.errors import ConfigError
from slicewise.service.schemas import StudyState

__all__ = ["FINISHED", "Job", "JobStore"]

FINISHED: frozenset[StudyState] = frozenset({"done", "failed", "cancelled", "lost"})

_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
    attempts INTEGER NOT NULL, uncertainty INTEGER NOT NULL, segment TEXT NOT NULL, slices INTEGER NOT NULL, problem TEXT
)
"""
_COLUMNS = ("id", "owner", "status", "created", "updated", "attempts", "uncertainty", "segment", "slices", "problem")


@dataclass(frozen=True, slots=True)
class Job:
    """One study."""

    id: str
    owner: str
    """Digest of the key that it was sent with."""
    status: StudyState
    created: float
    """Seconds since 1970."""
    updated: float
    """The same, of the last change of its status."""
    attempts: int
    """How often a worker was sent it; one that an orderly end of the service cut short is not counted."""
    uncertainty: bool
    segment: Any
    """``auto`` or ``never``."""
    slices: int
    """Of a finished job: how many it had."""
    problem: str | None
    """Name of the problem that it failed of."""


class JobStore:
    """The table. Threads may share it.

    Args:
        file: Made where missing.

    Raises:
        ConfigError: It is damaged, or cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(_TABLE)
        except sqlite3.Error as error:
            raise ConfigError(
                f"Expected the jobs of a service in {file}, SQLite refuses the file ({error}). Move it away, with which its "
                "studies are lost, or name another folder with --state."
            ) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def add(self, job: Job) -> None:
        """Keep a new job."""
        values = [getattr(job, name) for name in _COLUMNS]
        self._run(f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})", values)

    def find(self, job: str) -> Job | None:
        """The job of an id."""
        found = self._run("SELECT * FROM jobs WHERE id = ?", [job])
        return found[0] if found else None

    def all(self) -> list[Job]:
        """All jobs, the oldest first."""
        return self._run("SELECT * FROM jobs ORDER BY created", [])

    def change(self, job: str, **values: Any) -> None:
        """Set columns of a job."""
        values["updated"] = time.time()
        words = ", ".join(f"{name} = ?" for name in values)
        self._run(f"UPDATE jobs SET {words} WHERE id = ?", [*values.values(), job])

    def begin(self, job: str) -> None:
        """A worker is sent it: one more attempt."""
        statement = "UPDATE jobs SET status = 'running', attempts = attempts + 1, updated = ? WHERE id = ?"
        self._run(statement, [time.time(), job])

    def put_back(self) -> None:
        """Those that run wait again, as if this attempt had not been."""
        self._run("UPDATE jobs SET status = 'queued', attempts = attempts - 1 WHERE status = 'running'", [])

    def remove(self, job: str) -> None:
        """Forget a job."""
        self._run("DELETE FROM jobs WHERE id = ?", [job])

    def _run(self, statement: str, values: Sequence[Any]) -> list[Job]:
        with self._lock:
            rows = self._connection.execute(statement, values).fetchall()
        return [Job(**{**dict(zip(_COLUMNS, row, strict=True)), "uncertainty": bool(row[6])}) for row in rows]
