"""A phantom's head: what tissue lies at any point of it, with or without a lesion.

The normal anatomy is the MNI152 template's, deformed for each patient. A lesion is a core that pushes the tissue aside
and an edema that invades it along the white matter. Points are ``(3, ...)`` in mm: right, anterior, superior.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from slicewise.errors import ConfigError

__all__ = ["TISSUES", "Head", "Lesion", "SmoothField", "Template", "load_template", "tissue_fractions"]

Array = NDArray[np.float64]

TISSUES = ("white", "gray", "fluid", "spot", "edema", "enhancing", "necrosis")
"""Order of the first axis of `tissue_fractions`."""

_FIELD_HALF_MM = 140.0
_FIELD_STEP_MM = 5.0
_BOX_HALF_MM = 44.0
_BOX_STEP_MM = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The average head that every patient is deformed from, on a grid of 1 mm."""

    white: NDArray[np.float32]
    """White-matter fraction in [0, 1]."""
    gray: NDArray[np.float32]
    """Gray-matter fraction in [0, 1]."""
    brain: NDArray[np.float32]
    """1 inside the brain, its fluid included; 0 outside."""
    depth_mm: NDArray[np.float32]
    """Distance to the surface of the brain, on every second voxel."""
    origin_mm: Array
    """Position of the first voxel."""


@cache
def load_template() -> Template:
    """Read the MNI152 maps that the nilearn package carries; nothing is downloaded.

    Raises:
        ConfigError: nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError:
        raise ConfigError(
            "Expected nilearn, whose MNI152 maps the phantom is made from, but it is not installed. "
            "Run: pip install 'slicewise[phantom]'"
        ) from None
    head = datasets.load_mni152_template(resolution=1)
    maps = (datasets.load_mni152_wm_template(resolution=1), datasets.load_mni152_gm_template(resolution=1))
    white, gray = (np.asarray(one.dataobj, dtype=np.float32) for one in maps)
    brain = np.asarray(head.dataobj) > 0
    depth = 2.0 * ndimage.distance_transform_edt(brain[::2, ::2, ::2])
    return Template(white, gray, brain.astype(np.float32), depth.astype(np.float32), head.affine[:3, 3])


class SmoothField:
    """Random values that vary smoothly over space, of mean 0.

    Args:
        random: Decides the values.
        parts: What is summed: smoothness in mm, standard deviation.
    """

    def __init__(self, random: np.random.Generator, *parts: tuple[float, float]) -> None:
        size = 2 * round(_FIELD_HALF_MM / _FIELD_STEP_MM) + 1
        self._values = np.zeros((size, size, size))
        for smoothness_mm, deviation in parts:
            noise = random.standard_normal(self._values.shape)
            smooth = ndimage.gaussian_filter(noise, smoothness_mm / _FIELD_STEP_MM, mode="wrap", truncate=3)
            self._values += deviation * (smooth - smooth.mean()) / smooth.std()

    def __call__(self, points: Array) -> Array:
        """Values at ``(3, ...)`` points."""
        return _sample(self._values, (points + _FIELD_HALF_MM) / _FIELD_STEP_MM, mode="nearest")


class Head:
    """One patient's normal anatomy: the template under a random affine map and a random smooth displacement."""

    def __init__(self, random: np.random.Generator) -> None:
        self._template = load_template()
        turn = Rotation.from_euler("xyz", random.normal(0, (4, 2, 4)), degrees=True).as_matrix()
        self._linear = turn / random.normal(1, 0.035, 3).clip(0.92, 1.08)
        self._shift_mm = random.normal(0, 2, 3).clip(-4, 4)
        self._fluid_weight = np.exp(random.uniform(-0.3, 1.0))
        self._displacement_mm = [SmoothField(random, (25, 3.0), (8, 1.2)) for _ in range(3)]

    def tissues(self, points: Array) -> Array:
        """Fractions ``(3, ...)`` of white matter, gray matter and fluid; all 0 outside the brain, else of sum 1."""
        voxels = self._voxels(points)
        white, gray = (_sample(one, voxels) for one in (self._template.white, self._template.gray))
        # An average of many heads is blurred and has narrow sulci: squaring sharpens it, the weight widens the fluid.
        weights = np.stack([white, gray, self._fluid_weight * np.clip(1 - white - gray, 0, 1)]) ** 2
        return weights / weights.sum(axis=0) * self._is_brain(voxels)

    def is_brain(self, points: Array) -> NDArray[np.bool_]:
        """Whether each point lies in the brain."""
        return self._is_brain(self._voxels(points))

    def depth_mm(self, points: Array) -> Array:
        """Distance from each point to the surface of the brain, about; 0 outside."""
        return _sample(self._template.depth_mm, self._voxels(points) / 2)

    def _is_brain(self, voxels: Array) -> NDArray[np.bool_]:
        return _sample(self._template.brain, voxels) > 0.5

    def _voxels(self, points: Array) -> Array:
        moved = np.einsum("ij,j...->i...", self._linear, points)
        moved += _column(self._shift_mm - self._template.origin_mm, points)
        for axis in range(3):
            moved[axis] += self._displacement_mm[axis](points)
        return moved


class Lesion:
    """A tumor: necrotic core, enhancing rim, and edema, grown in one head from a point on one of its slices.

    The edema follows the Fisher-Kolmogorov model of glioma growth, in which cells spread ten times as easily in white
    as in gray matter and not at all in fluid (doi:10.1046/j.1365-2184.2000.00177.x).

    Args:
        random: Decides place, size and shape.
        head: The head it grows in.
        slices: Points of the slices, ``(3, ...)``: the core's center is one of them, so that a slice shows it.
    """

    def __init__(self, random: np.random.Generator, head: Head, slices: Array) -> None:
        radius = random.uniform(7, 20)
        self.center_mm = _seed_point(random, head, slices, least_depth_mm=max(8, 0.7 * radius))
        self.reach_mm = 2 * radius + 8
        self._push = random.uniform(0.2, 0.5)
        steps = np.arange(-_BOX_HALF_MM, _BOX_HALF_MM + 1, _BOX_STEP_MM)
        offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"))
        box = offsets + _column(self.center_mm, offsets)
        seed_radius = radius * (1 - self._push * (1 - (radius / self.reach_mm) ** 2) ** 2)
        shape = np.exp(SmoothField(random, (6, 0.35))(offsets))
        self._core_mm = seed_radius - np.sqrt((offsets**2).sum(axis=0)) * shape
        self._necrosis_mm = self._core_mm - random.uniform(1.5, 3.5) * np.exp(SmoothField(random, (6, 0.5))(offsets))
        white, gray, _ = head.tissues(box)
        ease = np.exp(SmoothField(random, (7, 0.5))(offsets)).clip(0.2, 1.5)
        self._invasion = _invade(
            np.clip(self._core_mm + 0.5, 0, 1), white * ease, gray * ease, steps=round(random.uniform(20, 65))
        )

    def pull(self, points: Array) -> Array:
        """Where the tissue at these points lay before the core pushed it; beyond the reach nothing moves."""
        offsets = points - _column(self.center_mm, points)
        nearness = np.clip(1 - (offsets**2).sum(axis=0) / self.reach_mm**2, 0, None)
        return points - self._push * nearness**2 * offsets

    def coverage(self, pulled: Array) -> tuple[Array, Array, Array]:
        """Edema, core, and necrosis within the core, each in [0, 1] with its border at 0.5, at pulled points."""
        voxels = (pulled - _column(self.center_mm - _BOX_HALF_MM, pulled)) / _BOX_STEP_MM
        edema = np.clip(2 * _sample(self._invasion, voxels) - 0.5, 0, 1)
        core, necrosis = (
            np.clip(_sample(depth_mm, voxels, outside=-_BOX_HALF_MM) + 0.5, 0, 1)
            for depth_mm in (self._core_mm, self._necrosis_mm)
        )
        return edema, core, necrosis


def tissue_fractions(head: Head, lesion: Lesion | None, spots: Array, points: Array) -> Array:
    """What each point consists of, ``(7, ...)`` in the order of `TISSUES`; all 0 outside the brain, else the sum is 1.

    Args:
        head: The normal anatomy.
        lesion: The tumor, if there is one.
        spots: How much of each point is a small white-matter hyperintensity, in [0, 1], of the shape of one coordinate.
        points: ``(3, ...)`` in mm.
    """
    pulled = points if lesion is None else lesion.pull(points)
    normal = head.tissues(pulled)
    fractions = np.zeros((len(TISSUES), *points.shape[1:]))
    fractions[:3] = normal * (1 - spots)
    fractions[3] = normal.sum(axis=0) * spots
    if lesion is not None:
        edema, core, necrosis = lesion.coverage(pulled)
        edema *= 1 - normal[2]
        fractions[:4] *= (1 - edema) * (1 - core)
        fractions[4] = edema * (1 - core)
        fractions[5] = core * (1 - necrosis)
        fractions[6] = core * necrosis
        # The skull holds: the core pushes tissue within the brain, never beyond its outline.
        fractions *= head.is_brain(points)
    return fractions


def _seed_point(random: np.random.Generator, head: Head, slices: Array, least_depth_mm: float) -> Array:
    """A point in deep white matter of the cerebrum on one of the slices, or the best there is."""
    points = slices[:, ::3, ::3].reshape(3, -1)
    white = head.tissues(points)[0]
    depth = head.depth_mm(points)
    suitable = (white > 0.5) & (depth >= least_depth_mm) & (points[2] > -15)
    if not suitable.any():
        suitable = depth == depth.max()
    seed: Array = points[:, random.choice(np.flatnonzero(suitable))]
    return seed


def _invade(seed: Array, white: Array, gray: Array, steps: int) -> Array:
    """Density of tumor cells in [0, 1] after explicit Euler steps, the front advancing about 0.4 mm a step in white."""
    diffusivity = 0.1 * (white + 0.1 * gray)
    tissue = white + gray
    faces = []
    for axis in range(3):
        across = np.moveaxis(diffusivity, axis, 0)
        faces.append(np.moveaxis(np.minimum(across[1:], across[:-1]), 0, axis))
    cells = seed * (tissue > 0)
    for _ in range(steps):
        change = 0.15 * tissue * cells * (1 - cells)
        for axis, face in enumerate(faces):
            change += np.diff(face * np.diff(cells, axis=axis), axis=axis, prepend=0, append=0)
        cells = cells + change
    return cells


def _column(vector: Array, points: Array) -> Array:
    return vector.reshape(3, *[1] * (points.ndim - 1))


def _sample(values: NDArray[np.floating], voxels: Array, outside: float = 0.0, mode: str = "constant") -> Array:
    sampled: Array = ndimage.map_coordinates(values, voxels, output=np.float64, order=1, mode=mode, cval=outside)
    return sampled
