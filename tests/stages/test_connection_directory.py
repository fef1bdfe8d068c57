"""The directory of connections: asked once, forgotten as soon as a person changes one."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from eventsync.domain.connections import Connection, ConnectionId
from eventsync.domain.errors import Rejected
from eventsync.stages.directory import ConnectionDirectory
from servers.eventually import eventually
from stages.spine import Spine, a_connection


class Loads:
    """Counts the loads of one connection, and lets each wait at a gate."""

    def __init__(self, connection: Connection | None) -> None:
        self.connection = connection
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, _: ConnectionId) -> Connection | None:
        self.count += 1
        answer = self.connection
        await self.gate.wait()
        return answer


@pytest.fixture
def loads(spine: Spine) -> Loads:
    return Loads(a_connection(spine.connection_id))


async def test_a_connection_is_loaded_once(spine: Spine, loads: Loads) -> None:
    directory = ConnectionDirectory(loads, spine.listener)
    assert await directory.get(spine.connection_id) is await directory.get(spine.connection_id)
    assert loads.count == 1


async def test_a_change_in_postgres_is_seen_at_once(spine: Spine, loads: Loads, database: asyncpg.Connection) -> None:
    directory = ConnectionDirectory(loads, spine.listener)
    async with spine.running(directory, spine.listener):
        await eventually(lambda: spine.listener.is_proven)
        await directory.get(spine.connection_id)
        loads.connection = a_connection(spine.connection_id, disabled_at=spine.clock())
        await database.execute("UPDATE connections SET disabled_at = now() WHERE id = $1", spine.connection_id)
        async with asyncio.timeout(spine.listener.poll_interval_s / 5):
            await eventually(lambda: not directory._known)
    with pytest.raises(Rejected) as refused:
        await directory.get(spine.connection_id)
    assert refused.value.reason == "connection_disabled"


async def test_without_listen_a_change_is_seen_at_the_next_poll(spine: Spine, loads: Loads) -> None:
    directory = ConnectionDirectory(loads, spine.listener)
    async with spine.running(directory):
        await directory.get(spine.connection_id)
        await eventually(lambda: not directory._known, deadline_s=3 * spine.listener.poll_interval_s)


async def test_what_was_read_before_a_change_is_not_remembered_after_it(
    spine: Spine, loads: Loads, database: asyncpg.Connection
) -> None:
    directory = ConnectionDirectory(loads, spine.listener)
    async with spine.running(directory, spine.listener):
        await eventually(lambda: spine.listener.is_proven)
        loads.gate.clear()
        reading = asyncio.create_task(directory.get(spine.connection_id))
        await eventually(lambda: loads.count == 1)
        known = directory._known
        await database.execute("UPDATE connections SET updated_at = now() WHERE id = $1", spine.connection_id)
        await eventually(lambda: directory._known is not known)
        loads.gate.set()
        await reading
        await directory.get(spine.connection_id)
    assert loads.count == 2


async def test_a_connection_that_is_not_there_is_asked_for_again(spine: Spine) -> None:
    loads = Loads(None)
    directory = ConnectionDirectory(loads, spine.listener)
    for _ in range(2):
        with pytest.raises(Rejected) as refused:
            await directory.get(spine.connection_id)
        assert refused.value.reason == "unknown_connection"
    loads.connection = a_connection(spine.connection_id)
    assert await directory.get(spine.connection_id) is loads.connection
    assert loads.count == 3
