"""Keeps the house: partitions made ahead, what is past its retention removed, evidence written down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import structlog

from eventsync.domain.clock import Clock
from eventsync.postgres.retention import Retention

_log = structlog.get_logger(__name__)
_INTERVAL_S = 600.0
_COVERED_BACK = timedelta(days=14)  # a spool may bring events that are this old
_COVERED_AHEAD = timedelta(days=28)

Chore = Callable[[], Awaitable[object]]


class Upkeep:
    """Does every chore at its start and every ten minutes; several at once do no harm."""

    name = "upkeep"

    def __init__(
        self,
        retention: Retention,
        clock: Clock,
        *,
        raw_days: int,
        history_days: int,
        chores: Sequence[Chore] = (),
        interval_s: float = _INTERVAL_S,
    ) -> None:
        self._retention = retention
        self._clock = clock
        self._raw = timedelta(days=raw_days)
        self._history = timedelta(days=history_days)
        self._chores = tuple(chores)
        self._interval_s = interval_s

    async def run(self) -> None:
        """Keep the house for ever. Raises Transient when PostgreSQL is away: run it again."""
        while True:
            await self.run_once()
            await asyncio.sleep(self._interval_s)

    async def run_once(self) -> None:
        """Do every chore once."""
        now = self._clock()
        made = await self._retention.ensure_partitions(now - _COVERED_BACK, now + _COVERED_AHEAD)
        removed = await self._retention.remove_expired(raw_before=now - self._raw, history_before=now - self._history)
        for chore in self._chores:
            await chore()
        if made or removed:
            _log.info("upkeep_done", partitions_made=made, partitions_removed=removed)
