"""Single events by their ids: how each stands, and the request that brought it, opened again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import EventId, received_at_of
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    find_states: str
    load_requests: str


SQL = load_statements(_Sql, "stored_events.sql")


@dataclass(frozen=True, slots=True)
class EventState:
    """How an event stands: `state` is a QueueStatus while it is unfinished, else an Outcome.

    `has_request` tells whether headers and body are still kept (EVENTSYNC_RAW_RETENTION_DAYS).
    """

    event_id: EventId
    state: str
    event_type: str | None
    reason: str | None
    error: str | None
    changed_fields: Sequence[str]
    received_at: datetime
    finished_at: datetime | None
    has_request: bool


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """The request that brought an event; its headers' credentials were masked when it was stored."""

    event_id: EventId
    received_at: datetime
    connection_id: ConnectionId
    vendor: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)


class StoredEvents:
    """`events`, with `event_queue` and `event_history` beside it, by event id."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def states(self, event_ids: Sequence[UUID]) -> dict[UUID, EventState]:
        """Tell how the events stand; those that are not known are missing from the answer."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.find_states, *_keys(event_ids))
        return {row["event_id"]: EventState(**dict(row)) for row in rows}

    async def requests(self, event_ids: Sequence[UUID]) -> list[StoredRequest]:
        """Open the events' requests, in no order; those that are kept no longer are missing.

        Raises Misconfigured when no key of ours opens one.
        """
        async with self._database.session() as session:
            rows = await session.fetch(SQL.load_requests, *_keys(event_ids))
        return [self._opened(row) for row in rows]

    def _opened(self, row: Mapping[str, Any]) -> StoredRequest:
        context = f"event:{row['event_id']}"
        headers = orjson.loads(self._keyring.open(row["headers_sealed"], context))
        return StoredRequest(
            event_id=row["event_id"],
            received_at=row["received_at"],
            connection_id=row["connection_id"],
            vendor=row["vendor"],
            headers=tuple((name, value) for name, value in headers),
            body=self._keyring.open(row["body_sealed"], context),
        )


def _keys(event_ids: Sequence[UUID]) -> tuple[list[UUID], list[datetime]]:
    """Pair the ids with their times; an id that tells an impossible one is not an event's."""
    pairs = []
    for event_id in event_ids:
        try:
            pairs.append((event_id, received_at_of(event_id)))
        except OverflowError:
            continue
    return [event_id for event_id, _ in pairs], [received_at for _, received_at in pairs]
