"""The demo's registrations: invented organizations reach a pretend Colectiva, and nothing of a user's is touched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import OrganizationId
from eventsync.postgres.database import Database
from eventsync.postgres.invented_organizations import InventedOrganizations, OrganizationState
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.settings import Settings
from eventsync.vendors import load_vendors
from eventsync.wiring import Role
from eventsync.wiring.demo import Demo, DemoOptions, keep_busy, open_demo
from eventsync.wiring.demo_colectiva import make_registrations
from eventsync.wiring.demo_registrations import DemoRegistrations, changed, invented_organizations
from eventsync.wiring.process import Process, ProcessOptions, open_process
from servers.eventually import eventually

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
COUNT_ITEMS = "SELECT count(*) FROM ecosystem_sync_queue"
QUIET = DemoOptions(rate_per_s=0.0)


async def always() -> bool:
    return True


def inventing(pool: Database, may_invent: Callable[[], Awaitable[bool]] = always, count: int = 30) -> DemoRegistrations:
    rows = InventedOrganizations(pool)
    return DemoRegistrations(rows, may_invent, Random(5), organizations=invented_organizations(count))


@pytest.fixture
def options(database_url: str, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessOptions:
    for name in ("COLECTIVA_API_KEY", "COLECTIVA_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings(data_dir=tmp_path / "data")
    return ProcessOptions(settings=settings, roles=frozenset(Role), database_url=database_url, keyring=keyring, port=0)


@asynccontextmanager
async def demo_of(options: ProcessOptions) -> AsyncIterator[tuple[Process, Demo]]:
    """Run everything with the pretend vendors, as `eventsync up --sandbox` does."""
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(open_process(options))
        demo = await stack.enter_async_context(open_demo(process, QUIET))
        await stack.enter_async_context(process.running())
        await stack.enter_async_context(keep_busy(process, demo, process.servers[0].address))
        yield process, demo


def told(demo: Demo) -> dict[str, dict[str, Any]]:
    """What the pretend Colectiva holds of each organization, by its name."""
    assert demo.colectiva is not None
    return {fact.data["linkedApps"]["plenura"]["name"]: fact.data
            for fact in demo.colectiva.running.sandbox.truth("organization")}  # fmt: skip


async def other_account(pool: Database, keyring: Keyring) -> None:
    connections = Connections(pool, keyring, load_vendors())
    owner = await Organizations(pool).add("Test Practice", None, NOW)
    new = NewConnection(OrganizationId(owner.id), "colectiva", "a-key", "http://127.0.0.1:9")
    await connections.add(new, NOW)


async def test_three_organizations_come_at_once_and_more_one_by_one_until_there_are_thirty(
    pool: Database, database: asyncpg.Connection
) -> None:
    registrations = inventing(pool)
    assert await registrations.take_turn() == 3
    assert await database.fetchval("SELECT count(*) FROM practices") == 2
    for _ in range(99):
        assert await registrations.take_turn() == 1
    rows = "SELECT (SELECT count(*) FROM practices) + (SELECT count(*) FROM therapists)"
    assert await database.fetchval(rows) == 30
    assert await database.fetchval(COUNT_ITEMS) == 3 + 99  # each turn is told of, once


async def test_a_restart_goes_on_with_the_organizations_that_are_there(
    pool: Database, database: asyncpg.Connection
) -> None:
    await inventing(pool).take_turn()
    assert await inventing(pool, count=3).take_turn() == 1
    assert await database.fetchval("SELECT count(*) FROM practices") == 2
    assert await database.fetchval("SELECT array_agg(action ORDER BY position) FROM ecosystem_sync_queue") == [
        *["register"] * 3,
        "update",
    ]


async def test_rows_of_other_people_are_left_alone(pool: Database, database: asyncpg.Connection) -> None:
    await database.execute("INSERT INTO practices (name, email) VALUES ('Own Practice', 'own@example.test')")
    before = await database.fetchrow("SELECT * FROM practices")
    for _ in range(50):
        await inventing(pool, count=4).take_turn()
    assert await database.fetchrow("SELECT * FROM practices WHERE name = 'Own Practice'") == before


async def test_nothing_is_invented_unless_it_may_be(pool: Database, database: asyncpg.Connection) -> None:
    async def never() -> bool:
        return False

    assert await inventing(pool, never).take_turn() == 0
    assert await database.fetchval(COUNT_ITEMS) == 0


def test_every_change_is_one_that_colectiva_sees() -> None:
    (organization, *_) = invented_organizations(1)
    random, state = Random(7), OrganizationState(organization.address("office"), "free", is_active=True)
    for _ in range(200):
        before, state = state, changed(organization, state, random)
        assert state != before
        assert state.is_active or before.is_active, "who has ended begins again"


def test_every_organization_has_a_name_and_an_id_of_its_own_and_every_third_is_a_therapist() -> None:
    organizations = invented_organizations(30)
    assert len({organization.id for organization in organizations}) == 30
    assert [organization.name for organization in organizations[:4]] == [
        "Test Practice 1", "Test Practice 2", "Test Therapist 1", "Test Practice 3",
    ]  # fmt: skip
    assert sum(organization.name.startswith("Test Therapist") for organization in organizations) == 10


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT eventsync_detach('practices')",
        "CREATE TABLE more (id uuid PRIMARY KEY, name text, email text); SELECT eventsync_attach('practice', 'more')",
        "ALTER TABLE therapists ALTER COLUMN ecosystem_org_id DROP EXPRESSION",
    ],
)
async def test_nothing_is_invented_where_organizations_come_from_elsewhere(
    pool: Database, database: asyncpg.Connection, sql: str
) -> None:
    rows = InventedOrganizations(pool)
    assert await rows.may_be_added()
    await database.execute(sql)
    assert not await rows.may_be_added()


async def test_invented_and_own_organizations_reach_the_pretend_colectiva_and_are_known_there_after_a_restart(
    options: ProcessOptions, database: asyncpg.Connection
) -> None:
    async with demo_of(options) as (_, demo):
        await eventually(lambda: len(told(demo)) == 3, 30)
        await database.execute("INSERT INTO practices (name, email) VALUES ('My Practice', 'me@example.test')")
        await eventually(lambda: "My Practice" in told(demo), 10)
    async with demo_of(options) as (_, again):
        assert "My Practice" in told(again)
        await database.execute("UPDATE practices SET subscription_tier = 'gold' WHERE name = 'My Practice'")
        await eventually(lambda: told(again)["My Practice"]["billing"]["plan"] == "gold", 10)
    rows = await database.fetch("SELECT vendor FROM connections WHERE disabled_at IS NULL ORDER BY number")
    assert [row["vendor"] for row in rows] == [
        "intakeq",
        "colectiva",
    ]  # the practice's is the first, and no others come


async def test_payments_are_told_by_signed_webhooks_and_unsigned_ones_are_refused_after_a_restart_too(
    options: ProcessOptions,
) -> None:
    for _ in range(2):
        async with demo_of(options) as (_, demo), aiohttp.ClientSession() as http:
            assert demo.colectiva is not None
            sandbox = demo.colectiva.running.sandbox
            sandbox.act("wallet_created")
            assert await eventually(partial(dict, sandbox.stats.answers), 10) == {"200": 1}
            async with http.post(sandbox.sender.targets["payment"], json={"event": "wallet.created"}) as answer:
                assert answer.status == 401


async def test_an_account_of_ones_own_is_never_mixed_with_the_pretend_one(
    options: ProcessOptions, pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    await other_account(pool, keyring)
    async with open_process(options) as process, open_demo(process, QUIET) as demo:
        assert demo.colectiva is None
        assert demo.notice is not None
    assert await database.fetchval("SELECT count(*) FROM connections WHERE vendor = 'colectiva'") == 1


async def test_a_key_in_the_settings_makes_the_account_that_it_is_for_and_no_pretend_one(
    options: ProcessOptions, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLECTIVA_API_KEY", "a-key")
    monkeypatch.setenv("COLECTIVA_URL", "http://127.0.0.1:9")
    settings = Settings(data_dir=options.settings.data_dir)
    keyed = ProcessOptions(
        settings=settings, roles=options.roles, database_url=options.database_url, keyring=options.keyring, port=0
    )
    connections = "SELECT base_url FROM connections WHERE vendor = 'colectiva'"
    async with demo_of(keyed) as (_, demo):
        assert demo.colectiva is None
        assert await eventually(lambda: database.fetchval(connections), 10) == "http://127.0.0.1:9"
    assert await database.fetchval(COUNT_ITEMS) == 0


async def test_nothing_is_invented_once_registrations_go_to_another_account_and_a_disabled_one_stays_away(
    options: ProcessOptions, pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_process(options) as process, open_demo(process, QUIET) as demo:
        assert demo.colectiva is not None
        registrations = make_registrations(process, demo.colectiva.connection_id)
        assert await registrations.take_turn() == 3
        await other_account(pool, keyring)
        assert await registrations.take_turn() == 1  # the first one made is still delivered to
        await database.execute("UPDATE connections SET disabled_at = now() WHERE id = $1", demo.colectiva.connection_id)
        assert await registrations.take_turn() == 0
    async with open_process(options) as process, open_demo(process, QUIET) as again:
        assert again.colectiva is None
        assert again.notice is not None
        assert "disabled" in again.notice
