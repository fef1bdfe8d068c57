"""`eventsync up --sandbox` as a newcomer runs it: it works, it stops cleanly, and it survives being killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from eventsync.postgres.embedded import embedded_database_url
from servers.eventually import eventually
from servers.ports import free_ports

REGISTERED = """
SELECT remote_org_id FROM ecosystem_sync_queue
WHERE payload ->> 'organization_name' = $1 AND payload ->> 'subscription_tier' = $2 AND status = 'success'
"""
CHANGE_PLAN = "UPDATE practices SET subscription_tier = $2 WHERE name = $1 RETURNING id"
StartUp = Callable[[], Awaitable["Up"]]


class Up:
    """One running `eventsync up --sandbox`; its output is kept for the test to read."""

    def __init__(self, data_dir: Path, port: int, log_path: Path) -> None:
        self.data_dir = data_dir
        self.base_url = f"http://127.0.0.1:{port}"
        self.log_path = log_path
        self._port = port
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSYNC_")}
        options = ["--port", str(self._port), "--data-dir", str(self.data_dir), "--rate", "30"]
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "eventsync", "up", "--sandbox", *options), env=env, stdout=log, stderr=log
            )

    async def applied(self) -> int:
        """How many events have come to their end, by its own database."""
        return await self.ask("SELECT count(*) FROM event_history WHERE outcome = 'applied'") or 0

    async def ask(self, sql: str, *arguments: str) -> Any:
        """Ask its own database for a value; None while that is away, or not prepared."""
        url = await asyncio.to_thread(embedded_database_url, self.data_dir)
        if url is None:
            return None
        try:
            database = await asyncpg.connect(url, timeout=5)
        except (OSError, asyncpg.PostgresError):
            return None
        try:
            return await database.fetchval(sql, *arguments)
        except asyncpg.PostgresError:
            return None
        finally:
            await database.close()

    async def registered(self, name: str, plan: str) -> str:
        """Wait until the practice of that name is known to the pretend Colectiva with that plan; tell its id there."""
        return str(await eventually(lambda: self.ask(REGISTERED, name, plan), 60))

    async def flows_beyond(self, count: int) -> int:
        """Wait until more than `count` events have been applied, and tell how many."""

        async def more() -> int:
            if self.process is None or self.process.returncode is not None:
                raise RuntimeError(f"it ended: {self.log_path.read_text()}")
            applied = await self.applied()
            return applied if applied > count else 0

        return await eventually(more, 60)

    async def stop(self) -> int:
        """Press Ctrl-C."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(40):
            return await self.process.wait()

    async def kill(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture
async def start_up(data_dir: Path, tmp_path: Path) -> AsyncIterator[StartUp]:
    (port,) = free_ports(1)
    running: list[Up] = []

    async def start() -> Up:
        running.append(Up(data_dir, port, tmp_path / "up.log"))
        await running[-1].start()
        return running[-1]

    yield start
    for up in running:
        if up.process is not None and up.process.returncode is None:
            await up.stop()


@pytest.mark.timeout(180)
async def test_up_shows_the_flow_stops_cleanly_and_goes_on_where_it_was(start_up: StartUp) -> None:
    first = await start_up()
    seen = await first.flows_beyond(30)
    async with aiohttp.ClientSession() as http, http.get(f"{first.base_url}/readyz") as answer:
        assert answer.status == 200, await answer.text()
    assert await first.stop() == 0
    second = await start_up()
    assert await second.flows_beyond(seen) > seen
    assert await second.stop() == 0
    log = second.log_path.read_text()
    assert log.count("shown only now") == 1
    assert "Traceback" not in log


@pytest.mark.timeout(180)
async def test_up_survives_kill_9_of_itself_and_of_its_postgresql(start_up: StartUp) -> None:
    first = await start_up()
    seen = await first.flows_beyond(10)
    await first.kill()
    second = await start_up()
    seen = await second.flows_beyond(seen)
    os.kill(postmaster_pid(second.data_dir), signal.SIGKILL)
    assert await second.flows_beyond(seen + 10) > seen
    assert await second.stop() == 0


@pytest.mark.timeout(180)
async def test_a_practice_is_registered_and_what_becomes_of_it_is_told_after_ctrl_c_and_kill_9_too(
    start_up: StartUp,
) -> None:
    first = await start_up()
    add = "INSERT INTO practices (name, email, subscription_tier) VALUES ($1, $2, 'free') RETURNING name"
    await eventually(partial(first.ask, add, "My Practice", "mine@example.test"), 60)
    remote_id = await first.registered("My Practice", "free")
    assert await first.stop() == 0
    second = await start_up()
    await eventually(partial(second.ask, CHANGE_PLAN, "My Practice", "basic"), 60)
    assert await second.registered("My Practice", "basic") == remote_id
    await second.kill()
    third = await start_up()
    await eventually(partial(third.ask, CHANGE_PLAN, "My Practice", "professional"), 60)
    assert await third.registered("My Practice", "professional") == remote_id
    assert await third.stop() == 0
    assert "Traceback" not in third.log_path.read_text()


@pytest.mark.timeout(90)
async def test_a_second_up_on_the_same_folder_is_refused(start_up: StartUp) -> None:
    first = await start_up()
    await first.flows_beyond(0)
    second = await start_up()
    assert second.process is not None
    async with asyncio.timeout(20):
        assert await second.process.wait() == 2
    assert await first.stop() == 0


def postmaster_pid(data_dir: Path) -> int:
    (pid_file,) = (data_dir / "postgres").resolve().rglob("postmaster.pid")
    return int(pid_file.read_text().split("\n")[0])
