"""Searching events: by what they were, what became of them, and when; one by one with what was received."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.events import EventId, received_at_of
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    connection_ids: str
    plan_for_values: str
    list_events: str
    find_event: str
    find_queue_place: str
    find_payload: str


SQL = load_statements(_Sql, "search.sql")


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted: None asks for all. `organization_id` is the owner's; only an admin asks without.

    `state` is a QueueStatus or an Outcome; the time of receipt lies in [since, until).
    """

    organization_id: OrganizationId | None = None
    connection_id: ConnectionId | None = None
    vendor: str | None = None
    state: str | None = None
    event_type: str | None = None
    entity_kind: str | None = None
    entity_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def needs_connections(self) -> bool:
        """Whether the connections must be looked up: a record's events are indexed by its connection."""
        return any(given is not None for given in (self.organization_id, self.connection_id, self.entity_id))


@dataclass(frozen=True, slots=True)
class EventCursor:
    """The last event of a page: the next page begins after it."""

    received_at: datetime
    event_id: EventId


@dataclass(frozen=True, slots=True)
class EventSummary:
    """An event and what became of it. `state` is its outcome once `finished_at` is set, before that its status."""

    event_id: EventId
    received_at: datetime
    connection_id: ConnectionId
    vendor: str
    source: str
    caused_by: EventId | None
    event_type: str | None
    entity_kind: str | None
    entity_id: str | None
    state: str
    reason: str | None
    error: str | None
    attempts: int
    changed_fields: tuple[str, ...]
    finished_at: datetime | None

    @property
    def cursor(self) -> EventCursor:
        """Where the page after this event begins."""
        return EventCursor(self.received_at, self.event_id)


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Where an unfinished event stands in the queue."""

    work: str
    lane: int
    available_at: datetime
    publishes: int
    published_at: datetime | None
    leased_until: datetime | None


@dataclass(frozen=True, slots=True)
class Payload:
    """What was received: personal data, so whoever shows it writes the access log."""

    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EventDetail:
    """An event, its place in the queue while unfinished, and what was received where that was asked for and is kept."""

    summary: EventSummary
    place: QueuePlace | None
    payload: Payload | None


class EventSearch:
    """`v_events` and the raw side of events."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def events(
        self, wanted: EventFilter, *, after: EventCursor | None = None, limit: int = 100
    ) -> list[EventSummary]:
        """List a page of events, the latest first."""
        async with self._database.transaction() as session:
            await session.execute(SQL.plan_for_values)
            rows = await session.fetch(
                SQL.list_events,
                await _connection_ids(session, wanted),
                wanted.vendor,
                wanted.state,
                wanted.event_type,
                wanted.entity_kind,
                wanted.entity_id,
                wanted.since,
                wanted.until,
                None if after is None else after.received_at,
                None if after is None else after.event_id,
                limit,
            )
        return [event_summary(row) for row in rows]

    async def event(
        self, event_id: UUID, organization_id: OrganizationId | None, *, with_payload: bool = False
    ) -> EventDetail | None:
        """Show one event of the organization (None: anyone's); None where it has none of this id.

        Raises Misconfigured when no key of ours opens its payload.
        """
        received_at = _received_at(event_id)
        if received_at is None:
            return None
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.find_event, received_at, event_id, organization_id)
            if row is None:
                return None
            place = await session.fetchrow(SQL.find_queue_place, event_id)
            raw = await session.fetchrow(SQL.find_payload, received_at, event_id) if with_payload else None
        return EventDetail(
            summary=event_summary(row),
            place=None if place is None else QueuePlace(**dict(place)),
            payload=None if raw is None else self._payload(event_id, raw),
        )

    def _payload(self, event_id: UUID, raw: Mapping[str, Any]) -> Payload:
        context = f"event:{event_id}"
        headers = orjson.loads(self._keyring.open(raw["headers_sealed"], context))
        return Payload(
            headers=tuple((name, value) for name, value in headers),
            body=self._keyring.open(raw["body_sealed"], context),
        )


def event_summary(row: Mapping[str, Any]) -> EventSummary:
    """Read a row of `v_events`."""
    return EventSummary(**dict(row) | {"changed_fields": tuple(row["changed_fields"])})


async def owned_connection_ids(
    session: Session, organization_id: OrganizationId | None, connection_id: ConnectionId | None = None
) -> list[ConnectionId]:
    """List the organization's connections (None: everyone's), or the one asked for where it is among them."""
    found: list[ConnectionId] = await session.fetchval(SQL.connection_ids, organization_id, connection_id)
    return found


async def _connection_ids(session: Session, wanted: EventFilter) -> list[ConnectionId] | None:
    if not wanted.needs_connections:
        return None
    return await owned_connection_ids(session, wanted.organization_id, wanted.connection_id)


def _received_at(event_id: UUID) -> datetime | None:
    try:
        return received_at_of(event_id)
    except OverflowError:  # no id of ours: its first bytes are no time before the year 10000
        return None
