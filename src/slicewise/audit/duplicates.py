"""Slices that show the same, found without comparing all with all.

Four steps, each leaving less to the next:

1. A signature of each thumbnail that no mirroring, turning or shifting changes: magnitudes of its lowest spatial
   frequencies, sorted over the four that the symmetries of the square exchange.
2. The nearest signatures of each, from a k-d tree.
3. Correlation of the halved, band-passed thumbnails in all eight positions; those that come close go on.
4. For what is left, correlation of the whole ones over small shifts, and of their finest detail. Heads are alike and so are
   neighboring slices of one scan; noise, vessels and gyri are not.

Measured, band / detail: copies in the yes/no set and in BRISC (341 pairs) at least 0.96 / 0.90, as far as their crops agree;
neighboring slices of one patient in BRISC at most 0.96 / 0.88; slices of different LGG patients at most 0.97 / 0.77, both
not at once (0.97 / 0.59).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from slicewise.audit.thumbnail import THUMBNAIL_PX

__all__ = ["TRANSFORMS", "NearDuplicate", "find_near_duplicates"]

Pixels = NDArray[np.float32]

TRANSFORMS: dict[str, Callable[[Pixels], Pixels]] = {
    "as it is": lambda stack: stack,
    "mirrored left to right": lambda stack: stack[:, :, ::-1],
    "mirrored top to bottom": lambda stack: stack[:, ::-1],
    "turned by 180°": lambda stack: stack[:, ::-1, ::-1],
    "mirrored at the diagonal": lambda stack: stack.transpose(0, 2, 1),
    "turned by 90°": lambda stack: stack.transpose(0, 2, 1)[:, :, ::-1],
    "turned by 270°": lambda stack: stack.transpose(0, 2, 1)[:, ::-1],
    "mirrored at the other diagonal": lambda stack: stack.transpose(0, 2, 1)[:, ::-1, ::-1],
}
"""The eight symmetries of the square, on ``(n, side, side)``."""

_FREQUENCIES = 7
_COMPONENTS = 16
_SAMPLE = 5000
_NEIGHBORS = 24
_DISTANCE = 0.8  # copies in BRISC: at most 0.43; the closest thousandth of its pairs: 0.81
_COARSE = 0.85  # copies in BRISC: at least 0.96
_COARSE_MARGIN = 0.15
_BAND = 0.955
_DETAIL = 0.8
_SHIFT_PX = 4
_CHUNK = 512
_FLAT = 2.0


class NearDuplicate(NamedTuple):
    """Two slices that show the same."""

    first: int
    """Place of the one."""
    second: int
    """Place of the other, larger."""
    correlation: float
    """Of their band-passed thumbnails, at most 1."""
    transform: str
    """What makes the second look like the first, a key of `TRANSFORMS`."""


def find_near_duplicates(thumbnails: NDArray[np.uint8], studies: NDArray[np.int64]) -> list[NearDuplicate]:
    """Find pairs of slices of different studies that show the same.

    Slices of one study are not compared: neighbors of a scan are alike by nature.

    Args:
        thumbnails: ``(N, 64, 64)``, from `slicewise.audit.thumbnail.make_thumbnail`.
        studies: ``(N,)``, a number for each study.

    Returns:
        Pairs, sorted. Of a crowd of equal thumbnails each is paired with the first one alone.
    """
    contrast = np.concatenate([np.zeros(0), *(_contrast(part) for part in _chunks(thumbnails))])
    first: dict[bytes, int] = {}
    originals, equal = [], []
    for row in np.flatnonzero(contrast > _FLAT).tolist():
        original = first.setdefault(hashlib.sha256(thumbnails[row].tobytes()).digest(), row)
        if original == row:
            originals.append(row)
        elif studies[original] != studies[row]:
            equal.append(NearDuplicate(original, row, 1.0, "as it is"))
    rows = np.array(originals, dtype=np.int64)
    alike = [
        NearDuplicate(originals[pair.first], originals[pair.second], pair.correlation, pair.transform)
        for pair in _match(thumbnails[rows], studies[rows])
    ]
    return sorted(equal + alike)


def _match(thumbnails: NDArray[np.uint8], studies: NDArray[np.int64]) -> Iterator[NearDuplicate]:
    if len(thumbnails) < 2:  # all the others equal it
        return
    pairs, positions = _resembling(thumbnails, _candidates(thumbnails, studies))
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for start in range(0, len(pairs), _CHUNK):
        chunk, of_chunk = pairs[start : start + _CHUNK], positions[start : start + _CHUNK]
        band, detail = _align(thumbnails, chunk, of_chunk)
        for place in np.flatnonzero((band >= _BAND) & (detail >= _DETAIL)):
            pair = (int(chunk[place, 0]), int(chunk[place, 1]))
            best[pair] = max(best.get(pair, (0.0, 0)), (min(1.0, float(band[place])), int(of_chunk[place])))
    names = list(TRANSFORMS)
    for (first, second), (correlation, position) in best.items():
        yield NearDuplicate(first, second, correlation, names[position])


def _candidates(thumbnails: NDArray[np.uint8], studies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of different studies with signatures close to each other: ``(n, 2)``, first below second."""
    signatures = np.concatenate([_signatures(part) for part in _chunks(thumbnails)])
    signatures -= signatures.mean(axis=0)
    sample = np.random.default_rng(0).permutation(len(signatures))[:_SAMPLE]
    # Principal components shorten the signatures and, as every projection does, only bring them closer together.
    axes = np.linalg.svd(signatures[sample], full_matrices=False)[2][:_COMPONENTS]
    points = signatures @ axes.T
    count = min(_NEIGHBORS, len(points))
    distances, neighbors = cKDTree(points).query(points, k=count, distance_upper_bound=_DISTANCE, workers=-1)
    rows = np.repeat(np.arange(len(points)), count)
    found = np.isfinite(distances.ravel())
    rows, others = rows[found], neighbors.ravel()[found]
    apart = studies[rows] != studies[others]
    return np.unique(np.sort(np.stack([rows[apart], others[apart]], axis=1), axis=1), axis=0).astype(np.int64)


def _signatures(thumbnails: NDArray[np.uint8]) -> Pixels:
    """``(n, 64, 64)`` to ``(n, 84)``: square roots of Fourier magnitudes up to the seventh frequency, without the mean."""
    images = thumbnails.astype(np.float32)
    images -= images.mean(axis=(1, 2), keepdims=True)
    images /= images.std(axis=(1, 2), keepdims=True)
    window = np.hanning(THUMBNAIL_PX + 2)[1:-1].astype(np.float32)
    magnitudes = np.abs(np.fft.fft2(images * np.outer(window, window))) / THUMBNAIL_PX
    parts = []
    for row in range(1, _FREQUENCIES):
        for column in range(row + 1):
            places = {(row, column), (column, row)}
            if column:  # a magnitude and that of the opposite frequency are one
                places |= {(row, -column)} if column == row else {(row, -column), (column, -row)}
            parts.append(np.sort(np.stack([magnitudes[:, *place] for place in sorted(places)], axis=1), axis=1))
    return np.sqrt(np.concatenate(parts, axis=1)).astype(np.float32)


def _resembling(thumbnails: NDArray[np.uint8], pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs that are alike in the coarse, once for every position (number of a transform) in which they are.

    Heads are nearly symmetric: a copy resembles its original in two positions, and the fine decides.
    """
    halves = [_normalize(_halve(_band(part))).astype(np.float16) for part in _chunks(thumbnails)]
    coarse = np.concatenate(halves)
    del halves
    found, positions = [], []
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        first, second = (coarse[chunk[:, place]].astype(np.float32) for place in (0, 1))
        scores = np.stack([np.einsum("nij,nij->n", first, turned(second)) for turned in TRANSFORMS.values()])
        position, place = np.nonzero((scores >= _COARSE) & (scores >= scores.max(axis=0) - _COARSE_MARGIN))
        found.append(chunk[place])
        positions.append(position)
    return np.concatenate([pairs[:0], *found]), np.concatenate([np.zeros(0, np.int64), *positions])


def _align(thumbnails: NDArray[np.uint8], pairs: NDArray[np.int64], positions: NDArray[np.int64]) -> tuple[Pixels, Pixels]:
    """Best correlation of the bands over small shifts and, in the same place, of the details."""
    rows, places = np.unique(pairs, return_inverse=True)
    first, second = places.reshape(pairs.shape).T
    bands = _normalize(_band(thumbnails[rows]))
    # Filters and symmetries can change places: each slice is filtered once, whatever its pairs and positions are.
    spectra = fft.rfft2(bands[first], workers=-1), fft.rfft2(_turn(bands[second], positions), workers=-1)
    product = fft.irfft2(spectra[0] * spectra[1].conj(), s=bands.shape[1:], workers=-1)
    reach = 2 * _SHIFT_PX + 1
    shifted = np.roll(product, (_SHIFT_PX, _SHIFT_PX), axis=(1, 2))[:, :reach, :reach].reshape(len(pairs), -1)
    band = shifted.max(axis=1)
    detail = np.zeros(len(pairs), dtype=np.float32)
    good = np.flatnonzero(band >= _BAND)
    details = _detail(thumbnails[pairs[good, 0]]), _turn(_detail(thumbnails[pairs[good, 1]]), positions[good])
    for place, row in enumerate(good):
        down, right = np.divmod(shifted[row].argmax(), reach)
        moved = np.roll(details[1][place], (down - _SHIFT_PX, right - _SHIFT_PX), axis=(0, 1))
        detail[row] = (_normalize(details[0][place][None]) * _normalize(moved[None])).sum()
    return band, detail


def _turn(images: Pixels, positions: NDArray[np.int64]) -> Pixels:
    turned = np.empty_like(images)
    for number, transform in enumerate(TRANSFORMS.values()):
        of_position = positions == number
        turned[of_position] = transform(images[of_position])
    return turned


def _chunks(thumbnails: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Parts that are small enough to be turned into numbers of four bytes."""
    for start in range(0, len(thumbnails), _CHUNK):
        yield thumbnails[start : start + _CHUNK]


def _contrast(thumbnails: NDArray[np.uint8]) -> Pixels:
    return thumbnails.std(axis=(1, 2), dtype=np.float32)


def _band(thumbnails: NDArray[np.uint8]) -> Pixels:
    """Neither noise nor the head's shape: between a pixel and a few."""
    images = thumbnails.astype(np.float32)
    return ndimage.gaussian_filter(images, (0, 0.8, 0.8)) - ndimage.gaussian_filter(images, (0, 4, 4))


def _detail(thumbnails: NDArray[np.uint8]) -> Pixels:
    images = thumbnails.astype(np.float32)
    return images - ndimage.gaussian_filter(images, (0, 1.2, 1.2))


def _halve(images: Pixels) -> Pixels:
    count, height, width = images.shape
    return images.reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


def _normalize(images: Pixels) -> Pixels:
    """Mean 0 and length 1, so that a sum of products is a correlation."""
    images = images - images.mean(axis=(1, 2), keepdims=True)
    return images / np.maximum(np.sqrt((images**2).sum(axis=(1, 2), keepdims=True)), 1e-6)
