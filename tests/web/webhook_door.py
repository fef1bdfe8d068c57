"""A door of the product, put together as the role `ingress` does, with time limits and bounds that suit a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson
from aiohttp import web
from yarl import URL

from eventsync.crypto import Keyring
from eventsync.postgres.access import RefusalCounts
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.retention import Retention
from eventsync.postgres.tenants import AddedConnection, Connections, NewConnection, Organizations
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.spool.spool import Spool
from eventsync.stages.receive import Receiver, SpoolDrain
from eventsync.stages.verify import VerifierBook
from eventsync.supervisor import Supervisor, Worker
from eventsync.telemetry import Metrics
from eventsync.vendors import load_vendors
from eventsync.web.evidence import RefusalLog
from eventsync.web.ingress import Ingress
from eventsync.web.server import WebServer

BODY = b'{"Type":"AppointmentCreated","Appointment":{"Id":"a-1","ClientEmail":"test.client.12@example.test"}}'


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Limits:
    insert_timeout_s: float = 3.0
    lookup_timeout_s: float = 2.0
    read_timeout_s: float = 30.0
    spool_bytes: int = 64 * 1024 * 1024
    unverified: int = 1000
    drain_interval_s: float = 0.05
    trusted_networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.text)

    @property
    def event_id(self) -> UUID:
        return UUID(self.json["event_id"])


@dataclass(frozen=True, slots=True)
class StoredEvent:
    id: UUID
    connection_id: UUID
    status: str | None
    reason: str | None
    headers: Mapping[str, str]
    body: bytes


class Door:
    """The door's parts. `database` is its way to PostgreSQL, perhaps through a proxy."""

    def __init__(self, url: str, keyring: Keyring, folder: Path, limits: Limits) -> None:
        vendors = load_vendors()
        self.metrics = Metrics()
        self.database = Database(url)
        self.listener = Listener(url, self.metrics)
        self.queue = EventQueue(self.database, keyring)
        self.spool = Spool(
            folder / "spool.sqlite3",
            keyring,
            clock=utc_now,
            max_bytes=limits.spool_bytes,
            max_unverified=limits.unverified,
        )
        self.receiver = Receiver(
            self.queue, self.spool, self.metrics, utc_now, insert_timeout_s=limits.insert_timeout_s
        )
        self.book = VerifierBook(
            WebhookTokens(self.database, keyring),
            self.spool,
            self.listener,
            utc_now,
            lookup_timeout_s=limits.lookup_timeout_s,
        )
        self.drain = SpoolDrain(
            self.receiver,
            self.queue,
            Retention(self.database),
            self.spool,
            self.book,
            self.metrics,
            utc_now,
            insert_timeout_s=limits.insert_timeout_s,
            interval_s=limits.drain_interval_s,
        )
        self.refusals = RefusalLog(RefusalCounts(self.database), utc_now)
        app = web.Application()
        Ingress(
            self.receiver,
            self.book,
            vendors,
            self.metrics,
            utc_now,
            count_refusal=self.refusals.count,
            trusted_networks=limits.trusted_networks,
            read_timeout_s=limits.read_timeout_s,
        ).add_routes(app)
        self.server = WebServer("web", app, "127.0.0.1", 0)
        workers: list[Worker] = [self.server, self.receiver, self.drain, self.book, self.refusals, self.listener]
        self.supervisor = Supervisor(workers, self.metrics, stop_deadline_s=10.0)
        self.stop = asyncio.Event()
        self._http: aiohttp.ClientSession | None = None

    @property
    def port(self) -> int:
        port = URL(self.server.address).port
        assert port is not None
        return port

    async def post(self, token: str, body: Any = BODY, **options: Any) -> Answer:
        """Send a webhook with the token in its path."""
        return await self.send("POST", f"/api/webhooks/intakeq/{token}", data=body, **options)

    async def send(self, method: str, path: str, **options: Any) -> Answer:
        assert self._http is not None
        url = URL(self.server.address + path, encoded=True)
        async with self._http.request(method, url, **options) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())

    async def raw(self, *chunks: bytes, ends: bool = False) -> bytes:
        """Send bytes as they are, and return all that comes back until the door closes; `ends` ends our side."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.writelines(chunks)
            if ends:
                writer.write_eof()
            async with asyncio.timeout(5):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    async def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.database.open()
        await self.spool.open()
        await self.server.open()
        supervising = asyncio.create_task(self.supervisor.run(self.stop))
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as self._http:
                yield
        finally:
            self.stop.set()
            await supervising
            await self.server.close()
            await self.spool.close()
            await self.database.close()


@asynccontextmanager
async def open_door(url: str, keyring: Keyring, folder: Path, limits: Limits | None = None) -> AsyncIterator[Door]:
    """Run a door; once it is here, its book of tokens is read."""
    door = Door(url, keyring, folder, limits or Limits())
    async with door.running():
        yield door


class Practice:
    """An organization with connections to IntakeQ, made by the product's own tables, and what was stored for it."""

    def __init__(self, pool: Database, database: asyncpg.Connection, keyring: Keyring) -> None:
        self.tokens = WebhookTokens(pool, keyring)
        self._organizations = Organizations(pool)
        self._connections = Connections(pool, keyring, load_vendors())
        self._database = database
        self._keyring = keyring

    async def connect(self, **given: Any) -> AddedConnection:
        organization = await self._organizations.add("Test Practice", None, utc_now())
        new = NewConnection(organization.id, "intakeq", "key-of-the-account", **given)
        return await self._connections.add(new, utc_now())

    async def disable(self, connection: AddedConnection) -> None:
        await self._connections.disable(connection.id, None, utc_now())

    async def stored(self) -> list[StoredEvent]:
        """Read every event with its place in the queue, in the order of their commits."""
        rows = await self._database.fetch(
            "SELECT e.id, e.connection_id, e.headers_sealed, e.body_sealed, q.status, q.reason"
            " FROM events e LEFT JOIN event_queue q ON q.event_id = e.id"
            " ORDER BY e.xmin::text::bigint, e.ctid"
        )
        return [self._opened(row) for row in rows]

    async def stored_ids(self) -> list[UUID]:
        """List every event, in the order of their commits: ids of one millisecond have none."""
        rows = await self._database.fetch("SELECT id FROM events ORDER BY xmin::text::bigint, ctid")
        return [row["id"] for row in rows]

    def _opened(self, row: Any) -> StoredEvent:
        context = f"event:{row['id']}"
        headers: Sequence[Sequence[str]] = orjson.loads(self._keyring.open(row["headers_sealed"], context))
        body = self._keyring.open(row["body_sealed"], context)
        named = {name.lower(): value for name, value in headers}
        return StoredEvent(row["id"], row["connection_id"], row["status"], row["reason"], named, body)
