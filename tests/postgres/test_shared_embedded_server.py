"""Several commands on one data folder, as processes of their own: one server, ended by the last."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import asyncpg
import pytest

import eventsync
from eventsync.domain.errors import Transient
from eventsync.postgres.data_lock import DataDirLock
from eventsync.postgres.embedded import EmbeddedPostgres, connect_or_start, embedded_database_url
from servers.eventually import eventually

# Connects, says which server it speaks to, and leaves when its input ends.
COMMAND = """
import asyncio, sys
from pathlib import Path
import asyncpg
from eventsync.postgres.embedded import connect_or_start

async def main():
    async with connect_or_start(Path(sys.argv[1])) as url:
        connection = await asyncpg.connect(url)
        for line in sys.stdin:
            print(await connection.fetchval("SELECT pg_postmaster_start_time()"), flush=True)
        await connection.close()

asyncio.run(main())
"""


async def start_command(data_dir: Path) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        COMMAND,
        str(data_dir),
        env={**os.environ, "PYTHONPATH": str(Path(eventsync.__file__).parents[1])},
        stdin=PIPE,
        stdout=PIPE,
    )


async def ask(command: Process) -> bytes:
    assert command.stdin is not None
    assert command.stdout is not None
    command.stdin.write(b"which server?\n")
    async with asyncio.timeout(30):
        return await command.stdout.readline()


async def leave(command: Process) -> None:
    assert command.stdin is not None
    command.stdin.close()
    async with asyncio.timeout(30):
        assert await command.wait() == 0


async def server_answers(data_dir: Path) -> bool:
    url = embedded_database_url(data_dir)
    if url is None:
        return False
    connection = await asyncpg.connect(url, timeout=10)
    await connection.close(timeout=10)
    return True


async def test_commands_that_come_at_once_share_one_server_until_the_last_leaves(data_dir: Path) -> None:
    commands = [await start_command(data_dir) for _ in range(4)]
    servers = await asyncio.gather(*(ask(command) for command in commands))
    assert len(set(servers)) == 1
    assert servers[0]

    for command in commands:
        # Also the one that started the server leaves it to the others.
        assert await ask(command) == servers[0]
        await leave(command)
    assert embedded_database_url(data_dir) is None


async def test_a_killed_command_does_not_keep_the_server_from_being_stopped(data_dir: Path) -> None:
    first, second = await start_command(data_dir), await start_command(data_dir)
    assert await ask(first) == await ask(second)
    for command in (first, second):
        command.kill()
        await command.wait()
    assert await server_answers(data_dir)

    async with connect_or_start(data_dir):
        assert await server_answers(data_dir)
    assert embedded_database_url(data_dir) is None


async def test_a_command_uses_the_server_of_up_and_leaves_it_running(data_dir: Path) -> None:
    with DataDirLock(data_dir):
        running = await EmbeddedPostgres(data_dir).start()
        async with connect_or_start(data_dir) as url:
            assert url == running.url
        assert await server_answers(data_dir)
        await running.stop()
    assert embedded_database_url(data_dir) is None


async def test_up_that_ends_leaves_the_server_to_a_command_at_work(data_dir: Path) -> None:
    with DataDirLock(data_dir):
        running = await EmbeddedPostgres(data_dir).start()
        command = await start_command(data_dir)
        server = await ask(command)
        await running.stop()
    assert await ask(command) == server
    await leave(command)
    assert embedded_database_url(data_dir) is None


async def test_up_takes_over_the_server_of_a_command_and_notices_its_end(data_dir: Path) -> None:
    command = await start_command(data_dir)
    await ask(command)
    running = await EmbeddedPostgres(data_dir).start()
    await leave(command)
    assert await server_answers(data_dir)

    exit_seen = asyncio.create_task(running.wait_for_exit())
    await asyncio.sleep(0)
    os.kill(running.pid, 9)
    async with asyncio.timeout(10):
        await exit_seen
    await running.stop()


async def test_a_command_waits_for_up_that_is_just_starting(data_dir: Path) -> None:
    with DataDirLock(data_dir):
        command = await start_command(data_dir)
        answer = asyncio.create_task(ask(command))
        assert embedded_database_url(data_dir) is None
        running = await EmbeddedPostgres(data_dir).start()
        assert await answer
        await leave(command)
        await running.stop()


async def test_a_command_does_not_start_the_server_that_is_up_s_to_start(data_dir: Path) -> None:
    with DataDirLock(data_dir), pytest.raises(Transient, match=f"pid {os.getpid()}"):
        async with connect_or_start(data_dir, owner_starts_within_s=0.1):
            pass
    assert embedded_database_url(data_dir) is None


async def test_a_cancelled_start_leaves_no_server_behind(data_dir: Path) -> None:
    output = data_dir / "postgres" / "startup.log"
    starting = asyncio.create_task(EmbeddedPostgres(data_dir).start())
    # Its output's file shows that the server has been launched; it cannot be ready yet.
    async with asyncio.timeout(10):
        while not output.exists():  # noqa: ASYNC110  (a file knows no event, and the moment is short)
            await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await eventually(lambda: embedded_database_url(data_dir) is None)
    async with connect_or_start(data_dir) as url:
        connection = await asyncpg.connect(url, timeout=10)
        await connection.close(timeout=10)
