"""What a run is, in typed sections; `slicewise.config_file` reads them from YAML and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "AuditConfig",
    "AugmentationConfig",
    "Config",
    "EvaluationConfig",
    "GateConfig",
    "LoggingConfig",
    "ModelConfig",
    "PhantomConfig",
    "PhaseConfig",
    "PhasesConfig",
    "SourceConfig",
    "SplitConfig",
    "TrainingConfig",
]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Sequence = Literal["t1", "t1ce", "t2", "flair"]


def _without_repeats(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("each may be named once")
    return names


class _Section(BaseModel):
    """Unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class SourceConfig(_Section):
    """One data source in its publisher's layout."""

    layout: Literal["brats", "lgg", "brisc", "labelled_folders"]
    """Which reader understands the folder."""
    path: Path | None = None
    """The folder; may be left to an override, ``sources.NAME.path=FOLDER``."""
    sequences: Annotated[tuple[Sequence, ...], AfterValidator(_without_repeats)] = ()
    """MR sequences to read from layouts that hold several (brats, lgg); empty: flair alone for lgg, all for brats."""
    year: Literal[2020, 2021, 2023, 2024] | None = None
    """BraTS edition, which decides what the label integers mean; None: read from the names of the studies."""
    segmentation: bool = True
    """Let the source's masks teach and score segmentation."""
    classification: bool = True
    """Let the source's labels teach and score classification; off where the source gives the label away."""
    licence: str | None = None
    """Attribution and licence of the data, for the card of a model that was trained on it."""


class PhantomConfig(_Section):
    """A generated cohort in the real layouts, in place of ``sources``."""

    patients: Positive = 36
    """Studies in the BraTS-named folder; two in three have a tumor."""
    pictures: Positive = 60
    """Pictures in the yes/no folder, of other patients; half show a tumor."""
    slices: Annotated[int, Field(ge=4, le=155)] = 20
    """Axial slices in a study, evenly spaced over the brain."""
    sequences: Annotated[tuple[Sequence, ...], Field(min_length=1), AfterValidator(_without_repeats)] = ("flair",)
    """MR sequences in a study."""


class AuditConfig(_Section):
    """What may be wrong with the data without stopping a run."""

    accept: Annotated[tuple[str, ...], AfterValidator(_without_repeats)] = ()
    """Names of audit rules whose findings of error level are known and taken."""


class SplitConfig(_Section):
    """Shares of the patients; what remains after train and val is test."""

    train: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.65
    """Share of patients that the weights are fitted on."""
    val: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of patients on which checkpoints and thresholds are chosen."""
    held_out: Annotated[tuple[str, ...], AfterValidator(_without_repeats)] = ()
    """Names of sources all of whose patients are test patients, and those of others who share a picture with them."""

    @model_validator(mode="after")
    def _leaves_room_for_test(self) -> SplitConfig:
        if self.train + self.val >= 1.0:
            raise ValueError(f"train + val must leave room for test (below 1), got {self.train + self.val:g}")
        return self


class ModelConfig(_Section):
    """The network's shape."""

    widths: Annotated[tuple[Positive, ...], Field(min_length=3, max_length=6)] = (32, 64, 128, 192)
    """Channels of each encoder level, finest first: the first has a quarter of the slice's side, each further one half."""
    blocks: tuple[Annotated[int, Field(ge=0, le=8)], ...] = (2, 2, 3, 1)
    """Residual blocks of each encoder level."""
    decoder_width: Positive = 32
    """Channels of every map of the decoder."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Dropout before the classification head's last layer."""
    deep_supervision: Annotated[int, Field(ge=0, le=5)] = 0
    """Coarser maps of the decoder that have an output of their own, which training supervises as well; 0 has none."""

    @model_validator(mode="after")
    def _is_as_deep_as_wide(self) -> ModelConfig:
        if len(self.blocks) != len(self.widths):
            raise ValueError(
                f"blocks must have a number for each of the {len(self.widths)} levels that widths has, got "
                f"{len(self.blocks)}"
            )
        return self


class AugmentationConfig(_Section):
    """Ranges of the random changes made to training batches; 0 turns one off."""

    flip_probability: Fraction = 0.5
    """Left-right mirror images."""
    turn_probability: Fraction = 0.0
    """Share of the slices that are turned by one, two or three quarters, as pictures of unknown origin come."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Rotation, uniform in ±."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Magnification, log-uniform in 1/(1 + scale) to 1 + scale."""
    shift: Fraction = 0.05
    """Translation as a share of the image side, uniform in ±."""
    elastic: Annotated[float, Field(ge=0, le=0.03)] = 0.015
    """Displacement of a coarse grid's points as a share of the image side, uniform in ±; beyond 0.03 tissue could fold."""
    strip_probability: Fraction = 0.0
    """Share of the slices whose scalp and skull are taken off, roughly, and which are normalized anew without them."""
    remap_probability: Fraction = 0.0
    """Share of the slices that get another contrast: a random curve over their intensities, which need not rise."""
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Exponent of the intensity curve, log-uniform in 1/(1 + gamma) to 1 + gamma."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Gain, uniform in 1 ±; offsets are drawn in ± the same number of standard deviations."""
    bias_field: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Amplitude of a smooth multiplicative field."""
    blur_probability: Fraction = 0.1
    """Share of the slices that are blurred."""
    blur_px: Annotated[float, Field(ge=0)] = 1.0
    """Largest standard deviation of the Gaussian blur in pixels."""
    low_resolution_probability: Fraction = 0.15
    """Share of the slices whose acquired matrix is smaller along the phase-encode axis, with Gibbs ringing."""
    low_resolution: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Largest share of the phase-encode lines that is missing."""
    ghost_probability: Fraction = 0.1
    """Share of the slices with ghosts along the phase-encode axis."""
    ghost: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Modulation of the phase-encode lines, uniform in ±; the ghosts together have less of the signal than that."""
    motion_probability: Fraction = 0.1
    """Share of the slices in which the head moves once, along the phase-encode axis."""
    motion_px: Annotated[float, Field(ge=0)] = 3.0
    """That movement in pixels, uniform in ±."""
    spike_probability: Fraction = 0.1
    """Share of the slices with one corrupted sample in k-space, a herringbone."""
    spike: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest amplitude of the herringbone as a share of the intensity range."""
    noise: Annotated[float, Field(ge=0)] = 0.1
    """Largest standard deviation of the noise in either channel of the receiver, in standard deviations of the image."""


class PhaseConfig(_Section):
    """What one phase of training does: a part with a learning rate of 0 is frozen, BatchNorm statistics included."""

    epochs: Positive = 10
    """Longest duration; early stopping may end it sooner."""
    encoder_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Peak learning rate of the shared encoder."""
    decoder_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Peak learning rate of the segmentation decoder."""
    classifier_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Peak learning rate of the classification head."""
    segmentation_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the segmentation loss; 0 leaves it out."""
    classification_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight λ of the classification loss; 0 leaves it out."""
    distillation_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss that holds the masks to those of the segmentation phase, or of ``training.teacher``, on every
    slice, whether or not its mask is known; 0 leaves it out."""

    @property
    def reached_parts(self) -> frozenset[str]:
        """The parts of the network that a loss of this phase depends on."""
        drawing = ("encoder", "decoder") if self.segmentation_weight > 0 else ()
        deciding = ("encoder", "classifier") if self.classification_weight > 0 else ()
        return frozenset(drawing + deciding)

    @model_validator(mode="after")
    def _learns_something(self) -> PhaseConfig:
        if not (self.segmentation_weight or self.classification_weight):
            raise ValueError("a phase needs segmentation_weight or classification_weight above 0")
        if not any(getattr(self, f"{part}_learning_rate") for part in self.reached_parts):
            parts = ", ".join(sorted(self.reached_parts))
            raise ValueError(f"a phase needs a learning rate above 0 for a part that its losses reach ({parts})")
        return self


class PhasesConfig(_Section):
    """The three phases, as three values fed to one loop."""

    segmentation: PhaseConfig = PhaseConfig(
        epochs=10, encoder_learning_rate=1e-3, decoder_learning_rate=1e-3, segmentation_weight=1.0
    )
    """Warm-up of encoder and decoder on the slices whose mask is known."""
    classification: PhaseConfig = PhaseConfig(epochs=3, classifier_learning_rate=1e-3, classification_weight=1.0)
    """The classification head alone, on top of the frozen encoder."""
    joint: PhaseConfig = PhaseConfig(
        epochs=8,
        encoder_learning_rate=1e-4,
        decoder_learning_rate=3e-4,
        classifier_learning_rate=3e-4,
        segmentation_weight=1.0,
        classification_weight=0.3,
    )
    """Everything together, the encoder slower than the heads."""

    @model_validator(mode="after")
    def _joint_phase_segments(self) -> PhasesConfig:
        # The gate judges its masks, which would change with the encoder all the same.
        if not self.joint.segmentation_weight:
            raise ValueError("phases.joint.segmentation_weight must be above 0: phase classification trains the head alone")
        return self


class TrainingConfig(_Section):
    """How the one loop runs, whatever the phase."""

    batch_size: Positive = 8
    """Slices in a batch, of all devices together."""
    masked_fraction: Fraction | None = 0.75
    """Share of the draws that comes from sequences of a source with masks of tumors; the rest knows only yes or no. Without
    both kinds it does not apply. None: in proportion to their slices."""
    source_balance: Fraction = 0.0
    """How far sources and sequences of one kind are drawn alike: 0 in proportion to their slices, 1 equally often."""
    tumor_fraction: Fraction = 0.5
    """Share of tumor slices among those drawn, so that the rarer class is seen as often."""
    epoch_slices: Positive | None = None
    """Slices drawn in an epoch; None: as many as there are to train on. A last batch that is not whole is left out."""
    empty_masks: bool = True
    """Tumor-free slices teach the decoder an empty mask."""
    per_masked_slice: bool = True
    """The segmentation loss is divided by the slices with a known mask, not by the size of the batch."""
    slice_dice_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the Dice loss of single slices with tumor, beside that of the whole batch: small tumors then count as much
    as large ones."""
    freeze_statistics: bool = True
    """BatchNorm's running statistics of frozen parts are frozen too."""
    balancing: Literal["weighted", "uncertainty", "pcgrad"] = "weighted"
    """How the two tasks share the encoder: by the phase's weights alone, by learned uncertainties (Kendall et al. 2018), or
    with conflicting gradients projected (PCGrad, Yu et al. 2020; needs ``slicewise[pcgrad]``, one device and no
    compilation)."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """AdamW's decoupled weight decay."""
    warmup_fraction: Fraction = 0.05
    """Share of a phase's steps over which the learning rate rises before its cosine descent."""
    gradient_clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay per step of the averaged weights that are validated and kept; 0 turns averaging off."""
    patience: Positive = 6
    """Epochs without a better validation figure after which a phase ends early."""
    save_interval_s: Annotated[float, Field(ge=0)] = 300.0
    """Longest time between two states on disk; one is also saved after every epoch."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning Fabric's precision; on the CPUs measured so far bf16-mixed did not help training."""
    loaders: Annotated[int, Field(ge=0)] | None = None
    """Processes that read and augment beside a GPU; None: one for each core but one. A CPU needs none, and has none."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Lightning Fabric's accelerator."""
    devices: Positive = 1
    """Processes on each node that train together, one a device."""
    nodes: Positive = 1
    """Machines that train together."""
    compile: bool = False
    """Compile the network first (torch.compile): a minute that pays off from some thousand steps on."""
    teacher: Path | None = None
    """Checkpoint whose masks are distilled, of any architecture (Hinton et al. 2015, https://arxiv.org/abs/1503.02531);
    None: that of the segmentation phase."""
    single_task: bool = True
    """Also train the two single-task models that the joint one is compared with."""

    @model_validator(mode="after")
    def _divides(self) -> TrainingConfig:
        processes = self.devices * self.nodes
        if self.batch_size % processes:
            raise ValueError(f"batch_size must be a multiple of devices × nodes ({processes}), got {self.batch_size}")
        if self.balancing == "pcgrad" and (processes > 1 or self.precision != "32-true" or self.compile):
            raise ValueError("balancing by pcgrad needs devices=1, nodes=1, precision=32-true and compile=false")
        return self


class GateConfig(_Section):
    """When a joint model is kept, and what is tried where it is not."""

    margin: Annotated[float, Field(ge=0)] = 0.01
    """Largest loss of mean volume Dice against the segmentation phase, over validation patients, that is taken."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the one-sided interval that must lie above minus the margin."""
    resamples: Annotated[int, Field(ge=1000)] = 10_000
    """Of the paired bootstrap over patients."""
    attempts: Annotated[int, Field(ge=0)] = 1
    """Further joint trainings where no epoch passes; the last resort is the model of the classification phase."""
    weight_factor: Annotated[float, Field(gt=0, le=1)] = 0.3
    """λ of a further attempt, as a multiple of the one before."""
    length_factor: Annotated[float, Field(ge=1)] = 1.5
    """Epochs of a further attempt, as a multiple of those configured."""
    distillation_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the distillation in a further attempt, as `PhaseConfig.distillation_weight`."""


class LoggingConfig(_Section):
    """Where the course of a training can be watched, beside ``history.csv`` and ``curves.png``."""

    backend: Literal["tensorboard", "mlflow", "wandb", "none"] = "tensorboard"
    """Logger; mlflow and wandb need ``slicewise[mlflow]`` or ``slicewise[wandb]`` and follow their own variables."""
    example_epochs: Annotated[int, Field(ge=0)] = 5
    """Epochs between two sheets of example predictions on validation slices; 0 draws none."""
    examples: Annotated[int, Field(ge=1, le=24)] = 6
    """Slices on a sheet."""


class EvaluationConfig(_Section):
    """How predictions become decisions, and how they are scored."""

    sensitivity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.97
    """Slice sensitivity on validation that the operating threshold must reach."""
    specificity: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Slice specificity on validation down to which the threshold is lowered further, as a margin for the sensitivity; None:
    it is not."""
    false_mask_rate: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Largest share of tumor-free validation slices that get a mask; a less probable tumor is called without one ("not
    localized"). None: every slice that is called gets the decoder's mask."""
    mask_threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Tumor probability from which a pixel belongs to the mask."""
    explanations: Annotated[int, Field(ge=16)] = 16
    """Test slices shown with Grad-CAM."""
    resamples: Annotated[int, Field(ge=1000)] = 2000
    """Of the bootstrap over patients that intervals come from."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Of these intervals, two-sided."""
    uncertainty: bool = True
    """Ask the joint model again of augmented views of every slice, with dropout, to know how sure it is."""
    coverage: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """Share of the validation slices that are answered; the least certain others are referred to a reader."""
    prevalences: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] = (
        0.01,
        0.05,
        0.1,
        0.3,
        0.5,
    )
    """Shares of tumor slices for which predictive values are reported."""


class Config(_Section):
    """A whole run."""

    name: str = "slicewise"
    """Shown in the report's title."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 20261123
    """The one seed: split, order of slices, augmentation and initial weights follow from it."""
    sources: dict[str, SourceConfig] = {}
    """Data sources by name."""
    phantom: PhantomConfig | None = None
    """Generate a phantom cohort and use it in place of ``sources``."""
    workers: Positive = 2
    """Processes that read and preprocess studies."""
    clean: Path | None = None
    """Table by ``slicewise audit --write-clean`` of the files to leave out; None: leave out none."""
    audit: AuditConfig = AuditConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig = TrainingConfig()
    phases: PhasesConfig = PhasesConfig()
    gate: GateConfig = GateConfig()
    logging: LoggingConfig = LoggingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _has_data(self) -> Config:
        if bool(self.sources) == (self.phantom is not None):
            raise ValueError("give either sources or phantom, not both and not neither")
        joint = self.phases.joint
        if self.training.single_task and not (
            self.phases.segmentation.encoder_learning_rate and (joint.encoder_learning_rate or joint.decoder_learning_rate)
        ):
            raise ValueError(
                "training.single_task needs phases.segmentation.encoder_learning_rate above 0 and a joint phase that "
                "trains encoder or decoder; set it to false"
            )
        if self.model.deep_supervision > len(self.model.widths) - 2:
            raise ValueError(f"model.deep_supervision must leave the finest map, at most {len(self.model.widths) - 2}")
        return self

    @model_validator(mode="after")
    def _first_phases_keep_to_their_tasks(self) -> Config:
        first, second = self.phases.segmentation, self.phases.classification
        for name, weight in (
            ("segmentation.classification_weight", first.classification_weight),
            ("classification.segmentation_weight", second.segmentation_weight),
            ("classification.distillation_weight", second.distillation_weight),
        ):
            if weight:
                raise ValueError(
                    f"phases.{name} must be 0, got {weight:g}: phase segmentation learns masks alone, phase classification "
                    "labels alone"
                )
        if first.distillation_weight and self.training.teacher is None:
            raise ValueError(
                "phases.segmentation.distillation_weight above 0 needs training.teacher, the checkpoint whose masks are "
                f"distilled, got {first.distillation_weight:g} without: no phase comes before; set it to 0 or name a teacher"
            )
        return self
