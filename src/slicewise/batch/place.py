"""Where an input's results go: no file there is overwritten or removed that is not known to be an earlier result of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import from_json

from slicewise.batch.inputs import Job
from slicewise.errors import InputError
from slicewise.files import write_atomically
from slicewise.sources.names import RESULT_ENDINGS

__all__ = ["Place", "path_from"]


class _Outputs(BaseModel):
    outputs: dict[str, str] = {}


class _Trace(BaseModel):
    """Of whose results some files are: what records of all versions have in common, and all that a claim says."""

    file: str
    file_sha256: str
    file_from_output: str | None = None
    scans: list[_Outputs] = []


class Place:
    """The destination of one input.

    Its own are the files that the record there names, or the claim of an interrupted call, where that is of the same path or
    of the same bytes. A claim is written before the first result, and goes when the record is there.

    Args:
        job: The input.
        output: Folder for the results.
        sha256: Of the input, as of `slicewise.batch.inputs.digest_of`.
    """

    def __init__(self, job: Job, output: Path, sha256: str) -> None:
        self.record = output / job.target.with_name(f"{job.target.name}_result.json")
        self._claim = self.record.with_name(f".{job.target.name}_claim.json")
        self._job, self._output = job, output
        self._trace = _Trace(file=str(job.path), file_sha256=sha256, file_from_output=path_from(job, output))
        found = {file: _read(file) for file in (self.record, self._claim) if os.path.lexists(file)}
        own = [trace for trace in found.values() if trace is not None and self._is_own(trace)]
        self._foreign = {file: trace for file, trace in found.items() if trace not in own}
        self._files = {file for trace in own for file in self._results_of(trace)}
        self.is_of_other_bytes = any(trace.file_sha256 != sha256 for trace in own)

    def claim(self, files: Sequence[Path]) -> None:
        """Say whose the results will be, and remove the earlier ones.

        Args:
            files: All that may be written.

        Raises:
            InputError: One is there already, and not known to be an earlier result of this input.
        """
        obstacles = self._foreign | dict.fromkeys(
            file for file in files if os.path.lexists(file) and file not in self._files
        )
        if obstacles:
            file, trace = next(iter(obstacles.items()))
            owner = "which no earlier call for this input wrote" if trace is None else f"which is of {trace.file}"
            raise InputError(
                f"Expected nothing in the way of the results of {self._job.path}, found {file}, {owner}. It stays as it is: "
                "name another folder with --out, or move it."
            )
        earlier, self._files = self._files, self._files | set(files)
        names = sorted(file.relative_to(self._output).as_posix() for file in self._files)
        trace = self._trace.model_copy(update={"scans": [_Outputs(outputs=dict.fromkeys(names, ""))]})
        write_atomically(self._claim, trace.model_dump_json(indent=2))
        _remove([*earlier, self.record])

    def clear(self) -> None:
        """Remove the input's own results, record and claim."""
        _remove([*self._files, *({self.record, self._claim} - self._foreign.keys())])

    def release(self) -> None:
        """The record is there, so that the claim is not needed any more."""
        _remove([self._claim])

    def _is_own(self, trace: _Trace) -> bool:
        if trace.file_from_output is None:  # of a version that noted the path as it was given alone: relative, it may be any
            is_same_path = trace.file == str(self._job.path.absolute())
        else:
            is_same_path = trace.file_from_output == self._trace.file_from_output
        return is_same_path or trace.file_sha256 == self._trace.file_sha256

    def _results_of(self, trace: _Trace) -> list[Path]:
        """The files that it names, but none that could not be a result of this input: a record may come from anywhere."""
        target = self._job.target
        names = [Path(name) for scan in trace.scans for name in scan.outputs if name.endswith(RESULT_ENDINGS)]
        return [
            self._output / name
            for name in names
            if name.parent == target or (name.parent == target.parent and name.name.startswith(f"{target.name}_"))
        ]


def path_from(job: Job, output: Path) -> str:
    """Where an input lies, seen from the output folder: the same from whatever folder a call is made."""
    return Path(os.path.relpath(job.path, output)).as_posix()


def _read(file: Path) -> _Trace | None:
    """None of what is neither a record nor a claim. Of a damaged one the beginning will do."""
    try:
        return _Trace.model_validate(from_json(file.read_bytes(), allow_partial=True))
    except ValueError:
        return None


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
