"""What every command does first: reads the settings, finds the database, opens what the command works with."""

from __future__ import annotations

import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from eventsync.cli.loop import run_async
from eventsync.crypto import Keyring
from eventsync.domain.clock import Clock
from eventsync.domain.errors import Rejected
from eventsync.postgres.access import AccessLog, ApiTokens
from eventsync.postgres.database import Database
from eventsync.postgres.migrations import check_schema, migrate
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.stored_events import StoredEvents
from eventsync.postgres.tenants import Connections, ConnectionSummary, Organization, Organizations
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.settings import Settings, load_settings
from eventsync.vendorkit.registry import RegistryVendor
from eventsync.vendorkit.vendor import RecordVendor, Vendor
from eventsync.vendors import load_vendors, record_vendors, registry_vendors
from eventsync.wiring import database_in_use, keyring_of, utc_now

T = TypeVar("T")

_MAX_CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Installation:
    """The eventsync that a command works on: its settings, its open database, and who is at the keyboard."""

    settings: Settings
    database_url: str = field(repr=False)
    database: Database
    keyring: Keyring
    vendors: Mapping[str, Vendor]
    clock: Clock
    actor: str
    organizations: Organizations
    connections: Connections
    webhook_tokens: WebhookTokens
    api_tokens: ApiTokens
    access_log: AccessLog
    queue: EventQueue
    stored_events: StoredEvents

    @property
    def record_vendors(self) -> Mapping[str, RecordVendor]:
        """The vendors whose records we copy."""
        return record_vendors(self.vendors)

    @property
    def registry_vendors(self) -> Mapping[str, RegistryVendor]:
        """The vendors that are told of our organizations."""
        return registry_vendors(self.vendors)

    async def organization(self, reference: str) -> Organization:
        """Find an organization by id, external id or number. Raises Rejected("unknown_organization")."""
        found = await self.organizations.find(reference)
        if found is None:
            raise Rejected("unknown_organization", "there is no such organization: see `eventsync orgs list`")
        return found

    async def connection(self, reference: str) -> ConnectionSummary:
        """Find a connection by id or number. Raises Rejected("unknown_connection")."""
        found = await self.connections.find(reference, None)
        if found is None:
            raise Rejected("unknown_connection", "there is no such connection: see `eventsync connections list`")
        return found

    async def record_connection(self, reference: str) -> ConnectionSummary:
        """Find a connection to a vendor whose records we copy. Raises Rejected, also where it is to a registry."""
        found = await self.connection(reference)
        if found.vendor not in self.record_vendors:
            raise Rejected(
                "not_a_record_vendor",
                f"connection {found.number} is to {found.vendor}, of which no records are copied: name another one, see"
                " `eventsync connections list`",
            )
        return found

    async def only_connection(self, reference: str | None) -> ConnectionSummary:
        """Find the connection, or the only one there is where none is named; registries' do not count.

        Raises Rejected.
        """
        if reference is not None:
            return await self.record_connection(reference)
        living = [
            found
            for found in await self.connections.summaries(None)
            if found.disabled_at is None and found.vendor in self.record_vendors
        ]
        if len(living) != 1:
            raise Rejected(
                "which_connection",
                f"there are {len(living)} connections: name one with --connection"
                if living
                else "there is no connection whose records are copied yet: make one with `eventsync connections add`",
            )
        return living[0]


def with_installation(work: Callable[[Installation], Awaitable[T]]) -> T:
    """Do `work` with an open installation, which is closed afterwards. Raises EventsyncError."""
    settings = load_settings()

    async def within() -> T:
        async with open_installation(settings) as installation:
            return await work(installation)

    return run_async(within())


@asynccontextmanager
async def open_installation(settings: Settings) -> AsyncIterator[Installation]:
    """Open the installation; the embedded database is brought to this release's schema, any other must have it.

    Raises Misconfigured for keys, URL or schema, Transient where PostgreSQL cannot be reached.
    """
    keyring = keyring_of(settings)
    async with database_in_use(settings) as url:
        if settings.database_url is None:
            await migrate(url)
        async with open_database(url) as database:
            async with database.session() as session:
                await check_schema(session)
            yield installation_of(settings, url, database, keyring)


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open a small pool, as one command needs it."""
    database = Database(url, max_connections=_MAX_CONNECTIONS)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def installation_of(settings: Settings, url: str, database: Database, keyring: Keyring) -> Installation:
    """Put the installation together."""
    vendors = load_vendors()
    return Installation(
        settings=settings,
        database_url=url,
        database=database,
        keyring=keyring,
        vendors=vendors,
        clock=utc_now,
        actor=_actor(),
        organizations=Organizations(database),
        connections=Connections(database, keyring, vendors),
        webhook_tokens=WebhookTokens(database, keyring),
        api_tokens=ApiTokens(database),
        access_log=AccessLog(database),
        queue=EventQueue(database, keyring),
        stored_events=StoredEvents(database, keyring),
    )


def _actor() -> str:
    """Name the person at the keyboard for the access log, as the operating system knows them."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # a container's user need not have a name
        return f"cli:uid-{os.getuid()}"
