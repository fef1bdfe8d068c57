"""Evidence of what was turned away at the door: counted in memory, written down by the hour, never a body."""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.errors import EventsyncError
from eventsync.postgres.access import RefusalCounts, RefusalKey
from eventsync.stages.patience import Patience

_INTERVAL_S = 30.0
_WRITE_TIMEOUT_S = 3.0
_log = structlog.get_logger(__name__)


class RefusalLog:
    """Counts by hour, vendor and reason: bounded, whatever a stranger sends."""

    name = "refusals"

    def __init__(self, store: RefusalCounts, clock: Clock, *, interval_s: float = _INTERVAL_S) -> None:
        self._store = store
        self._clock = clock
        self._interval_s = interval_s
        self._patience = Patience(_WRITE_TIMEOUT_S)
        self._counts: Counter[RefusalKey] = Counter()

    def count(self, vendor: str, reason: str) -> None:
        """Note one request that was turned away."""
        hour = self._clock().replace(minute=0, second=0, microsecond=0)
        self._counts[RefusalKey(hour, vendor, reason)] += 1

    async def run(self) -> None:
        """Write down what was counted, for ever, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                await self.run_once()
        finally:
            await self.run_once()
            await self._patience.close()

    async def run_once(self) -> None:
        """Write down what was counted; it is kept for the next time while PostgreSQL is away."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            await self._patience.wait_for(self._store.add(counts, self._clock()))
        except (EventsyncError, TimeoutError) as error:  # a count may be written twice after a hang: it is evidence
            self._counts.update(counts)
            _log.warning("refusals_not_written", error=str(error) or "PostgreSQL hangs")
