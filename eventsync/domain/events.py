"""An event: something a vendor, a person or a schedule told us, from its receipt to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import NewType
from uuid import UUID

from eventsync.domain.connections import ConnectionId

EventId = NewType("EventId", UUID)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventSource(StrEnum):
    """Who told us."""

    WEBHOOK = "webhook"
    REPLAY = "replay"  # a person asked for an earlier event to be applied again


class WorkClass(StrEnum):
    """Which kind of work an unfinished event waits for; each has a queue of its own on the bus."""

    APPLY = "apply"  # fast, micro-batched
    REFETCH = "refetch"  # slow: the event names a record that must be read from the vendor's API


class Lane(IntEnum):
    """Which of two lanes an event travels in, so that a bulk replay never delays fresh webhooks."""

    FRESH = 0
    BULK = 1


class QueueStatus(StrEnum):
    """Where an unfinished event stands. pending -> published -> (running ->) finished | pending | parked."""

    PENDING = "pending"  # due at `available_at`
    PUBLISHED = "published"  # on the bus, not yet finished
    RUNNING = "running"  # leased by a worker until `leased_until`
    PARKED = "parked"  # waits for a person; `reason` says why


class Outcome(StrEnum):
    """What became of a finished event."""

    APPLIED = "applied"  # at least one field of a record changed
    UNCHANGED = "unchanged"  # we already knew, or there was nothing to change
    STALE = "stale"  # something newer was already there


@dataclass(frozen=True, slots=True)
class IncomingEvent:
    """An event at the door, before it is durable; its identity and time are fixed before the first try to store it.

    `headers` are the request's, credentials masked. `parked_reason` is set where the body can never be applied.
    """

    id: EventId
    connection_id: ConnectionId
    vendor: str
    source: EventSource
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    parked_reason: str | None = None
    lane: Lane = Lane.FRESH
    caused_by: EventId | None = None

    @property
    def received_at(self) -> datetime:
        """When it was received: the millisecond that its id begins with."""
        return received_at_of(self.id)


def new_event_id(now: datetime, entropy: bytes) -> EventId:
    """Make an event's id: a version 7 UUID (RFC 9562) of this millisecond and ten bytes of `entropy`.

    The id tells the partition that holds the event, so a message on the bus needs nothing else.
    """
    milliseconds = (now - _EPOCH) // timedelta(milliseconds=1)
    raw = bytearray(milliseconds.to_bytes(6, "big") + entropy[:10])
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return EventId(UUID(bytes=bytes(raw)))


def received_at_of(event_id: UUID) -> datetime:
    """Tell when the event with this id was received, in UTC with millisecond precision."""
    return _EPOCH + timedelta(milliseconds=int.from_bytes(event_id.bytes[:6], "big"))
