"""PostgreSQL and RabbitMQ die, hang and lose their data under load; nothing is lost, and all goes on by itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aio_pika
import asyncpg
import pytest

from e2e.eventsync_process import EventsyncProcess, environment
from e2e.fixtures import Connect, Start, connect_practice
from e2e.moving_again import RecordProperty, seconds_to_move, tell
from e2e.nothing_lost import assert_nothing_lost
from e2e.persistent_sender import PersistentSender
from e2e.probes import says_that_all_is_well, says_that_it_lacks, spooled_events
from e2e.steady_load import under_load
from eventsync.bus.wire import QueueName
from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.postgres.embedded import EmbeddedPostgres, RunningPostgres
from eventsync.postgres.migrations import migrate
from eventsync.sandbox import QuotaLimits, SandboxOptions, serve
from servers.eventually import eventually
from servers.ports import free_ports
from servers.rabbitmq import RabbitServer

_PRACTICE = SandboxOptions(appointments=0, clients=100, quota=QuotaLimits(per_minute=None, per_day=None), seed=13)
_MOVES_AGAIN_WITHIN_S = 30.0
_HANGS_FOR_S = 5.0
_QUEUES_ARE_SAFE_AFTER_S = 4.0  # a quorum queue that is younger may lose its leader for good when its broker is killed

MakeRabbit = Callable[[], Awaitable[RabbitServer]]


async def events_flow(database: asyncpg.Connection, *, since: datetime) -> None:
    """Wait until an event that was received after `since` has come to its end."""

    async def one_has_ended() -> bool:
        statement = "SELECT EXISTS (SELECT FROM event_history WHERE received_at > $1)"
        return bool(await database.fetchval(statement, since))

    await eventually(one_has_ended, _MOVES_AGAIN_WITHIN_S)


@pytest.mark.parametrize("fault", ["stopped", "killed"])
async def test_rabbitmq_is_away_and_comes_back_under_load(
    fault: str,
    start_eventsync: Start,
    connect: Connect,
    database: asyncpg.Connection,
    rabbitmq_factory: MakeRabbit,
    record_property: RecordProperty,
) -> None:
    rabbit = await rabbitmq_factory()
    url = rabbit.fresh_vhost_url()
    door = await start_eventsync("ingress", "relay", amqp_url=url)
    hand = await start_eventsync("consumer", "worker", "scheduler", amqp_url=url)
    async with serve(_PRACTICE) as sandbox:
        sender = PersistentSender(door.base_url + (await connect(sandbox)).webhook_path)
        async with under_load(sandbox, sender) as load:
            await events_flow(database, since=datetime.now(UTC) + timedelta(seconds=_QUEUES_ARE_SAFE_AFTER_S))
            await (rabbit.stop() if fault == "stopped" else rabbit.kill())
            for process in (door, hand):
                await says_that_it_lacks(process.base_url, "bus")
            assert await door.is_ready()  # webhooks are as welcome as before
            assert not await hand.is_ready()
            await rabbit.start()
            seconds = await seconds_to_move(database, sender)
            for process in (door, hand):
                await says_that_all_is_well(process.base_url)
        tell(record_property, f"RabbitMQ {fault}", seconds)
        await assert_nothing_lost(database, sandbox, load.work(), sender)
        assert [await process.stop() for process in (door, hand)] == [0, 0]


async def test_the_queues_are_deleted_under_load(
    start_eventsync: Start, connect: Connect, database: asyncpg.Connection, amqp_url: str
) -> None:
    door = await start_eventsync("ingress", "relay", amqp_url=amqp_url)
    hand = await start_eventsync("consumer", "worker", "scheduler", amqp_url=amqp_url)
    async with serve(_PRACTICE) as sandbox:
        sender = PersistentSender(door.base_url + (await connect(sandbox)).webhook_path)
        async with under_load(sandbox, sender) as load:
            await events_flow(database, since=datetime.now(UTC))
            await delete_queues(amqp_url)
            await events_flow(database, since=datetime.now(UTC))
            for process in (door, hand):
                await says_that_all_is_well(process.base_url)
        await assert_nothing_lost(database, sandbox, load.work(), sender)
        assert [await process.stop() for process in (door, hand)] == [0, 0]


async def delete_queues(amqp_url: str) -> None:
    async with await aio_pika.connect(amqp_url, timeout=10) as connection:
        channel = await connection.channel()
        for name in QueueName:
            await channel.queue_delete(name.value)


async def test_sigterm_under_load_drains_within_its_deadline(
    start_eventsync: Start, connect: Connect, database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    process = await start_eventsync()
    async with serve(_PRACTICE) as sandbox:
        sender = PersistentSender(process.base_url + (await connect(sandbox)).webhook_path)
        async with under_load(sandbox, sender) as load:
            await events_flow(database, since=datetime.now(UTC))
            assert await process.stop(within_s=26) == 0
            await process.start()
            await events_flow(database, since=datetime.now(UTC))
        await assert_nothing_lost(database, sandbox, load.work(), sender)
        await says_that_all_is_well(process.base_url)
        assert "worker_did_not_end_in_time" not in process.log_path.read_text()
        assert await process.stop() == 0


class OwnPostgres:
    """A PostgreSQL that a test may kill and halt, with a practice connected to the eventsync in it."""

    def __init__(self, folder: Path) -> None:
        self._files = EmbeddedPostgres(folder)
        self._running: RunningPostgres | None = None

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def _server(self) -> RunningPostgres:
        assert self._running is not None
        return self._running

    async def start(self) -> None:
        self._running = await self._files.start()

    async def stop(self) -> None:
        await self._server.stop()

    async def kill(self) -> None:
        os.kill(self._server.pid, signal.SIGKILL)
        await self._server.wait_for_exit()
        await self._server.stop()  # which waits for the backends

    def halt(self) -> None:
        """Let it and all its backends neither answer nor end; what connects meanwhile gets no answer either."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it and its backends run again."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text()
        return [self._server.pid, *map(int, children.split())]


@pytest.fixture
async def own_postgres(data_dir: Path) -> AsyncIterator[OwnPostgres]:
    """A migrated PostgreSQL of the test's own; it runs at the end of the test as well."""
    postgres = OwnPostgres(data_dir)
    await postgres.start()
    await migrate(postgres.url)
    yield postgres
    await postgres.stop()


@asynccontextmanager
async def running_on(postgres: OwnPostgres, folder: Path) -> AsyncIterator[EventsyncProcess]:
    (port,) = free_ports(1)
    env = environment(folder / "data", postgres.url)
    process = EventsyncProcess(["run", "--port", str(port)], env, folder / "process.log", port)
    await process.start()
    try:
        yield process
    finally:
        await process.kill()


@asynccontextmanager
async def plain_connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


@asynccontextmanager
async def connected(postgres: OwnPostgres) -> AsyncIterator[Database]:
    pool = Database(postgres.url)
    await pool.open()
    yield pool
    await pool.close()


async def test_postgresql_is_killed_and_comes_back_under_load(
    own_postgres: OwnPostgres, keyring: Keyring, tmp_path: Path
) -> None:
    async with serve(_PRACTICE) as sandbox, running_on(own_postgres, tmp_path) as process:
        async with connected(own_postgres) as pool:
            path = (await connect_practice(pool, keyring, sandbox)).webhook_path
        sender = PersistentSender(process.base_url + path)
        async with under_load(sandbox, sender) as load:
            async with plain_connection(own_postgres.url) as database:
                await events_flow(database, since=datetime.now(UTC))
            await own_postgres.kill()
            await the_spool_takes_over(process)
            await own_postgres.start()
            async with plain_connection(own_postgres.url) as database:
                await events_flow(database, since=datetime.now(UTC))
            await says_that_all_is_well(process.base_url)
        async with plain_connection(own_postgres.url) as database:
            await assert_nothing_lost(database, sandbox, load.work(), sender)
        assert await process.stop() == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the backends are found in /proc, which Linux has")
async def test_postgresql_hangs_and_goes_on_under_load(
    own_postgres: OwnPostgres, keyring: Keyring, tmp_path: Path
) -> None:
    async with (
        serve(_PRACTICE) as sandbox,
        running_on(own_postgres, tmp_path) as process,
        plain_connection(own_postgres.url) as database,
    ):
        async with connected(own_postgres) as pool:
            path = (await connect_practice(pool, keyring, sandbox)).webhook_path
        sender = PersistentSender(process.base_url + path)
        async with under_load(sandbox, sender) as load:
            await events_flow(database, since=datetime.now(UTC))
            own_postgres.halt()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(the_spool_takes_over(process))
                    group.create_task(asyncio.sleep(_HANGS_FOR_S))
            finally:
                own_postgres.go_on()
            await events_flow(database, since=datetime.now(UTC))
            await says_that_all_is_well(process.base_url)
        await assert_nothing_lost(database, sandbox, load.work(), sender)
        assert await process.stop() == 0


async def the_spool_takes_over(process: EventsyncProcess) -> None:
    """Wait until webhooks go to the spool and the probes say why; the door stays open meanwhile."""

    async def takes_over() -> bool:
        return await spooled_events(process.base_url) > 0

    await says_that_it_lacks(process.base_url, "postgres")
    await eventually(takes_over, _MOVES_AGAIN_WITHIN_S)
    assert await process.is_ready()
