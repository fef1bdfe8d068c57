"""How soon an inserted practice is POSTed to Colectiva at low load, by the processes that users start."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from e2e.connected_colectiva import connect_colectiva
from e2e.whole_process import process_of, running
from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.sandbox import SandboxOptions, serve
from eventsync.sandbox.colectiva.vendor import ColectivaVendor
from servers.eventually import eventually

RATE_PER_S = 5
DURATION_S = 60 if os.environ.get("EVENTSYNC_PROVE") else 10
P99_MS = 100
ROUNDS = 3  # a machine that others use as well may spoil one, but not make a slow product fast
_INSERT = "INSERT INTO practices (name, email) VALUES ($1, $2) RETURNING ecosystem_org_id"

RecordProperty = Callable[[str, object], None]


@pytest.mark.timeout(300)
async def test_at_5_inserts_a_second_99_of_100_are_posted_within_100_ms_by_one_process(
    durable_database_url: str, keyring: Keyring, tmp_path: Path, record_property: RecordProperty
) -> None:
    await hold_the_bound(durable_database_url, keyring, tmp_path, [()], None, record_property)


@pytest.mark.timeout(300)
async def test_at_5_inserts_a_second_99_of_100_are_posted_within_100_ms_by_two_processes_on_rabbitmq(
    durable_database_url: str, keyring: Keyring, amqp_url: str, tmp_path: Path, record_property: RecordProperty
) -> None:
    roles = [("relay",), ("worker",)]
    await hold_the_bound(durable_database_url, keyring, tmp_path, roles, amqp_url, record_property)


async def hold_the_bound(
    database_url: str,
    keyring: Keyring,
    folder: Path,
    processes: Sequence[tuple[str, ...]],
    amqp_url: str | None,
    record_property: RecordProperty,
) -> None:
    """Start a process for each group of roles (empty: all of them), and measure up to ROUNDS times."""
    pool = Database(database_url)
    await pool.open()
    async with serve(SandboxOptions(vendor="colectiva")) as sandbox, AsyncExitStack() as stack:
        stack.push_async_callback(pool.close)
        colectiva = await connect_colectiva(pool, keyring, sandbox)
        for number, roles in enumerate(processes):
            process = process_of(folder / str(number), database_url, *roles, amqp_url=amqp_url)
            await stack.enter_async_context(running(process))
        database = await asyncpg.connect(database_url, timeout=10)
        stack.push_async_callback(database.close)
        await one_round(database, colectiva, 1)  # the first attempt opens what the others find open
        rounds = [await one_round(database, colectiva, RATE_PER_S * DURATION_S)]
        while len(rounds) < ROUNDS and rounds[-1].p99_ms >= P99_MS:
            rounds.append(await one_round(database, colectiva, RATE_PER_S * DURATION_S))
    record_property("insert_to_post", rounds)
    print(rounds)  # noqa: T201  # shown by `pytest -rP`
    assert rounds[-1].p99_ms < P99_MS, rounds


@dataclass(frozen=True, slots=True)
class Round:
    """From just before the INSERT, its commit included, to the POST's arrival, in milliseconds."""

    p50_ms: float
    p99_ms: float
    inserts: int


async def one_round(database: asyncpg.Connection, colectiva: ColectivaVendor, inserts: int) -> Round:
    """Insert so many practices at a steady rate, and measure those."""
    began_s: dict[str, float] = {}
    first = colectiva.posts.mark()
    for number in range(inserts):
        moment_s = time.monotonic()
        org_id = await database.fetchval(_INSERT, f"Test Practice {number}", f"owner-{number}@example.test")
        began_s[org_id] = moment_s
        await asyncio.sleep(1 / RATE_PER_S)
    await eventually(lambda: colectiva.posts.mark() >= first + inserts)
    posts = colectiva.posts.since(first)
    assert {post.app_org_id for post in posts} == began_s.keys()
    assert len(posts) == inserts
    spans_ms = sorted((post.arrived_s - began_s[str(post.app_org_id)]) * 1000 for post in posts)
    return Round(_percentile(spans_ms, 0.5), _percentile(spans_ms, 0.99), inserts)


def _percentile(ordered: list[float], share: float) -> float:
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 1)
