"""What the pages show of a slice or a volume, as arrays and PNG bytes; no widgets here."""

from __future__ import annotations

import base64
import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slicewise.inference.writers import fit_shape, overlay, resize_slice
from slicewise.service.schemas import Prediction

__all__ = [
    "STYLES",
    "Style",
    "draw_disagreement",
    "draw_heat",
    "draw_icon",
    "draw_prediction",
    "draw_slice",
    "mask_of",
    "picture_of",
    "read_png",
    "to_gray",
    "to_png",
]

Style = Literal["outline", "fill", "both"]
STYLES: tuple[Style, ...] = ("outline", "fill", "both")

_SIDE_PX = 640
_LETTERED_PX = 200
_WINDOW = (0.0, 255.0)

# Five points of matplotlib's inferno, which the gallery and the report use for the same maps.
_HEAT_AT = np.linspace(0, 1, 5)
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)

_CROSS = (0, 114, 178)
# Of Okabe and Ito's palette: where only the first mask is, where only the second, where both.
_FIRST, _SECOND, _BOTH = (86, 180, 233), (213, 94, 0), (240, 228, 66)


# What of the patient is at the left, the right, the top and the bottom, as `slicewise.orientation` turns the slices.
_LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}


def draw_icon() -> NDArray[np.uint8]:
    """A head with a spot, ``(32, 32, 4)``: the icon of the pages."""
    rows, columns = np.mgrid[:32, :32] - 15.5
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[rows**2 / 15**2 + columns**2 / 12.5**2 < 1] = (*_FIRST, 255)
    pixels[(rows + 3) ** 2 + (columns - 4) ** 2 < 4.5**2] = (*_SECOND, 255)
    return pixels


def read_png(data: str) -> NDArray[np.uint8]:
    """A gray PNG in base64, as the service sends it, as ``(H, W)``."""
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("L"))


def picture_of(prediction: Prediction) -> NDArray[np.uint8]:
    """The slice ``(H, W)`` that an answer is about, as the service read it; the answer was asked for with it."""
    assert prediction.picture is not None
    return read_png(prediction.picture)


def mask_of(prediction: Prediction) -> NDArray[np.bool_]:
    """The mask on the slice's grid; empty where none was looked for."""
    if prediction.mask is None or not isinstance(prediction.mask.data, str):
        return np.zeros(prediction.shape, bool)
    return read_png(prediction.mask.data) > 0


def to_gray(values: NDArray[np.uint16], window: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values as they are looked at.

    Args:
        values: ``(H, W)``.
        window: ``(2,)``: those that are drawn black and white.
    """
    low, high = window
    return (np.clip((values - low) / ((high - low) or 1.0), 0, 1) * 255).round().astype(np.uint8)


def to_png(pixels: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.bool_]) -> bytes:
    """``(H, W)`` of 8 or 16 bit, or ``(H, W, 3)`` of 8, as a PNG; a mask of bool as 0 and 255."""
    stream = io.BytesIO()
    Image.fromarray(pixels * np.uint8(255) if pixels.dtype == bool else pixels).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def draw_slice(
    picture: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    spacing_mm: tuple[float, float] | None = None,
    *,
    style: Style = "both",
    opacity: float = 0.25,
    side_px: int = _SIDE_PX,
    plane: str = "unknown",
    cross: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """A slice with its mask, large enough that the outline is thin, and letters for the sides of the body.

    Args:
        picture: ``(H, W)``.
        mask: ``(H, W)``.
        spacing_mm: Between rows and columns; None takes the pixels as square.
        style: What of the mask is drawn.
        opacity: Of its fill, in [0, 1].
        side_px: Of the square that what is drawn fits into.
        plane: ``axial``, ``coronal`` or ``sagittal``; another has no letters, nor has a thumbnail room for them.
        cross: Row and column through which lines are drawn.

    Returns:
        ``(H, W, 3)``, its pixels square.
    """
    shape = fit_shape(picture.shape, spacing_mm, (side_px, side_px))
    image, marked = resize_slice(picture.astype(np.float32), mask, shape)
    drawn = overlay(image, marked, _WINDOW, opacity=0.0 if style == "outline" else opacity, outlined=style != "fill")
    if cross is not None:
        row, column = (int((place + 0.5) * new / old) for place, new, old in zip(cross, shape, picture.shape, strict=True))
        drawn[row], drawn[:, column] = _CROSS, _CROSS
    return _letter(drawn, _LETTERS[plane]) if plane in _LETTERS and side_px >= _LETTERED_PX else drawn


def draw_prediction(
    prediction: Prediction, *, style: Style = "both", opacity: float = 0.25, side_px: int = _SIDE_PX
) -> NDArray[np.uint8]:
    """A slice with the mask of its answer, as `draw_slice` draws it.

    Args:
        prediction: With its picture.
        style: What of the mask is drawn.
        opacity: Of its fill, in [0, 1].
        side_px: Of the square that what is drawn fits into.

    Returns:
        ``(H, W, 3)``, its pixels square.
    """
    return draw_slice(
        picture_of(prediction),
        mask_of(prediction),
        prediction.spacing_mm,
        style=style,
        opacity=opacity,
        side_px=side_px,
        plane=prediction.plane,
    )


def draw_heat(
    picture: NDArray[np.uint8],
    heat: NDArray[np.uint8],
    spacing_mm: tuple[float, float] | None = None,
    opacity: float = 0.5,
) -> NDArray[np.uint8]:
    """A slice under its heat map.

    Args:
        picture: ``(H, W)``.
        heat: ``(H, W)``, 0 to 255.
        spacing_mm: Between rows and columns; None takes the pixels as square.
        opacity: Of the map, in [0, 1].

    Returns:
        ``(H, W, 3)``.
    """
    height, width = fit_shape(picture.shape, spacing_mm, (_SIDE_PX, _SIDE_PX))
    gray, warm = (
        np.asarray(Image.fromarray(layer).resize((width, height), Image.Resampling.BILINEAR)) for layer in (picture, heat)
    )
    colors = np.stack([np.interp(warm / 255, _HEAT_AT, channel) for channel in _HEAT.T], axis=-1)
    return ((1 - opacity) * gray[..., None] + opacity * colors).round().astype(np.uint8)


def draw_disagreement(
    picture: NDArray[np.uint8],
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    spacing_mm: tuple[float, float] | None = None,
    opacity: float = 0.5,
) -> NDArray[np.uint8]:
    """Where two masks agree (yellow), and where only the first (blue) or only the second (vermilion) is.

    Args:
        picture: ``(H, W)``.
        first: ``(H, W)``.
        second: ``(H, W)``.
        spacing_mm: Between rows and columns; None takes the pixels as square.
        opacity: Of the colors, in [0, 1].

    Returns:
        ``(H, W, 3)``.
    """
    shape = fit_shape(picture.shape, spacing_mm, (_SIDE_PX, _SIDE_PX))
    image, one = resize_slice(picture.astype(np.float32), first, shape)
    _, other = resize_slice(picture.astype(np.float32), second, shape)
    colors = np.repeat(image[..., None], 3, axis=2)
    for where, color in ((one & ~other, _FIRST), (other & ~one, _SECOND), (one & other, _BOTH)):
        colors[where] = (1 - opacity) * colors[where] + opacity * np.array(color)
    return colors.round().astype(np.uint8)


def _letter(drawn: NDArray[np.uint8], letters: str) -> NDArray[np.uint8]:
    image = Image.fromarray(drawn)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(14, max(image.size) // 20))
    width, height = image.size
    margin = max(image.size) // 80
    places = ((margin, height // 2), (width - margin, height // 2), (width // 2, margin), (width // 2, height - margin))
    for letter, place, anchor in zip(letters, places, ("lm", "rm", "mt", "mb"), strict=True):
        draw.text(place, letter, "white", font, anchor=anchor, stroke_width=2, stroke_fill="black")
    return np.asarray(image)
