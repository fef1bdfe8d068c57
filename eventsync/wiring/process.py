"""Builds one process: the workers of its roles, what they share, and the order in which they stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import aiohttp
import structlog
from aiohttp import web

from eventsync.bus.memory import MemoryBus
from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.wire import Bus, QueueName
from eventsync.crypto import Keyring, fingerprint
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.postgres.access import AccessLog, RefusalCounts
from eventsync.postgres.budget import PostgresBudget, prune_calls
from eventsync.postgres.database import Database
from eventsync.postgres.linking import PatientLinks
from eventsync.postgres.listener import Listener
from eventsync.postgres.migrations import check_schema
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.records import RecordWriter
from eventsync.postgres.retention import Retention
from eventsync.postgres.tenants import Connections
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.settings import Settings
from eventsync.spool.spool import Spool
from eventsync.stages.apply import Applier, Consumer
from eventsync.stages.bus_link import BusLink
from eventsync.stages.dead_letters import DeadLetterConsumer
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.receive import Receiver, SpoolDrain
from eventsync.stages.recurring import Recurring
from eventsync.stages.refetch import Refetcher, RefetchWorker
from eventsync.stages.relay import Relay
from eventsync.stages.upkeep import Upkeep
from eventsync.stages.verify import VerifierBook
from eventsync.supervisor import Supervisor, Worker
from eventsync.telemetry import Metrics
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.vendor import Vendor, VendorClient
from eventsync.vendors import load_vendors
from eventsync.web.evidence import RefusalLog
from eventsync.web.health import Health, Part
from eventsync.web.ingress import Ingress
from eventsync.web.server import WebServer
from eventsync.wiring import Role, utc_now
from eventsync.wiring.accounts import budget_of
from eventsync.wiring.api import make_api
from eventsync.wiring.metered import MeteredBudget
from eventsync.wiring.readiness import (
    bus_part,
    database_part,
    door_part,
    flow_part,
    listener_part,
    partitions_part,
    refresher,
    spool_part,
    workers_part,
)

_log = structlog.get_logger(__name__)
_BUS_ROLES = frozenset({Role.RELAY, Role.CONSUMER, Role.WORKER})


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """Where one process works and listens.

    `port` serves webhooks and the API, where the roles have them; `health_port` serves probes and metrics only, and is
    opened in addition where it is named. `companions` are workers from outside, stopped last. `relays` and
    `consumers` are how many of them work side by side: of two consumers, one understands its batch while the other
    waits for PostgreSQL, which applies a third more events a second; a third one adds little.
    """

    settings: Settings
    roles: frozenset[Role]
    database_url: str
    keyring: Keyring
    host: str = "127.0.0.1"
    port: int = 8080
    health_port: int | None = None
    companions: tuple[Worker, ...] = ()
    relays: int = 1
    consumers: int = 2


def check_roles(roles: Collection[Role], settings: Settings) -> None:
    """Refuse roles that could not reach each other. Raises Misconfigured."""
    chosen = _BUS_ROLES & set(roles)
    if settings.amqp_url is None and chosen and chosen != _BUS_ROLES:
        missing = ", ".join(sorted(_BUS_ROLES - chosen))
        raise Misconfigured(
            "without a broker, relay, consumer and worker must share one process:"
            f" set EVENTSYNC_AMQP_URL (amqp://user:password@host/vhost), or add the roles {missing}"
        )


class Process:
    """The parts that the roles of one process share, made once each."""

    def __init__(self, options: ProcessOptions, http: aiohttp.ClientSession, *, clock: Clock = utc_now) -> None:
        check_roles(options.roles, options.settings)
        self.options = options
        self.clock = clock
        self.metrics = Metrics()
        self.vendors: Mapping[str, Vendor] = load_vendors()
        self._http = http
        self._clients: dict[str, VendorHttp] = {}
        self.budgets: dict[str, PostgresBudget] = {}
        settings = options.settings
        listen_url = settings.listen_database_url
        self.database = Database(options.database_url)
        self.listener = Listener(
            options.database_url if listen_url is None else listen_url.get_secret_value(), self.metrics
        )
        self.queue = EventQueue(self.database, options.keyring)
        self.connections = Connections(self.database, options.keyring, self.vendors)
        self.retention = Retention(self.database)
        self.bus: Bus = MemoryBus() if settings.amqp_url is None else RabbitBus(settings.amqp_url.get_secret_value())
        self.link = BusLink(self.bus, self.queue)
        self.writer = RecordWriter(options.keyring)
        self.directory = ConnectionDirectory(self.connections.load_connection, self.listener)
        self.supervisor = Supervisor(self._workers(), self.metrics)

    @cached_property
    def spool(self) -> Spool:
        """The local disk's part, which only the door needs."""
        return Spool(self.options.settings.data_dir / "spool.sqlite3", self.options.keyring, clock=self.clock)

    @cached_property
    def server(self) -> WebServer | None:
        """The port for webhooks and the API, where a role serves them."""
        if not self.options.roles & {Role.INGRESS, Role.API}:
            return None
        return WebServer("web", self._main_app(), self.options.host, self.options.port, clock=self.clock)

    @cached_property
    def health_server(self) -> WebServer | None:
        """The port for probes and metrics alone."""
        if self.options.health_port is None:
            return None
        app = web.Application()
        self._health().add_routes(app)
        return WebServer("health", app, self.options.host, self.options.health_port, clock=self.clock)

    def open_client(self, connection: Connection) -> VendorClient:
        """Open a connection's account at its vendor, within the budget of its API key."""
        key = fingerprint(connection.api_key)
        if key not in self._clients:
            budget = budget_of(self.database, connection, self.clock)
            self.budgets[str(connection.number)] = budget
            self._clients[key] = VendorHttp(self._http, MeteredBudget(budget, connection.vendor, self.metrics))
        return self.vendors[connection.vendor].client(connection, self._clients[key])

    @property
    def servers(self) -> list[WebServer]:
        """The ports of this process."""
        return [server for server in (self.server, self.health_server) if server is not None]

    async def open(self) -> None:
        """Take the ports and look at the schema. Raises Misconfigured for a taken port or an unknown schema."""
        await self.require_schema()
        for server in self.servers:
            await server.open()

    @asynccontextmanager
    async def running(self, stop: asyncio.Event | None = None) -> AsyncIterator[None]:
        """Run the workers around the block; after it, or once `stop` is set, they are drained."""
        stop = asyncio.Event() if stop is None else stop
        await self.open()
        supervising = asyncio.create_task(self.supervisor.run(stop))
        try:
            yield
        finally:
            stop.set()
            await supervising

    async def require_schema(self) -> None:
        """Refuse a schema that this release does not know; while PostgreSQL is away, the door opens all the same.

        Raises Misconfigured.
        """
        try:
            async with self.database.session() as session:
                await check_schema(session)
        except Transient:
            _log.warning("schema_not_checked", error="PostgreSQL is away")

    def _workers(self) -> list[Worker]:
        """Make the workers in the order in which they stop: the door first, what everyone listens to last."""
        roles = self.options.roles
        workers: list[Worker] = [server for server in (self.server,) if server is not None]
        if Role.INGRESS in roles:
            workers += self._door
        if Role.RELAY in roles:
            workers += [self._relay(number) for number in range(self.options.relays)]
        if Role.CONSUMER in roles:
            workers += self._consumers()
        if Role.WORKER in roles:
            workers.append(self._refetch_worker())
        if Role.SCHEDULER in roles:
            workers += self._chores()
        workers += [self.directory, self.listener, *self.options.companions]
        return workers + [server for server in (self.health_server,) if server is not None]

    @cached_property
    def _receiver(self) -> Receiver:
        return Receiver(self.queue, self.spool, self.metrics, self.clock)

    @cached_property
    def _book(self) -> VerifierBook:
        return VerifierBook(WebhookTokens(self.database, self.options.keyring), self.spool, self.listener, self.clock)

    @cached_property
    def _refusals(self) -> RefusalLog:
        return RefusalLog(RefusalCounts(self.database), self.clock)

    @cached_property
    def _door(self) -> list[Worker]:
        drain = SpoolDrain(self._receiver, self.queue, self.retention, self.spool, self._book, self.metrics, self.clock)
        return [self._receiver, drain, self._book, self._refusals]

    def _relay(self, number: int) -> Worker:
        relay = Relay(self.queue, self.link, self.listener, self.metrics, self.clock)
        relay.name = f"relay:{number}"
        return relay

    def _consumers(self) -> list[Worker]:
        consumers: list[Worker] = [
            self._consumer(QueueName.APPLY_FRESH, number) for number in range(self.options.consumers)
        ]
        bulk = self._consumer(QueueName.APPLY_BULK, 0)
        return [*consumers, bulk, DeadLetterConsumer(self.queue, self.link, self.metrics, self.clock)]

    def _consumer(self, queue_name: QueueName, number: int) -> Worker:
        applier = Applier(self.queue, self.writer, self.vendors, self.directory, self.metrics, self.clock)
        consumer = Consumer(applier, self.link, queue_name)
        consumer.name = f"consumer:{queue_name.value}:{number}"
        return consumer

    def _refetch_worker(self) -> Worker:
        refetcher = Refetcher(self.queue, self.writer, self.directory, self.open_client, self.metrics, self.clock)
        return RefetchWorker(refetcher, self.link)

    def _chores(self) -> list[Worker]:
        settings = self.options.settings
        history = timedelta(days=settings.history_retention_days)
        links = PatientLinks(self.database)
        upkeep = Upkeep(
            self.retention,
            self.clock,
            raw_days=settings.raw_retention_days,
            history_days=settings.history_retention_days,
        )

        async def forget_evidence() -> None:
            now = self.clock()
            await prune_calls(self.database, now)
            await RefusalCounts(self.database).prune(now - history)
            await AccessLog(self.database).prune(now - history)

        return [
            upkeep,
            Recurring("patient-linking", lambda: links.link_by_email(self.clock()), interval_s=60.0),
            Recurring("client-ids", lambda: links.backfill_client_ids(self.clock()), interval_s=600.0),
            Recurring("evidence", forget_evidence, interval_s=3600.0),
        ]

    def _main_app(self) -> web.Application:
        app = web.Application()
        self._health().add_routes(app)
        if Role.INGRESS in self.options.roles:
            ingress = Ingress(
                self._receiver,
                self._book,
                self.vendors,
                self.metrics,
                self.clock,
                count_refusal=self._refusals.count,
                trusted_networks=self.options.settings.trusted_networks,
            )
            ingress.add_routes(app)
        if Role.API in self.options.roles:
            make_api(self.database, self.options.keyring, self.connections, self.queue, self.clock).add_routes(app)
        return app

    def _health(self) -> Health:
        return Health(self._parts, self.metrics, refresher(self.queue, self.budgets, self.metrics, self.clock))

    def _parts(self) -> list[Part]:
        roles = self.options.roles
        has_door = Role.INGRESS in roles
        parts = [
            database_part(self.database, blocks=not has_door),
            partitions_part(self.retention, self.clock),
            listener_part(self.listener),
            flow_part(self.queue, self.clock),
            workers_part(self.supervisor, blocks=not has_door),
        ]
        if has_door:
            parts += [door_part(self.database, self.spool), spool_part(self.spool)]
        if roles & _BUS_ROLES:
            parts.append(bus_part(self.bus, blocks=not has_door))
        return parts


@asynccontextmanager
async def open_process(options: ProcessOptions) -> AsyncIterator[Process]:
    """Make a process whose stores are open; run its supervisor inside, and everything is closed after it."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        process = Process(options, http)
        await process.database.open()
        stack.push_async_callback(process.database.close)
        stack.push_async_callback(process.bus.stop)
        if Role.INGRESS in options.roles:
            await process.spool.open()
            stack.push_async_callback(process.spool.close)
        for server in process.servers:
            stack.push_async_callback(server.close)
        yield process
