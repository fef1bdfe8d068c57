"""`eventsync backfill`: its cost first, then everything: in the background, or here where no worker runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest

from cli.runs import Cli
from cli.sync_practice import Practice, connected_practice
from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.tenants import Connections
from eventsync.sandbox import ScriptedCall
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.sync_worker import SyncWorker
from eventsync.supervisor import Supervisor
from eventsync.telemetry import Metrics
from eventsync.vendors import load_vendors, record_vendors
from eventsync.wiring import utc_now
from eventsync.wiring.reconciling import RunAccounts, make_carriers, make_store

BACKFILL = ("backfill", "1", "--yes")
LAST_LIST: dict[str, Any] = {"route": "/clients", "query": {"page": "2"}, "call": 2}  # the first one measures it


@pytest.fixture
async def practice(cli: Cli, organization: dict[str, Any]) -> AsyncIterator[Practice]:
    async with connected_practice(cli, clients=120, appointments=240) as connected:
        yield connected


@asynccontextmanager
async def worker_process(pool: Database, keyring: Keyring) -> AsyncIterator[None]:
    """Let a worker run as another process does."""
    vendors, metrics = load_vendors(), Metrics()
    listener = Listener(pool.url, metrics)
    directory = ConnectionDirectory(Connections(pool, keyring, vendors).load_connection, listener)
    store = make_store(pool, keyring, metrics, utc_now)
    async with aiohttp.ClientSession() as http:
        carriers = make_carriers(
            store, directory, record_vendors(vendors), RunAccounts(pool, record_vendors(vendors), http, utc_now).open
        )
        stop = asyncio.Event()
        worker = SyncWorker(store.runs, carriers, listener, utc_now)
        supervising = asyncio.create_task(Supervisor([worker, listener], metrics).run(stop))
        await listener.proven.wait()
        try:
            yield
        finally:
            stop.set()
            await supervising


async def statuses(database: asyncpg.Connection) -> list[str]:
    return [row["status"] for row in await database.fetch("SELECT status FROM sync_logs WHERE sync_type = 'backfill'")]


async def test_without_a_terminal_it_refuses_to_begin_and_says_how(
    cli: Cli, practice: Practice, database: asyncpg.Connection
) -> None:
    ended = await cli("backfill", "1")
    assert ended.exit_code == 2
    assert ended.stderr.splitlines()[-1] == "Error: look at the cost with --dry-run, then say --yes"
    assert practice.calls == 0
    assert await statuses(database) == []


async def test_the_cost_is_shown_and_nothing_is_begun(
    cli: Cli, practice: Practice, database: asyncpg.Connection
) -> None:
    told = (await cli("backfill", "1", "--dry-run", "--json")).json
    estimate = told["estimate"]
    assert told["run"] is None
    assert estimate["clients"] == {"rows": 120, "at_least": 120, "at_most": 120}
    assert estimate["appointments"]["rows"] == 240
    assert estimate["calls_made"] == practice.calls <= 14
    assert estimate["calls_per_day"] is None
    ended = await cli("backfill", "1", "--dry-run")
    assert ended.exit_code == 0
    assert ["clients", "120"] in [line.split() for line in ended.stdout.splitlines()]
    assert await statuses(database) == []
    assert await database.fetchval("SELECT count(*) FROM appointments") == 0


async def test_a_days_calls_are_told_where_they_are_limited(cli: Cli, organization: dict[str, Any]) -> None:
    settings = {"calls_per_minute": "1000", "calls_per_day": "20"}
    async with connected_practice(cli, clients=120, appointments=240, settings=settings):
        shown = (await cli("backfill", "1", "--dry-run")).stdout
    assert "days, as each day's API calls allow" in shown
    assert "12 a day at most" in shown


async def test_without_a_worker_it_is_carried_out_here(
    cli: Cli, practice: Practice, database: asyncpg.Connection
) -> None:
    ended = await cli(*BACKFILL, "--json")
    assert ended.exit_code == 0, ended.stderr
    assert "No worker process has taken it" in ended.stderr
    assert ended.json["run"]["status"] == "completed"
    assert ended.json["run"]["appointments_new"] == 240
    assert ended.json["estimate"]["calls"] >= ended.json["run"]["calls"] / 2
    await practice.require_true_copy(database)
    assert await statuses(database) == ["completed"]


async def test_with_a_worker_it_goes_on_in_the_background(
    cli: Cli, practice: Practice, pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    gate = asyncio.Event()
    async with worker_process(pool, keyring):
        scripted = practice.sandbox.script.add(ScriptedCall(route="/practitioners", before=gate.wait))
        ended = await cli(*BACKFILL)
        assert ended.exit_code == 0, ended.stderr
        assert "goes on in the background: `eventsync backfill 1 --follow`" in ended.stdout
        assert await statuses(database) == ["running"]
        again = await cli(*BACKFILL, "--json")
        assert again.json["run"]["status"] == "running"
        assert again.json["estimate"] is None, "what goes on already is not measured again"
        following = asyncio.ensure_future(cli("backfill", "1", "--follow", "--json"))
        gate.set()
        followed = await following
        practice.sandbox.script.remove(scripted)
    assert followed.exit_code == 0
    assert followed.json["run"]["status"] == "completed"
    assert await statuses(database) == ["completed"]
    await practice.require_true_copy(database)


async def test_ctrl_c_gives_it_back_and_it_goes_on_where_it_was(
    cli: Cli, practice: Practice, settings_env: dict[str, str], database: asyncpg.Connection
) -> None:
    exit_code, said = await practice.stop_at(BACKFILL, settings_env, signal.SIGINT, **LAST_LIST)
    assert exit_code == 1
    assert "Giving the run back" in said
    assert "Traceback" not in said
    assert await statuses(database) == ["starting"]
    assert await database.fetchval("SELECT count(*) FROM appointments") > 0
    ended = await cli(*BACKFILL, "--json")
    assert ended.json["run"]["status"] == "completed"
    assert ended.json["run"]["appointments_new"] == 240
    assert await statuses(database) == ["completed"]
    await practice.require_true_copy(database)


@pytest.mark.parametrize("words", [BACKFILL, (*BACKFILL, "--follow")])
async def test_killed_without_a_word_it_is_taken_over(
    cli: Cli, practice: Practice, settings_env: dict[str, str], database: asyncpg.Connection, words: tuple[str, ...]
) -> None:
    await practice.stop_at(BACKFILL, settings_env, signal.SIGKILL, **LAST_LIST)
    assert await statuses(database) == ["running"]
    await database.execute("UPDATE sync_logs SET leased_until = now() - interval '1 second'")  # a minute has passed
    ended = await cli(*words, "--json")
    assert ended.json["run"]["status"] == "completed"
    assert ended.json["run"]["appointments_new"] == 240
    await practice.require_true_copy(database)


async def test_the_days_to_read_are_chosen(cli: Cli, practice: Practice, database: asyncpg.Connection) -> None:
    words = (*BACKFILL, "--days-back", "0", "--days-ahead", "2", "--json")
    told = (await cli(*words)).json
    assert 0 < told["run"]["appointments_new"] == told["estimate"]["appointments"]["rows"] < 60


async def test_a_refused_key_is_told_before_anything_is_asked_for(
    cli: Cli, practice: Practice, database: asyncpg.Connection
) -> None:
    practice.sandbox.set_api_key("another-key")
    ended = await cli(*BACKFILL)
    assert ended.exit_code == 2
    assert "api_key" in ended.stderr
    assert await statuses(database) == []


async def test_a_day_whose_calls_are_spent_cannot_be_measured_and_it_begins_all_the_same_where_one_says_so(
    cli: Cli, organization: dict[str, Any], pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    settings = {"calls_per_minute": "100", "calls_per_day": "3"}
    async with connected_practice(cli, clients=120, appointments=240, settings=settings):
        measured = await cli("backfill", "1", "--dry-run")
        assert (measured.exit_code, measured.stdout) == (1, "")
        assert "eventsync budget" in measured.stderr
        async with worker_process(pool, keyring):
            begun = await cli(*BACKFILL, "--json")
            assert begun.exit_code == 0, begun.stderr
            assert "could not be measured: the day's API calls" in begun.stderr
            assert (begun.json["estimate"], begun.json["run"]["status"]) == (None, "running")
        assert await statuses(database) == ["starting"], "the worker that ended has given it back"


@pytest.mark.parametrize("words", [["99", "--yes"], ["1", "--yes"]])
async def test_only_a_living_connection_is_read(cli: Cli, practice: Practice, words: list[str]) -> None:
    await cli("connections", "disable", "1")
    ended = await cli("backfill", *words)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert practice.calls == 0
