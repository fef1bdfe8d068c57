"""The session's PostgreSQL: hands out databases, each a copy of a migrated template."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from urllib.parse import urlsplit, urlunsplit

import asyncpg

# Only for the shared server of the tests: a power failure may cost its databases, which nobody needs; its write-ahead
# log is kept short, since it may lie in memory.
SPEED_SETTINGS: Mapping[str, str] = MappingProxyType(
    {"fsync": "off", "full_page_writes": "off", "max_wal_size": "128MB", "max_connections": "300"}
)
_TEMPLATE = "template_migrated"
_CONNECT_TIMEOUT_S = 10


class DatabaseServer:
    """A running server, by the URL of a database that may stay empty."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._numbers = itertools.count(1)

    def url_of(self, database: str) -> str:
        """Return the address of another database on this server."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))

    async def prepare_template(self, migrate: Callable[[str], Awaitable[object]]) -> None:
        """Make the migrated database that others are copied from."""
        await self._execute(f'CREATE DATABASE "{_TEMPLATE}"')
        await migrate(self.url_of(_TEMPLATE))

    @asynccontextmanager
    async def database(self, *, migrated: bool) -> AsyncIterator[str]:
        """Yield the address of a database of one's own; it is dropped afterwards, whoever is still connected."""
        name = f"test_{next(self._numbers)}"
        template = _TEMPLATE if migrated else "template1"
        # Copying files is a third less work than PostgreSQL's usual way, which writes every page to its log as well.
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        try:
            yield self.url_of(name)
        finally:
            await self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url, timeout=_CONNECT_TIMEOUT_S)
        try:
            await connection.execute(statement)
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT_S)
