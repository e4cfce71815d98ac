# SPDX-License-Identifier: Apache-2.0
"""When to try again and when to give up, counted in rounds.

All requests that were under way when one of them failed belong to one round. Eight connections
to a server that is gone are thus one fault and not eight, and the pauses between the rounds are
what a server gets to come back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

_PROGRESS_BYTES = 256 << 10
"""So much since the count began, and it restarts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to give up."""

    attempts: int = 6
    backoff_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    connect_seconds: float = 30.0
    stall_seconds: float = 30.0


class Patience:
    """The count of what went wrong in one download.

    Attributes
    ----------
    round
        The number of pauses so far; a request belongs to the round in which it was made.
    faults
        Rounds in a row that failed without progress.
    restarts
        How often everything was thrown away; no progress makes this forgotten, or a server that
        never has the same file twice would be asked for ever.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self.round = self.faults = self.restarts = 0
        self._furthest_bytes = 0
        self._not_before = clock()

    @property
    def pause_seconds(self) -> float:
        """How long no new request may be made."""
        return max(0.0, self._not_before - self._clock())

    @property
    def exhausted(self) -> bool:
        """Return True if it is time to give up."""
        return max(self.faults, self.restarts) >= self._limits.attempts

    def fault(self, made_in: int, there: int, *, retry_after: float | None, counts: bool = True) -> bool:
        """Take note of a request that failed; return whether it is the first one of its round.

        Parameters
        ----------
        made_in
            The round of the request.
        there
            How many bytes of the file are there.
        retry_after
            How long the server asks to be left alone.
        counts
            False for what is answered by something else than patience.
        """
        first = made_in == self.round
        if first:
            self.round += 1
            if there >= self._furthest_bytes + _PROGRESS_BYTES:
                self.faults, self._furthest_bytes = 0, there
            self.faults += counts
        self._wait(self._backoff(self.faults) if first else 0.0, retry_after)
        return first

    def restart(self) -> None:
        """Take note that everything was thrown away."""
        self.round += 1
        self.restarts += 1
        self.faults = self._furthest_bytes = 0
        self._wait(self._backoff(self.restarts), None)

    def _backoff(self, times: int) -> float:
        doubled = float(2 ** max(0, times - 1))
        return self._limits.backoff_seconds * doubled * random.uniform(0.8, 1.2)  # noqa: S311

    def _wait(self, seconds: float, retry_after: float | None) -> None:
        seconds = min(max(seconds, retry_after or 0.0), self._limits.longest_wait_seconds)
        self._not_before = max(self._not_before, self._clock() + seconds)
