"""Kills the process at every named point of the path, starts it again, and holds its rows against the truth."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from e2e.crash_points import CRASH_POINTS, CrashPoint, Postgres, as_markdown
from e2e.eventsync_process import environment
from e2e.fixtures import Connect
from e2e.nothing_lost import assert_nothing_lost, busy_days
from e2e.persistent_sender import PersistentSender
from eventsync.sandbox import QuotaLimits, SandboxOptions, serve
from servers.eventually import eventually
from servers.ports import free_ports
from servers.proxy import TcpProxy

_TESTS = Path(__file__).parents[1]
_README = _TESTS.parent / "README.md"
_PRACTICE = SandboxOptions(appointments=0, clients=50, quota=QuotaLimits(per_minute=None, per_day=None), seed=11)
_DAYS = 3
_DIES_WITHIN_S = 30.0

MakeProxy = Callable[[str], Awaitable[TcpProxy]]

in_process = pytest.mark.parametrize(
    "point", [point for point in CRASH_POINTS if not point.over_rabbitmq], ids=lambda point: point.name
)
over_rabbitmq = pytest.mark.parametrize(
    "point", [point for point in CRASH_POINTS if point.over_rabbitmq], ids=lambda point: point.name
)


class Crashing:
    """The product's process on one port and one data folder, started again and again; its log is kept in `folder`."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        (port,) = free_ports(1)
        self.base_url = f"http://127.0.0.1:{port}"
        self._port = port
        self._env = dict(env)
        self._log = folder / "process.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, point: CrashPoint | None = None) -> None:
        """Start it, to die at `point`, and wait until it is ready."""
        arguments = [str(self._port)] if point is None else [str(self._port), point.name]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "e2e.crash_process", *arguments, cwd=_TESTS, env=self._env, stdout=log, stderr=log
            )
        await eventually(self._is_ready, 30)

    async def died(self) -> None:
        """Wait until it has killed itself."""
        assert self._process is not None
        async with asyncio.timeout(_DIES_WITHIN_S):
            assert await self._process.wait() == -signal.SIGKILL, self._log.read_text()

    async def stop(self) -> int:
        """End it in an orderly way, and give its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self._process.wait()

    async def kill(self) -> None:
        """End it, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise RuntimeError(f"it ended: {self._log.read_text()}")
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.base_url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def crashing(folder: Path, env: Mapping[str, str]) -> AsyncIterator[Crashing]:
    process = Crashing(folder, env)
    try:
        yield process
    finally:
        await process.kill()


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
