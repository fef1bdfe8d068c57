"""The outbound queue in whole processes: their roles, what they tell of it, and how they stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.sandbox import RunningSandbox, SandboxOptions, ScriptedCall, serve
from eventsync.sandbox.colectiva.vendor import ColectivaVendor
from eventsync.settings import Settings
from eventsync.telemetry import Metrics
from eventsync.wiring import Role
from eventsync.wiring.outbound_watch import OutboundWatch
from eventsync.wiring.process import Process, ProcessOptions, open_process
from servers.eventually import eventually
from stages.colectiva_site import settings_for
from stages.delivery_site import DeliverySite
from stages.spine import DEADLINE_S, ManualClock

BUS_ROLES = frozenset({Role.RELAY, Role.CONSUMER, Role.WORKER})
OpenProcess = Callable[[Settings, frozenset[Role]], Any]


@pytest.fixture
async def colectiva() -> AsyncIterator[RunningSandbox]:
    async with serve(SandboxOptions(vendor="colectiva")) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        yield session


@pytest.fixture
def open_one(database_url: str, keyring: Keyring) -> OpenProcess:
    """Runs a process of some roles, with a port for probes."""

    @asynccontextmanager
    async def opened(settings: Settings, roles: frozenset[Role]) -> AsyncIterator[Process]:
        options = ProcessOptions(settings, roles, database_url, keyring, port=0, health_port=0)
        async with open_process(options) as process, process.running():
            yield process

    return opened


async def queue_one(database: asyncpg.Connection, number: int) -> None:
    await database.execute(
        "INSERT INTO ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload)"
        " VALUES ('practice', gen_random_uuid(), $1, 'register',"
        " jsonb_build_object('organization_name', 'Test Practice', 'email', 'practice@example.test'))",
        f"plenura_{number:032x}",
    )


def registered(colectiva: RunningSandbox) -> int:
    vendor = colectiva.sandbox.vendor
    assert isinstance(vendor, ColectivaVendor)
    return len(vendor.organizations)


async def readiness(http: aiohttp.ClientSession, process: Process) -> dict[str, str]:
    """Ask the probes: the reason of each part, empty where it is ready."""
    assert process.health_server is not None
    async with http.get(f"{process.health_server.address}/readyz") as answer:
        body: dict[str, Any] = await answer.json()
    return {name: part["reason"] for name, part in body["parts"].items()}


async def metrics(http: aiohttp.ClientSession, process: Process) -> dict[str, float]:
    """Read the metrics of the outbound queue."""
    assert process.health_server is not None
    async with http.get(f"{process.health_server.address}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("eventsync_outbound"))
    }


async def test_one_process_delivers_by_the_connection_that_the_settings_name(
    colectiva: RunningSandbox,
    database: asyncpg.Connection,
    open_one: OpenProcess,
    http: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    async with open_one(settings_for(colectiva, data_dir=tmp_path), BUS_ROLES) as process:
        await queue_one(database, 1)
        await eventually(lambda: registered(colectiva) == 1)
        await eventually(lambda: attempts(http, process))
        found = await metrics(http, process)
        assert found["eventsync_outbound_delivery_seconds_count"] == 1
        assert found["eventsync_outbound_paused"] == found["eventsync_outbound_oldest_seconds"] == 0
        assert found['eventsync_outbound_items{status="pending"}'] == 0
        assert (await readiness(http, process))["outbound"] == ""
        assert len(process.budgets) == 1


async def attempts(http: aiohttp.ClientSession, process: Process) -> bool:
    return (await metrics(http, process)).get('eventsync_outbound_attempts_total{result="accepted"}') == 1


@pytest.mark.rabbitmq
async def test_a_relay_and_two_workers_in_processes_of_their_own_deliver_each_item_once(
    colectiva: RunningSandbox, database: asyncpg.Connection, open_one: OpenProcess, tmp_path: Path, amqp_url: str
) -> None:
    async with AsyncExitStack() as stack:
        for number, role in enumerate((Role.RELAY, Role.WORKER, Role.WORKER)):
            folder = tmp_path / str(number)
            settings = settings_for(colectiva, data_dir=folder, amqp_url=amqp_url)
            process = await stack.enter_async_context(open_one(settings, frozenset({role})))
            await eventually(lambda process=process: process.listener.is_proven)  # type: ignore[misc]  # bound at once
        for number in range(20):
            await queue_one(database, number)
        await eventually(lambda: registered(colectiva) == 20)
    vendor = colectiva.sandbox.vendor
    assert isinstance(vendor, ColectivaVendor)
    assert len(vendor.posts) == 20
    assert not [post for post in vendor.posts if post.is_overlapping]
    assert await database.fetchval("SELECT count(*) FROM connections") == 1


async def test_a_process_that_is_stopped_in_the_middle_of_a_post_repeats_none(
    colectiva: RunningSandbox, database: asyncpg.Connection, open_one: OpenProcess, tmp_path: Path
) -> None:
    arrived = asyncio.Event()

    async def wait_a_moment() -> None:
        arrived.set()
        await asyncio.sleep(0.5)  # while the process is being stopped

    call = ScriptedCall(route="/ecosystem-orgs", method="POST", before=wait_a_moment)
    colectiva.sandbox.script.add(call)
    settings = settings_for(colectiva, data_dir=tmp_path)
    async with open_one(settings, BUS_ROLES), asyncio.timeout(DEADLINE_S):
        await queue_one(database, 1)
        await arrived.wait()
    row = await database.fetchrow("SELECT status, attempts FROM ecosystem_sync_queue")
    assert dict(row) == {"status": "success", "attempts": 1}


@pytest.mark.parametrize("role", [Role.SCHEDULER, Role.API])
async def test_roles_that_deliver_nothing_tell_of_the_queue_as_well(
    database: asyncpg.Connection, open_one: OpenProcess, http: aiohttp.ClientSession, tmp_path: Path, role: Role
) -> None:
    async with open_one(Settings(data_dir=tmp_path), frozenset({role})) as process:
        assert (await readiness(http, process))["outbound"] == ""
        await queue_one(database, 1)
        assert "eventsync connections add colectiva" in (await readiness(http, process))["outbound"]
        assert (await metrics(http, process))['eventsync_outbound_items{status="pending"}'] == 1


async def test_a_role_that_has_nothing_to_do_with_it_is_silent_about_the_queue(
    open_one: OpenProcess, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with open_one(Settings(data_dir=tmp_path), frozenset({Role.INGRESS})) as process:
        assert "outbound" not in await readiness(http, process)


async def test_the_probes_say_what_keeps_items_waiting(pool: Database, database: asyncpg.Connection) -> None:
    site = DeliverySite(pool, database, await a_connection_to_colectiva(database))
    clock, trouble = ManualClock(site.clock()), ""
    watch = OutboundWatch(pool, Metrics(), clock, trouble=lambda: trouble)
    part = watch.part()
    assert (part.name, part.blocks, await part.check()) == ("outbound", False, "")
    await site.put()
    assert await part.check() == ""
    trouble = "PostgreSQL is away"
    assert await part.check() == "PostgreSQL is away"
    clock.advance(901)
    assert "the oldest unfinished item is 90" in await part.check()
    now = site.clock()
    await site.queue.pause(site.connection_id, "the API key is refused", now, now)
    assert await part.check() == f"paused since {now:%Y-%m-%d %H:%M} UTC: the API key is refused"
    await database.execute("UPDATE connections SET disabled_at = now()")
    assert "no connection to Colectiva" in await part.check()


async def a_connection_to_colectiva(database: asyncpg.Connection) -> Any:
    organization = await database.fetchval("INSERT INTO organizations (name) VALUES ('Plenura') RETURNING id")
    return await database.fetchval(
        "INSERT INTO connections (organization_id, vendor, base_url, api_key_sealed)"
        " VALUES ($1, 'colectiva', 'http://127.0.0.1:9', '') RETURNING id",
        organization,
    )


async def test_the_figures_tell_of_a_paused_queue_and_its_oldest_item(
    pool: Database, database: asyncpg.Connection
) -> None:
    site = DeliverySite(pool, database, await a_connection_to_colectiva(database))
    await site.put()
    now = site.clock()
    await site.queue.pause(site.connection_id, "the API key is refused", now, now)
    site.clock.advance(60)
    await OutboundWatch(pool, site.metrics, site.clock).refresh()
    sample = site.metrics.registry.get_sample_value
    assert sample("eventsync_outbound_paused") == 1
    assert 60 <= (sample("eventsync_outbound_oldest_seconds") or 0.0) <= 90
    assert sample("eventsync_outbound_items", {"status": "pending"}) == 1
