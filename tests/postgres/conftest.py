"""What the tests of the rows share: an open pool, keys, and a connection to write records for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([bytes(range(32))])


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Database]:
    pool = Database(database_url, max_connections=5)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def connection_ids(database: asyncpg.Connection) -> list[ConnectionId]:
    """Two connections of two organizations, as ids."""
    return [await insert_connection(database) for _ in range(2)]


async def insert_connection(database: asyncpg.Connection) -> ConnectionId:
    organization = await database.fetchval("INSERT INTO organizations (name) VALUES ('Test Practice') RETURNING id")
    found: UUID = await database.fetchval(
        "INSERT INTO connections (organization_id, vendor, base_url, api_key_sealed)"
        " VALUES ($1, 'intakeq', 'http://127.0.0.1:9/api/v1', '') RETURNING id",
        organization,
    )
    return ConnectionId(found)
