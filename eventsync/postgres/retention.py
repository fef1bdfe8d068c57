"""How long events are kept: partitions made ahead of time, and dropped after it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    ensure_partitions: str
    covered_until: str
    expired_partitions: str
    drop_event_partition: str


SQL = load_statements(_Sql, "retention.sql")


class Retention:
    """The partitions of `events` (raw) and `event_history` (slim)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure_partitions(self, covered_from: datetime, covered_until: datetime) -> int:
        """Make the missing weeks between the two times; tell how many partitions were made."""
        async with self._database.session() as session:
            made: int = await session.fetchval(SQL.ensure_partitions, covered_from, covered_until)
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
        removed = 0
        for parent, before in (("events", raw_before), ("event_history", history_before)):
            async with self._database.session() as session:
                expired = [row["relname"] for row in await session.fetch(SQL.expired_partitions, parent, before)]
            for child in expired:
                removed += await self._drop(child)
        return removed

    async def _drop(self, child: str) -> bool:
        try:
            async with self._database.transaction() as session:
                dropped: bool = await session.fetchval(SQL.drop_event_partition, child)
        except Transient:
            return False
        return dropped
