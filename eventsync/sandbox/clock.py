"""The sandbox's own time: starts where it is told and runs at a chosen speed."""

import time
from collections.abc import Callable


class SandboxClock:
    """A clock in Unix milliseconds that never goes back; `speed` 60 makes a minute pass in a second.

    At `speed` 0 it stands until `advance` moves it; a running one can be moved ahead as well.
    """

    def __init__(self, start_ms: int, speed: float = 1.0, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        if speed < 0:
            raise ValueError(f"speed must not be below 0, but is {speed}; use 1 for real time")
        self.speed = speed
        self._start_ms = start_ms
        self._monotonic_s = monotonic_s
        self._started_s = monotonic_s()

    def now_ms(self) -> int:
        """The sandbox's time, Unix milliseconds."""
        return self._start_ms + int((self._monotonic_s() - self._started_s) * 1000 * self.speed)

    def advance(self, by_ms: int) -> None:
        """Let so much time pass at once. Raises ValueError for less than 0."""
        if by_ms < 0:
            raise ValueError(f"the sandbox's time never goes back, and {by_ms} ms would; advance by 0 or more")
        self._start_ms += by_ms

    def advance_to(self, at_ms: int) -> None:
        """Let the time pass until then. Raises ValueError for a time that has passed."""
        self.advance(at_ms - self.now_ms())
