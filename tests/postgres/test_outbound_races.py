"""Deliverers and people at once: nothing is taken twice, nobody's lock holds up others, and a lost claim ends nothing.

Each of them has a connection of its own; where one must wait for another, PostgreSQL tells that it does.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import ItemId
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import SQL, Claim
from postgres.outbound_items import RESET_STUCK, OutboundItems
from servers.eventually import eventually

T = TypeVar("T")
AT_ONCE = 8
PROMPTLY_S = 5.0  # what waits for a person's lock waits for ever
End = Callable[[OutboundItems, Claim], Awaitable[bool]]
ENDS: list[End] = [OutboundItems.accept, OutboundItems.refuse, OutboundItems.try_later]


@pytest.fixture
def items(database: asyncpg.Connection, pool: Database, connection_ids: list[ConnectionId]) -> OutboundItems:
    return OutboundItems(database, pool, connection_ids[0])


@pytest.fixture
async def person(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A person's session, who begins transactions and thinks."""
    connection = await asyncpg.connect(database_url, timeout=10)
    yield connection
    await connection.close(timeout=10)


@asynccontextmanager
async def waiting(database: asyncpg.Connection, doing: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Begin something that must wait for a lock; it is awaited when the block ends."""
    task = asyncio.create_task(doing)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await eventually(lambda: database.fetchval(waits))
    assert not task.done()
    yield task
    async with asyncio.timeout(PROMPTLY_S):
        await task


async def claims_at_once(items: OutboundItems, count: int = AT_ONCE) -> list[Claim]:
    claims = await asyncio.gather(*(items.claim() for _ in range(count)))
    return [claim for claim in claims if claim is not None]


async def take_beside_a_lock(items: OutboundItems, expected: ItemId) -> Claim:
    async with asyncio.timeout(PROMPTLY_S):
        return await items.take(expected)


async def test_claimers_at_once_never_take_an_item_twice_nor_two_of_an_organization(items: OutboundItems) -> None:
    for number in range(5):
        for action in ("register", "deactivate"):
            await items.put(action, number)
    claims = await claims_at_once(items, 2 * AT_ONCE)
    assert len({claim.item.id for claim in claims}) == len(claims) == 5
    assert len({claim.item.ecosystem_org_id for claim in claims}) == 5


async def test_a_whole_queue_is_worked_off_by_many_without_repeating_or_overtaking(items: OutboundItems) -> None:
    chance = random.Random(7)
    for _ in range(120):
        await items.put(chance.choice(["register", "update", "deactivate"]), chance.randrange(12))

    async def work(taken: list[Claim]) -> None:
        while (claim := await items.claim()) is not None:
            taken.append(claim)
            assert await items.accept(claim)

    taken: list[Claim] = []
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work(taken))
    await work(taken)  # what the last ones held up when the others found nothing
    assert set(Counter(claim.item.id for claim in taken).values()) == {1}
    assert await items.database.fetchval("SELECT count(*) FROM ecosystem_sync_queue WHERE status <> 'success'") == 0
    await assert_in_order(items)


async def assert_in_order(items: OutboundItems) -> None:
    rows = await items.database.fetch(
        "SELECT q.ecosystem_org_id AS name, q.position FROM ecosystem_sync_attempts a"
        " JOIN ecosystem_sync_queue q ON q.id = a.item_id WHERE a.error IS NULL ORDER BY q.ecosystem_org_id, a.id"
    )
    assert rows
    for before, after in pairwise(rows):
        assert before["name"] != after["name"] or before["position"] <= after["position"]


async def test_people_who_put_back_and_edit_while_many_deliver_change_no_order_and_lose_nothing(
    items: OutboundItems, person: asyncpg.Connection
) -> None:
    chance = random.Random(11)
    ids = [await items.put(chance.choice(["register", "update", "deactivate"]), number % 6) for number in range(60)]
    items.now -= timedelta(days=1)  # so that the reset finds all attempts old
    is_over = asyncio.Event()

    async def work() -> None:
        while not is_over.is_set():
            claim = await items.claim()
            if claim is not None and chance.random() < 0.9:
                await chance.choice([*ENDS, OutboundItems.accept])(items, claim)
            items.advance(seconds=20)
            await items.queue.return_stuck(items.now)

    async def interfere() -> None:
        for number in range(60):
            sql = (
                "UPDATE ecosystem_sync_queue SET status = 'pending', attempts = 0, error_message = NULL WHERE id = $1",
                "UPDATE ecosystem_sync_queue SET payload = payload || '{\"a\": 1}' WHERE id = $1",
                "DELETE FROM ecosystem_sync_queue WHERE id = $1 AND accepted_at IS NULL",
            )[number % 3]
            await person.execute(sql, chance.choice(ids))
            await person.execute(RESET_STUCK)
        is_over.set()

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(work())
        group.create_task(interfere())
    items.advance(hours=1)
    await items.queue.return_stuck(items.now)
    while (claim := await items.claim()) is not None:
        assert await items.accept(claim)
    left = "SELECT count(*) FROM ecosystem_sync_queue WHERE status IN ('pending', 'processing')"
    assert await items.database.fetchval(left) == 0
    await assert_in_order(items)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_taken_again", [False, True])
async def test_a_reset_during_an_attempt_lets_it_end_for_nothing(
    items: OutboundItems, end: End, is_taken_again: bool
) -> None:
    item_id = await items.put()
    items.now -= timedelta(minutes=11)
    first = await items.take()
    await items.database.execute(RESET_STUCK)
    second = await items.take(item_id) if is_taken_again else None
    before = await items.row(item_id)
    assert not await end(items, first)
    assert await items.row(item_id) == before
    assert await items.attempts(item_id) == []
    if second is not None:
        assert await items.accept(second)


async def test_an_end_that_meets_a_reset_waits_for_what_becomes_of_it(
    items: OutboundItems, person: asyncpg.Connection
) -> None:
    for is_kept in (False, True):
        item_id = await items.put()
        claim = await items.take()
        changing = person.transaction()
        await changing.start()
        await person.execute("UPDATE ecosystem_sync_queue SET status = 'pending' WHERE id = $1", item_id)
        async with waiting(items.database, items.accept(claim)) as ending:
            await (changing.rollback() if is_kept else changing.commit())
        assert ending.result() is is_kept
        assert len(await items.attempts(item_id)) == is_kept
        if not is_kept:
            await items.accept(await items.take(item_id))


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE ecosystem_sync_queue SET error_message = 'wait' WHERE id = $1",
        "UPDATE ecosystem_sync_queue SET status = 'processing' WHERE id = $1",
        "DELETE FROM ecosystem_sync_queue WHERE id = $1",
        "SELECT FROM ecosystem_sync_queue WHERE id = $1 FOR UPDATE",
    ],
)
@pytest.mark.parametrize("edited", [0, 1])
async def test_an_organization_waits_for_who_edits_its_items_and_others_do_not(
    items: OutboundItems, person: asyncpg.Connection, edit: str, edited: int
) -> None:
    mine = [await items.put("update"), await items.put("update")]
    others = [await items.put(number=2), await items.put(number=3)]
    async with person.transaction():
        await person.execute(edit, mine[edited])
        for other in others:
            await items.accept(await take_beside_a_lock(items, other))
        assert await items.claim() is None
    if "processing" in edit:
        assert await items.claim() is None
    else:
        await items.take(mine[0] if edit.startswith("DELETE") and edited else mine[1])


async def test_an_attempt_ends_although_somebody_edits_the_item_behind_it(
    items: OutboundItems, person: asyncpg.Connection
) -> None:
    first, behind = await items.put(), await items.put("update")
    claim = await items.take(first)
    assert await items.claim() is None  # and the second is held back
    async with person.transaction():
        await person.execute("SELECT FROM ecosystem_sync_queue WHERE id = $1 FOR UPDATE", behind)
        async with asyncio.timeout(PROMPTLY_S):
            assert await items.accept(claim)


async def test_a_person_who_locks_the_whole_queue_holds_up_no_fresh_item(
    items: OutboundItems, person: asyncpg.Connection
) -> None:
    for number in range(1, 200):
        await items.put(number=number)
    async with person.transaction():
        await person.execute("UPDATE ecosystem_sync_queue SET error_message = 'wait'")
        fresh = await items.put(number=500)
        await take_beside_a_lock(items, fresh)


async def test_what_is_put_back_while_a_claimer_waits_for_its_turn_goes_first(
    items: OutboundItems, person: asyncpg.Connection
) -> None:
    old = await items.put()
    await items.refuse(await items.take(old))
    await items.put("update")
    claiming = person.transaction()
    await claiming.start()
    await person.execute(SQL.lock_claims)
    async with waiting(items.database, items.take(old)):
        await items.retry(old)
        await claiming.commit()


async def test_a_claimer_that_stands_still_in_its_claim_loses_it_after_a_while(person: asyncpg.Connection) -> None:
    async with person.transaction():
        await person.execute(SQL.lock_claims)
        assert await person.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
    assert await person.fetchval("SHOW idle_in_transaction_session_timeout") == "0"


async def test_an_item_that_becomes_visible_after_a_later_one_was_accepted_is_never_sent(
    items: OutboundItems, person: asyncpg.Connection
) -> None:
    async with person.transaction():
        late = await OutboundItems(person, items.pool, items.connection_id).put("update")
        later = await items.put("update")
        await items.accept(await take_beside_a_lock(items, later))
    assert await items.claim() is None
    assert (await items.row(late))["superseded_by"] == later


async def test_who_is_held_back_while_the_item_before_it_ends_is_let_go_by_that_end(
    items: OutboundItems, person: asyncpg.Connection
) -> None:
    first, behind = await items.put(), await items.put("deactivate")
    claim = await items.take(first)
    holding = person.transaction()
    await holding.start()
    assert await person.execute(SQL.hold_back, items.now, 1000) == "UPDATE 1"
    async with waiting(items.database, items.accept(claim)):
        await holding.commit()
    assert (await items.row(behind))["held_until"] is None
    await items.take(behind)


async def test_nobody_is_held_back_behind_an_item_that_is_just_ending(
    items: OutboundItems, person: asyncpg.Connection
) -> None:
    first, behind = await items.put(), await items.put("deactivate")
    claim = await items.take(first)
    async with person.transaction():
        assert await person.fetchval(SQL.succeed, first, claim.claim_id, items.now, None) is not None
        assert await items.claim() is None
    assert (await items.row(behind))["held_until"] is None
    await items.take(behind)


async def test_a_stuck_item_is_returned_by_one_of_many(items: OutboundItems) -> None:
    for number in range(5):
        await items.put(number=number)
    await claims_at_once(items)
    items.advance(seconds=61)
    returned = await asyncio.gather(*(items.queue.return_stuck(items.now) for _ in range(AT_ONCE)))
    assert sorted(len(each) for each in returned if each) in ([5], [1, 4], [2, 3], [1, 1, 3], [1, 2, 2])
    assert len({stuck.id for each in returned for stuck in each}) == 5
    assert await items.database.fetchval("SELECT count(*) FROM ecosystem_sync_attempts") == 5


async def test_a_stuck_item_that_somebody_is_editing_does_not_hold_up_the_others(
    items: OutboundItems, person: asyncpg.Connection
) -> None:
    first, second = await items.put(), await items.put(number=2)
    await claims_at_once(items)
    items.advance(seconds=61)
    async with person.transaction():
        await person.execute("UPDATE ecosystem_sync_queue SET error_message = 'wait' WHERE id = $1", first)
        async with asyncio.timeout(PROMPTLY_S):
            assert [stuck.id for stuck in await items.queue.return_stuck(items.now)] == [second]
    assert [stuck.id for stuck in await items.queue.return_stuck(items.now)] == [first]


async def test_of_many_who_find_the_account_refused_one_begins_the_pause(items: OutboundItems) -> None:
    soon = items.now + timedelta(minutes=1)
    pause = items.queue.pause
    begun = await asyncio.gather(*(pause(items.connection_id, "HTTP 401", items.now, soon) for _ in range(AT_ONCE)))
    assert sorted(begun) == [False] * (AT_ONCE - 1) + [True]


async def test_of_many_who_would_probe_one_does(items: OutboundItems) -> None:
    for number in range(3):
        await items.put(number=number)
    await items.queue.pause(items.connection_id, "HTTP 401", items.now, items.now)
    probes = await claims_at_once(items)
    assert [probe.is_probe for probe in probes] == [True]
