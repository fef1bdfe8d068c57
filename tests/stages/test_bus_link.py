"""The link to the bus: what the queues lost is owed, until PostgreSQL has taken the debt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from eventsync.bus.memory import MemoryBus
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database
from servers.proxy import TcpProxy
from stages.spine import Spine, an_appointment


async def in_flight(database: asyncpg.Connection) -> int:
    count: int = await database.fetchval("SELECT count(*) FROM event_queue WHERE status = 'published'")
    return count


async def test_a_debt_outlives_a_failure_of_postgres_at_the_worst_moment(
    tcp_proxy: Callable[[str], Awaitable[TcpProxy]],
    database_url: str,
    database: asyncpg.Connection,
    keyring: Keyring,
    connection_ids: list[ConnectionId],
) -> None:
    proxy = await tcp_proxy(database_url)

    class FatefulBus(MemoryBus):
        """Takes PostgreSQL down in the moment in which it tells that its queues are new."""

        async def start(self) -> bool:
            created = await super().start()
            if created:
                await proxy.refuse()
                proxy.cut()
            return created

    pool = Database(proxy.url)
    await pool.open()
    spine = Spine(pool, keyring, MemoryBus(), connection_ids)
    await spine.receive(an_appointment(1), an_appointment(2))
    await spine.publish_all()
    assert await in_flight(database) == 2
    link = Spine(pool, keyring, FatefulBus(), connection_ids).link
    with pytest.raises(Transient):
        await link.restore()
    assert await in_flight(database) == 2
    await proxy.accept()
    await link.restore()
    assert await in_flight(database) == 0
    await pool.close()


async def test_restoring_what_was_never_lost_publishes_nothing_again(
    bus_spine: Spine, database: asyncpg.Connection
) -> None:
    await bus_spine.receive(an_appointment())
    await bus_spine.publish_all()
    await bus_spine.link.restore()
    assert await in_flight(database) == 1


async def test_while_postgres_is_away_nobody_is_let_to_the_bus(
    spine: Spine, tcp_proxy: Callable[[str], Awaitable[TcpProxy]], keyring: Keyring, connection_ids: list[ConnectionId]
) -> None:
    proxy = await tcp_proxy(spine.pool.url)
    await proxy.refuse()
    pool = Database(proxy.url)
    await pool.open()
    away = Spine(pool, keyring, MemoryBus(), connection_ids)
    with pytest.raises(Transient):
        await away.link.restore()
    assert not away.bus.connected
    await pool.close()
