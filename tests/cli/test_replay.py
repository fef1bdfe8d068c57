"""The replay stage through the real SQL: what is previewed is what is done, and many never hold up fresh webhooks."""

from __future__ import annotations

import itertools
import secrets
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Outcome, new_event_id
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue, finish
from eventsync.postgres.queue_values import Finished
from eventsync.postgres.stored_events import StoredEvents
from eventsync.stages.replay import Action, Replayer

NOW = datetime.now(UTC).replace(microsecond=0)
BODY = b'{"EventType": "AppointmentCreated"}'


@pytest.fixture
def queue(pool: Database, keyring: Keyring) -> EventQueue:
    return EventQueue(pool, keyring)


@pytest.fixture
def replayer(pool: Database, queue: EventQueue, keyring: Keyring) -> Replayer:
    numbers = itertools.count()
    later = NOW + timedelta(seconds=1)
    return Replayer(queue, StoredEvents(pool, keyring), lambda: later, lambda size: next(numbers).to_bytes(size, "big"))


def event(number: int, parked_reason: str | None = None) -> IncomingEvent:
    return IncomingEvent(
        id=new_event_id(NOW, number.to_bytes(10, "big")),
        connection_id=ConnectionId(uuid4()),
        vendor="intakeq",
        source=EventSource.WEBHOOK,
        headers=(("Content-Type", "application/json"),),
        body=BODY,
        parked_reason=parked_reason,
    )


async def finished(pool: Database, queue: EventQueue, count: int) -> list[EventId]:
    events = [event(number) for number in range(count)]
    await queue.store(events)
    async with pool.transaction() as session:
        await finish(session, [Finished(entry.id, Outcome.APPLIED) for entry in events], NOW)
    return [entry.id for entry in events]


async def test_a_repeat_holds_the_same_request_under_an_identity_of_its_own(
    pool: Database, queue: EventQueue, replayer: Replayer, keyring: Keyring
) -> None:
    (event_id,) = await finished(pool, queue, 1)
    (replayed,) = await replayer.replay(await replayer.preview([event_id]))
    assert replayed.new_event_id is not None
    original, repeat = sorted(
        await StoredEvents(pool, keyring).requests([event_id, replayed.new_event_id]), key=lambda each: each.event_id
    )
    assert (repeat.body, repeat.headers, repeat.connection_id) == (BODY, original.headers, original.connection_id)


async def test_one_event_travels_with_fresh_webhooks_and_many_in_a_lane_of_their_own(
    pool: Database, queue: EventQueue, replayer: Replayer, database: asyncpg.Connection
) -> None:
    ids = await finished(pool, queue, 250)
    await replayer.replay(await replayer.preview(ids[:1]))
    assert await database.fetchval("SELECT array_agg(lane) FROM event_queue") == [0]
    progress: list[int] = []
    replayed = await replayer.replay(await replayer.preview(ids), on_progress=progress.append)
    assert all(entry.done for entry in replayed)
    assert await database.fetchval("SELECT count(*) FROM event_queue WHERE lane = 1") == 250
    assert progress[-1] == 250


async def test_a_parked_event_itself_waits_again(
    queue: EventQueue, replayer: Replayer, database: asyncpg.Connection
) -> None:
    parked = event(1, parked_reason="not_json")
    await queue.store([parked])
    (step,) = await replayer.preview([parked.id])
    assert step.action is Action.UNPARK
    (replayed,) = await replayer.replay([step])
    assert (replayed.done, replayed.new_event_id) == (True, None)
    assert await database.fetchval("SELECT status FROM event_queue") == "pending"
    (again,) = await replayer.replay([step])
    assert (again.done, again.reason) == (False, "it is not parked any more")


async def test_a_preview_says_why_nothing_can_be_done_and_names_each_event_once(
    pool: Database, queue: EventQueue, replayer: Replayer, database: asyncpg.Connection
) -> None:
    waiting, unknown = event(5), uuid4()
    (forgotten,) = await finished(pool, queue, 1)
    await database.execute("DELETE FROM events")
    await queue.store([waiting])
    steps = await replayer.preview([forgotten, waiting.id, unknown, forgotten])
    assert [step.action for step in steps] == [Action.NONE] * 3
    assert ["removed" in steps[0].reason, "on its way" in steps[1].reason, "no such" in steps[2].reason] == [True] * 3
    assert not any(entry.done for entry in await replayer.replay(steps))
    assert await database.fetchval("SELECT count(*) FROM events") == 1


async def test_a_large_replay_rests_between_its_groups_twice_as_long_as_each_took(
    pool: Database, queue: EventQueue, keyring: Keyring
) -> None:
    ids = await finished(pool, queue, 250)
    stopwatch_s = itertools.count(0.0, 1.5)
    rests_s: list[float] = []

    async def sleep(pause_s: float) -> None:
        rests_s.append(pause_s)

    stored = StoredEvents(pool, keyring)
    replayer = Replayer(
        queue, stored, lambda: NOW, secrets.token_bytes, sleep=sleep, stopwatch_s=lambda: next(stopwatch_s)
    )
    await replayer.replay(await replayer.preview(ids))
    assert rests_s == [3.0, 3.0]
