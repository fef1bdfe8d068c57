"""What the queue of unfinished events hands out and takes back: one value for each step of an event's path."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import EventId, Lane, Outcome, WorkClass


@dataclass(frozen=True, slots=True)
class FlightWindow:
    """How many events of one work class and lane may be on the bus and unfinished at once."""

    work: WorkClass
    lane: Lane
    size: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """An event that a relay holds for publishing."""

    event_id: EventId
    work: WorkClass
    lane: Lane


@dataclass(frozen=True, slots=True)
class Attempt:
    """An event in a consumer's hands. `is_suspect` where an earlier attempt never came to an orderly end.

    `unreadable` says why its body is missing here: it was sealed with a key that we lack, or was tampered with.
    """

    event_id: EventId
    received_at: datetime
    connection_id: ConnectionId
    vendor: str
    attempts: int
    is_suspect: bool
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """An event's end, as its history keeps it. `entity_version` is the position of its change."""

    event_id: EventId
    outcome: Outcome
    event_type: str | None = None
    entity_kind: str | None = None
    entity_id: str | None = None
    entity_version: int | None = None
    reason: str | None = None
    changed_fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that waits for a person, with a machine-readable reason and a sentence without personal data."""

    event_id: EventId
    reason: str
    error: str = ""
    event_type: str | None = None
    entity_kind: str | None = None
    entity_id: str | None = None


@dataclass(frozen=True, slots=True)
class RefetchWork:
    """An event that names a record to be read from the vendor."""

    event_id: EventId
    event_type: str
    entity_kind: str
    entity_id: str


@dataclass(frozen=True, slots=True)
class RefetchLease:
    """One worker's right to read one record, until the lease's end; `sequence` is the record's own.

    `snapshot` (pg_snapshot as text) names the transactions that had committed when the lease was taken.
    """

    event_id: EventId
    received_at: datetime
    connection_id: ConnectionId
    vendor: str
    entity_kind: str
    entity_id: str
    event_type: str | None
    attempts: int
    sequence: int
    snapshot: str


@dataclass(frozen=True, slots=True)
class QueueMeasure:
    """How many events of one class stand in one status, and when the oldest of them was received."""

    work: str
    lane: int
    status: str
    count: int
    oldest_received_at: datetime | None
