"""Explaining a record: what its row says, which version that is, and every event that made it so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsync.domain.changes import Version
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.events import EventId, received_at_of
from eventsync.domain.records import RecordKind
from eventsync.postgres.database import Database, Session
from eventsync.postgres.search import EventSummary, event_summary, owned_connection_ids
from eventsync.postgres.statements import load_statements

_MOST_EVENTS = 1_000


@dataclass(frozen=True, slots=True)
class _Sql:
    find_appointments: str
    find_documents: str
    find_clients: str
    list_record_keys_of_client: str
    list_events_of_records: str
    list_events_by_id: str


SQL = load_statements(_Sql, "explain.sql")


@dataclass(frozen=True, slots=True)
class RecordFacts:
    """A record's row without personal data.

    `version` is its place in the total order, with the vendor's time or sequence as `position`; `verified_at` is when
    it was last known to stand so, by a read of its own, the vendor's time or a complete list. `applied_event_id` is the
    event that last changed what people see.
    """

    id: UUID
    connection_id: ConnectionId
    kind: RecordKind
    external_id: str
    patient_id: UUID | None
    status: str | None
    version: Version
    verified_at: datetime | None
    deleted_at: datetime | None
    changed_at: datetime
    applied_event_id: EventId | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Explanation:
    """The records that an id means (an external id may mean one in each connection) and their events, oldest first.

    `records` is empty where events name a record that has no row (yet). At most the latest thousand events are given.
    """

    records: tuple[RecordFacts, ...]
    events: tuple[EventSummary, ...]

    @property
    def history(self) -> tuple[EventSummary, ...]:
        """The events that came to an end."""
        return tuple(event for event in self.events if event.finished_at is not None)

    @property
    def unfinished(self) -> tuple[EventSummary, ...]:
        """The events that wait, are at work or are parked."""
        return tuple(event for event in self.events if event.finished_at is None)


async def explain(
    database: Database, kind: RecordKind, reference: str, organization_id: OrganizationId | None
) -> Explanation:
    """Explain the record that `reference` (the vendor's id or ours) means, among the organization's (None: all)."""
    async with database.session() as session:
        owned = await owned_connection_ids(session, organization_id)
        records = await _records(session, kind, reference, owned)
        keys = {(connection_id, kind.value, reference) for connection_id in owned}
        for record in records:
            keys |= await _keys_of(session, record)
        events = await _events(session, keys, records, owned)
    return Explanation(records, events)


async def _records(
    session: Session, kind: RecordKind, reference: str, owned: Sequence[ConnectionId]
) -> tuple[RecordFacts, ...]:
    arguments = (owned, reference, _uuid(reference))
    if kind.is_document:
        rows = await session.fetch(SQL.find_documents, *arguments, kind.value)
    else:
        statement = SQL.find_appointments if kind is RecordKind.APPOINTMENT else SQL.find_clients
        rows = await session.fetch(statement, *arguments)
    return tuple(_facts(row) for row in rows)


async def _keys_of(session: Session, record: RecordFacts) -> set[tuple[ConnectionId, str, str]]:
    keys = {(record.connection_id, record.kind.value, record.external_id)}
    if record.kind is RecordKind.PATIENT:
        rows = await session.fetch(SQL.list_record_keys_of_client, record.connection_id, record.external_id)
        keys |= {(record.connection_id, row["kind"], row["external_id"]) for row in rows}
    return keys


async def _events(
    session: Session,
    keys: set[tuple[ConnectionId, str, str]],
    records: Sequence[RecordFacts],
    owned: Sequence[ConnectionId],
) -> tuple[EventSummary, ...]:
    columns = [list(column) for column in zip(*sorted(keys), strict=True)] or [[], [], []]
    named = await session.fetch(SQL.list_events_of_records, *columns, _MOST_EVENTS)
    applied = [record.applied_event_id for record in records if record.applied_event_id is not None]
    times = [received_at_of(event_id) for event_id in applied]
    found = [*named, *await session.fetch(SQL.list_events_by_id, times, applied, owned)]
    events = {row["event_id"]: event_summary(row) for row in found}
    return tuple(sorted(events.values(), key=lambda event: (event.received_at, event.event_id)))


def _facts(row: Any) -> RecordFacts:
    read = {"kind": RecordKind(row["kind"]), "version": Version.from_bytes(row["version"])}
    return RecordFacts(**dict(row) | read)


def _uuid(reference: str) -> UUID | None:
    try:
        return UUID(reference)
    except ValueError:
        return None
