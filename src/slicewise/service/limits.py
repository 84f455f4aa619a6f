"""How much is taken on: requests in the house, and requests a second of one key."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Lane", "RateLimit"]


class Lane:
    """Requests of one kind that are in the house: uploading, waiting, or being predicted.

    It is asked before a byte of the body is read, so that a refusal costs next to nothing under overload.

    Args:
        limit: How many may be.

    >>> lane = Lane(1)
    >>> lane.enter(), lane.enter()
    (True, False)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self._stay_s = 1.0

    def enter(self) -> bool:
        """Take a place, if there is one."""
        if self.count >= self.limit:
            return False
        self.count += 1
        return True

    def leave(self, duration_s: float) -> None:
        """Give the place back, after so many seconds in the house."""
        self._stay_s += 0.1 * (duration_s - self._stay_s)
        self.count -= 1

    def retry_after_s(self) -> int:
        """When half of those in the house will have been answered, in whole seconds, at least 1."""
        # Little's law: of n that stay for t each, n / t leave a second, so the half of them in t / 2, whatever n is.
        return min(60, max(1, math.ceil(self._stay_s / 2)))


class RateLimit:
    """A bucket of tokens for each valid key: it refills at the rate, and holds two seconds' worth.

    Args:
        rate_per_s: Requests a second; 0: no limit.
        clock: In seconds.

    >>> limit = RateLimit(1.0, clock=lambda: 0.0)
    >>> limit.take("a"), limit.take("a"), limit.take("a")
    (True, True, False)
    """

    def __init__(self, rate_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate_per_s = rate_per_s
        self._burst = max(1.0, 2 * rate_per_s)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> bool:
        """Whether one more request of this key may come now."""
        if not self.rate_per_s:
            return True
        now = self._clock()
        tokens, then = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self.rate_per_s)
        self._buckets[key] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1

    def retry_after_s(self) -> int:
        """When a key that was refused has a token again, in whole seconds."""
        return max(1, math.ceil(1 / self.rate_per_s)) if self.rate_per_s else 1
