"""What is trained, in which order, from which weights: values, not scripts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from slicewise.config import Config, GateConfig, PhaseConfig
from slicewise.model.description import Task

__all__ = ["Phase", "next_attempt", "plan_phases"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One training from given weights to a checkpoint."""

    name: str
    """Name of the model it leaves, unique in a run."""
    folder: str
    """Where its checkpoint goes, within the run."""
    number: int
    """Enters every random draw, so that phases see different ones."""
    config: PhaseConfig
    """What it trains, on which losses, how fast and how long."""
    starts_from: str | None
    """The phase whose weights it starts from; None: from random ones."""
    tasks: tuple[Task, ...]
    """The heads that its model has been taught."""

    attempt: int = 1
    """Which training of this phase it is, where the gate asked for another."""

    @property
    def segments(self) -> bool:
        """The segmentation loss takes part."""
        return self.config.segmentation_weight > 0

    @property
    def classifies(self) -> bool:
        """The classification loss takes part."""
        return self.config.classification_weight > 0

    @property
    def trained_parts(self) -> dict[str, float]:
        """Peak learning rate of each part of the network that is not frozen and that one of the losses reaches."""
        rates = {
            "encoder": self.config.encoder_learning_rate,
            "decoder": self.config.decoder_learning_rate,
            "classifier": self.config.classifier_learning_rate,
        }
        return {part: rate for part, rate in rates.items() if rate > 0 and part in self.config.reached_parts}


def next_attempt(phase: Phase, gate: GateConfig) -> Phase:
    """Another training of a phase that the gate has refused: less classification, distillation, longer."""
    attempt = phase.attempt + 1
    config = phase.config.model_copy(
        update={
            "classification_weight": phase.config.classification_weight * gate.weight_factor,
            "distillation_weight": gate.distillation_weight,
            "epochs": phase.config.epochs if attempt > 2 else math.ceil(phase.config.epochs * gate.length_factor),
        }
    )
    return replace(phase, config=config, attempt=attempt)


def plan_phases(config: Config, joint_epochs: int | None = None) -> list[Phase]:
    """The phases of a run in the order of training.

    The single-task models are trained as the joint one is, less the other task: *segmentation_only* goes on from the
    segmentation phase for the length and at the rates of the joint phase without the classification loss;
    *classification_only* trains encoder and head, from random weights, for the epochs of both phases together.

    Args:
        config: The run.
        joint_epochs: Longest duration of the joint training that was kept, where there is one: the gate may have asked for
            a longer one than was configured.
    """
    given = config.phases
    joint_epochs = joint_epochs or given.joint.epochs
    both: tuple[Task, ...] = ("segmentation", "classification")
    phases = [
        Phase("segmentation", "phases/segmentation", 1, given.segmentation, None, ("segmentation",)),
        Phase("classification", "phases/classification", 2, given.classification, "segmentation", both),
        Phase("joint", "phases/joint", 3, given.joint, "classification", both),
    ]
    if not config.training.single_task:
        return phases
    segmentation_only = given.joint.model_copy(
        update={"epochs": joint_epochs, "classifier_learning_rate": 0.0, "classification_weight": 0.0}
    )
    classification_only = PhaseConfig(
        epochs=given.segmentation.epochs + joint_epochs,
        encoder_learning_rate=given.segmentation.encoder_learning_rate,
        classifier_learning_rate=given.segmentation.encoder_learning_rate,
        classification_weight=1.0,
    )
    return [
        *phases,
        Phase("segmentation_only", "single_task/segmentation", 4, segmentation_only, "segmentation", ("segmentation",)),
        Phase("classification_only", "single_task/classification", 5, classification_only, None, ("classification",)),
    ]
