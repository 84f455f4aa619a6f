"""Everything slicewise refuses, as one tree. Each message says what was expected, what came, where, and what to do.

::

    SlicewiseError
    ├── ConfigError      a setting that is unknown, missing or impossible
    ├── InputError       a path or a file that cannot be used
    │   └── FileError             one file of a source; it names its problem and the file
    │       ├── UnreadableFileError   the bytes are broken: ingest names it, skips it and counts it
    │       └── LabelError            the bytes are fine, what they say contradicts the layout: ingest refuses the source
    ├── AuditError       data that would teach something wrong: a run stops before it trains
    ├── SplitError       a split that would put one patient on two sides, or leave a side empty
    ├── CheckpointError  a checkpoint that is missing, damaged or of another kind
    ├── OutputError      results that cannot be written, because the disk is full
    └── TrainingError    a training that cannot go on
        └── StoppedError     a training that was asked to stop; its state is on disk
"""

import signal as signals
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "AuditError",
    "CheckpointError",
    "ConfigError",
    "FileError",
    "InputError",
    "LabelError",
    "OutputError",
    "SlicewiseError",
    "SplitError",
    "StoppedError",
    "TrainingError",
    "UnreadableFileError",
]


class SlicewiseError(Exception):
    """Root of every error that slicewise raises on purpose; the command turns it into one sentence and exit code 2."""


class ConfigError(SlicewiseError):
    """A setting is unknown, missing or impossible."""


class InputError(SlicewiseError):
    """A path or a file cannot be used: missing, empty, or not of the expected layout."""


class FileError(InputError):
    """One file of a source cannot be used as it is, or several for the same reason.

    Args:
        message: What was expected, what came, where, what to do.
        problem: Name of the audit's rule for it, such as ``non-finite``.
        file: The file, where it is one.
        files: All of them; by default the one.
    """

    # Defaults, because exceptions come back from worker processes by being called with their message alone.
    def __init__(
        self, message: str, problem: str = "unreadable-file", file: Path | None = None, files: Sequence[Path] = ()
    ) -> None:
        super().__init__(message)
        self.problem = problem
        self.file = file
        self.files = tuple(files) or (() if file is None else (file,))


class UnreadableFileError(FileError):
    """A file's bytes cannot be decoded (truncated, not a picture, non-finite voxels)."""


class LabelError(FileError):
    """A mask contradicts its image or its layout (another size, an unknown label integer)."""


class AuditError(SlicewiseError):
    """The audit found what a training must not pass over."""


class SplitError(SlicewiseError):
    """A split would put one patient on two sides, or leave a side empty."""


class CheckpointError(SlicewiseError):
    """A checkpoint is missing, damaged, or was made for something else."""


class OutputError(SlicewiseError):
    """Results cannot be written: the disk is full."""


class TrainingError(SlicewiseError):
    """Training cannot go on (a loss that is not finite, a phase without the data it needs)."""


class StoppedError(TrainingError):
    """A training was asked to stop, and did so with its state on disk.

    Args:
        message: Where it stopped and how to go on.
        signal: What asked.
    """

    def __init__(self, message: str, signal: signals.Signals = signals.SIGINT) -> None:
        super().__init__(message)
        self.signal = signal
