"""One step: forward, loss of the whole batch, backward, update; and how far the two tasks pull the encoder apart."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from slicewise.config import TrainingConfig
from slicewise.data.dataset import Batch, Epoch
from slicewise.data.loading import load_ahead
from slicewise.errors import TrainingError
from slicewise.model.network import MultiTaskNetwork
from slicewise.training.losses import Losses, Objective
from slicewise.training.phases import Phase
from slicewise.training.processes import gather_step

__all__ = ["Learner", "gradient_cosine"]

_LOOK_EVERY = 20  # steps between two looks at a GPU's losses, each of which would wait for it


class Learner:
    """Takes steps.

    Args:
        fabric: Device, precision, processes.
        network: What learns; on the device, its trained parts and modes set.
        optimizer: Of its trained parts and the objective.
        objective: What is minimized.
        phase: Which heads run.
        settings: Balancing, clipping, compilation.
        teacher: Whose masks are distilled, where the phase distills.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: MultiTaskNetwork,
        optimizer: Optimizer,
        objective: Objective,
        phase: Phase,
        settings: TrainingConfig,
        teacher: MultiTaskNetwork | None = None,
    ) -> None:
        self._fabric, self._phase, self._objective, self._bare = fabric, phase, objective, network
        self._clip_norm, self._loaders = settings.gradient_clip_norm, settings.loaders
        self._network, self._optimizer = fabric.setup(_compiled(network, fabric) if settings.compile else network, optimizer)
        distills = phase.config.distillation_weight > 0
        self._teacher = teacher.folded().to(fabric.device) if teacher is not None and distills else None
        shares = phase.segments and phase.classifies and "encoder" in phase.trained_parts
        self._projection: Any = _pcgrad() if settings.balancing == "pcgrad" and shares else None
        # Not every accelerator has float64.
        precise = fabric.device.type in ("cpu", "cuda")
        self.sums = torch.zeros(3, dtype=torch.float64 if precise else torch.float32, device=fabric.device)
        """Of the losses: total, segmentation, classification."""
        self._norms = torch.zeros((), device=fabric.device)
        self._steps = 0

    def learn(self, batch: Batch) -> list[float]:
        """One step; returns total, segmentation and classification loss, NaN where a GPU would have to be waited for."""
        fabric, phase = self._fabric, self._phase
        images = batch.images.contiguous(memory_format=torch.channels_last)
        logits = self._network(images, segment=phase.segments, classify=phase.classifies)
        teacher = None
        if self._teacher is not None:
            with torch.no_grad(), fabric.autocast():
                mask = self._teacher(images, classify=False).mask
            teacher = torch.sigmoid(mask.float())  # outside, where it stays in single precision
        logits, whole = gather_step(fabric, logits, batch)
        if teacher is not None and fabric.world_size > 1:
            teacher = fabric.all_gather(teacher).transpose(0, 1).flatten(0, 1)
        losses = self._objective(logits, whole, teacher)
        self._optimizer.zero_grad()
        if self._projection is None:
            fabric.backward(losses.total)
        else:
            self._project(losses)
        norm = fabric.clip_gradients(self._network, self._optimizer, max_norm=self._clip_norm, error_if_nonfinite=False)
        self._optimizer.step()
        self._steps += 1
        detached = torch.stack([loss.detach() for loss in losses[:3]]).to(self.sums.dtype)
        self.sums += detached
        # A gradient may be infinite where the loss is not, and spoils the weights all the same.
        self._norms += norm.detach()
        if fabric.device.type != "cpu" and self._steps % _LOOK_EVERY:
            return [math.nan] * 3
        return list(detached.tolist())

    def check_finite(self, epoch: int) -> None:
        """Look at losses and gradients.

        Raises:
            TrainingError: One of them was not finite.
        """
        total, norms = self.sums[0].item(), self._norms.item()
        if not math.isfinite(total + norms):
            raise TrainingError(
                f"Expected a finite {'gradient' if math.isfinite(total) else 'loss'} in phase {self._phase.name}, epoch "
                f"{epoch + 1}, got {total + norms}. The last good state is kept, and from there it would be the same "
                "again: lower the phase's learning rates and begin a new run."
            )

    def prefetch(self, epoch: Epoch, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``first`` on, on the device. A GPU's are made by processes beside it."""
        if self._fabric.device.type != "cuda":
            for step in range(first, len(epoch)):
                yield epoch[step].to(self._fabric.device)
            return
        processes = max(1, (os.cpu_count() or 1) - 1) if self._loaders is None else self._loaders
        for batch in load_ahead(epoch, first, processes, pin=True):
            yield batch.to(self._fabric.device)

    def _project(self, losses: Losses) -> None:
        """PCGrad (Yu et al. 2020, https://arxiv.org/abs/2001.06782) of the encoder's gradients; the heads have one task."""
        tasks = [
            self._phase.config.segmentation_weight * losses.segmentation
            + self._phase.config.distillation_weight * losses.distillation,
            self._phase.config.classification_weight * losses.classification,
        ]
        shared = list(self._bare.part_parameters(("encoder",)))
        gradients = [torch.autograd.grad(task, shared, retain_graph=True, allow_unused=True) for task in tasks]
        self._fabric.backward(losses.total)
        matrix = torch.stack([_flatten(gradient, shared) for gradient in gradients])
        combined = self._projection(matrix)
        start = 0
        for parameter in shared:
            parameter.grad = combined[start : start + parameter.numel()].view_as(parameter).clone()
            start += parameter.numel()


def gradient_cosine(fabric: Fabric, network: MultiTaskNetwork, objective: Objective, batch: Batch) -> float | None:
    """Cosine between the gradients of the two tasks with respect to the encoder: below 0 they pull against each other.

    Measured in evaluation mode, without dropout, so that it changes neither statistics nor random numbers.

    Args:
        fabric: The processes that share the batch.
        network: Left as it was, modes included.
        objective: Gives the two losses.
        batch: A process's share.

    Returns:
        In [-1, 1]; None where the phase has one task, the encoder is frozen, or a gradient is 0.
    """
    phase = objective.phase
    shared = list(network.part_parameters(("encoder",)))
    if not (phase.segmentation_weight and phase.classification_weight and shared[0].requires_grad):
        return None
    modes = {module: module.training for module in network.modules()}
    network.eval()
    losses = objective(*gather_step(fabric, network(batch.images.contiguous(memory_format=torch.channels_last)), batch))
    gradients = [
        _flatten(torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True), shared)
        for loss in (losses.segmentation, losses.classification)
    ]
    for module, training in modes.items():
        module.training = training
    first, second = (fabric.all_reduce(gradient, reduce_op="mean") for gradient in gradients)
    cosine = float(F.cosine_similarity(first, second, dim=0))
    return cosine if first.any() and second.any() and math.isfinite(cosine) else None


def _flatten(gradients: tuple[Tensor | None, ...], parameters: list[torch.nn.Parameter]) -> Tensor:
    return torch.cat(
        [
            torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ]
    )


def _compiled(network: MultiTaskNetwork, fabric: Fabric) -> Any:
    if fabric.device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        raise TrainingError(
            "Expected a C++ compiler for training.compile=true, found neither g++ nor clang++. Install one, or set "
            "training.compile=false."
        )
    torch.compiler.reset()  # each phase has its own heads and frozen parts
    return torch.compile(network, dynamic=False)


def _pcgrad() -> Any:
    try:
        from torchjd.aggregation import PCGrad
    except ModuleNotFoundError:
        raise TrainingError(
            "Expected the package torchjd for training.balancing=pcgrad. Install slicewise[pcgrad], or set another."
        ) from None
    return PCGrad()
