"""The sandbox's own time: starts where it is told and runs at a chosen speed."""

import time
from collections.abc import Callable


class SandboxClock:
    """A clock in Unix milliseconds that never goes back; `speed` 60 makes a minute pass in a second."""

    def __init__(self, start_ms: int, speed: float = 1.0, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be above 0, not {speed}; use 1 for real time")
        self.speed = speed
        self._start_ms = start_ms
        self._monotonic_s = monotonic_s
        self._started_s = monotonic_s()

    def now_ms(self) -> int:
        """The sandbox's time, Unix milliseconds."""
        return self._start_ms + int((self._monotonic_s() - self._started_s) * 1000 * self.speed)
