"""What the pages are told by whoever starts them: which services to ask, and which runs to show."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, field_serializer

__all__ = ["VARIABLE", "KnownService", "RoomSettings"]

VARIABLE = "SLICEWISE_READING_ROOM"
"""Environment variable in which they are handed to the pages' process; it may hold keys, which no command line may."""


class KnownService(BaseModel):
    """One service that can be asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """As it is called on the pages."""
    url: str
    """Where it listens."""
    key: SecretStr | None = None
    """API key."""

    @field_serializer("key", when_used="json-unless-none")
    def _reveal(self, key: SecretStr) -> str:
        return key.get_secret_value()


class RoomSettings(BaseModel):
    """Everything that the pages are told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    services: tuple[KnownService, ...]
    """At least one."""
    runs: tuple[Path, ...] = ()
    """Folders of runs whose reports are shown."""

    @classmethod
    def from_environment(cls) -> RoomSettings:
        """As they were handed on."""
        return cls.model_validate_json(os.environ[VARIABLE])
