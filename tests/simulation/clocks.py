"""The true time, which only the simulation moves, and the clocks of the machines, which may be wrong by minutes."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from eventsync.postgres.record_rows import milliseconds

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
LAST = START + timedelta(days=90)
LARGEST_ERROR_MS = 5 * 60_000


class SimulatedClock:
    """The true time."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    @property
    def now_ms(self) -> int:
        """The time in Unix milliseconds."""
        return milliseconds(self.now)

    def advance_ms(self, span_ms: int) -> None:
        """Let time pass, in whole milliseconds."""
        self.now += timedelta(milliseconds=span_ms)


class MachineClock:
    """What one machine takes for the time."""

    def __init__(self, true: SimulatedClock, error_ms: int) -> None:
        self._true = true
        self._error = timedelta(milliseconds=error_ms)

    def __call__(self) -> datetime:
        return self._true.now + self._error


class Machines:
    """Draws each machine's clock; in some seeds all of them are right."""

    def __init__(self, true: SimulatedClock, rng: random.Random) -> None:
        self._true = true
        self._rng = rng
        self.largest_error_ms = rng.choice((0, LARGEST_ERROR_MS))

    def clock(self) -> MachineClock:
        """Set up a machine."""
        return MachineClock(self._true, self._rng.randint(-self.largest_error_ms, self.largest_error_ms))
