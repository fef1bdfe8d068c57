"""A process that works the outbound queue off until it is killed: the product's own parts, in a time that runs faster.

Arguments: the database's URL, when the fast time began (Unix seconds), its speed, and the lease of an attempt (fast
seconds). It writes a line at each attempt, before it sends: the item's idempotency key.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from random import SystemRandom
from typing import Any

import aiohttp

from eventsync.bus.memory import MemoryBus
from eventsync.crypto import Keyring
from eventsync.domain.deliveries import Answer, OutboundItem
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.outbound import OutboundQueue
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.tenants import Connections
from eventsync.settings import Settings
from eventsync.stages.bus_link import BusLink
from eventsync.stages.deliver import Deliverer, RegistryAccount
from eventsync.stages.delivery_worker import DeliveryWorker
from eventsync.stages.wake import WakeRelay
from eventsync.supervisor import Supervisor
from eventsync.telemetry import Metrics
from eventsync.vendorkit.registry import Registry
from eventsync.vendors import load_vendors, registry_vendors
from eventsync.wiring.delivering import RegistryAccounts
from stages.fast_time import FastTime

_POLL_S = 0.1  # real seconds: what is due in fast time is seen late by at most so much


class AnnouncedRegistry:
    """The real account; each item's key is told before it is sent."""

    def __init__(self, account: RegistryAccount) -> None:
        self._registry: Registry = account.registry

    async def check_credentials(self) -> None:
        """Check them."""
        await self._registry.check_credentials()

    def body_of(self, item: OutboundItem) -> Mapping[str, Any]:
        """Write the body."""
        return self._registry.body_of(item)

    async def deliver(self, item: OutboundItem) -> Answer:
        """Tell the key, and send."""
        sys.stdout.write(f"{item.idempotency_key}\n")
        sys.stdout.flush()
        return await self._registry.deliver(item)


class AnnouncedAccounts:
    """Opens the account as the product does, and the same again as long as that is the same."""

    def __init__(self, accounts: RegistryAccounts) -> None:
        self._accounts = accounts
        self._opened: tuple[RegistryAccount, RegistryAccount] | None = None

    async def open(self) -> RegistryAccount | None:
        """Open it."""
        account = await self._accounts.open()
        if account is None:
            return None
        if self._opened is None or self._opened[0] is not account:
            self._opened = account, RegistryAccount(account.connection_id, AnnouncedRegistry(account))
        return self._opened[1]


async def main(database_url: str, time: FastTime, lease_s: float) -> None:
    """Deliver until this process is killed."""
    pool = Database(database_url)
    await pool.open()
    keyring, vendors = Keyring([bytes(range(32))]), load_vendors()
    queue, metrics = OutboundQueue(pool), Metrics()
    link, listener = BusLink(MemoryBus(), EventQueue(pool, keyring)), Listener(pool.url, metrics)
    async with aiohttp.ClientSession() as http:
        accounts = RegistryAccounts(
            pool, Connections(pool, keyring, vendors), registry_vendors(vendors), http, time.now, Settings()
        )
        deliverer = Deliverer(
            *(queue, AnnouncedAccounts(accounts).open, time.now, SystemRandom()),
            lease_s=lease_s,
            monotonic=time.monotonic,
        )
        worker = DeliveryWorker(deliverer, queue, link, listener, time.now, poll_s=_POLL_S, monotonic=time.monotonic)
        await Supervisor([WakeRelay(link, listener), worker, listener], metrics).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], FastTime(float(sys.argv[2]), float(sys.argv[3])), float(sys.argv[4])))
