"""A machine's clock was ahead and has been set back: what was written meanwhile does not wait until it catches up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from eventsync.domain.events import EventId, Lane
from eventsync.postgres.queue import hand_to_refetch
from eventsync.postgres.queue_values import RefetchWork
from stages.spine import RunningClock, Spine, queued

TEST = {"EventType": "Test"}
LEAD_S = 6 * 3600.0
LEASE = timedelta(minutes=5)


async def receive_by_clocks_ahead(spine: Spine, database: asyncpg.Connection, lane: Lane = Lane.FRESH) -> EventId:
    """Set the door's clock ahead and store an event; PostgreSQL's clock is ahead as well, as on one machine."""
    spine.clock.advance(LEAD_S)
    (event_id,) = await spine.receive(TEST, lane=lane)
    await database.execute("UPDATE event_queue SET available_at = received_at WHERE event_id = $1", event_id)
    return event_id


async def hand_over(spine: Spine, event_ids: Sequence[UUID]) -> None:
    work = [RefetchWork(EventId(event_id), "Note Locked", "note", "note-1") for event_id in event_ids]
    async with spine.pool.transaction() as session:
        await hand_to_refetch(session, work, spine.clock())


async def status(database: asyncpg.Connection, event_id: UUID) -> str:
    return str((await queued(database, event_id))["status"])


async def test_an_event_of_a_door_whose_clock_is_ahead_of_all_others_is_due_at_once(spine: Spine) -> None:
    await spine.link.restore()
    relay = spine.relay(clock=RunningClock())
    spine.clock.advance(LEAD_S)
    await spine.receive(TEST)
    assert await relay.run_once() == 1


@pytest.mark.parametrize("lane", list(Lane))
async def test_what_was_stored_while_all_clocks_were_ahead_goes_out_at_once(
    spine: Spine, database: asyncpg.Connection, lane: Lane
) -> None:
    await spine.link.restore()
    event_id = await receive_by_clocks_ahead(spine, database, lane)
    relay = spine.relay()  # it knows the clock that was ahead, so that it sees it go back
    spine.clock.advance(-LEAD_S)
    assert await relay.run_once() == 1
    assert await status(database, event_id) == "published"


async def test_a_relay_that_was_not_there_when_the_clock_went_back_finds_out_by_its_next_look_around(
    spine: Spine, database: asyncpg.Connection
) -> None:
    await spine.link.restore()
    await receive_by_clocks_ahead(spine, database)
    spine.clock.advance(-LEAD_S)
    relay = spine.relay()
    assert await relay.run_once() == 0
    spine.clock.advance(10)
    assert await relay.run_once() == 1


async def test_what_was_handed_to_a_worker_while_the_clock_was_ahead_is_due_at_once(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (event_id,) = await spine.receive(TEST)
    await spine.publish_all()
    spine.clock.advance(LEAD_S)
    await hand_over(spine, [event_id])
    spine.clock.advance(-LEAD_S)
    await spine.publish_all()
    assert await status(database, event_id) == "published"


async def test_a_retry_keeps_its_pause_when_the_clock_is_set_back(spine: Spine, database: asyncpg.Connection) -> None:
    await spine.link.restore()
    event_id = await receive_by_clocks_ahead(spine, database)
    relay = spine.relay()
    assert await relay.run_once() == 1
    await spine.queue.retry_later([event_id], spine.clock(), spine.clock() + timedelta(seconds=30), "unreachable")
    spine.clock.advance(-LEAD_S)
    assert await relay.run_once() == 0
    spine.clock.advance(29)
    assert await relay.run_once() == 0
    spine.clock.advance(1)
    assert await relay.run_once() == 1


async def test_what_was_put_off_for_a_moment_while_the_clock_was_ahead_waits_for_a_moment(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (event_id,) = await spine.receive(TEST)
    await spine.publish_all()
    await hand_over(spine, [event_id])
    await spine.publish_all()
    spine.clock.advance(LEAD_S)
    await spine.queue.defer(event_id, spine.clock(), spine.clock() + timedelta(seconds=2))
    relay = spine.relay()
    spine.clock.advance(-LEAD_S)
    assert await relay.run_once() == 0
    spine.clock.advance(2)
    assert await relay.run_once() == 1


async def test_what_went_out_again_because_the_clock_ran_ahead_does_not_wait_for_it(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (event_id,) = await spine.receive(TEST)
    await spine.publish_all()
    spine.clock.advance(LEAD_S)
    assert await spine.queue.republish_lost(spine.clock(), after_s=60) == 1
    spine.clock.advance(-LEAD_S)
    await spine.publish_all()
    assert await status(database, event_id) == "published"


async def test_a_retry_that_a_right_clock_put_off_for_long_stays_put_off(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (event_id,) = await spine.receive(TEST)
    await spine.publish_all()
    await spine.queue.retry_later([event_id], spine.clock(), spine.clock() + timedelta(hours=1), "unreachable")
    before = (await queued(database, event_id))["available_at"]
    for _ in range(3):
        spine.clock.advance(11)
        await spine.publish_all()
    assert (await queued(database, event_id))["available_at"] == before


async def test_what_was_published_while_the_clock_was_ahead_and_lost_is_published_again_in_its_time(
    spine: Spine, database: asyncpg.Connection
) -> None:
    await spine.link.restore()
    await receive_by_clocks_ahead(spine, database)
    relay = spine.relay(lost_after_s=60)
    assert await relay.run_once() == 1
    spine.clock.advance(-LEAD_S)
    assert await relay.run_once() == 0
    spine.clock.advance(61)
    assert await relay.run_once() == 1


async def test_a_dead_workers_lease_from_the_time_ahead_ends_as_soon_as_any_other(
    spine: Spine, database: asyncpg.Connection
) -> None:
    event_id = await receive_by_clocks_ahead(spine, database)
    await spine.publish_all()
    await hand_over(spine, [event_id])
    await spine.publish_all()
    assert await spine.queue.lease_refetch(event_id, spine.clock(), spine.clock() + LEASE)
    relay = spine.relay()
    spine.clock.advance(-LEAD_S)
    assert await relay.run_once() == 0
    assert await status(database, event_id) == "running"
    spine.clock.advance(LEASE.total_seconds() + 1)
    assert await relay.run_once() == 1
    # The record itself is free by then, too: a later read of it is not held up by the dead worker's.
    assert await spine.queue.lease_refetch(event_id, spine.clock(), spine.clock() + LEASE)


async def test_a_record_that_was_being_read_while_the_clock_was_ahead_is_not_closed_for_hours(
    spine: Spine, database: asyncpg.Connection
) -> None:
    first = await receive_by_clocks_ahead(spine, database)
    (second,) = await spine.receive(TEST)
    await spine.publish_all()
    await hand_over(spine, [first, second])
    await spine.publish_all()
    assert await spine.queue.lease_refetch(first, spine.clock(), spine.clock() + LEASE)
    assert await spine.queue.lease_refetch(second, spine.clock(), spine.clock() + LEASE) is None
    spine.clock.advance(-LEAD_S)
    await spine.publish_all()
    assert await spine.queue.lease_refetch(second, spine.clock(), spine.clock() + LEASE)


async def test_the_relay_looks_around_again_although_its_clock_was_set_back(
    spine: Spine, database: asyncpg.Connection
) -> None:
    await spine.link.restore()
    spine.clock.advance(LEAD_S)
    relay = spine.relay(lost_after_s=60)
    spine.clock.advance(-LEAD_S)
    (event_id,) = await spine.receive(TEST)
    assert await relay.run_once() == 1
    spine.clock.advance(61)  # far from the six hours after which its clock is where it was
    assert await relay.run_once() == 1
    assert (await queued(database, event_id))["publishes"] == 2
