"""The connection that the settings make at the first start: once, whoever starts, and never against a person's will."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.crypto import Keyring
from eventsync.domain.connections import OrganizationId
from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database
from eventsync.postgres.registries import find_registry
from eventsync.postgres.tenants import ConnectionChanges, Connections, NewConnection, Organizations
from eventsync.settings import Settings, load_settings
from eventsync.vendors import load_vendors, registry_vendors
from eventsync.wiring.delivering import RegistryAccounts, seed_connection
from servers.proxy import TcpProxy

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
KEY = "rbs_live_0123456789"
VENDORS = load_vendors()


def clock() -> datetime:
    return NOW


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLECTIVA_URL", "https://colectiva.example.test/api/")
    monkeypatch.setenv("COLECTIVA_API_KEY", KEY)
    return load_settings()


@pytest.fixture
def connections(pool: Database, keyring: Keyring) -> Connections:
    return Connections(pool, keyring, VENDORS)


@pytest.fixture
async def accounts(pool: Database, connections: Connections, settings: Settings) -> AsyncIterator[RegistryAccounts]:
    async with aiohttp.ClientSession() as http:
        yield RegistryAccounts(pool, connections, registry_vendors(VENDORS), http, clock, settings)


async def add(pool: Database, connections: Connections, vendor: str = "colectiva") -> None:
    owner = await Organizations(pool).add("Test Practice", None, NOW)
    await connections.add(NewConnection(OrganizationId(owner.id), vendor, "another-key"), NOW)


async def test_the_settings_make_a_connection_of_plenuras(
    pool: Database, connections: Connections, settings: Settings, database: asyncpg.Connection
) -> None:
    with capture_logs() as logs:
        assert await seed_connection(pool, connections, settings, clock)
    assert KEY not in str(logs)
    (found,) = await connections.load_connections()
    assert (found.vendor, found.base_url, found.api_key) == ("colectiva", "https://colectiva.example.test/api", KEY)
    owner = await database.fetchrow("SELECT name, external_id FROM organizations WHERE id = $1", found.organization_id)
    assert dict(owner) == {"name": "Plenura", "external_id": "plenura"}


async def test_an_organization_that_is_there_already_becomes_its_owner(
    pool: Database, connections: Connections, settings: Settings
) -> None:
    owner = await Organizations(pool).add("Our Plenura", "plenura", NOW)
    await seed_connection(pool, connections, settings, clock)
    (found,) = await connections.load_connections()
    assert found.organization_id == owner.id


async def test_without_an_address_the_vendors_own_is_taken(
    pool: Database, connections: Connections, settings: Settings
) -> None:
    without = settings.model_copy(update={"colectiva_url": None})
    await seed_connection(pool, connections, without, clock)
    (found,) = await connections.load_connections()
    assert found.base_url == VENDORS["colectiva"].default_base_url


async def test_without_a_key_nothing_is_made(pool: Database, connections: Connections, settings: Settings) -> None:
    assert not await seed_connection(pool, connections, settings.model_copy(update={"colectiva_api_key": None}), clock)
    assert await connections.summaries(None) == []
    assert await Organizations(pool).all() == []


@pytest.mark.parametrize("is_disabled", [False, True])
async def test_the_table_wins_over_the_settings_even_with_a_disabled_connection(
    pool: Database, connections: Connections, settings: Settings, is_disabled: bool
) -> None:
    await add(pool, connections)
    if is_disabled:
        (there,) = await connections.summaries(None)
        await connections.disable(there.id, None, NOW)
    assert not await seed_connection(pool, connections, settings, clock)
    assert len(await connections.summaries(None)) == 1


async def test_another_vendors_connection_is_in_nobodys_way(
    pool: Database, connections: Connections, settings: Settings
) -> None:
    await add(pool, connections, "intakeq")
    assert await seed_connection(pool, connections, settings, clock)


async def test_processes_that_start_at_once_make_one_connection(
    pool: Database, connections: Connections, settings: Settings
) -> None:
    made = await asyncio.gather(*(seed_connection(pool, connections, settings, clock) for _ in range(4)))
    assert sorted(made) == [False, False, False, True]
    assert len(await connections.summaries(None)) == 1


async def test_where_postgresql_is_away_at_the_start_it_is_made_at_a_later_try(
    keyring: Keyring, settings: Settings, database_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    proxy = await tcp_proxy(database_url)
    await proxy.refuse()
    away = Database(proxy.url)
    await away.open()
    async with aiohttp.ClientSession() as http:
        connections = Connections(away, keyring, VENDORS)
        accounts = RegistryAccounts(away, connections, registry_vendors(VENDORS), http, clock, settings)
        with pytest.raises(Transient):
            await accounts.open()
        await proxy.accept()
        assert await accounts.open() is not None
    await away.close()


async def test_the_enabled_connection_with_the_lowest_number_delivers(
    pool: Database, connections: Connections, accounts: RegistryAccounts
) -> None:
    await add(pool, connections, "intakeq")
    for _ in range(2):
        await add(pool, connections)
    _, first, second = await connections.summaries(None)
    opened = await accounts.open()
    assert opened is not None
    assert opened.connection_id == first.id == await find_registry(pool, ["colectiva"])
    await connections.disable(first.id, None, NOW)
    opened = await accounts.open()
    assert opened is not None
    assert opened.connection_id == second.id
    await connections.disable(second.id, None, NOW)
    assert await accounts.open() is None
    assert len(await connections.summaries(None)) == 3  # nothing was seeded beside them


async def test_an_account_stays_the_same_until_its_connection_changes(
    connections: Connections, accounts: RegistryAccounts
) -> None:
    first = await accounts.open()
    assert first is not None
    assert await accounts.open() is first
    changes = ConnectionChanges(api_key="another-key")
    await connections.update(first.connection_id, changes, None, NOW + timedelta(seconds=1))
    second = await accounts.open()
    assert second is not None
    assert second.registry is not first.registry
    assert await accounts.open() is second
