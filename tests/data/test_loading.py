"""Processes that make batches: the same ones, in order, and not to be ended by what is meant for the training."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from slicewise.config import AugmentationConfig, TrainingConfig
from slicewise.data.dataset import Epoch, find_targets
from slicewise.data.loading import load_ahead


@pytest.fixture
def epoch(small_store, small_config):
    targets = find_targets(small_store.table, small_config.sources)
    order = np.arange(len(small_store))
    return Epoch(small_store, targets, order, TrainingConfig(batch_size=2), AugmentationConfig(), (3, 1, 0))


@pytest.mark.parametrize("processes", [0, 2])
def test_the_batches_are_those_of_the_epoch_whoever_makes_them(epoch, processes):
    loaded = list(load_ahead(epoch, 1, processes, pin=False))
    assert len(loaded) == len(epoch) - 1 > 1
    for place, batch in enumerate(loaded, start=1):
        for name in batch.__slots__:
            assert torch.equal(getattr(batch, name), getattr(epoch[place], name)), (place, name)


def test_signals_to_the_whole_group_do_not_end_them(epoch):
    before = set(_children())
    batches = load_ahead(epoch, 0, 2, pin=False)
    seen = [next(batches)]
    workers = set(_children()) - before
    assert len(workers) >= 2
    for worker in workers:
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGINT)
    seen += list(batches)
    assert len(seen) == len(epoch)


def _children():
    return [int(number) for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
