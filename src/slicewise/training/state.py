"""The state of a phase on disk: what a training that was killed goes on from, bit by bit.

A state is one file, its SHA-256 first. It appears whole or not at all; the last two are kept, so that a damaged one costs
the time since the one before it and not the run.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from slicewise.errors import TrainingError
from slicewise.files import write_atomically

__all__ = ["StateKeeper", "digest_of"]

_KEPT = 2
_DIGEST_BYTES = 32
_NAME = re.compile(r"step_(\d+)\.state")


class StateKeeper:
    """The states of one phase, in a folder of their own.

    Args:
        folder: Made with the first state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any], step: int) -> None:
        """Write a state of plain values and tensors; the one before it stays.

        Args:
            state: Nested dicts and lists.
            step: Steps taken so far; orders the states.

        Raises:
            TrainingError: The operating system refused, because the disk is full for example. What was there is there still.
        """
        stream = io.BytesIO()
        torch.save(state, stream)
        content = stream.getvalue()
        file = self.folder / f"step_{step:09}.state"
        try:
            write_atomically(file, hashlib.sha256(content).digest() + content)
        except OSError as error:
            last = self._files()
            kept = f"The state after step {_step_of(last[0])} is kept" if last else "No state was kept before"
            raise TrainingError(
                f"Expected to save the state after step {step} in {self.folder}, the operating system refused: {error}. "
                f"{kept}; mend the cause and go on with --resume."
            ) from None
        for old in self._files()[_KEPT:]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole; None where there is none at all.

        Raises:
            TrainingError: There are states, and all are damaged.
        """
        files = self._files()
        for place, file in enumerate(files):
            content = file.read_bytes()
            if hashlib.sha256(content[_DIGEST_BYTES:]).digest() == content[:_DIGEST_BYTES]:
                for damaged in files[:place]:  # they would count as the newest for ever
                    damaged.unlink()
                state: dict[str, Any] = torch.load(
                    io.BytesIO(content[_DIGEST_BYTES:]), map_location="cpu", weights_only=True
                )
                return state
        if files:
            raise TrainingError(
                f"Expected a whole state of the training in {self.folder}, all {len(files)} are damaged. Remove this "
                "folder: the phase then begins again, and phases that are finished stay."
            )
        return None

    @property
    def exists(self) -> bool:
        """A training was interrupted here."""
        return bool(self._files())

    def discard(self) -> None:
        """Remove all states: the phase has its checkpoint."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((file for file in self.folder.iterdir() if _NAME.fullmatch(file.name)), key=_step_of, reverse=True)


def digest_of(state: Any) -> str:
    """SHA-256 of nested dicts, lists, plain values and tensors, the same for equal content."""
    digest = hashlib.sha256()
    _feed(digest, state)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        digest.update(f"{{{len(value)}".encode())
        for key, item in value.items():
            digest.update(f"{key!r}:".encode())
            _feed(digest, item)
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(json.dumps(value).encode())


def _step_of(file: Path) -> int:
    match = _NAME.fullmatch(file.name)
    return int(match.group(1)) if match else -1
