"""Batches made ahead of time, by processes beside the one that trains."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from torch.utils.data import DataLoader

from slicewise.data.dataset import Batch, Epoch

__all__ = ["load_ahead"]

_AHEAD = 4
"""Batches that each process makes before they are asked for."""
_IGNORED = (signal.SIGINT, signal.SIGTERM)


def load_ahead(epoch: Epoch, first: int, processes: int, *, pin: bool) -> Iterator[Batch]:
    """The batches of an epoch from number ``first`` on, in order, whoever makes them.

    Args:
        epoch: What is made.
        first: Batches to leave out, because they were learned before an interruption.
        processes: How many make batches; 0: this one does.
        pin: In memory that a GPU can copy from on its own.
    """
    loader: DataLoader[Batch] = DataLoader(
        epoch,
        batch_size=None,  # an item is a batch
        sampler=range(first, len(epoch)),
        num_workers=processes,
        prefetch_factor=_AHEAD if processes else None,
        pin_memory=pin,
        worker_init_fn=_ignore_signals,
    )
    # Blocked while they are begun, so that no signal finds one that does not ignore it yet.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    yield from batches


def _ignore_signals(number: int) -> None:
    """Ctrl-C and a job scheduler's SIGTERM reach all processes of a group; the one that trains decides what they mean.

    Without it the others would be dead before the state is saved. They end when it does.
    """
    for received in _IGNORED:
        signal.signal(received, signal.SIG_IGN)
