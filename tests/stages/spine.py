"""The parts of the path between the door and the rows, put together for the tests of the stages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from eventsync.bus.wire import Bus, Delivery, Subscription
from eventsync.crypto import Keyring
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection, ConnectionId, OrganizationId
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Lane, new_event_id
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.records import RecordWriter
from eventsync.stages.apply import Applier
from eventsync.stages.bus_link import BusLink
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.relay import Relay
from eventsync.supervisor import Supervisor, Worker
from eventsync.telemetry import Metrics
from eventsync.vendorkit.vendor import Vendor
from eventsync.vendors import load_vendors
from eventsync.vendors.intakeq import IntakeQ

NOW = datetime.now(UTC).replace(microsecond=0)
DEADLINE_S = 20.0
_SAMPLES = resources.files("eventsync.vendors.intakeq") / "samples"


class ManualClock:
    """A clock that a test moves."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` go by."""
        self.now += timedelta(seconds=seconds)


class RunningClock(ManualClock):
    """The machine's clock, for tests in which waiting is the point."""

    def __call__(self) -> datetime:
        return datetime.now(UTC)


class Spine:
    """One process's parts over a real database and a bus. Both connections are of the vendor `intakeq`."""

    def __init__(self, pool: Database, keyring: Keyring, bus: Bus, connection_ids: Sequence[ConnectionId]) -> None:
        self.clock: ManualClock = ManualClock()
        self.metrics = Metrics()
        self.pool = pool
        self.bus = bus
        self.queue = EventQueue(pool, keyring)
        self.link = BusLink(bus, self.queue)
        self.listener = Listener(pool.url, self.metrics)
        self.writer = RecordWriter(keyring)
        self.connections = {id_: a_connection(id_) for id_ in connection_ids}
        self.connection_id = connection_ids[0]
        self.directory = ConnectionDirectory(self.load_connection, self.listener)

    async def load_connection(self, connection_id: ConnectionId) -> Connection | None:
        """Answer what the test has put into `connections`."""
        return self.connections.get(connection_id)

    async def receive(
        self,
        *bodies: Any,
        connection_id: ConnectionId | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        lane: Lane = Lane.FRESH,
        vendor: str = "intakeq",
    ) -> list[EventId]:
        """Store webhooks with these bodies (bytes as they are, anything else as JSON), received now."""
        events = [
            IncomingEvent(
                id=new_event_id(self.clock(), secrets.token_bytes(10)),
                connection_id=connection_id or self.connection_id,
                vendor=vendor,
                source=EventSource.WEBHOOK,
                headers=headers,
                body=body if isinstance(body, bytes) else orjson.dumps(body),
                lane=lane,
            )
            for body in bodies
        ]
        await self.queue.store(events)
        return [event.id for event in events]

    async def apply(self, *bodies: Any, **kwargs: Any) -> list[EventId]:
        """Store webhooks and apply them as one batch."""
        event_ids = await self.receive(*bodies, **kwargs)
        await self.applier().apply(event_ids)
        return event_ids

    def applier(self, vendors: Mapping[str, Vendor] | None = None) -> Applier:
        """Make an applier, of IntakeQ's events unless told otherwise."""
        chosen = load_vendors() if vendors is None else vendors
        return Applier(self.queue, self.writer, chosen, self.directory, self.metrics, self.clock)

    def relay(self, *, clock: Clock | None = None, **kwargs: Any) -> Relay:
        """Make a relay."""
        return Relay(self.queue, self.link, self.listener, self.metrics, clock or self.clock, **kwargs)

    async def publish_all(self) -> None:
        """Bring everything that is due to the bus."""
        await self.link.restore()
        relay = self.relay()
        while await relay.run_once():
            pass

    def count(self, name: str, **labels: str) -> float:
        """Read a metric; 0 where it was never touched."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @asynccontextmanager
    async def running(self, *workers: Worker) -> AsyncIterator[None]:
        """Keep workers going as a process does: started again after failures, stopped in order at the end."""
        stop = asyncio.Event()
        supervising = asyncio.create_task(Supervisor(workers, self.metrics).run(stop))
        try:
            yield
        finally:
            stop.set()
            await supervising


def a_connection(connection_id: ConnectionId, **kwargs: Any) -> Connection:
    """Make an account at IntakeQ."""
    fields = {
        "id": connection_id,
        "number": 1,
        "organization_id": OrganizationId(UUID(int=1)),
        "vendor": "intakeq",
        "base_url": "http://127.0.0.1:9/api/v1",
        "api_key": "test-key",
    }
    return Connection(**{**fields, **kwargs})


def sample(name: str) -> Any:
    """Parse one of IntakeQ's samples, afresh at every call."""
    return orjson.loads((_SAMPLES / f"{name}.json").read_bytes())


def an_appointment(number: int = 1, *, event: str = "AppointmentCreated", **fields: Any) -> Any:
    """Write a webhook about appointment `number` of the client with the same number."""
    envelope = sample("appointment_created")
    envelope["EventType"] = event
    envelope["ClientId"] = number
    envelope["Appointment"] |= {
        "Id": appointment_id(number),
        "ClientId": number,
        "ClientName": f"Test Client {number}",
        "ClientEmail": f"client{number}@example.test",
        **fields,
    }
    return envelope


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    """Take exactly `count` deliveries."""
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < count:
            taken += await subscription.next_batch(count - len(taken))
    return taken


async def history_of(database: asyncpg.Connection, event_id: UUID) -> dict[str, Any]:
    """Read how an event ended."""
    row = await database.fetchrow("SELECT * FROM event_history WHERE event_id = $1", event_id)
    assert row is not None, "the event has not ended"
    return dict(row)


async def queued(database: asyncpg.Connection, event_id: UUID) -> dict[str, Any]:
    """Read an unfinished event's place in the queue."""
    row = await database.fetchrow("SELECT * FROM event_queue WHERE event_id = $1", event_id)
    assert row is not None, "the event is not in the queue"
    return dict(row)


async def outcomes(database: asyncpg.Connection) -> dict[str, int]:
    """Count the events by what became of them: an outcome, a status or the reason they are parked for."""
    rows = await database.fetch(
        "SELECT CASE WHEN state = 'parked' THEN reason ELSE state END AS what, count(*) FROM v_events GROUP BY 1"
    )
    return {row["what"]: row["count"] for row in rows}


class VendorDouble(IntakeQ):
    """IntakeQ, except that `read` gets at each reading first: it may raise, kill, or change what was read."""

    def __init__(self, read: Callable[[WebhookReading], WebhookReading]) -> None:
        self._read = read

    def read_webhook(self, body: bytes, headers: Mapping[str, str], context: WebhookContext) -> WebhookReading:
        """Read it as IntakeQ's, then let the double have its way."""
        return self._read(super().read_webhook(body, headers, context))


def is_about(reading: WebhookReading, number: int) -> bool:
    """Tell whether a webhook is about appointment `number`."""
    return reading.subject is not None and reading.subject.external_id == appointment_id(number)


def appointment_id(number: int) -> str:
    """Give the id that `an_appointment(number)` has."""
    return f"65f0c0ffee65f0c0{number:08x}"
