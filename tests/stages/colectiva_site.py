"""The outbound queue in a real database, before the pretend Colectiva, joined as the product joins them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import ConnectionChanges, Connections
from eventsync.sandbox import RunningSandbox, SandboxOptions, serve
from eventsync.sandbox.colectiva.posts import PostBook
from eventsync.sandbox.colectiva.vendor import ColectivaVendor
from eventsync.settings import Settings
from eventsync.vendors import load_vendors, registry_vendors
from eventsync.wiring.delivering import RegistryAccounts
from stages.delivery_site import DeliverySite
from stages.spine import ManualClock

VENDORS = load_vendors()


@dataclass(slots=True)
class ColectivaSite:
    """`delivery` makes deliverers that send to `running`, by a connection that the settings have made."""

    delivery: DeliverySite
    running: RunningSandbox
    accounts: RegistryAccounts

    @property
    def vendor(self) -> ColectivaVendor:
        """The pretend Colectiva."""
        vendor = self.running.sandbox.vendor
        assert isinstance(vendor, ColectivaVendor)
        return vendor

    @property
    def posts(self) -> PostBook:
        """Every POST that came."""
        return self.vendor.posts

    @property
    def connection_id(self) -> ConnectionId:
        """The connection that delivers."""
        return self.delivery.connection_id

    async def change(self, **changes: Any) -> None:
        """Change the connection as a person does."""
        wanted = ConnectionChanges(**changes)
        await self.accounts.connections.update(self.connection_id, wanted, None, self.delivery.clock())

    async def put(self, number: int = 1, **payload: Any) -> Any:
        """Queue the registration of organization `number`."""
        name, email = f"Test Practice {number}", f"practice{number}@example.test"
        return await self.delivery.put(number, payload={"organization_name": name, "email": email, **payload})


def settings_for(running: RunningSandbox, **more: Any) -> Settings:
    """Make the settings that name this Colectiva, as variables of the environment do."""
    return Settings(  # type: ignore[call-arg]  # these two are given by the names that they have in the environment
        COLECTIVA_URL=running.base_url, COLECTIVA_API_KEY=running.api_key, **more
    )


def _moving(clock: ManualClock) -> Callable[[float], Awaitable[None]]:
    async def pause(wait_s: float) -> None:
        clock.advance(wait_s)

    return pause


@asynccontextmanager
async def open_colectiva(
    pool: Database, database: asyncpg.Connection, keyring: Keyring
) -> AsyncIterator[ColectivaSite]:
    """Serve Colectiva, and connect the queue to it."""
    async with serve(SandboxOptions(vendor="colectiva")) as running, aiohttp.ClientSession() as http:
        connections = Connections(pool, keyring, VENDORS)
        clock = ManualClock(datetime.now(UTC) + timedelta(seconds=1))
        accounts = RegistryAccounts(
            pool, connections, registry_vendors(VENDORS), http, clock, settings_for(running), pause=_moving(clock)
        )
        opened = await accounts.open()
        assert opened is not None
        delivery = DeliverySite(pool, database, opened.connection_id, clock=clock, open_account=accounts.open)
        yield ColectivaSite(delivery, running, accounts)
