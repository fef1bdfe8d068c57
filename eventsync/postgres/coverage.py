"""What a connection's complete reads have proved: written with the page that ends a read, asked when one is planned.

Verifying a record writes nothing to it. A complete list leaves one row for all that it showed; a list of changes moves
a cursor, and whoever wants to know when a record was last known to be true puts the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from eventsync.domain.connections import ConnectionId
from eventsync.domain.reads import Covered, Cursor, Knowledge, PracticeSize
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import RunId
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements

ALWAYS_FROM = datetime.min.replace(tzinfo=UTC)
ALWAYS_TO = datetime.max.replace(tzinfo=UTC)
_REMEMBERED = timedelta(days=30)
_WEEK_DAYS = 7


@dataclass(frozen=True, slots=True)
class _Sql:
    count_clients: str
    count_appointments: str
    count_appointments_by_day: str
    load_cursors: str
    load_coverage: str
    load_found: str
    load_walks: str
    watched_since: str
    insert_coverage: str
    advance_cursor: str
    keep_walk: str
    end_walk: str


SQL = load_statements(_Sql, "coverage.sql")


@dataclass(frozen=True, slots=True)
class FoundBefore:
    """An appointment as earlier workers of a run have found it."""

    external_id: str
    is_new: bool
    is_changed: bool
    is_gone: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk through a list of everything that has not come to its end yet."""

    next_page: int
    began_at: datetime


class Coverage:
    """What is known of the connections' copies."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def knowledge(self, connection_id: ConnectionId, now: datetime, first_day: date, last_day: date) -> Knowledge:
        """Tell what is held and verified of a connection; appointments are counted from `first_day` to `last_day`."""
        async with self._database.session() as session:
            size = await _size(session, connection_id, now, first_day, last_day)
            cursors = await session.fetch(SQL.load_cursors, connection_id)
            covered = await session.fetch(SQL.load_coverage, connection_id, now - _REMEMBERED, None)
            walks = await session.fetch(SQL.load_walks, connection_id)
        return Knowledge(
            size=size,
            changed=_cursors(cursors, "changed"),
            deleted=_cursors(cursors, "deleted"),
            covered=tuple(_covered(row) for row in covered),
            walk_began_at={RecordKind(row["kind"]): row["began_at"] for row in walks},
        )

    async def changes_followed(self, connection_id: ConnectionId) -> Mapping[RecordKind, Cursor]:
        """Tell how far the lists of changes were followed."""
        async with self._database.session() as session:
            return _cursors(await session.fetch(SQL.load_cursors, connection_id), "changed")

    async def covered_by(self, connection_id: ConnectionId, run_id: RunId) -> tuple[Covered, ...]:
        """Tell what the run itself has read completely, in earlier attempts as well."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.load_coverage, connection_id, ALWAYS_FROM, run_id)
        return tuple(_covered(row) for row in rows)

    async def found_by(self, connection_id: ConnectionId, run_id: RunId, began_at: datetime) -> tuple[FoundBefore, ...]:
        """Tell what earlier workers of the run that began at `began_at` have found.

        What webhooks have changed since is among it: it is not told apart from what the run's reads have.
        """
        async with self._database.session() as session:
            rows = await session.fetch(SQL.load_found, connection_id, run_id, began_at)
        return tuple(FoundBefore(**dict(row)) for row in rows)

    async def walk(self, connection_id: ConnectionId, kind: RecordKind) -> Walk | None:
        """Find the walk that has not come to its end."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.load_walks, connection_id)
        return next((Walk(row["next_page"], row["began_at"]) for row in rows if row["kind"] == kind.value), None)

    async def watched_since(self, connection_id: ConnectionId) -> datetime:
        """Tell since when the connection's webhooks could have told us of changes."""
        async with self._database.session() as session:
            since: datetime = await session.fetchval(SQL.watched_since, connection_id)
        return since


async def record_coverage(
    session: Session, connection_id: ConnectionId, run_id: RunId, kind: RecordKind, covered: Sequence[Covered]
) -> None:
    """Keep what a read has shown, in the transaction that wrote the last of it."""
    await session.execute(
        SQL.insert_coverage,
        connection_id,
        kind.value,
        run_id,
        [entry.window_from for entry in covered],
        [entry.window_to for entry in covered],
        [entry.read_began_at for entry in covered],
    )


async def advance_cursor(
    session: Session,
    connection_id: ConnectionId,
    kind: RecordKind,
    *,
    deleted: bool,
    since: datetime,
    until: datetime,
    last_modified: datetime | None,
) -> None:
    """Note that a list told every change (or deletion) since `since`, in the transaction that wrote the last of it.

    `until` is when its read began.
    """
    name = "deleted" if deleted else "changed"
    await session.execute(SQL.advance_cursor, connection_id, kind.value, name, since, until, last_modified)


async def keep_walk(session: Session, connection_id: ConnectionId, kind: RecordKind, walk: Walk) -> None:
    """Note where the next run goes on, in the transaction that wrote the page before it."""
    await session.execute(SQL.keep_walk, connection_id, kind.value, walk.next_page, walk.began_at)


async def end_walk(session: Session, connection_id: ConnectionId, kind: RecordKind) -> None:
    """Note that the walk has come to its end."""
    await session.execute(SQL.end_walk, connection_id, kind.value)


async def _size(
    session: Session, connection_id: ConnectionId, now: datetime, first_day: date, last_day: date
) -> PracticeSize:
    window = _midnight(first_day), _midnight(last_day + timedelta(days=1))
    clients = await session.fetchrow(SQL.count_clients, connection_id, now)
    appointments = await session.fetchrow(SQL.count_appointments, connection_id, now)
    days = await session.fetch(SQL.count_appointments_by_day, connection_id, *window)
    return PracticeSize(
        clients=clients["living"],
        appointments_by_day={row["day"]: row["count"] for row in days},
        changes_per_day={
            RecordKind.PATIENT: clients["changed"] / _WEEK_DAYS,
            RecordKind.APPOINTMENT: appointments["changed"] / _WEEK_DAYS,
        },
        deleted_lately={RecordKind.PATIENT: clients["deleted"], RecordKind.APPOINTMENT: appointments["deleted"]},
    )


def _cursors(rows: Sequence[Mapping[str, Any]], name: str) -> dict[RecordKind, Cursor]:
    return {
        RecordKind(row["kind"]): Cursor(row["unbroken_since"], row["covered_until"], row["last_modified"])
        for row in rows
        if row["list"] == name
    }


def _covered(row: Mapping[str, Any]) -> Covered:
    return Covered(RecordKind(row["kind"]), row["window_from"], row["window_to"], row["read_began_at"])


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
