"""A database that is watched and can be emptied, so that one serves all seeds of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from eventsync.crypto import Keyring
from simulation.stage import Stage


@pytest.fixture
async def stage(
    database_url: str, database: asyncpg.Connection, keyring: Keyring, tmp_path: Path
) -> AsyncIterator[Stage]:
    """Where seeds are played, one after the other."""
    stage = Stage(database_url, database, keyring, tmp_path)
    await stage.open()
    yield stage
    await stage.close()
