"""The gatekeeper: says when an input is probably not what the model was made for. It changes neither pixels nor answers.

Each slice is looked at alone, on the network's grid and, where the preprocessing hides what is odd, as decoded. A study is
judged by what most of its slices show; those that hold nothing are not counted. The thresholds were chosen on real MR and on
made inputs: `benchmarks/gatekeeper.py` measures how often each rule is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slicewise.data.descriptors import Domain, Sample, corner_medians, describe_sample, halve, regions
from slicewise.data.preprocess import SIDE_PX, Geometry
from slicewise.records import Concern, Scan

__all__ = ["RULES", "inspect"]

RULES: dict[str, str] = {
    "blank": "There is no contrast, or there are fewer than 10 gray levels.",
    "small": "The shorter side has fewer than 64 pixels.",
    "color": "More than 2 % of the pixels have a color: a photograph, a color map, annotations, a sequence in each channel.",
    "not-mr": "The file says that it is not MR, or its values are those of CT, with air at -1000.",
    "wrong-plane": "The plane of the slices is known, and the model was trained on none of that plane.",
    "inverted": "The background is brighter than the head.",
    "no-head": "Nothing stands out from a dark background, as in noise or a photograph.",
    "text": "Letters or frames lie beside the head, or there are the flat areas of a screenshot.",
    "far-from-training": "The slice differs more from the training slices than 99.5 % of the validation slices do.",
}
"""What each rule means, in the order of the concerns; of a volume, what is said of slices is true of more than half."""

_SMALL_PX = 64
_COLOR_SHARE = 0.02
_LEVELS = 10
_AIR_AND_SOFT_HU = np.array([-1100, -900, -100, 120], dtype=np.float32)
_HU_SHARE = 0.05

_PROBE_PX = 64  # side of the sample that stands for a slice as decoded
_PAPER = 0.8  # of the range, like all of this block
_BRIGHT_CORNER, _CORNERS_ALIKE, _INVERTED_STEP = 0.62, 0.15, 0.2
_LIT_BORDER, _LIT_CORNER, _CORNERS_APART = 0.03, 0.05, 0.09

_HEAD, _LETTER = 0.25, 0.7  # of the foreground's mean brightness
_LETTER_BLOCKS = 16  # of 2 × 2 pixels
_PART = 0.01  # of the largest part of the head: what is smaller is no part of it
_THICK_SHARE = 0.01
_LINE_REACH, _LINE_SHARE = 4, 0.5  # the same blocks; of the side
_FLAT_SHARE, _FLAT_BRIGHT_SHARE, _ROUGH = 0.65, 0.5, 0.6
_MIDDLE_RANK, _STANDING_OUT = 0.8, 0.15
_LEAST_BLOCKS = 8
_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=np.bool_)

_Kind = TypeVar("_Kind", bound=np.generic)


def inspect(scan: Scan, pixels: Sequence[NDArray[np.float16]], domain: Domain | None = None) -> tuple[Concern, ...]:
    """Look at a picture or a volume.

    Args:
        scan: As decoded.
        pixels: ``(256, 256)`` each: its slices in their order, preprocessed.
        domain: What the model was trained on; None: ``wrong-plane`` and ``far-from-training`` are not looked at.

    Returns:
        What the reader noticed, then at most one concern a rule, in the order of `RULES`.
    """
    current = domain if domain is not None and domain.is_current else None
    looks = [
        _look(image, grid, Geometry.of(image.shape, scan.spacing_mm), current)
        for image, grid in zip(scan.slices, pixels, strict=True)
    ]
    shown = [look for look in looks if not look.is_blank]
    return (*scan.concerns, *_of_scan(scan, looks, domain), *_of_slices(shown, domain))


@dataclass(frozen=True, slots=True)
class _Look:
    """What there is to say of one slice."""

    is_blank: bool
    is_inverted: bool = False
    has_no_head: bool = False
    has_text: bool = False
    air_share: float = 0.0
    """Of the pixels, those with the CT number of air."""
    soft_share: float = 0.0
    """Of soft tissue."""
    distance: float = math.nan
    """From training; NaN where it has no meaning."""


def _of_scan(scan: Scan, looks: Sequence[_Look], domain: Domain | None) -> Iterator[Concern]:
    where = _where([look.is_blank for look in looks])
    if where is not None:
        yield Concern(
            "blank",
            f"Expected contrast, found fewer than {_LEVELS} gray levels{where}. Check what was exported.",
            sum(look.is_blank for look in looks) / len(looks),
        )
    height, width = scan.slices.shape[1:]
    if min(height, width) < _SMALL_PX:
        yield Concern(
            "small",
            f"Expected slices of at least {_SMALL_PX} pixels a side, got {height} × {width}. Give the original.",
            float(min(height, width)),
        )
    if scan.color_share > _COLOR_SHARE:
        yield Concern(
            "color",
            f"Expected a gray picture, {scan.color_share:.0%} of the pixels have a color. Give the original, without color "
            "maps and annotations; of a file with a sequence in each channel, that sequence alone.",
            scan.color_share,
        )
    if scan.modality not in ("MR", "unknown"):
        yield Concern("not-mr", "Expected MR, the file says that it is something else. Give the MR series of the study.")
    elif _is_ct(looks):
        yield Concern("not-mr", "Expected MR, got values of CT, with air at -1000. Give the MR series of the study.")
    planes = sorted(set(domain.planes) - {"unknown"}) if domain is not None else []
    if planes and scan.plane != "unknown" and scan.plane not in planes:
        yield Concern(
            "wrong-plane",
            f"Expected {' or '.join(planes)} slices, as in training, got {scan.plane} ones. Give such a series; for "
            "this one the answer is untested.",
        )


def _of_slices(shown: Sequence[_Look], domain: Domain | None) -> Iterator[Concern]:
    where = _where([look.is_inverted for look in shown])
    if where is not None:
        yield Concern(
            "inverted", f"Expected a dark background, it is brighter than the head{where}. Exchange black and white."
        )
    where = _where([look.has_no_head for look in shown])
    if where is not None:
        yield Concern(
            "no-head",
            f"Expected a head before a dark background, found none{where}. Check that this is MR of a head, whole and not "
            "cropped.",
        )
    where = _where([look.has_text for look in shown])
    if where is not None:
        yield Concern(
            "text",
            f"Expected a head alone, found letters, a frame or the flat areas of a screenshot{where}. Give the original, "
            "without annotations.",
        )
    distances = [look.distance for look in shown if not math.isnan(look.distance)]
    middle = float(np.median(distances)) if distances else 0.0
    if domain is not None and middle > domain.limit:
        yield Concern(
            "far-from-training",
            f"Expected slices like those of training, at most {domain.limit:.0f} away (squared), got {middle:.0f}. Check "
            "body part, contrast and quality: the answer is untested on such slices.",
            middle,
        )


def _where(flags: Sequence[bool]) -> str | None:
    """Words for which slices it is, where it is more than half of them; else None."""
    count = sum(flags)
    if 2 * count <= len(flags):
        return None
    return "" if len(flags) == 1 else f" in {count} of {len(flags)} slices"


def _is_ct(looks: Sequence[_Look]) -> bool:
    air, soft = (float(np.mean([getattr(look, name) for look in looks])) for name in ("air_share", "soft_share"))
    return air > _HU_SHARE and soft > _HU_SHARE


def _look(image: NDArray[np.float32], pixels: NDArray[np.float16], geometry: Geometry, domain: Domain | None) -> _Look:
    rows, columns = (max(1, size // _PROBE_PX) for size in image.shape)
    probe = np.ascontiguousarray(image[rows // 2 :: rows, columns // 2 :: columns])
    sample = Sample.of(pixels)
    first, second, air, peak = sample
    ordered = np.sort(probe, axis=None)
    places = np.searchsorted(ordered, _AIR_AND_SOFT_HU) / ordered.size
    in_air, in_soft = float(places[1] - places[0]), float(places[3] - places[2])
    is_coarse = bool(ordered[-1] - ordered[0] < _LEVELS) and np.array_equal(ordered, np.rint(ordered))
    if is_coarse or not peak > air:
        return _Look(is_blank=True, air_share=in_air, soft_share=in_soft)
    distance = math.nan if domain is None else float(domain.distances(describe_sample(sample)))
    scale = -air if air < 0 else peak - air
    half = (first + second) * np.float32(0.5 / scale) - np.float32(air / scale)  # 0 is air, 1 the foreground's mean
    content, quarter = _cut(half, geometry), _cut(halve(half), geometry)
    if min(*probe.shape, *quarter.shape) < _LEAST_BLOCKS:  # a strip, with room for neither head nor background
        return _Look(is_blank=False, has_no_head=True, air_share=in_air, soft_share=in_soft, distance=distance)
    low, high = float(ordered[0]), float(ordered[-1])
    is_inverted = _is_inverted(probe, low, high)
    has_letters, is_thin = _look_beside_head(content)
    is_page = _is_page(image, content, low + _PAPER * (high - low))
    return _Look(
        is_blank=False,
        is_inverted=is_inverted,
        has_no_head=not is_inverted and (is_thin or _lacks_head(quarter)),
        has_text=is_page or (not is_inverted and (has_letters or _has_line(content))),
        air_share=in_air,
        soft_share=in_soft,
        distance=distance,
    )


def _cut(grid: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """The part of a coarser grid that the slice covers, in whole blocks of 4 pixels: padding would look like background."""
    scale = len(grid) * 4 // SIDE_PX
    return grid[tuple(slice(-(-part.start // 4) * scale, part.stop // 4 * scale) for part in geometry.window)]


def _is_inverted(probe: NDArray[np.float32], low: float, high: float) -> bool:
    """Three corners are bright, alike, and brighter than a tenth of the middle, or more.

    As decoded, for the preprocessing takes any even border for air.
    """
    flat, places = probe.ravel(), regions(*probe.shape)
    _, darker, _, brightest = corner_medians(flat[places.corners])
    tenth = len(places.middle) // 10
    decile = float(np.partition(flat[places.middle], tenth)[tenth])
    # One value in all of them is white, or the air of slices that were z-scored before.
    bright = _BRIGHT_CORNER if darker < brightest else _PAPER
    return (
        darker - low > bright * (high - low)
        and brightest - darker < _CORNERS_ALIKE * (high - low)
        and darker - decile > _INVERTED_STEP * (high - low)
    )


def _is_page(image: NDArray[np.float32], content: NDArray[np.float32], paper: float) -> bool:
    """Most pixels equal their neighbor, and either they are as bright as paper, or all else changes all the time."""
    rows, columns = (max(1, size // (2 * _PROBE_PX)) for size in image.shape)
    left, right = image[::rows, :-1:columns], image[::rows, 1::columns]
    flat = left == right
    if not np.count_nonzero(flat) > _FLAT_SHARE * flat.size:
        return False
    change = np.abs(content[1:] - content[:-1]).mean() + np.abs(content[:, 1:] - content[:, :-1]).mean()
    is_bright = np.count_nonzero(flat & (left > paper)) > _FLAT_BRIGHT_SHARE * flat.size
    return bool(is_bright or change > _ROUGH * content.std())


def _look_beside_head(content: NDArray[np.float32]) -> tuple[bool, bool]:
    """Whether there are letters beside the head, and whether all that is bright is too thin for a head.

    The head is made of the parts that are somewhere 6 pixels thick, with all that lies between them in both directions.
    """
    bright = content > _HEAD
    core = _erode(bright)[::2, ::2]
    parts, count = ndimage.label(bright, _EIGHT_NEIGHBORS)
    sizes = np.bincount(parts[::2, ::2][core], minlength=count + 1)
    head = np.take(sizes >= max(1.0, _PART * sizes.max()), _pool(parts, np.maximum))
    beside = _erode(_erode(~_between(head)))  # 8 pixels away and more
    letters = _pool((content > _LETTER).view(np.uint8), np.add)[beside].sum()
    return bool(letters >= _LETTER_BLOCKS), bool(sizes.max() < _THICK_SHARE * core.size)


def _has_line(content: NDArray[np.float32]) -> bool:
    """Half of a row or column is bright, but not what is beside it on either side; beyond the slice it is dark."""
    bright, reach = content > _HEAD, _LINE_REACH
    for values in (bright, np.ascontiguousarray(bright.T)):
        is_line = values.copy()
        is_line[reach:] &= ~values[:-reach]
        is_line[:-reach] &= ~values[reach:]
        if np.count_nonzero(is_line, axis=1).max() > _LINE_SHARE * values.shape[1]:
            return True
    return False


def _lacks_head(quarter: NDArray[np.float32]) -> bool:
    """The border is not dark, and the corners are not either, or they are as bright as the middle.

    All that is true of a head in strong noise, too; but there the corners are alike, and some of the middle stands out.
    """
    flat = quarter.ravel()
    ordered = np.sort(flat)
    low, high = (float(ordered[round(share * (len(ordered) - 1))]) for share in (0.02, 0.98))
    border = np.sort(np.concatenate([quarter[0], quarter[-1], quarter[:, 0], quarter[:, -1]]))
    if border[len(border) // 2] - low <= _LIT_BORDER * (high - low):
        return False
    places = regions(*quarter.shape)
    corners, middle = flat[places.corners], flat[places.middle]
    background = np.sort(corners, axis=None)
    # The area under the ROC curve: how often a pixel of the middle is brighter than one of the corners.
    rank = np.searchsorted(background, middle).mean() / background.size
    medians = corner_medians(corners)
    if medians[1] - low <= _LIT_CORNER * (high - low) and rank >= _MIDDLE_RANK:
        return False
    standing_out = np.count_nonzero(middle > background[round(0.95 * (background.size - 1))]) / middle.size
    return bool(medians[3] - medians[0] > _CORNERS_APART * (high - low) or standing_out < _STANDING_OUT)


def _pool(values: NDArray[_Kind], join: np.ufunc) -> NDArray[_Kind]:
    """Each 2 × 2 as one: ``(H, W)``, both even, to ``(H / 2, W / 2)``."""
    return join(join(values[::2, ::2], values[1::2, ::2]), join(values[::2, 1::2], values[1::2, 1::2]))


def _erode(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is True with its eight neighbors; scipy's is slower."""
    rows = mask.copy()
    rows[1:] &= mask[:-1]
    rows[:-1] &= mask[1:]
    both = rows.copy()
    both[:, 1:] &= rows[:, :-1]
    both[:, :-1] &= rows[:, 1:]
    return both


def _between(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What lies from the first to the last True of its row, and of its column."""
    filled = []
    for values in (mask, np.ascontiguousarray(mask.T)):
        place = np.arange(values.shape[1], dtype=np.uint8)  # the grid has 64
        first = values.argmax(axis=1).astype(np.uint8)[:, None]
        last = place[-1] - values[:, ::-1].argmax(axis=1).astype(np.uint8)[:, None]
        within = (place >= first) & (place <= last)
        within[~np.any(values, axis=1)] = False
        filled.append(within)
    return filled[0] & filled[1].T
