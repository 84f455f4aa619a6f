"""Slices that show the same, found without comparing all with all.

Four steps, each leaving less to the next:

1. A signature of each thumbnail that no mirroring, turning or shifting changes: magnitudes of its lowest spatial
   frequencies, sorted over the four that the symmetries of the square exchange.
2. The nearest signatures of each, from a k-d tree.
3. Correlation of the halved, band-passed thumbnails in all eight positions.
4. For what is left, correlation of the whole ones over small shifts, and of their finest detail. Heads are alike and so are
   neighboring slices of one scan; noise, vessels and gyri are not.

Measured, band / detail: copies in the yes/no set and in BRISC (341 pairs) at least 0.96 / 0.90, as far as their crops agree;
neighboring slices of one patient in BRISC at most 0.96 / 0.88; slices of different LGG patients at most 0.97 / 0.77, both
not at once (0.97 / 0.59).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
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
_DISTANCE = 1.0  # copies: at most 0.39; the closest thousandth of pairs of BRISC and of LGG: 1.4
_COARSE = 0.7
_BAND = 0.955
_DETAIL = 0.8
_SHIFT_PX = 4
_CHUNK = 2048
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
    usable = np.flatnonzero(thumbnails.std(axis=(1, 2)) > _FLAT)
    if len(usable) < 2:
        return []
    _, first, inverse = np.unique(
        thumbnails[usable].reshape(len(usable), -1), axis=0, return_index=True, return_inverse=True
    )
    originals = usable[first]
    equal = [
        NearDuplicate(int(original), int(row), 1.0, "as it is")
        for original, row in zip(originals[inverse.ravel()], usable, strict=True)
        if original != row and studies[original] != studies[row]
    ]
    originals = np.sort(originals)
    alike = [
        NearDuplicate(int(originals[pair.first]), int(originals[pair.second]), pair.correlation, pair.transform)
        for pair in _match(thumbnails[originals], studies[originals])
    ]
    return sorted(equal + alike)


def _match(thumbnails: NDArray[np.uint8], studies: NDArray[np.int64]) -> Iterator[NearDuplicate]:
    if len(thumbnails) < 2:  # all the others equal it
        return
    pairs = _candidates(thumbnails, studies)
    pairs = pairs[[score >= _COARSE for score in _coarse_scores(thumbnails, pairs)]]
    names = list(TRANSFORMS)
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        band, detail, transform = _align(thumbnails[chunk[:, 0]], thumbnails[chunk[:, 1]])
        for place in np.flatnonzero((band >= _BAND) & (detail >= _DETAIL)):
            first, second = (int(row) for row in chunk[place])
            yield NearDuplicate(first, second, min(1.0, float(band[place])), names[transform[place]])


def _candidates(thumbnails: NDArray[np.uint8], studies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of different studies with signatures close to each other: ``(n, 2)``, first below second."""
    chunks = range(0, len(thumbnails), _CHUNK)
    signatures = np.concatenate([_signatures(thumbnails[start : start + _CHUNK]) for start in chunks])
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
    """``(n, 64, 64)`` to ``(n, 96)``: square roots of Fourier magnitudes up to the seventh frequency, without the mean."""
    images = thumbnails.astype(np.float32)
    images -= images.mean(axis=(1, 2), keepdims=True)
    images /= images.std(axis=(1, 2), keepdims=True)
    window = np.hanning(THUMBNAIL_PX + 2)[1:-1].astype(np.float32)
    magnitudes = np.abs(np.fft.fft2(images * np.outer(window, window))) / THUMBNAIL_PX
    parts = []
    for row in range(1, _FREQUENCIES):
        for column in range(row + 1):
            places = sorted({(row, column), (row, -column), (column, row), (column, -row)})
            parts.append(np.sort(np.stack([magnitudes[:, *place] for place in places], axis=1), axis=1))
    return np.sqrt(np.concatenate(parts, axis=1)).astype(np.float32)


def _coarse_scores(thumbnails: NDArray[np.uint8], pairs: NDArray[np.int64]) -> Iterator[float]:
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        first, second = (_normalize(_halve(_band(thumbnails[chunk[:, place]]))) for place in (0, 1))
        scores = [np.einsum("nij,nij->n", first, transform(second)) for transform in TRANSFORMS.values()]
        yield from np.max(scores, axis=0).tolist()


def _align(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> tuple[Pixels, Pixels, NDArray[np.int64]]:
    """Best correlation of band and, in the same position, of detail; and the number of the transform."""
    bands = _normalize(_band(first)), _normalize(_band(second))
    spectrum = np.fft.rfft2(bands[0])
    scores = []
    for transform in TRANSFORMS.values():
        product = np.fft.irfft2(spectrum * np.fft.rfft2(transform(bands[1])).conj(), s=first.shape[1:])
        shifted = np.roll(product, (_SHIFT_PX, _SHIFT_PX), axis=(1, 2))[:, : 2 * _SHIFT_PX + 1, : 2 * _SHIFT_PX + 1]
        scores.append(shifted.reshape(len(first), -1))
    best = np.stack(scores).max(axis=2)
    chosen = best.argmax(axis=0)
    band = best.max(axis=0)
    detail = np.zeros(len(first), dtype=np.float32)
    details = _detail(first), _detail(second)
    for number in np.flatnonzero(band >= _BAND):
        down, right = np.divmod(scores[chosen[number]][number].argmax(), 2 * _SHIFT_PX + 1)
        turned = list(TRANSFORMS.values())[chosen[number]](details[1][number : number + 1])[0]
        moved = np.roll(turned, (down - _SHIFT_PX, right - _SHIFT_PX), axis=(0, 1))
        detail[number] = (_normalize(details[0][number : number + 1]) * _normalize(moved[None])).sum()
    return band, detail, chosen


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
