"""Kills the process at every named point of the path, starts it again, and holds its rows against the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from e2e.crash_points import CRASH_POINTS, CrashPoint, Postgres, as_markdown
from e2e.crashing import Crashing, crashing
from e2e.eventsync_process import environment
from e2e.fixtures import Connect
from e2e.nothing_lost import assert_nothing_lost, busy_days
from e2e.persistent_sender import PersistentSender
from eventsync.sandbox import QuotaLimits, SandboxOptions, serve
from servers.proxy import TcpProxy

_README = Path(__file__).parents[2] / "README.md"
_PRACTICE = SandboxOptions(appointments=0, clients=50, quota=QuotaLimits(per_minute=None, per_day=None), seed=11)
_DAYS = 3

MakeProxy = Callable[[str], Awaitable[TcpProxy]]

in_process = pytest.mark.parametrize(
    "point",
    [point for point in CRASH_POINTS if not point.over_rabbitmq and not point.is_outbound],
    ids=lambda point: point.name,
)
over_rabbitmq = pytest.mark.parametrize(
    "point", [point for point in CRASH_POINTS if point.over_rabbitmq], ids=lambda point: point.name
)


@in_process
async def test_nothing_is_lost_or_applied_twice_when_the_one_process_is_killed(
    point: CrashPoint,
    connect: Connect,
    database: asyncpg.Connection,
    database_url: str,
    tcp_proxy: MakeProxy,
    tmp_path: Path,
) -> None:
    proxy = await tcp_proxy(database_url)
    env = environment(tmp_path, proxy.url)
    async with crashing(tmp_path, env) as process:
        await crash_and_check(point, process, proxy, connect, database)


@over_rabbitmq
async def test_nothing_is_lost_or_applied_twice_when_a_process_on_rabbitmq_is_killed(
    point: CrashPoint,
    connect: Connect,
    database: asyncpg.Connection,
    database_url: str,
    tcp_proxy: MakeProxy,
    amqp_url: str,
    tmp_path: Path,
) -> None:
    proxy = await tcp_proxy(database_url)
    env = environment(tmp_path, proxy.url, amqp_url)
    async with crashing(tmp_path, env) as process:
        await crash_and_check(point, process, proxy, connect, database)


async def crash_and_check(
    point: CrashPoint, process: Crashing, proxy: TcpProxy, connect: Connect, database: asyncpg.Connection
) -> None:
    async with serve(_PRACTICE) as sandbox:
        sender = PersistentSender(process.base_url + (await connect(sandbox)).webhook_path)
        work = busy_days(sandbox, _DAYS)
        await process.start(point)
        if point.postgres is not Postgres.THERE:
            await sender.deliver(work.bodies[:1])  # so that the door knows the token by heart
        await take_postgres_away(point, proxy)
        async with asyncio.TaskGroup() as group:
            delivering = group.create_task(sender.deliver(work.bodies))
            if point.postgres is Postgres.BACK:
                await delivering
                await proxy.accept()
            await process.died()
            proxy.resume()
            await process.start()
        await proxy.accept()
        await assert_nothing_lost(database, sandbox, work, sender)
        assert await process.stop() == 0


async def take_postgres_away(point: CrashPoint, proxy: TcpProxy) -> None:
    if point.postgres in (Postgres.AWAY, Postgres.BACK):
        await proxy.refuse()
        proxy.cut()
    elif point.postgres is Postgres.HANGS:
        proxy.hold_answers()


def test_the_readmes_table_is_the_list_of_crash_points() -> None:
    _, _, after = _README.read_text().partition("<!-- crash points: begin -->")
    table, end, _ = after.partition("<!-- crash points: end -->")
    assert end, "the README lacks the two comments around the table"
    assert table.strip() == as_markdown(), "paste what e2e.crash_points.as_markdown() gives between the comments"
