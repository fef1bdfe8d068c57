"""The connection that the outbound queue is delivered by: found by its vendor, and made once where the settings say so.

It reads what any role may know of it: no vendor is loaded, no credential opened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    find_registry: str
    lock_seeding: str
    has_connection: str


SQL = load_statements(_Sql, "registries.sql")


async def find_registry(database: Database, vendors: Collection[str]) -> ConnectionId | None:
    """Find the enabled connection of one of these vendors that has the lowest number. Raises Transient."""
    async with database.session() as session:
        found: ConnectionId | None = await session.fetchval(SQL.find_registry, list(vendors))
    return found


async def has_connection(database: Database, vendor: str) -> bool:
    """Tell whether there is, or was, a connection to `vendor`: a disabled one counts. Raises Transient."""
    async with database.session() as session:
        return bool(await session.fetchval(SQL.has_connection, vendor))


@asynccontextmanager
async def seeding_turn(database: Database, vendor: str) -> AsyncIterator[bool]:
    """Yield whether `vendor` has no connection at all; until the block ends, no other process is told so.

    What the block makes must be committed within it, in transactions of its own. Raises Transient.
    """
    async with database.transaction() as session:
        await session.execute(SQL.lock_seeding)
        yield not await session.fetchval(SQL.has_connection, vendor)
