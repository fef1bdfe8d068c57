"""`absence_candidates`: what one complete list lacked, until a second look says whether it is gone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from eventsync.domain.connections import ConnectionId
from eventsync.domain.records import RecordKind
from eventsync.domain.windows import Proved
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements

MARGIN_S = 300.0  # above the webhooks' lag: what changed later may have been changed while the list was read


@dataclass(frozen=True, slots=True)
class _Sql:
    find_missing_appointments: str
    count_appointments: str
    find_missing_clients: str
    count_clients: str
    remember_missing_appointments: str
    remember_missing_clients: str
    remember: str
    forget: str
    forget_refuted: str


SQL = load_statements(_Sql, "absences.sql")


@dataclass(frozen=True, slots=True)
class Missing:
    """A record that a complete list lacked; `first_missed_at` is when the first such list's read began, if any did."""

    external_id: str
    first_missed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Shortfall:
    """All that one complete list lacked, those that are wanted soonest first, of `held` records that it should have."""

    kind: RecordKind
    window: Proved
    held: int
    missing: tuple[Missing, ...]


class Absences:
    """What may be gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def missing_appointments(
        self, connection_id: ConnectionId, window: Proved, listed: Collection[str]
    ) -> Shortfall:
        """Compare what is held of a window with what its lists told."""
        span = window.start, window.end
        async with self._database.session() as session:
            rows = await session.fetch(
                SQL.find_missing_appointments, connection_id, *span, window.began_at, MARGIN_S, list(listed)
            )
            held = await session.fetchval(SQL.count_appointments, connection_id, *span)
        missing = tuple(Missing(row["external_id"], row["first_missed_at"]) for row in rows)
        return Shortfall(RecordKind.APPOINTMENT, window, held, missing)

    async def missing_clients(self, connection_id: ConnectionId, window: Proved, listed: Collection[str]) -> Shortfall:
        """Compare the clients that are held with the whole list of them."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.find_missing_clients, connection_id, window.began_at, MARGIN_S, list(listed))
            held = await session.fetchval(SQL.count_clients, connection_id)
        missing = tuple(Missing(row["external_id"], row["first_missed_at"]) for row in rows)
        return Shortfall(RecordKind.PATIENT, window, held, missing)

    async def remember(
        self, connection_id: ConnectionId, kind: RecordKind, ids: Collection[str], missed_at: datetime
    ) -> None:
        """Let these wait for a second look; those that wait already keep their time."""
        async with self._database.session() as session:
            await session.execute(SQL.remember, connection_id, kind.value, list(ids), missed_at)

    async def forget(self, connection_id: ConnectionId, kind: RecordKind, ids: Collection[str]) -> None:
        """Drop those that were seen, or of which a second look has decided."""
        async with self._database.session() as session:
            await session.execute(SQL.forget, connection_id, kind.value, list(ids))

    async def forget_refuted(self, connection_id: ConnectionId) -> None:
        """Drop those that something newer than the list that lacked them has shown, or has told to be gone."""
        async with self._database.session() as session:
            await session.execute(SQL.forget_refuted, connection_id, MARGIN_S)


async def remember_missing(
    session: Session, connection_id: ConnectionId, kind: RecordKind, window: Proved, listed: Collection[str]
) -> None:
    """Let what a complete list of appointments or clients lacked wait, in the transaction that ends the list."""
    if kind is RecordKind.APPOINTMENT:
        span = window.start, window.end, window.began_at
        await session.execute(SQL.remember_missing_appointments, connection_id, *span, MARGIN_S, list(listed))
    else:
        await session.execute(SQL.remember_missing_clients, connection_id, window.began_at, MARGIN_S, list(listed))
