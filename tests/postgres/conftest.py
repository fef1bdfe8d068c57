"""What tests of the table families stand on: a pool over a fresh database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventsync.postgres.database import Database


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Database]:
    """The product's own pool of connections to the database of `database_url`."""
    pool = Database(database_url)
    await pool.open()
    yield pool
    await pool.close()
