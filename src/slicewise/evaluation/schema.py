"""The shape of ``results.json``, published as ``docs/results.schema.json``; what does not fit it is not written.

A figure that is undefined is null, with n = 0.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Results"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class Range(_Part):
    """A value and its interval."""

    value: float | None
    low: float | None
    high: float | None


class Measured(Range):
    """A figure and what stands behind it."""

    n_slices: int
    n_patients: int
    interval: Literal["bootstrap", "wilson"] | None = None
    """How the interval was made: by a bootstrap over patients, or Wilson's."""


class Share(Range):
    """A rate of slices."""

    n_slices: int


class Sample(_Part):
    """How intervals are made."""

    resamples: int
    confidence: float
    seed: int


class ModelResult(_Part):
    """One model."""

    test: dict[str, Measured] = {}
    """Figures by metric, on test patients."""
    val: dict[str, Measured] = {}
    """The same on validation patients."""
    model_id: str | None = None
    threshold: float | None = None
    mask_from: float | None = None
    decoder_share: float | None = None
    center: float | None = None
    temperature: float | None = None
    parameters: int | None = None
    epochs: int | None = None
    duration_s: float | None = None
    gate: dict[str, Any] | None = None
    data_fingerprint: str | None = None
    starts_from: tuple[str, ...] | None = None
    teacher: str | None = None


class ConstantAnswer(_Part):
    """The model against the better of two constant answers."""

    answer: Literal["tumor", "no tumor"]
    accuracy: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    """McNemar's, exact; none where slices share a patient, for it takes them as independent."""
    only_model_right: int
    only_baseline_right: int
    beaten: bool


class Test(_Part):
    """A paired test."""

    test: str
    metric: str
    statistic: str
    """``only one right``, slices (McNemar); ``z`` (DeLong); ``T``, the smaller rank sum (Wilcoxon)."""
    statistic_value: float | None
    p_value: float | None
    p_adjusted: float | None
    """By Holm, over all tests of the file."""
    effect: str
    effect_size: float | None
    n_slices: int
    n_patients: int


class Noninferiority(_Part):
    """Is the volume Dice not inferior?"""

    margin: float
    confidence: float
    low: float | None
    shown: bool
    n_slices: int
    n_patients: int


class Comparison(_Part):
    """The main model against another."""

    model: str
    against: str
    differences: dict[str, Measured]
    tests: list[Test]
    noninferiority: Noninferiority | None
    refused: str | None
    """Why there is no test."""


class Bin(_Part):
    """Of a reliability diagram."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    tumor_share: float | None
    share_low: float | None
    share_high: float | None


class Moment(_Part):
    """Of the probabilities, before or after they are calibrated."""

    expected_calibration_error: Measured
    brier_score: Measured
    bins: list[Bin]


class Benefit(_Part):
    """A point of the decision curve."""

    threshold: float
    model: float | None
    treat_all: float | None
    treat_none: float | None


class PredictiveValues(_Part):
    """What an answer is worth at a prevalence."""

    prevalence: float
    ppv: Range
    npv: Range


class Uncertainty(_Part):
    """Referring the least certain slices to a reader."""

    error_rate: float
    area_under_risk_coverage: float | None
    area_of_probability: float | None
    """The same with the distance of the probability from the threshold as the certainty."""
    coverage_asked: float
    referral_threshold: float | None
    coverage: float
    kept: Share
    referred: Share
    n_slices: int
    n_patients: int
    curve: list[dict[str, float]]


class Subgroup(_Part):
    """Part of the test set."""

    dimension: str
    name: str
    n_slices: int
    n_patients: int
    figures: dict[str, Measured]


class Worst(_Part):
    """The lowest group of a dimension."""

    dimension: str
    name: str
    metric: str
    best: str


class Agreement(_Part):
    """Bland and Altman's, of tumor volumes."""

    unit: Literal["ml", "px"]
    n_patients: int
    bias: Range
    lower_limit: Range
    upper_limit: Range
    points: list[dict[str, float]]


class Explanations(_Part):
    """Scores of heat maps: Grad-CAM's, the brain center's, those of shuffled weights, and Grad-CAM's less the center's."""

    n_slices: int
    n_patients: int
    cam: dict[str, Range]
    center: dict[str, Range]
    randomized: dict[str, Range]
    above_center: dict[str, Range]
    randomized_similarity: float | None


class Results(_Part):
    """Every figure of a table of cases."""

    format: Literal["slicewise-results/1"]
    name: str
    model: str
    """The main model; ``test`` to ``explanations`` are about it."""
    model_id: str | None
    sample: Sample
    test: dict[str, Measured]
    phases: dict[str, ModelResult]
    single_task: dict[str, ModelResult]
    baselines: dict[str, ModelResult]
    """Classifiers that see the file's metadata, the picture's border or the source's name alone."""
    models: dict[str, ModelResult]
    """All others."""
    constant: ConstantAnswer | None
    comparisons: list[Comparison]
    calibration: dict[Literal["before", "after"], Moment] | None
    decision_curve: list[Benefit]
    predictive_values: list[PredictiveValues]
    uncertainty: Uncertainty | None
    subgroups: list[Subgroup]
    worst_subgroups: list[Worst]
    tumor_volume: Agreement | None
    explanations: Explanations | None
    data: list[dict[str, Any]]
    skipped: list[dict[str, str]]
