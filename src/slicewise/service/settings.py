"""What a service is: where it listens, whom it answers, and how much it takes on."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from slicewise.errors import ConfigError

__all__ = ["KEYS_VARIABLE", "ServiceSettings", "is_loopback", "keys_from"]

KEYS_VARIABLE = "SLICEWISE_API_KEYS"
"""Environment variable that holds the API keys, separated by commas. They are never an option: command lines are public."""

_MIB = 2**20
_MOST_WORKERS = 4


def _usual_workers() -> int:
    return max(1, min(_MOST_WORKERS, len(os.sched_getaffinity(0))))


class ServiceSettings(BaseModel):
    """Everything that can be set. The limits are those of one process; more is done by more replicas (docs/serving.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: Path
    """Folder of a run, or of a checkpoint."""
    host: str = "127.0.0.1"
    """Address to listen on. Without API keys it has to be a loopback address."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it."""
    keys: tuple[SecretStr, ...] = ()
    """API keys; none: open, on a loopback address alone."""
    state: Path | None = None
    """Folder of the jobs, which then survive a restart; None: a private temporary folder that is removed at the end."""
    workers: int = Field(default_factory=_usual_workers, ge=1)
    """Processes that predict single slices."""
    threads: int | None = Field(None, ge=1)
    """Of each process; None: the cores divided by the workers. Their number changes no bit of an answer."""
    queue: int = Field(64, ge=1)
    """Slice requests that may be in the house at once, those being uploaded and predicted included; more get 503."""
    batches: int = Field(2, ge=1)
    """Batch requests that may be in the house at once."""
    batch_files: int = Field(100, ge=1)
    """Files in one batch request."""
    studies: int = Field(16, ge=1)
    """Jobs that may wait or run at once; more get 503."""
    study_uploads: int = Field(4, ge=1)
    """Studies that may be uploaded at once."""
    rate_per_s: float = Field(300.0, ge=0)
    """Requests a second of one key, on average; twice as many may come in a burst. 0: no limit."""
    slice_bytes: int = Field(32 * _MIB, ge=1024)
    """Body of a request for one slice."""
    batch_bytes: int = Field(256 * _MIB, ge=1024)
    """Body of a batch request."""
    study_bytes: int = Field(1024 * _MIB, ge=1024)
    """Body of a request for a study."""
    slice_pixels: int = Field(16_777_216, ge=1)
    """Pixels of one slice."""
    decode_timeout_s: float = Field(5.0, gt=0)
    """Longest decoding of a slice, after which its decoder is killed."""
    study_decode_timeout_s: float = Field(60.0, gt=0)
    """Longest decoding of a study."""
    decoder_bytes: int = Field(640 * _MIB, ge=64 * _MIB)
    """Resident memory of a slice's decoder, beyond which it is killed."""
    study_decoder_bytes: int = Field(2048 * _MIB, ge=64 * _MIB)
    """Resident memory of a study's decoder."""
    answer_timeout_s: float = Field(30.0, gt=0)
    """Longest time from a slice's upload to its answer, and longest work on it, after which its worker is killed."""
    study_timeout_s: float = Field(1800.0, gt=0)
    """Longest work on a study."""
    body_timeout_s: float = Field(30.0, gt=0)
    """Longest silence within an upload."""
    drain_s: float = Field(12.0, ge=0)
    """How long SIGTERM waits for accepted requests."""
    keep_s: float = Field(3600.0, gt=0)
    """How long the results of a finished job are kept."""

    @property
    def threads_each(self) -> int:
        """Threads of one process that predicts slices."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.workers)

    @property
    def is_open(self) -> bool:
        """Whether anyone on this machine is answered."""
        return not self.keys

    @classmethod
    def of(cls, given: Mapping[str, Any], words: Sequence[str], environment: Mapping[str, str]) -> ServiceSettings:
        """The settings of a command line.

        Args:
            given: Options by field; those that are None were not given.
            words: ``NAME=VALUE`` for the limits that have no option of their own.
            environment: Holds the API keys.

        Raises:
            ConfigError: A name is unknown, or a value is not possible.
        """
        limits: dict[str, str] = {}
        for word in words:
            name, sign, value = word.partition("=")
            if not sign or name not in cls.model_fields or name == "keys":
                names = ", ".join(name for name in cls.model_fields if name not in ("keys", "model"))
                raise ConfigError(f"Expected NAME=VALUE with one of {names}, got {word!r}.")
            limits[name] = value
        chosen = {name: value for name, value in given.items() if value is not None}
        try:
            return cls.model_validate({**chosen, **limits, "keys": keys_from(environment)}).check()
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise ConfigError(f"Expected another value for {where}: {problem['msg']}.") from None

    def check(self) -> ServiceSettings:
        """The settings, if they are safe.

        Raises:
            ConfigError: The service would listen to a network without asking for a key.
        """
        if self.is_open and not is_loopback(self.host):
            raise ConfigError(
                f"Expected API keys in {KEYS_VARIABLE} to listen on {self.host}, found none. Set them, separated by commas, "
                "or listen on 127.0.0.1."
            )
        return self


def keys_from(environment: Mapping[str, str]) -> tuple[SecretStr, ...]:
    """The API keys of an environment, without blanks around them; none where the variable is missing or empty.

    >>> [key.get_secret_value() for key in keys_from({"SLICEWISE_API_KEYS": "one, two,"})]
    ['one', 'two']
    """
    words = (word.strip() for word in environment.get(KEYS_VARIABLE, "").split(","))
    return tuple(SecretStr(word) for word in words if word)


def is_loopback(host: str) -> bool:
    """Whether a host is reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
