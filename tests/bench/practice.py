"""A practice to measure with: one connection of IntakeQ, and events that are stored for it beforehand."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from e2e.eventsync_process import ENCRYPTION_KEYS
from eventsync.bench.specimens import appointment_webhooks
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import EventId, EventSource, IncomingEvent, new_event_id
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.vendors import load_vendors
from eventsync.wiring import utc_now

_GROUP_EVENTS = 500
# As a webhook brings them: they are sealed and opened with each event.
_HEADERS = (("Host", "sync.example.test"), ("Content-Type", "application/json"), ("Content-Length", "1500"))


@dataclass(frozen=True, slots=True)
class Practice:
    """A connected practice; `webhook_path` is where its webhooks go."""

    connection_id: ConnectionId
    webhook_path: str


def bench_keyring() -> Keyring:
    """Make the keys that every process of a benchmark has."""
    return Keyring.parse(ENCRYPTION_KEYS)


async def add_practice(database: Database) -> Practice:
    """Connect a practice, as `eventsync connections add` does."""
    now = utc_now()
    organization = await Organizations(database).add("Test Practice", None, now)
    new = NewConnection(organization.id, "intakeq", "key-of-the-account", "http://127.0.0.1:9/api/v1")
    added = await Connections(database, bench_keyring(), load_vendors()).add(new, now)
    return Practice(added.id, f"/api/webhooks/intakeq/{added.webhook_token}")


async def store_appointments(
    queue: EventQueue, practice: Practice, count: int, *, first_number: int = 0
) -> list[EventId]:
    """Store webhooks of `count` new appointments as the door does; they are pending then."""
    bodies = appointment_webhooks(count, first_number=first_number, version_ms=int(time.time() * 1000))
    event_ids: list[EventId] = []
    for start in range(0, count, _GROUP_EVENTS):
        events = _events(practice, bodies[start : start + _GROUP_EVENTS])
        await queue.store(events)
        event_ids += [event.id for event in events]
    return event_ids


def _events(practice: Practice, bodies: Sequence[bytes]) -> list[IncomingEvent]:
    return [
        IncomingEvent(
            id=new_event_id(utc_now(), secrets.token_bytes(10)),
            connection_id=practice.connection_id,
            vendor="intakeq",
            source=EventSource.WEBHOOK,
            headers=_HEADERS,
            body=body,
        )
        for body in bodies
    ]
