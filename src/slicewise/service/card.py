"""The checkpoint's description as the service shows it: numbers of patients and not their names."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from slicewise import __version__
from slicewise.model.description import CARD, Description
from slicewise.service.schemas import NOTICE, ModelCard

__all__ = ["card_of"]

_CARD_BYTES = 200_000
_SAME = (
    *("name", "tasks", "class_names", "threshold", "mask_from", "decoder_share", "center", "temperature", "mask_threshold"),
    *("parameters", "architecture", "preprocessing", "metrics", "curves", "gate", "history", "provenance", "weights_sha256"),
)
"""Fields of a description that are shown as they are."""


def card_of(description: Description, folder: Path) -> ModelCard:
    """What is shown of a checkpoint.

    Args:
        description: Of it.
        folder: In which it lies; its card is looked for there and, of a run, two folders above.
    """
    facts = json.loads(description.model_dump_json())  # NaN, which JSON does not know, becomes null
    domain = facts.get("domain")
    has_torch = find_spec("torch") is not None
    return ModelCard(
        model_id=description.model_id,
        patients={
            source: {side: len(names) for side, names in sides.items()} for source, sides in description.patients.items()
        },
        planes=sorted(domain["planes"]) if domain else [],
        card=_read_card(folder),
        can_explain="classification" in description.tasks and has_torch,
        can_tell_uncertainty=has_torch,
        version=__version__,
        notice=NOTICE,
        **{name: facts[name] for name in _SAME},
    )


def _read_card(folder: Path) -> str | None:
    for place in (folder, folder.parent.parent):
        file = place / CARD
        if file.is_file() and file.stat().st_size <= _CARD_BYTES:
            return file.read_text(encoding="utf-8", errors="replace")
    return None
