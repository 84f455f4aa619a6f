"""One training in several processes: global batches, global statistics, global losses, so that their number changes rounding
alone.

Each process runs the network on its share of a batch. The statistics of BatchNorm are summed over all. Logits are gathered
before the loss, because a batch's Dice is not the mean of its parts' Dice. Every process then computes the loss of the whole
batch; the mean of the gradients, which data parallelism takes, is the gradient of one process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from slicewise.config import TrainingConfig
from slicewise.data.dataset import Batch, Share
from slicewise.errors import TrainingError
from slicewise.model.network import Logits

__all__ = [
    "agree",
    "gather_items",
    "gather_step",
    "is_launched",
    "launch",
    "open_fabric",
    "share_of",
    "synchronize_statistics",
]

Item = TypeVar("Item")


def is_launched() -> bool:
    """This process is one of several that a launcher such as ``torchrun`` started."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(words: Sequence[str], devices: int) -> int:
    """Run ``slicewise WORDS`` in one process a device on this machine, by ``torchrun``; returns the exit code.

    Several machines are launched by hand, with ``torchrun --nnodes`` on each of them. SIGTERM and Ctrl-C are passed on.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    received: list[int] = []
    with subprocess.Popen([*launcher, "-m", "slicewise", *words]) as process:

        def pass_on(number: int, frame: FrameType | None) -> None:
            received.append(number)
            process.send_signal(number)

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return 128 + received[0] if received else code


def open_fabric(config: TrainingConfig) -> Fabric:
    """Devices and precision as configured; in several processes, connected.

    Raises:
        TrainingError: The accelerator is not there, or another number of processes was launched.
    """
    several = config.devices * config.nodes > 1
    launched = int(os.environ.get("WORLD_SIZE", "1")) if is_launched() else 1
    if launched != config.devices * config.nodes:
        raise TrainingError(
            f"Expected {config.devices} × {config.nodes} processes (training.devices × training.nodes), got {launched}. "
            "Start them with `slicewise train RUN --devices N`, or on each of several machines with `torchrun`."
        )
    # Convolutions on a GPU use TF32 already: the head's few matrix products need not be more exact. A CPU's stay exact.
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy="ddp" if several else "auto",
            precision=config.precision,
        )
    except (RuntimeError, MisconfigurationException):  # Fabric's answers to what the machine lacks
        raise TrainingError(
            f"Expected {config.devices} × the accelerator {config.accelerator}, this machine has fewer or none that can be "
            "used. Go on with `slicewise train RUN training.accelerator=auto training.devices=1`."
        ) from None
    fabric.launch()
    return fabric


def agree(fabric: Fabric, wish: bool) -> bool:
    """Does any process wish it? Asked by all at the same place, so that none goes on alone."""
    return wish if fabric.world_size == 1 else fabric.strategy.reduce_boolean_decision(wish, all=False)


def share_of(fabric: Fabric) -> Share:
    """Which part of every batch this process sees."""
    return Share(fabric.global_rank, fabric.world_size)


def gather_step(fabric: Fabric, logits: Logits, batch: Batch) -> tuple[Logits, Batch]:
    """What all processes computed of a batch, in its order; gradients flow back to each."""
    if fabric.world_size == 1:
        return logits, batch

    def whole(part: Tensor | None) -> Any:
        if part is None:
            return None
        gathered = fabric.all_gather(part.float(), sync_grads=part.requires_grad)
        # Process r holds the slices r, r + processes, …
        return gathered.transpose(0, 1).flatten(0, 1).to(part.dtype)

    coarse = tuple(whole(part) for part in logits.coarse_masks)
    return Logits(whole(logits.mask), whole(logits.tumor), coarse), Batch(
        *(whole(getattr(batch, name)) for name in batch.__slots__)
    )


def gather_items(fabric: Fabric, items: list[Item]) -> list[Item]:
    """The items of all processes, where process r holds the items r, r + processes, … of a list."""
    if fabric.world_size == 1:
        return items
    parts: list[list[Item]] = [[] for _ in range(fabric.world_size)]
    dist.all_gather_object(parts, items)
    whole: list[Any] = [None] * sum(map(len, parts))
    for rank, part in enumerate(parts):
        whole[rank :: fabric.world_size] = part
    return whole


def synchronize_statistics(network: nn.Module) -> None:
    """Make every BatchNorm compute its statistics over the batches of all processes; weights and buffers stay."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                synchronized = _SynchronizedBatchNorm(child.num_features, child.eps, child.momentum)
                synchronized.load_state_dict(child.state_dict())
                synchronized.train(child.training)
                setattr(parent, name, synchronized)


class _SynchronizedBatchNorm(nn.BatchNorm2d):
    """BatchNorm over all processes, on any device: PyTorch's own is for GPUs alone."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # Differences from the running mean, which all processes share: sums of squares of large values would lose them.
        values = features.float() - self.running_mean.view(1, -1, 1, 1)
        count = torch.full((1,), values.numel() / values.shape[1], device=values.device)
        sums = torch.cat([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3)), count])
        sums = _SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
        total, square, count = sums[: self.num_features], sums[self.num_features : -1], sums[-1]
        mean = total / count
        variance = (square / count - mean.square()).clamp_min(0)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normalized = (values * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(features.dtype)
        with torch.no_grad():
            momentum = self.momentum if self.momentum is not None else 0.1
            self.num_batches_tracked += 1
            self.running_mean.add_(mean, alpha=momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
        return normalized


class _SumOverProcesses(torch.autograd.Function):
    """A sum in which every process's part has a gradient: the sum of what all processes make of it."""

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        return whole
