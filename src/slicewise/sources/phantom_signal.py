"""A phantom's picture: the MR signal of its tissues, with the scanner's shading and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slicewise.sources.phantom_anatomy import TISSUES, Array, SmoothField

__all__ = ["acquire", "tumor_labels"]

# Signal of each of TISSUES relative to the brightest there is without contrast agent.
_SIGNAL = {
    "flair": (0.40, 0.50, 0.12, 0.72, 0.80, 0.62, 0.38),
    "t1": (0.80, 0.60, 0.20, 0.68, 0.56, 0.52, 0.36),
    "t1ce": (0.80, 0.60, 0.20, 0.68, 0.56, 1.15, 0.32),
    "t2": (0.36, 0.48, 0.95, 0.62, 0.72, 0.60, 0.80),
}
_SPREAD = np.array((0.04, 0.04, 0.15, 0.10, 0.17, 0.15, 0.25))
_BRATS_2021_LABELS = np.array((2, 4, 1), dtype=np.uint8)


def acquire(fractions: Array, points: Array, sequence: str, random: np.random.Generator) -> Array:
    """One MR sequence of a head.

    Args:
        fractions: ``(7, ...)``, from `tissue_fractions`.
        points: ``(3, ...)`` in mm.
        sequence: ``flair``, ``t1``, ``t1ce`` or ``t2``.
        random: Decides contrast, shading and noise; how much is drawn does not depend on what the head contains.

    Returns:
        Magnitude with Rician noise, about 0 to 1; exactly 0 outside the brain, as after skull stripping.
    """
    signal_of = _SIGNAL[sequence] * np.exp(_SPREAD * random.standard_normal(len(TISSUES)).clip(-2, 2))
    shading = SmoothField(random, (40, random.uniform(0.03, 0.12)), (6, 0.03))(points)
    level = random.uniform(0.008, 0.025)
    in_phase, out_of_phase = level * random.standard_normal((2, *points.shape[1:]))
    signal = np.einsum("t,t...->...", signal_of, fractions) * np.exp(shading)
    return np.hypot(signal + in_phase, out_of_phase) * fractions.any(axis=0)


def tumor_labels(fractions: Array) -> NDArray[np.uint8]:
    """Integers of BraTS 2021: 1 necrosis, 2 edema, 4 enhancing, 0 where less than half is tumor; ``(...)``."""
    tumor = fractions[TISSUES.index("edema") :]
    return np.where(tumor.sum(axis=0) > 0.5, _BRATS_2021_LABELS[tumor.argmax(axis=0)], 0).astype(np.uint8)
