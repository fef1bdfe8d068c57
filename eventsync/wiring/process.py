"""Builds one process: the workers of its roles, what they share, and the order in which they stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import aiohttp
import structlog
from aiohttp import web

from eventsync.bus.memory import MemoryBus
from eventsync.bus.wire import Bus
from eventsync.crypto import Keyring
from eventsync.domain.clock import Clock
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.migrations import check_schema
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.retention import Retention
from eventsync.settings import Settings
from eventsync.stages.bus_link import BusLink
from eventsync.supervisor import Supervisor, Worker
from eventsync.telemetry import Metrics
from eventsync.web.health import Health, Part
from eventsync.web.server import WebServer
from eventsync.wiring import Role, utc_now
from eventsync.wiring.readiness import (
    Measure,
    bus_part,
    database_part,
    flow_part,
    listener_part,
    partitions_part,
    refresher,
    truth_ages,
    workers_part,
)

if TYPE_CHECKING:  # what only some roles need is imported where those are built, and nowhere else
    from eventsync.postgres.budget import PostgresBudget
    from eventsync.postgres.records import RecordWriter
    from eventsync.postgres.tenants import Connections
    from eventsync.spool.spool import Spool
    from eventsync.stages.delivery_worker import DeliveryWorker
    from eventsync.vendorkit.vendor import RecordVendor, Vendor
    from eventsync.wiring.applying import Applying
    from eventsync.wiring.door import Door
    from eventsync.wiring.outbound_watch import OutboundWatch

_log = structlog.get_logger(__name__)
_BUS_ROLES = frozenset({Role.RELAY, Role.CONSUMER, Role.WORKER})
_OUTBOUND_ROLES = frozenset({Role.WORKER, Role.SCHEDULER, Role.API})


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """Where one process works and listens.

    `port` serves webhooks and the API, where the roles have them; `health_port` serves probes and metrics only, and is
    opened in addition where it is named. `companions` are workers from outside, stopped last. `relays` and
    `consumers` are how many of them work side by side: of several consumers, one understands its batch while others
    wait for PostgreSQL, which applies half as many events more in a second; a fourth adds nothing.
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
    consumers: int = 3


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
        self.http = http
        self.budgets: dict[str, PostgresBudget] = {}
        listen_url = options.settings.listen_database_url
        self.database = Database(options.database_url)
        self.listener = Listener(
            options.database_url if listen_url is None else listen_url.get_secret_value(), self.metrics
        )
        self.queue = EventQueue(self.database, options.keyring)
        self.retention = Retention(self.database)
        self.supervisor = Supervisor(self._workers(), self.metrics)

    @cached_property
    def bus(self) -> Bus:
        """RabbitMQ where it is set, else one within the process."""
        amqp_url = self.options.settings.amqp_url
        if amqp_url is None:
            return MemoryBus()
        from eventsync.bus.rabbit import RabbitBus  # noqa: PLC0415  # its driver, for roles that speak to a broker

        return RabbitBus(amqp_url.get_secret_value())

    @cached_property
    def link(self) -> BusLink:
        """What the workers on the bus share."""
        return BusLink(self.bus, self.queue)

    @cached_property
    def vendors(self) -> Mapping[str, Vendor]:
        """Who we talk to, by name."""
        from eventsync.vendors import load_vendors  # noqa: PLC0415  # neither relay nor scheduler knows any

        return load_vendors()

    @cached_property
    def record_vendors(self) -> Mapping[str, RecordVendor]:
        """Those whose records we copy."""
        from eventsync.vendors import record_vendors  # noqa: PLC0415  # as above

        return record_vendors(self.vendors)

    @cached_property
    def connections(self) -> Connections:
        """The accounts at the vendors."""
        from eventsync.postgres.tenants import Connections  # noqa: PLC0415  # brings the vendors' kit along

        return Connections(self.database, self.options.keyring, self.vendors)

    @property
    def spool(self) -> Spool:
        """The local disk's part, which only the door needs."""
        return self._door.spool

    @property
    def writer(self) -> RecordWriter:
        """What writes records, which only the consumer and the worker need."""
        return self._applying.writer

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
            workers += self._door.workers()
        if Role.RELAY in roles:
            workers += self._relays()
        if Role.CONSUMER in roles:
            workers += self._applying.consumers()
        if Role.WORKER in roles:
            # The deliverer first: a POST that is under way has the longest time to end in order.
            workers += [self._delivery_worker, self._sync_worker(), self._applying.refetch_worker()]
        if Role.SCHEDULER in roles:
            workers += self._chores()
        if roles & {Role.CONSUMER, Role.WORKER}:
            workers.append(self._applying.directory)
        workers += [self.listener, *self.options.companions]
        return workers + [server for server in (self.health_server,) if server is not None]

    @cached_property
    def _door(self) -> Door:
        from eventsync.wiring.door import Door  # noqa: PLC0415  # the spool and the webhooks' handler

        return Door(self)

    @cached_property
    def _applying(self) -> Applying:
        from eventsync.wiring.applying import Applying  # noqa: PLC0415  # the records and the vendors

        return Applying(self)

    def _relays(self) -> list[Worker]:
        from eventsync.stages.relay import Relay  # noqa: PLC0415  # this role's alone
        from eventsync.stages.wake import WakeRelay  # noqa: PLC0415  # as above

        relays: list[Worker] = [WakeRelay(self.link, self.listener)]
        for number in range(self.options.relays):
            relay = Relay(self.queue, self.link, self.listener, self.metrics, self.clock)
            relay.name = f"relay:{number}"
            relays.append(relay)
        return relays

    def _chores(self) -> list[Worker]:
        from eventsync.wiring.chores import make_chores, make_scheduler  # noqa: PLC0415  # this role's alone

        chores = make_chores(self.database, self.retention, self.options.settings, self.metrics, self.clock)
        return [make_scheduler(self.database, self.listener, self.clock), *chores]

    def _sync_worker(self) -> Worker:
        from eventsync.wiring.syncing import make_sync_worker  # noqa: PLC0415  # this role's alone

        return make_sync_worker(self, self._applying.directory)

    @cached_property
    def _delivery_worker(self) -> DeliveryWorker:
        from eventsync.wiring.delivering import make_delivery_worker  # noqa: PLC0415  # this role's alone

        return make_delivery_worker(self)

    @cached_property
    def _outbound(self) -> OutboundWatch:
        from eventsync.wiring.outbound_watch import OutboundWatch  # noqa: PLC0415  # three roles tell of it

        if Role.WORKER not in self.options.roles:
            return OutboundWatch(self.database, self.metrics, self.clock)
        worker = self._delivery_worker
        return OutboundWatch(self.database, self.metrics, self.clock, trouble=lambda: worker.trouble)

    def _main_app(self) -> web.Application:
        app = web.Application()
        self._health().add_routes(app)
        if Role.INGRESS in self.options.roles:
            self._door.add_routes(app)
        if Role.API in self.options.roles:
            from eventsync.wiring.api import make_api  # noqa: PLC0415  # this role's alone

            make_api(
                self.database,
                self.options.keyring,
                self.connections,
                self.queue,
                self.clock,
                listener=self.listener,
                cron_secret=self.options.settings.cron_secret,
            ).add_routes(app)
        return app

    def _health(self) -> Health:
        refresh = refresher(self.queue, self.budgets, self.metrics, self.clock, self._measures)
        return Health(self._parts, self.metrics, refresh)

    @cached_property
    def _measures(self) -> list[Measure]:
        """What only some roles show: others would measure the same once more."""
        roles = self.options.roles
        measures: list[Measure] = []
        if roles & {Role.WORKER, Role.SCHEDULER}:
            from eventsync.postgres.freshness import Freshness  # noqa: PLC0415  # these roles' alone

            measures.append(truth_ages(Freshness(self.database), self.metrics, self.clock))
        if roles & _OUTBOUND_ROLES:
            measures.append(self._outbound.refresh)
        return measures

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
            parts += self._door.parts()
        if roles & _BUS_ROLES:
            parts.append(bus_part(self.bus, blocks=not has_door))
        if roles & _OUTBOUND_ROLES:
            parts.append(self._outbound.part())
        return parts


@asynccontextmanager
async def open_process(options: ProcessOptions) -> AsyncIterator[Process]:
    """Make a process whose stores are open; run its supervisor inside, and everything is closed after it."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        process = Process(options, http)
        await process.database.open()
        stack.push_async_callback(process.database.close)
        if options.roles & _BUS_ROLES:
            stack.push_async_callback(process.bus.stop)
        if Role.INGRESS in options.roles:
            await process.spool.open()
            stack.push_async_callback(process.spool.close)
        for server in process.servers:
            stack.push_async_callback(server.close)
        yield process
