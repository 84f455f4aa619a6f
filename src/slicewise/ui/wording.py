"""What an answer says, in sentences; symbols beside the words, so that nothing hangs on a color."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from slicewise.inference.record import ScanRecord
from slicewise.inference.result import Decision, word_extent
from slicewise.report.wording import percent
from slicewise.service.schemas import ModelCard, Prediction

__all__ = [
    "COUNTED",
    "SYMBOLS",
    "describe_extent",
    "describe_lack",
    "describe_probability",
    "describe_refusal",
    "describe_rule",
    "describe_slice",
    "describe_sources",
    "describe_training",
    "describe_uncertainty",
    "escape",
    "give_reason",
]

SYMBOLS: dict[Decision, str] = {"tumor": "▲", "tumor, not localized": "△", "no tumor": "○", "abstained": "?"}
"""Of each decision."""

COUNTED = "n counts patients, where a picture without a patient's name counts as one."
"""What stands behind a figure of a model."""

_REFUSALS = {
    "not-one-slice": "Expected a file with one slice, it holds more. Read it on the page *Read*.",
    "too-large": "Expected a smaller upload. Send less at once, or ask who runs the service to raise its limit.",
    "too-many-files": "Expected fewer files at once. Put them into one zip.",
    "no-such-study": "The service was started anew, or has removed the study by now. Send it again.",
    "queue-full": "Others are being answered first. Try again in some seconds.",
    "too-many-requests": "Expected fewer questions a second. Try again in some seconds.",
    "not-ready": "The service is still starting. Try again in some seconds.",
    "unauthorized": "Expected the key of the service in SLICEWISE_API_KEYS, where `slicewise ui` is started.",
    "forbidden": "Expected a service on this machine, or one that asks for a key.",
}
"""What the service says to programs, for a person at a page."""


def describe_refusal(problem: str, detail: str) -> str:
    """What was expected, and what to do.

    Args:
        problem: Name of its kind.
        detail: The service's own words.
    """
    return _REFUSALS.get(problem, detail)


def describe_sources(sources: Sequence[int], names: Sequence[str], *, is_zip: bool) -> str:
    """Which files a scan was read from.

    Args:
        sources: Numbers as the service tells them, at least one.
        names: Of the files that were chosen.
        is_zip: That is a single one, a zip; the numbers are places in it.

    >>> describe_sources([1], ["a.png", "b.png"], is_zip=False), describe_sources([2, 3, 4], ["a.zip"], is_zip=True)
    ('b.png', 'entry 3 of the zip and 2 more')
    """
    first = f"entry {sources[0] + 1} of the zip" if is_zip else names[sources[0]]
    return first if len(sources) == 1 else f"{first} and {len(sources) - 1} more"


def escape(text: str) -> str:
    """A text of others, such as a file's name, for a place where Markdown is read.

    >>> print(escape("a_[b].png"))
    a\\_\\[b\\]\\.png
    """
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", " ".join(text.split()))


def describe_probability(probability: float) -> str:
    """With three digits; what they cannot tell from certainty is said as such.

    >>> describe_probability(0.99314), describe_probability(0.00004), describe_probability(0.99999)
    ('0.993', '< 0.001', '> 0.999')
    """
    if probability < 0.0005:
        return "< 0.001"
    return "> 0.999" if probability >= 0.9995 else f"{probability:.3f}"


def describe_uncertainty(uncertainty: float, tasks: Sequence[str]) -> str:
    """How far the probability moves.

    Args:
        uncertainty: Standard deviation of the probability.
        tasks: Of the model. Dropout is of the classification head.

    >>> describe_uncertainty(0.0121, ["segmentation", "classification"])
    '± 0.012, the standard deviation over views of the slice and dropout draws'
    >>> describe_uncertainty(0.0121, ["segmentation"])
    '± 0.012, the standard deviation over views of the slice'
    """
    spread = "less than 0.001" if uncertainty < 0.0005 else f"{uncertainty:.3f}"
    draws = " and dropout draws" if "classification" in tasks else ""
    return f"± {spread}, the standard deviation over views of the slice{draws}"


def describe_lack(card: ModelCard) -> str | None:
    """What a service cannot say of a slice, and why; None where it can say everything."""
    if not card.can_tell_uncertainty:
        return "No Grad-CAM and no standard deviation: both need torch, which the service does not have."
    if not card.can_explain:
        return "No Grad-CAM: it shows what spoke for tumor to the classification head, and this model only segments."
    return None


def give_reason(answer: Prediction | ScanRecord) -> str:
    """Why the decision is what it is."""
    at = f"the threshold of {answer.threshold:.3f}, which was chosen on validation patients"
    count = answer.slices if isinstance(answer, ScanRecord) else 1
    if answer.decision == "abstained":
        return "No answer is given: the warnings say why."
    if answer.decision == "no tumor":
        below = "The probability is below" if count == 1 else f"In none of {count} slices the probability reaches"
        return f"{below} {at}. The mask is left empty."
    where = f"In {answer.positive_slices} of {count} slices the" if isinstance(answer, ScanRecord) and count > 1 else "The"
    if answer.mask_px is None:
        return f"{where} probability reaches {at}. No mask was looked for."
    if answer.decision == "tumor":
        unit = "pixels" if count == 1 else "voxels"
        return f"{where} probability reaches {at}, and the decoder outlined {answer.mask_px:,} {unit}."
    unsure = "but no outline is sure enough to be shown. The empty mask does not mean a clear slice."
    return f"{where} probability reaches {at}, {unsure}"


def describe_slice(record: ScanRecord, number: int, pixels: int) -> str:
    """The answer for one slice of a scan.

    Args:
        record: Of the scan.
        number: Of the slice.
        pixels: How many of it are outlined.
    """
    probability = record.slice_probabilities[number]
    words = f"probability {describe_probability(probability)}"
    if record.mask_px is None:
        return f"{words}, no mask was looked for"
    is_unlocalized = not pixels and probability >= record.threshold and record.decision != "abstained"
    unsure = "; it reaches the threshold, but no outline is sure enough to be shown" if is_unlocalized else ""
    return f"{words}, {pixels:,} pixels outlined{unsure}"


def describe_rule(slices: int, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """How slices make the answer of a volume, and how many would be flagged in a head without tumor.

    Args:
        slices: How many there are.
        metrics: Of the model's card. Without a specificity on test slices, nothing is said of false alarms.

    >>> describe_rule(155, {"val": {"specificity": {"value": 0.9}}})
    'One slice is enough for the answer "tumor", and the threshold was chosen slice by slice.'
    """
    rule = 'One slice is enough for the answer "tumor", and the threshold was chosen slice by slice.'
    specificity = metrics.get("test", {}).get("specificity", {}).get("value")
    if specificity is None:
        return rule
    return (
        f"{rule} At the model's specificity of {percent(specificity)} on test slices, all sequences together, about "
        f"{(1 - specificity) * slices:.0f} of these {slices} slices would be flagged without any tumor."
    )


def describe_training(patients: Mapping[str, Mapping[str, int]]) -> str:
    """What a model was trained on, source by source.

    Args:
        patients: Numbers by source and side, as in the model's card.

    >>> describe_training({"brisc": {"train": 1830, "val": 422}, "lgg": {"train": 52}, "other": {"test": 9}})
    "Trained on: n = 1,830 (brisc), 52 (lgg); n counts patients, where a picture without a patient's name counts as one."
    """
    sources = [f"{sides['train']:,} ({source})" for source, sides in patients.items() if sides.get("train")]
    return f"Trained on: n = {', '.join(sources) or 'not said'}; {COUNTED}"


def describe_extent(answer: Prediction | ScanRecord) -> tuple[str, str]:
    """Name and value of how much is outlined, in the best unit that is known."""
    if answer.mask_px is None:
        return "Mask", "not looked for"
    slices, volume_ml = (answer.slices, answer.volume_ml) if isinstance(answer, ScanRecord) else (1, None)
    name = "Volume of the mask" if volume_ml is not None else "Area of the mask"
    if volume_ml is None and answer.area_mm2 is None:
        name = "Mask (no spacing known)"
    return name, word_extent(answer.mask_px, slices, answer.area_mm2, volume_ml)
