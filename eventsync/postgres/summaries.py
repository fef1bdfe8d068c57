"""Records that lists only summarize: which of them differ from what is held, and the right to read one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from eventsync.domain.changes import EntityRef, Summary
from eventsync.domain.connections import ConnectionId
from eventsync.domain.records import RecordKind
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    find_unlike: str
    remember: str
    lease_read: str
    end_read: str


SQL = load_statements(_Sql, "summaries.sql")


class Summaries:
    """What lists have said of intakes and notes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unlike(
        self, connection_id: ConnectionId, kind: RecordKind, summaries: Sequence[Summary]
    ) -> list[Summary]:
        """Choose those that must be read again; the others are as they are held."""
        columns = (
            [summary.entity.external_id for summary in summaries],
            [summary.status for summary in summaries],
            [summary.fingerprint for summary in summaries],
            [summary.is_finished for summary in summaries],
        )
        async with self._database.session() as session:
            rows = await session.fetch(SQL.find_unlike, connection_id, kind.value, *columns)
        unlike = {row["external_id"] for row in rows}
        return [summary for summary in summaries if summary.entity.external_id in unlike]

    async def lease_read(self, entity: EntityRef, now: datetime, until: datetime) -> int | None:
        """Take the right to read a record, with its sequence number; None while another read is on its way."""
        async with self._database.session() as session:
            sequence: int | None = await session.fetchval(SQL.lease_read, *_key(entity), now, until)
        return sequence


async def remember(
    session: Session, connection_id: ConnectionId, kind: RecordKind, summaries: Sequence[Summary]
) -> None:
    """Note that these are held as the list has them."""
    ids = [summary.entity.external_id for summary in summaries]
    fingerprints = [summary.fingerprint for summary in summaries]
    await session.execute(SQL.remember, connection_id, kind.value, ids, fingerprints)


async def end_read(session: Session, entity: EntityRef, sequence: int) -> None:
    """Give the right back, in the transaction that wrote what was read."""
    await session.execute(SQL.end_read, *_key(entity), sequence)


def _key(entity: EntityRef) -> tuple[ConnectionId, str, str]:
    return entity.connection_id, entity.kind.value, entity.external_id
