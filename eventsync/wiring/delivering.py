"""Builds what delivers the outbound queue: for the `worker` role, and for the command that delivers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import SystemRandom
from typing import TYPE_CHECKING
from uuid import uuid4

import aiohttp
import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection, ConnectionId, OrganizationId
from eventsync.postgres.budget import PostgresBudget
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import OutboundQueue
from eventsync.postgres.registries import find_registry, has_connection, seeding_turn
from eventsync.postgres.tenants import Connections, NewConnection, Organization, Organizations
from eventsync.settings import Settings
from eventsync.stages.deliver import Deliverer, OpenRegistry, RegistryAccount
from eventsync.stages.delivery_worker import DeliveryWorker
from eventsync.telemetry import Metrics
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.registry import Registry, RegistryVendor
from eventsync.vendorkit.waiting import WaitingBudget
from eventsync.vendors import registry_vendors
from eventsync.wiring.accounts import budget_of
from eventsync.wiring.metered import MeteredBudget

if TYPE_CHECKING:  # the process makes this
    from eventsync.wiring.process import Process

_SEEDED_VENDOR = "colectiva"
_OWNER_NAME, _OWNER_EXTERNAL_ID = "Plenura", "plenura"
_NEAR_S = 2.0  # a place in the minute's limit that is as near is worth holding the item for
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RegistryAccounts:
    """Opens the account that the outbound queue is delivered to, anew whenever its connection has changed.

    The connection is read each time: an attempt with a key that a person has just replaced would pause the queue.
    `settings` make the connection at the first use, where there is none. `show_budget` is told of each account's.
    `pause` is how an attempt waits, given in seconds, for a place in the budget that is near.
    """

    database: Database
    connections: Connections
    vendors: Mapping[str, RegistryVendor]
    http: aiohttp.ClientSession
    clock: Clock
    settings: Settings
    metrics: Metrics | None = None
    show_budget: Callable[[Connection, PostgresBudget], None] = lambda _connection, _budget: None
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    _is_seeded: bool = field(default=False, init=False)
    _opened: tuple[Connection, RegistryAccount] | None = field(default=None, init=False)

    async def open(self) -> RegistryAccount | None:
        """Open the account; None where there is no connection.

        Raises Transient while PostgreSQL is away, Misconfigured where credentials or settings are of no use.
        """
        if not self._is_seeded:
            await seed_connection(self.database, self.connections, self.settings, self.clock)
            self._is_seeded = True
        return await self._existing()

    async def look(self) -> Registry | None:
        """Open the account that would be sent to, be it the one that the settings would make; nothing is written.

        Raises as `open` does.
        """
        account = await self._existing()
        if account is not None:
            return account.registry
        if self.settings.colectiva_api_key is None or await has_connection(self.database, _SEEDED_VENDOR):
            return None
        vendor = self.vendors[_SEEDED_VENDOR]
        connection = Connection(
            id=ConnectionId(uuid4()),
            number=0,
            organization_id=OrganizationId(uuid4()),
            vendor=vendor.name,
            base_url=self.settings.colectiva_url or vendor.default_base_url,
            api_key=self.settings.colectiva_api_key.get_secret_value(),
        )
        return self._account(connection).registry

    async def _existing(self) -> RegistryAccount | None:
        connection_id = await find_registry(self.database, self.vendors)
        connection = None if connection_id is None else await self.connections.load_connection(connection_id)
        if connection is None or connection.disabled_at is not None:  # between the two readings
            return None
        if self._opened is None or self._opened[0] != connection:
            self._opened = connection, self._account(connection)
        return self._opened[1]

    def _account(self, connection: Connection) -> RegistryAccount:
        ledger = budget_of(self.database, connection, self.clock)
        self.show_budget(connection, ledger)
        spent = ledger if self.metrics is None else MeteredBudget(ledger, connection.vendor, self.metrics)
        budget = WaitingBudget(spent, longest_wait_s=_NEAR_S, pause=self.pause)
        http = VendorHttp(self.http, budget, now=self.clock)
        return RegistryAccount(connection.id, self.vendors[connection.vendor].registry(connection, http))


async def seed_connection(database: Database, connections: Connections, settings: Settings, clock: Clock) -> bool:
    """Make the connection that COLECTIVA_API_KEY and COLECTIVA_URL describe, unless there is or was one already.

    It belongs to the organization with the external id `plenura`, which is made where there is none. Answers whether
    it was made. Raises Transient while PostgreSQL is away, Misconfigured for a setting that makes no connection.
    """
    if settings.colectiva_api_key is None:
        return False
    async with seeding_turn(database, _SEEDED_VENDOR) as is_wanted:
        if not is_wanted:
            return False
        owner = await _owner(Organizations(database), clock)
        new = NewConnection(
            organization_id=owner.id,
            vendor=_SEEDED_VENDOR,
            api_key=settings.colectiva_api_key.get_secret_value(),
            base_url=settings.colectiva_url,
        )
        added = await connections.add(new, clock())
    _log.info("connection_seeded", vendor=_SEEDED_VENDOR, connection_id=str(added.id))
    return True


def make_deliverer(
    database: Database, open_registry: OpenRegistry, clock: Clock, *, metrics: Metrics | None = None
) -> Deliverer:
    """Make what makes the attempts."""
    return Deliverer(OutboundQueue(database), open_registry, clock, SystemRandom(), metrics=metrics)


def make_delivery_worker(process: Process) -> DeliveryWorker:
    """Make the worker; the budget that it spends is shown with the process's others."""

    def show_budget(connection: Connection, budget: PostgresBudget) -> None:
        process.budgets[str(connection.number)] = budget

    accounts = RegistryAccounts(
        process.database,
        process.connections,
        registry_vendors(process.vendors),
        process.http,
        process.clock,
        process.options.settings,
        process.metrics,
        show_budget,
    )
    deliverer = make_deliverer(process.database, accounts.open, process.clock, metrics=process.metrics)
    return DeliveryWorker(deliverer, OutboundQueue(process.database), process.link, process.listener, process.clock)


async def _owner(organizations: Organizations, clock: Clock) -> Organization:
    found = await organizations.find(_OWNER_EXTERNAL_ID)
    return found or await organizations.add(_OWNER_NAME, _OWNER_EXTERNAL_ID, clock())
