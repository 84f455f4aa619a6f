"""The rules of an audit, and what it says when one is broken.

A finding of level *error* would make a training or its figures wrong without a sign: a run stops at it. A *warning* costs
figures or leaves them open to doubt. An *info* is worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = ["RULES", "Finding", "Rule", "Severity"]


class Severity(StrEnum):
    """How bad a finding is, worst first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is looked for."""

    severity: Severity
    """The level of its findings; a finding that is a matter of degree may be milder."""
    why: str
    """Why it matters."""
    remedy: str
    """What to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule, and where."""

    rule: str
    """Name of the rule, a key of `RULES`."""
    message: str
    """What was found, with its numbers."""
    files: tuple[str, ...] = ()
    """The files concerned, all of them."""
    severity: Severity = Severity.ERROR
    """The rule's, or milder."""
    source: str | None = None
    """Name of the source; None where it concerns several."""

    @classmethod
    def of(
        cls,
        rule: str,
        message: str,
        files: Iterable[str | Path] = (),
        *,
        severity: Severity | None = None,
        source: str | None = None,
    ) -> Finding:
        """A finding at the level of its rule; each file is named once."""
        named = tuple(dict.fromkeys(str(file) for file in files))
        return cls(rule, message, named, severity or RULES[rule].severity, source)

    def __str__(self) -> str:
        """One line: level, rule, source, message, the first of the files, remedy."""
        where = f" in {self.source}" if self.source else ""
        example = f" For example {self.files[0]}." if self.files else ""
        return f"{self.severity}: {self.rule}{where}: {self.message}{example} {RULES[self.rule].remedy}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``audit.json``."""
        return {
            "rule": self.rule,
            "severity": str(self.severity),
            "source": self.source,
            "message": self.message,
            "remedy": RULES[self.rule].remedy,
            "files": list(self.files),
        }


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

RULES: dict[str, Rule] = {
    # Integrity
    "unreadable-file": Rule(
        _W,
        "Ingest passes over it, so its slices are missing from training and from every figure.",
        "Copy the file again from its publisher, or remove it.",
    ),
    "non-finite": Rule(
        _W,
        "One NaN reaches every weight in a single step; ingest therefore passes over the file.",
        "Repair the step that wrote the file, or remove it.",
    ),
    "no-pixels": Rule(_W, "There is nothing to learn from; ingest passes over it.", "Copy the file again, or remove it."),
    "blank-slice": Rule(
        _I,
        "Beyond the head there is noise alone; as easy negatives such slices flatter accuracy and the false-mask rate.",
        "Leave them out of figures that are to say something about heads.",
    ),
    "color-in-picture": Rule(
        _W,
        "MR images are gray: color is an annotation or a color map, often drawn where the tumor is.",
        "Replace the file by the original without annotations, or leave it out.",
    ),
    "mixed-color-modes": Rule(
        _I,
        "Color modes tell collections apart; where collections differ in their share of tumors, the mode tells the label.",
        "Nothing, as long as the shortcut rules are silent: slicewise reads all of them as gray.",
    ),
    "mixed-bit-depth": Rule(
        _W,
        "Some files were cut to 8 bits and others were not: fine contrast is missing in a part of the source.",
        "Convert all files from their originals in the same way.",
    ),
    "mixed-orientation": Rule(
        _I,
        "Files stored in different orientations come from different scanners or converters.",
        "Nothing: slicewise turns all of them alike. Other tools may not.",
    ),
    "implausible-spacing": Rule(
        _W,
        "A head of another size than heads have means that areas and volumes in millimeters will be wrong.",
        "Correct the spacing in the header, or ask the publisher.",
    ),
    "impossible-label": Rule(
        _E,
        "A label integer that the edition does not know would be taken for tumor or for background at random.",
        "Set the source's year, or correct the mask.",
    ),
    # Masks
    "missing-mask": Rule(
        _E,
        "A slice without its mask would count as tumor-free or not at all.",
        "Add the mask, or leave the slice out.",
    ),
    "orphaned-mask": Rule(
        _W,
        "A mask without its image is unused: the image was lost or renamed.",
        "Find the image, or remove the mask.",
    ),
    "mask-size": Rule(
        _E,
        "A mask of another size belongs to another image or was resized alone; its outline lies elsewhere.",
        "Find the mask that belongs to the image, or leave both out.",
    ),
    "mask-grid": Rule(
        _E,
        "Image and mask lie at different places in space: voxel by voxel they do not correspond.",
        "Resample the mask onto the grid of the image.",
    ),
    "mask-values": Rule(
        _E,
        "Values between background and tumor leave open where the outline is, or are labels of several classes.",
        "Write masks with two values, 0 and 255.",
    ),
    "soft-mask": Rule(
        _I,
        "Many pixels between dark and bright: the outline depends on the threshold, and Dice with it.",
        "Take the masks before they were smoothed or compressed, where they exist.",
    ),
    "label-mask-conflict": Rule(
        _E,
        "The label says one thing and the mask another: one of them teaches something wrong.",
        "Correct the label or the mask, or leave the slice out.",
    ),
    "mask-specks": Rule(
        _W,
        "Regions of a few pixels beside the tumor are slips of the pen; they cost Dice that no model can get back.",
        "Remove the specks.",
    ),
    "mask-outside-head": Rule(
        _W,
        "Tumor beyond the head is a shifted or turned mask, or one of another image.",
        "Compare mask and image, and leave out what does not fit.",
    ),
    # Duplicates
    "duplicate-bytes": Rule(
        _W,
        "The same file twice counts twice, and as two patients it may stand in training and in test.",
        "Keep one of each group (--write-clean); the split keeps groups together in any case.",
    ),
    "duplicate-pixels": Rule(
        _W,
        "The same picture in another file counts twice, and as two patients it may stand in training and in test.",
        "Keep one of each group (--write-clean); the split keeps groups together in any case.",
    ),
    "near-duplicate": Rule(
        _W,
        "The same slice, re-encoded, resized, cropped or mirrored, is recognized by a model that has seen it before.",
        "Keep one of each group (--write-clean); the split keeps groups together in any case.",
    ),
    "duplicate-across-labels": Rule(
        _E,
        "The same slice is filed as tumor and as tumor-free: one of the labels is wrong.",
        "Correct the label, or leave all copies out (--write-clean does).",
    ),
    # Leakage
    "patient-on-two-sides": Rule(
        _E,
        "Slices of one patient are alike: a model that has seen some of them is not tested by the others.",
        "Move all of the patient's files to one side.",
    ),
    "duplicate-on-two-sides": Rule(
        _E,
        "A copy of a test slice stands in training: the figure measures memory.",
        "Move the copies to one side, or keep one of them (--write-clean).",
    ),
    "stale-split": Rule(
        _E,
        "The division was made for other data: patients without a side, or sides without patients.",
        "Divide again: remove split.csv and run `slicewise split`.",
    ),
    "name-clash": Rule(
        _E,
        "Names that differ only in capitals or in how an accent is written are one file on Windows and macOS; there, one of "
        "them is lost.",
        "Rename one of them.",
    ),
    "ending-case": Rule(
        _I,
        "Endings spelled in capitals and in small letters: a search for *.jpg finds other files on Linux than on Windows.",
        "Rename to one spelling. slicewise finds all of them everywhere; other tools may not.",
    ),
    "unportable-name": Rule(
        _W,
        "Other operating systems cannot hold this name: the file is missing wherever the set is copied to one of them.",
        "Rename the file.",
    ),
    "unrecognized-file": Rule(
        _I,
        "A picture or volume that the layout has no place for is not read.",
        "Move it to its place, or out of the folder.",
    ),
    # Shortcuts
    "shortcut-one-class": Rule(
        _E,
        "A source with one class teaches that its look is the class: the model learns to tell sources.",
        "Set sources.NAME.classification=false, or add slices of the other class from the same source.",
    ),
    "shortcut-metadata": Rule(
        _E,
        "Size, aspect, color mode, turn, format and file size tell the label: the classes come from different collections, "
        "and what tells collections apart in a header can be seen in the picture too.",
        "Take both classes from the same collection, or do not let this source teach and score classification.",
    ),
    "shortcut-border": Rule(
        _E,
        "The outermost pixels, where no head is, tell the label: the classes were cropped or padded differently.",
        "Crop both classes alike, or do not let this source teach and score classification.",
    ),
    "shortcut-source": Rule(
        _E,
        "The source alone tells the label: a model that recognizes the source scores well without looking at the brain.",
        "Balance the classes within each source, and judge each source by itself.",
    ),
    # Balance and range
    "class-imbalance": Rule(
        _W,
        "Accuracy of the rarer class rests on few slices; always answering the other looks good.",
        "Judge by ROC-AUC, sensitivity and specificity, and add slices of the rarer class.",
    ),
    "few-patients": Rule(
        _W,
        "Fewer than ten patients of a class are an example, not a sample: no figure of them generalizes.",
        "Add patients.",
    ),
    "dominant-patient": Rule(
        _I,
        "One patient gives a large part of the slices: weights and figures follow that patient.",
        "Use fewer of the patient's slices, or report figures by patient.",
    ),
    "intensity-outlier": Rule(
        _I,
        "Brightness or contrast far from the rest of the source: inverted, windowed otherwise, or no MR image at all.",
        "Look at the pictures, and leave out what does not belong.",
    ),
    "suspected-label": Rule(
        _I,
        "A simple model, trained on the other patients, is sure of the other label.",
        "Have someone who reads MRI look at them. Most are hard cases, some are slips.",
    ),
}
"""Every rule by its name."""
