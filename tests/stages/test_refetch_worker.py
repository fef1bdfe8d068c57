"""The worker that feeds refetching from the bus: several records at once, and messages acknowledged early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.bus.memory import MemoryBus
from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.wire import Bus
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.queue_values import RefetchLease
from eventsync.stages.refetch import RefetchWorker
from servers.eventually import eventually
from servers.proxy import TcpProxy
from stages.note_reader import NoteReader, a_note_was_locked, at, refetcher_of
from stages.spine import NOW, RunningClock, Spine, outcomes, queued


async def ended(database: asyncpg.Connection, count: int) -> bool:
    return bool(await database.fetchval("SELECT count(*) FROM event_history") == count)


async def test_two_workers_read_a_record_one_at_a_time_and_all_of_them_in_the_end(
    bus_spine: Spine, database: asyncpg.Connection
) -> None:
    bus_spine.clock = RunningClock()

    async def a_moment() -> None:
        await asyncio.sleep(0.05)  # what a vendor's answer takes

    client = NoteReader(a_moment)
    notes = ["n1", "n2", "n3"]
    workers = [RefetchWorker(refetcher_of(bus_spine, client), bus_spine.link, at_once=4) for _ in range(2)]
    workers[1].name = "worker:refetch:2"
    async with bus_spine.running(bus_spine.relay(), *workers, bus_spine.listener):
        for _ in range(4):
            for note_id in notes:
                await a_note_was_locked(bus_spine, note_id)
        await eventually(lambda: ended(database, 12))
    assert client.most_at_once == dict.fromkeys(notes, 1)
    for sequences in client.sequences.values():
        assert sequences == sorted(set(sequences))
    assert client.reads < 12  # one read has answered several
    assert (await outcomes(database))["applied"] >= 3


async def test_the_message_is_acknowledged_before_the_read_ends(bus_spine: Spine, database: asyncpg.Connection) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    worker = RefetchWorker(refetcher_of(bus_spine, NoteReader(at(gate, begun))), bus_spine.link, at_once=2)
    (event_id,) = await a_note_was_locked(bus_spine)
    async with bus_spine.running(bus_spine.relay(), worker):
        await begun.wait()
        assert isinstance(bus_spine.bus, MemoryBus | RabbitBus)
        (subscription,) = bus_spine.bus._subscriptions
        await eventually(lambda: not subscription._unacknowledged)
        row = await queued(database, event_id)
        assert (row["status"], row["leased_until"]) == ("running", NOW + timedelta(minutes=5))
        gate.set()
        await eventually(lambda: ended(database, 1))


async def test_no_more_is_leased_than_can_be_read_at_once(bus_spine: Spine, database: asyncpg.Connection) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    worker = RefetchWorker(refetcher_of(bus_spine, NoteReader(at(gate, begun))), bus_spine.link, at_once=2)
    for number in range(5):
        await a_note_was_locked(bus_spine, f"n{number}")

    async def running() -> int:
        count: int = await database.fetchval("SELECT count(*) FROM event_queue WHERE status = 'running'")
        return count

    async with bus_spine.running(bus_spine.relay(), worker):
        await eventually(running)
        with pytest.raises(AssertionError):
            await eventually(lambda: _more_than(2, running), deadline_s=0.3)
        gate.set()
        await eventually(lambda: ended(database, 5))


async def test_a_read_that_fails_by_a_fault_of_ours_does_not_disturb_the_one_beside_it(
    spine: Spine, database: asyncpg.Connection
) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    client = NoteReader()

    async def fail_second() -> None:
        if client.reads == 1:
            await at(gate, begun)()
        elif client.reads == 2:
            raise ZeroDivisionError

    client.before = fail_second
    worker = RefetchWorker(refetcher_of(spine, client), spine.link)
    async with spine.running(spine.relay(), worker):
        await a_note_was_locked(spine, "n1")
        await begun.wait()
        (second,) = await a_note_was_locked(spine, "n2")
        await eventually(lambda: _has_failed(database))
        gate.set()
        await eventually(lambda: ended(database, 1))
    assert spine.count("eventsync_worker_restarts_total", worker="worker:refetch") == 0
    assert (await queued(database, second))["error"] == "ZeroDivisionError"


async def test_a_stop_in_the_middle_of_a_read_finishes_it(spine: Spine, database: asyncpg.Connection) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    worker = RefetchWorker(refetcher_of(spine, NoteReader(at(gate, begun))), spine.link)
    await a_note_was_locked(spine)
    await spine.publish_all()
    task = asyncio.create_task(worker.run())
    await begun.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=0.05)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await outcomes(database) == {"applied": 1}


async def test_what_was_read_is_written_once_postgres_is_back_without_another_call(
    tcp_proxy: Callable[[str], Awaitable[TcpProxy]],
    database_url: str,
    database: asyncpg.Connection,
    keyring: Keyring,
    bus: Bus,
    connection_ids: list[ConnectionId],
) -> None:
    proxy = await tcp_proxy(database_url)
    pool = Database(proxy.url)
    await pool.open()
    spine = Spine(pool, keyring, bus, connection_ids)

    async def pull_the_plug() -> None:
        await proxy.refuse()
        proxy.cut()

    client = NoteReader(pull_the_plug)
    await a_note_was_locked(spine)
    await spine.publish_all()
    with capture_logs() as logs:
        async with spine.running(RefetchWorker(refetcher_of(spine, client), spine.link)):
            await eventually(lambda: [entry for entry in logs if entry["event"] == "holding_on"])
            await proxy.accept()
            await eventually(lambda: ended(database, 1))
    assert client.reads == 1
    assert await outcomes(database) == {"applied": 1}
    await pool.close()


class AnswerLosingQueue(EventQueue):
    """A queue whose first lease is committed, while its answer is lost on the way."""

    leases = 0

    async def lease_refetch(self, *arguments: Any, **kwargs: Any) -> RefetchLease | None:
        lease = await super().lease_refetch(*arguments, **kwargs)
        self.leases += 1
        if self.leases == 1:
            raise Transient("the link was cut")
        return lease


async def test_a_lease_whose_answer_was_lost_is_taken_again_at_once_and_counts_once(
    spine: Spine, keyring: Keyring, database: asyncpg.Connection
) -> None:
    spine.queue = AnswerLosingQueue(spine.pool, keyring)
    await a_note_was_locked(spine)
    await spine.publish_all()
    client = NoteReader()
    async with spine.running(RefetchWorker(refetcher_of(spine, client), spine.link)):
        await eventually(lambda: ended(database, 1))
    assert client.reads == 1
    assert await database.fetchval("SELECT attempts FROM event_history WHERE event_type = 'Note Locked'") == 1


async def _has_failed(database: asyncpg.Connection) -> bool:
    return bool(await database.fetchval("SELECT count(*) FROM event_queue WHERE error IS NOT NULL"))


async def _more_than(count: int, measure: object) -> bool:
    assert callable(measure)
    return bool(await measure() > count)
