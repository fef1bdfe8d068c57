"""The management API, served by a process of the role `api` on a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from eventsync.crypto import Keyring
from eventsync.postgres.access import ApiTokens
from eventsync.postgres.access import Role as TokenRole
from eventsync.postgres.database import Database
from eventsync.settings import Settings
from eventsync.wiring import Role
from eventsync.wiring.process import Process, ProcessOptions, open_process
from web.api_site import NOW, Site, make_practice


@pytest.fixture
async def api_process(database_url: str, keyring: Keyring, tmp_path: Path) -> AsyncIterator[Process]:
    """A process that serves the API and takes webhooks, without its workers."""
    options = ProcessOptions(
        settings=Settings(data_dir=tmp_path),
        roles=frozenset({Role.API, Role.INGRESS}),
        database_url=database_url,
        keyring=keyring,
        port=0,
    )
    async with open_process(options) as process:
        await process.open()
        yield process


@pytest.fixture
async def site(api_process: Process, pool: Database, keyring: Keyring) -> AsyncIterator[Site]:
    """Two practices that know nothing of each other, and an admin."""
    practice, other = [await make_practice(pool, keyring, name) for name in ("practice-1", "practice-2")]
    admin = await ApiTokens(pool).add(TokenRole.ADMIN, None, NOW)
    async with aiohttp.ClientSession() as http:
        yield Site(api_process.servers[0].address, http, pool, keyring, practice, other, admin.token)
