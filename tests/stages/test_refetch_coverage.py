"""Which events one read answers: those committed before its lease and no others, whatever anybody's clock shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from eventsync.domain.errors import Transient
from eventsync.domain.events import EventId, Lane
from eventsync.postgres.queue_values import Parked
from stages.note_reader import NoteReader, a_note_was_locked, at, leased, raising, refetcher_of
from stages.spine import Spine, history_of, outcomes, queued, sample

_LOCKED = sample("note_locked") | {"NoteId": "n1"}


@asynccontextmanager
async def being_read(spine: Spine, event_id: EventId) -> AsyncIterator[NoteReader]:
    """Hold a read of the event's record, begun before the body of the `with`, until its end."""
    gate, begun = asyncio.Event(), asyncio.Event()
    client = NoteReader(at(gate, begun))
    refetcher = refetcher_of(spine, client)
    reading = asyncio.create_task(refetcher.refetch(await leased(refetcher, event_id)))
    await begun.wait()
    yield client
    gate.set()
    await reading


async def ended(database: asyncpg.Connection) -> set[UUID]:
    return {row["event_id"] for row in await database.fetch("SELECT event_id FROM event_history")}


async def test_what_a_slow_clock_received_while_a_read_went_on_waits_for_a_read_of_its_own(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (first,) = await a_note_was_locked(spine)
    async with being_read(spine, first):
        spine.clock.advance(-600)
        (later,) = await a_note_was_locked(spine)
        spine.clock.advance(600)
    assert await ended(database) == {first}
    assert (await queued(database, later))["status"] == "pending"


async def test_what_a_fast_clock_received_before_a_read_began_is_answered_by_it(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (first,) = await a_note_was_locked(spine)
    spine.clock.advance(600)
    (ahead,) = await a_note_was_locked(spine)
    spine.clock.advance(-600)
    async with being_read(spine, first):
        pass
    assert await ended(database) == {first, ahead}


async def test_what_was_stored_before_a_read_is_answered_by_it_even_if_understood_later(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (first,) = await a_note_was_locked(spine)
    (stored,) = await spine.receive(_LOCKED)
    async with being_read(spine, first) as client:
        await spine.applier().apply([stored])
    assert await ended(database) == {first, stored}
    assert client.reads == 1


async def test_what_was_not_committed_when_a_read_began_is_not_answered_by_it(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (first,) = await a_note_was_locked(spine)
    (late,) = await spine.receive(_LOCKED)
    transaction = database.transaction()
    await transaction.start()  # a door whose commit takes its time
    await database.execute("UPDATE event_queue SET enqueued_in = pg_current_xact_id() WHERE event_id = $1", late)
    async with being_read(spine, first):
        await transaction.commit()
        await spine.applier().apply([late])
    assert await ended(database) == {first}


async def test_a_slow_worker_answers_only_what_came_before_its_own_lease(
    spine: Spine, database: asyncpg.Connection
) -> None:
    slow = refetcher_of(spine, NoteReader())
    (first,) = await a_note_was_locked(spine)
    lost = await leased(slow, first)
    spine.clock.advance(301)
    await spine.queue.return_expired_leases(spine.clock())
    (later,) = await a_note_was_locked(spine)
    quick = refetcher_of(spine, NoteReader(raising(Transient("HTTP 503"))))
    await quick.refetch(await leased(quick, later))
    await slow.refetch(lost)
    assert await ended(database) == {first}
    assert (await queued(database, later))["error"] == "HTTP 503"


async def test_what_changed_is_told_to_come_from_an_event_that_ended_with_it(
    spine: Spine, database: asyncpg.Connection
) -> None:
    client = NoteReader()
    refetcher = refetcher_of(spine, client)
    (first,) = await a_note_was_locked(spine)
    slow = await leased(refetcher, first)
    spine.clock.advance(301)
    await spine.queue.return_expired_leases(spine.clock())
    (second,) = await a_note_was_locked(spine)
    quick = await leased(refetcher, first)
    await refetcher.refetch(slow)  # ends the event that both leases are for
    client.text = "as it is now"
    await refetcher.refetch(quick)
    row = await database.fetchrow("SELECT title, applied_event_id FROM documents")
    assert row is not None
    assert (row["title"], row["applied_event_id"]) == ("as it is now", second)
    assert (await history_of(database, second))["changed_fields"] == ["content", "title"]


async def test_a_read_whose_events_have_all_ended_still_writes_what_it_saw(
    spine: Spine, database: asyncpg.Connection
) -> None:
    client = NoteReader()
    refetcher = refetcher_of(spine, client)
    (event_id,) = await a_note_was_locked(spine)
    lease = await leased(refetcher, event_id)
    await refetcher.refetch(lease)
    client.text = "as it is now"
    spine.clock.advance(1)
    await refetcher.refetch(lease)
    assert await database.fetchval("SELECT title FROM documents") == "as it is now"
    assert await outcomes(database) == {"applied": 1}


async def test_what_a_person_takes_back_from_parking_during_a_read_is_read_again(
    spine: Spine, database: asyncpg.Connection
) -> None:
    first, parked = await a_note_was_locked(spine, times=2)
    await spine.queue.park([Parked(parked, "vendor_unreachable")])
    async with being_read(spine, first):
        assert await spine.queue.unpark(parked, spine.clock(), Lane.FRESH)
    assert await ended(database) == {first}
    async with being_read(spine, parked) as client:
        pass
    assert client.sequences == {"n1": [2]}
    assert (await history_of(database, parked))["outcome"] == "unchanged"


async def test_after_a_move_to_a_cluster_that_counts_anew_each_event_still_gets_its_read(
    spine: Spine, database: asyncpg.Connection
) -> None:
    first, second = await a_note_was_locked(spine, times=2)
    await database.execute("UPDATE event_queue SET enqueued_in = '9000000000000'")
    for event_id in (first, second):
        async with being_read(spine, event_id):
            pass
    assert await outcomes(database) == {"applied": 1, "unchanged": 1}
