"""How long events are kept: partitions made ahead of time, and dropped after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import structlog

from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Sql:
    lock_partitions: str
    ensure_partitions: str
    covered_until: str
    expired_partitions: str
    drop_event_partition: str


SQL = load_statements(_Sql, "retention.sql")


class _Busy(Transient):
    """Someone reads or writes for longer than we let others wait behind us."""


class Retention:
    """The partitions of `events` (raw) and `event_history` (slim)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure_partitions(self, covered_from: datetime, covered_until: datetime) -> int:
        """Make the missing weeks between the two times; tell how many partitions were made.

        None are made while someone reads for long: the next time will do, as they are made weeks ahead.
        """
        try:
            async with self._alone() as session:
                made: int = await session.fetchval(SQL.ensure_partitions, covered_from, covered_until)
        except _Busy:
            return 0
        return made

    async def covered_until(self) -> datetime | None:
        """Tell until when new events find a partition."""
        async with self._database.session() as session:
            until: datetime | None = await session.fetchval(SQL.covered_until)
        return until

    async def remove_expired(self, *, raw_before: datetime, history_before: datetime) -> int:
        """Drop whole weeks that ended before these times; tell how many went.

        A week that someone is reading is left for the next time rather than letting everyone wait behind the drop.
        """
        try:
            return await self._remove("events", raw_before) + await self._remove("event_history", history_before)
        except _Busy:
            return 0

    async def _remove(self, parent: str, before: datetime) -> int:
        async with self._database.session() as session:
            expired = [row["relname"] for row in await session.fetch(SQL.expired_partitions, parent, before)]
        removed = 0
        for child in expired:
            async with self._alone() as session:
                removed += await session.fetchval(SQL.drop_event_partition, child)
        return removed

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[Session]:
        """Hold the partitions alone. Raises _Busy, with nothing done, where a lock is not to be had soon."""
        try:
            async with self._database.transaction() as session:
                await session.execute(SQL.lock_partitions)
                yield session
        except Transient as error:
            if not isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                raise
            _log.info("partitions_are_busy")
            raise _Busy(str(error)) from error
