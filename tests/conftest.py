"""Servers and addresses for all tests: real ones of the tests' own, started once a session and never shared."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from eventsync.postgres.embedded import EmbeddedPostgres
from eventsync.postgres.migrations import migrate
from servers.places import fast_folder
from servers.postgres import SPEED_SETTINGS, DatabaseServer
from servers.proxy import TcpProxy
from servers.rabbitmq import MISSING, RabbitServer, find_rabbitmq

_VHOSTS = 150

pytest_plugins = ("e2e.fixtures",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for RabbitMQ, so that `-m "not rabbitmq"` leaves them out."""
    for item in items:
        if {"rabbitmq_server", "rabbitmq_factory"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.rabbitmq)


def skip_or_fail(reason: str) -> NoReturn:
    """Skip at a developer's desk, fail where CI=true: there a missing service is never overlooked."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A place for a data folder, not made yet, that an unprivileged server can reach also where we are root.

    pytest's own tmp_path is closed to all but its owner. The path is short, as sockets need it.
    """
    parent = Path(tempfile.mkdtemp(prefix="evs-"))
    parent.chmod(0o711)
    yield parent / "data"
    shutil.rmtree(parent)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[DatabaseServer]:
    """One PostgreSQL for the session: the wheel's, or the one in EVENTSYNC_TEST_POSTGRES_BIN."""
    chosen = os.environ.get("EVENTSYNC_TEST_POSTGRES_BIN")
    with fast_folder() as parent:
        embedded = EmbeddedPostgres(parent / "data", Path(chosen) if chosen else None, SPEED_SETTINGS)
        running = asyncio.run(embedded.start())
        server = DatabaseServer(running.url)
        try:
            asyncio.run(server.prepare_template(migrate))
            yield server
        finally:
            asyncio.run(running.stop())


@pytest.fixture
async def database_url(postgres_server: DatabaseServer) -> AsyncIterator[str]:
    """A fresh database with all migrations applied, dropped afterwards."""
    async with postgres_server.database(migrated=True) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres_server: DatabaseServer) -> AsyncIterator[str]:
    """A fresh database without any table, dropped afterwards."""
    async with postgres_server.database(migrated=False) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection to the database of `database_url`, to look at what the code under test has done."""
    connection = await asyncpg.connect(database_url, timeout=10)
    yield connection
    await connection.close(timeout=10)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitServer]:
    """One RabbitMQ for the session, for tests that do not disturb it: `amqp_url` gives each a virtual host."""
    programs = find_rabbitmq() or skip_or_fail(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="evs-rabbit-"))
    server = RabbitServer(programs, folder, vhosts=_VHOSTS)
    try:
        asyncio.run(server.start())
        yield server
    finally:
        asyncio.run(server.close())
        shutil.rmtree(folder)


@pytest.fixture
def amqp_url(rabbitmq_server: RabbitServer) -> str:
    """The address of a virtual host of the test's own."""
    return rabbitmq_server.fresh_vhost_url()


@pytest.fixture
async def rabbitmq_factory() -> AsyncIterator[Callable[[], Awaitable[RabbitServer]]]:
    """Makes and starts a RabbitMQ of the test's own, to be killed, stopped or wiped; ended afterwards."""
    programs = find_rabbitmq() or skip_or_fail(MISSING)
    parent = Path(tempfile.mkdtemp(prefix="evs-rabbit-"))
    numbers = itertools.count()
    servers: list[RabbitServer] = []

    async def make() -> RabbitServer:
        servers.append(RabbitServer(programs, parent / str(next(numbers))))
        await servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        await server.close()
    shutil.rmtree(parent)


@pytest.fixture
async def tcp_proxy() -> AsyncIterator[Callable[[str], Awaitable[TcpProxy]]]:
    """Makes and starts a proxy before the server of a PostgreSQL, AMQP or HTTP URL; ended afterwards."""
    proxies: list[TcpProxy] = []

    async def make(upstream_url: str) -> TcpProxy:
        proxies.append(TcpProxy(upstream_url))
        await proxies[-1].start()
        return proxies[-1]

    yield make
    for proxy in proxies:
        await proxy.stop()


@pytest.fixture
def keyring() -> Keyring:
    """Keys that every run of the tests shares; they open invented data only."""
    return Keyring([bytes(range(32))])


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Database]:
    """The product's own pool of connections to the database of `database_url`."""
    pool = Database(database_url)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def connection_ids(database: asyncpg.Connection) -> list[ConnectionId]:
    """Two connections of two organizations, as ids; no key opens their credentials."""
    return [await _insert_connection(database) for _ in range(2)]


async def _insert_connection(database: asyncpg.Connection) -> ConnectionId:
    organization = await database.fetchval("INSERT INTO organizations (name) VALUES ('Test Practice') RETURNING id")
    connection_id = await database.fetchval(
        "INSERT INTO connections (organization_id, vendor, base_url, api_key_sealed)"
        " VALUES ($1, 'intakeq', 'http://127.0.0.1:9/api/v1', '') RETURNING id",
        organization,
    )
    return ConnectionId(connection_id)
