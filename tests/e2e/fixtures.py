"""What the end-to-end tests share: processes that always end, and a practice that is connected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from e2e.eventsync_process import EventsyncProcess, environment
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from eventsync.postgres.embedded import EmbeddedPostgres
from eventsync.postgres.migrations import migrate
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.sandbox import RunningSandbox
from eventsync.vendors import load_vendors
from servers.ports import free_ports


@dataclass(frozen=True, slots=True)
class Connected:
    """A practice as eventsync knows it; `webhook_path` is where its webhooks go."""

    connection_id: ConnectionId
    webhook_path: str


Start = Callable[..., Awaitable[EventsyncProcess]]
Connect = Callable[[RunningSandbox], Awaitable[Connected]]


@pytest.fixture
async def start_eventsync(database_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Start `eventsync run ROLE…` as a process; whatever still runs at the end is killed."""
    started: list[EventsyncProcess] = []

    async def start(*roles: str, amqp_url: str | None = None) -> EventsyncProcess:
        number, (port,) = len(started), free_ports(1)
        option = "--port" if not roles or {"ingress", "api"} & set(roles) else "--health-port"
        folder = tmp_path / f"process{number}"
        env = environment(folder, database_url, amqp_url)
        arguments = ["run", *roles, option, str(port)]
        started.append(EventsyncProcess(arguments, env, tmp_path / f"process{number}.log", port))
        await started[-1].start()
        return started[-1]

    yield start
    for process in started:
        await process.kill()


@pytest.fixture
async def durable_database_url(data_dir: Path) -> AsyncIterator[str]:
    """A PostgreSQL as users have it, fsync and all, which also notes when each transaction was committed."""
    running = await EmbeddedPostgres(data_dir, settings={"track_commit_timestamp": "on"}).start()
    await migrate(running.url)
    yield running.url
    await running.stop()


@pytest.fixture
async def connect(pool: Database, keyring: Keyring) -> Connect:
    """Connect a pretend practice, its API without limits worth the name."""

    async def connect(sandbox: RunningSandbox) -> Connected:
        return await connect_practice(pool, keyring, sandbox)

    return connect


async def connect_practice(pool: Database, keyring: Keyring, sandbox: RunningSandbox) -> Connected:
    """Connect a pretend practice to the eventsync of this database."""
    now = datetime.now(UTC)
    organization = await Organizations(pool).add("Test Practice", None, now)
    new = NewConnection(
        organization_id=organization.id,
        vendor="intakeq",
        api_key=sandbox.api_key,
        base_url=sandbox.api_url,
        practice_id=sandbox.practice_id,
        settings={"calls_per_minute": "100000", "calls_per_day": "unlimited"},
    )
    added = await Connections(pool, keyring, load_vendors()).add(new, now)
    return Connected(added.id, f"/api/webhooks/intakeq/{added.webhook_token}")
