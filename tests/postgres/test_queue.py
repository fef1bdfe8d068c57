"""The queue's statements on real rows: what is claimed, what is rescued, what ends."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import (
    EventId,
    EventSource,
    IncomingEvent,
    Lane,
    Outcome,
    WorkClass,
    new_event_id,
    received_at_of,
)
from eventsync.postgres.database import Database, Session
from eventsync.postgres.queue import SQL, EventQueue, claim_due, finish, hand_to_refetch, mark_published
from eventsync.postgres.queue_values import Finished, FlightWindow, Parked, RefetchWork

NOW = datetime.now(UTC).replace(microsecond=0)
APPLY = FlightWindow(WorkClass.APPLY, Lane.FRESH, 100)
BULK = FlightWindow(WorkClass.APPLY, Lane.BULK, 100)


@pytest.fixture
def queue(pool: Database, keyring: Keyring) -> EventQueue:
    return EventQueue(pool, keyring)


def an_event(connection_id: ConnectionId, *, at: datetime = NOW, lane: Lane = Lane.FRESH) -> IncomingEvent:
    return IncomingEvent(
        id=new_event_id(at, secrets.token_bytes(10)),
        connection_id=connection_id,
        vendor="intakeq",
        source=EventSource.WEBHOOK,
        headers=(("Content-Type", "application/json"),),
        body=b'{"EventType":"Test"}',
        lane=lane,
    )


async def stored(queue: EventQueue, connection_id: ConnectionId, count: int = 1, **kwargs: object) -> list[EventId]:
    events = [an_event(connection_id, **kwargs) for _ in range(count)]  # type: ignore[arg-type]  # an_event's own
    await queue.store(events)
    return [event.id for event in events]


async def publish_due(queue: EventQueue, *windows: FlightWindow, now: datetime = NOW, at_most: int = 100) -> set[UUID]:
    async with queue.database.transaction() as session:
        claimed = await claim_due(session, windows or (APPLY, BULK), now, at_most=at_most)
        await mark_published(session, [entry.event_id for entry in claimed], now)
    return {entry.event_id for entry in claimed}


async def status_of(database: asyncpg.Connection, event_id: UUID) -> str | None:
    found: str | None = await database.fetchval("SELECT status FROM event_queue WHERE event_id = $1", event_id)
    return found


async def test_storing_the_same_event_again_neither_doubles_nor_revives_it(
    queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    event = an_event(connection_ids[0])
    await queue.store([event])
    await queue.store([event])
    assert await database.fetchval("SELECT count(*) FROM events") == 1
    async with queue.database.transaction() as session:
        await finish(session, [Finished(event.id, Outcome.APPLIED)], NOW)
    await queue.store([event])
    assert await database.fetchval("SELECT count(*) FROM event_queue") == 0
    assert await database.fetchval("SELECT count(*) FROM event_history") == 1


async def test_bodies_and_headers_are_sealed_at_rest_and_open_for_the_consumer(
    queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    (event_id,) = await stored(queue, connection_ids[0])
    row = await database.fetchrow("SELECT headers_sealed, body_sealed FROM events")
    assert b"EventType" not in row["body_sealed"]
    assert b"Content-Type" not in row["headers_sealed"]
    (attempt,) = await queue.begin_attempts([event_id], NOW)
    assert attempt.body == b'{"EventType":"Test"}'
    assert attempt.headers == (("Content-Type", "application/json"),)


async def test_an_insert_wakes_the_relay_once_a_statement(
    queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    heard: list[str] = []
    await database.add_listener("eventsync_queue", lambda *args: heard.append(args[3]))
    await stored(queue, connection_ids[0], 5)
    await database.execute("SELECT 1")
    assert heard == [""]


async def test_two_relays_never_claim_the_same_event(queue: EventQueue, connection_ids: list[ConnectionId]) -> None:
    event_ids = await stored(queue, connection_ids[0], 10)
    async with queue.database.transaction() as first, queue.database.transaction() as second:
        mine = await claim_due(first, [APPLY], NOW, at_most=6)
        theirs = await claim_due(second, [APPLY], NOW, at_most=6)
    claimed = [entry.event_id for entry in [*mine, *theirs]]
    assert sorted(claimed) == sorted(event_ids)


async def test_no_more_than_the_window_is_in_flight(queue: EventQueue, connection_ids: list[ConnectionId]) -> None:
    await stored(queue, connection_ids[0], 10)
    window = FlightWindow(WorkClass.APPLY, Lane.FRESH, 4)
    assert len(await publish_due(queue, window)) == 4
    assert await publish_due(queue, window) == set()
    assert await queue.next_due([window]) == [(NOW, False)]


async def test_a_full_bulk_lane_leaves_room_for_fresh_events(
    queue: EventQueue, connection_ids: list[ConnectionId]
) -> None:
    await stored(queue, connection_ids[0], 5, lane=Lane.BULK)
    windows = [APPLY, FlightWindow(WorkClass.APPLY, Lane.BULK, 2)]
    assert len(await publish_due(queue, *windows)) == 2
    (fresh,) = await stored(queue, connection_ids[0])
    assert await publish_due(queue, *windows) == {fresh}


async def test_events_are_claimed_oldest_first(queue: EventQueue, connection_ids: list[ConnectionId]) -> None:
    (later,) = await stored(queue, connection_ids[0], at=NOW)
    (earlier,) = await stored(queue, connection_ids[0], at=NOW - timedelta(minutes=1))
    assert await publish_due(queue, at_most=1) == {earlier}
    assert await publish_due(queue, at_most=1) == {later}


async def test_what_seems_lost_is_published_again_ever_more_patiently(
    queue: EventQueue, connection_ids: list[ConnectionId]
) -> None:
    await stored(queue, connection_ids[0])
    await publish_due(queue)
    minute = timedelta(seconds=61)
    assert await queue.republish_lost(NOW + minute / 2, after_s=60) == 0
    assert await queue.republish_lost(NOW + minute, after_s=60) == 1
    await publish_due(queue, now=NOW + minute)
    assert await queue.republish_lost(NOW + 2 * minute, after_s=60) == 0
    assert await queue.republish_lost(NOW + 4 * minute, after_s=60) == 1


async def test_everything_in_flight_is_due_again_when_the_bus_lost_it(
    queue: EventQueue, connection_ids: list[ConnectionId]
) -> None:
    event_ids = await stored(queue, connection_ids[0], 3)
    await publish_due(queue)
    assert await queue.republish_all() == 3
    assert await publish_due(queue) == set(event_ids)


async def test_an_attempt_is_counted_before_it_is_made_and_its_remains_make_a_suspect(
    queue: EventQueue, connection_ids: list[ConnectionId]
) -> None:
    (event_id,) = await stored(queue, connection_ids[0])
    await publish_due(queue)
    (first,) = await queue.begin_attempts([event_id], NOW)
    (second,) = await queue.begin_attempts([event_id], NOW)
    (alone,) = await queue.begin_attempts([event_id], NOW, alone=True)
    assert (first.attempts, first.is_suspect) == (1, False)
    assert (second.attempts, second.is_suspect) == (1, True)
    assert (alone.attempts, alone.is_suspect) == (2, True)
    (released,) = await queue.begin_attempts([event_id], NOW, released=[event_id])
    assert (released.attempts, released.is_suspect) == (2, False)


async def test_a_parked_event_is_neither_attempted_nor_published_until_a_person_lets_it_go(
    queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    (event_id,) = await stored(queue, connection_ids[0])
    assert await queue.park([Parked(event_id, "not_json")]) == 1
    assert await queue.park([Parked(event_id, "again")]) == 0
    assert await queue.begin_attempts([event_id], NOW) == []
    assert await publish_due(queue) == set()
    assert await queue.unpark(event_id, NOW, Lane.FRESH)
    assert await status_of(database, event_id) == "pending"
    assert await publish_due(queue) == {event_id}


async def test_one_record_is_read_by_one_worker_at_a_time_and_in_sequence(
    queue: EventQueue, connection_ids: list[ConnectionId]
) -> None:
    one, other = await stored(queue, connection_ids[0], 2)
    async with queue.database.transaction() as session:
        work = [RefetchWork(event_id, "Note Locked", "note", "n1") for event_id in (one, other)]
        await hand_to_refetch(session, work, NOW)
    until = NOW + timedelta(minutes=5)
    first = await queue.lease_refetch(one, NOW, until)
    assert first is not None
    assert await queue.lease_refetch(other, NOW, until) is None
    await queue.end_read(first)
    second = await queue.lease_refetch(other, NOW, until)
    assert second is not None
    assert second.sequence > first.sequence


async def test_a_lease_that_ran_out_goes_to_the_next_worker(
    queue: EventQueue, connection_ids: list[ConnectionId]
) -> None:
    (event_id,) = await stored(queue, connection_ids[0])
    async with queue.database.transaction() as session:
        await hand_to_refetch(session, [RefetchWork(event_id, "Note Locked", "note", "n1")], NOW)
    assert await queue.lease_refetch(event_id, NOW, NOW + timedelta(minutes=5)) is not None
    later = NOW + timedelta(minutes=6)
    assert await queue.return_expired_leases(NOW) == 0
    assert await queue.return_expired_leases(later) == 1
    lease = await queue.lease_refetch(event_id, later, later + timedelta(minutes=5))
    assert lease is not None
    assert lease.attempts == 2


async def test_an_event_ends_only_once(
    queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    (event_id,) = await stored(queue, connection_ids[0])
    for outcome in (Outcome.APPLIED, Outcome.STALE):
        async with queue.database.transaction() as session:
            await finish(session, [Finished(event_id, outcome, changed_fields=("status",))], NOW)
    rows = await database.fetch("SELECT outcome, changed_fields, received_at FROM event_history")
    assert [(row["outcome"], row["changed_fields"]) for row in rows] == [("applied", ["status"])]
    assert rows[0]["received_at"] == received_at_of(event_id)


async def test_claiming_stays_on_its_index_however_much_is_parked(
    queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    event_ids = await stored(queue, connection_ids[0], 2000)
    await queue.park([Parked(event_id, "test") for event_id in event_ids[:1990]])
    await database.execute("ANALYZE event_queue")
    plan = await database.fetchval(
        "EXPLAIN (FORMAT JSON) SELECT event_id FROM event_queue WHERE status = 'pending' AND work = 'apply'"
        " AND lane = 0 AND available_at <= now() ORDER BY available_at, event_id LIMIT 10"
    )
    assert "event_queue_due" in plan
    assert "Seq Scan" not in plan


async def commits_without_waiting(session: Session) -> bool:
    return str(await session.fetchval("SHOW synchronous_commit")) == "off"


async def test_only_commits_that_a_crash_may_undo_do_not_wait_for_the_disk(
    queue: EventQueue, connection_ids: list[ConnectionId]
) -> None:
    (event_id,) = await stored(queue, connection_ids[0])
    async with queue.database.transaction() as relaying:
        await relaying.execute("SET LOCAL synchronous_commit = on")
        await claim_due(relaying, [APPLY], NOW, at_most=1)
        assert await commits_without_waiting(relaying)
    async with queue.database.transaction() as counting:
        await counting.execute("SET LOCAL synchronous_commit = on")
        await counting.fetch(SQL.begin_attempts, [event_id], [], NOW, False)
        assert await commits_without_waiting(counting)
    async with queue.database.transaction() as ending:
        await ending.execute("SET LOCAL synchronous_commit = on")
        await finish(ending, [Finished(event_id, Outcome.APPLIED)], NOW)
        assert not await commits_without_waiting(ending)
