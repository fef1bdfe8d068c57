"""The order of one organization's items: kept whatever happens, so that its last news is what the other side ends with.

The property test lets people, deliverers, deaths and time do what they like, through the real SQL.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import MAX_ATTEMPTS, Action, ItemId
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import Claim
from postgres.outbound_items import RESET_STUCK, OutboundItems

BACKOFF_S = 30.0


@pytest.fixture
def items(database: asyncpg.Connection, pool: Database, connection_ids: list[ConnectionId]) -> OutboundItems:
    return OutboundItems(database, pool, connection_ids[0])


async def refused(items: OutboundItems, action: str = "register", number: int = 1) -> ItemId:
    """Put in an item that the other side refuses."""
    item_id = await items.put(action, number)
    assert await items.refuse(await items.take(item_id))
    return item_id


async def accepted(items: OutboundItems, action: str = "register", number: int = 1) -> ItemId:
    """Put in an item that the other side takes."""
    item_id = await items.put(action, number)
    assert await items.accept(await items.take(item_id))
    return item_id


async def superseded_by(items: OutboundItems, item_id: ItemId) -> UUID | None:
    row = await items.row(item_id)
    assert (row["superseded_by"] is None) or (row["status"], row["processed_at"]) == ("success", items.now)
    by: UUID | None = row["superseded_by"]
    return by


async def test_an_update_waits_for_its_register_and_other_organizations_do_not(items: OutboundItems) -> None:
    register, update, other = await items.put(), await items.put("update"), await items.put(number=2)
    claim = await items.take(register)
    await items.accept(await items.take(other))
    assert await items.claim() is None
    await items.accept(claim)
    await items.take(update)


async def test_a_register_that_waits_for_its_retry_holds_its_organization_up(items: OutboundItems) -> None:
    register, update = await items.put(), await items.put("update")
    await items.try_later(await items.take(register), BACKOFF_S)
    assert await items.claim() is None
    items.advance(seconds=BACKOFF_S)
    await items.accept(await items.take(register))
    await items.take(update)


async def test_what_was_held_up_goes_on_at_once_when_a_person_hastens_or_removes_what_it_waited_for(
    items: OutboundItems,
) -> None:
    for number in (1, 2):
        register, update = await items.put(number=number), await items.put("update", number)
        await items.try_later(await items.take(register), 3600)
        assert await items.claim() is None
        assert (await items.row(update))["held_until"] == items.now + timedelta(seconds=3600)
        if number == 1:
            await items.retry(register)
            await items.accept(await items.take(register))
        else:
            await items.database.execute("DELETE FROM ecosystem_sync_queue WHERE id = $1", register)
        await items.accept(await items.take(update))


async def test_what_is_held_up_by_an_attempt_goes_on_when_it_ends_and_keeps_its_own_wait(items: OutboundItems) -> None:
    first = await refused(items)
    second = await items.put("deactivate")
    await items.try_later(await items.take(second), 100)
    await items.retry(first)
    claim = await items.take(first)
    items.advance(seconds=10)
    assert await items.claim() is None
    await items.accept(claim)
    assert await items.claim() is None
    items.advance(seconds=90)
    await items.take(second)


async def test_failing_items_in_front_do_not_keep_a_fresh_one_waiting(items: OutboundItems) -> None:
    await items.database.execute(
        "INSERT INTO ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload, attempts,"
        " available_at, created_at)"
        " SELECT 'practice', gen_random_uuid(), 'plenura_' || n, 'register', '{}', 1, $1, now() - interval '1 hour'"
        " FROM generate_series(1, 1000) n",
        items.now + timedelta(seconds=1),
    )
    fresh = await items.put(number=7)
    await items.take(fresh)


async def test_updates_that_wait_one_behind_the_other_collapse_into_the_last(items: OutboundItems) -> None:
    first, second, last = [await items.put("update") for _ in range(3)]
    claim = await items.take(last)
    assert claim.superseded == (first, second)
    assert [await superseded_by(items, each) for each in (first, second)] == [last, last]
    await items.accept(claim)
    assert await items.claim() is None
    assert await items.attempts(first) == []


@pytest.mark.parametrize("between", ["register", "deactivate"])
async def test_updates_do_not_collapse_across_what_is_none(items: OutboundItems, between: str) -> None:
    first, boundary, second, last = [await items.put(each) for each in ("update", between, "update", "update")]
    for expected in (first, boundary):
        claim = await items.take(expected)
        assert claim.superseded == ()
        await items.accept(claim)
    assert (await items.take(last)).superseded == (second,)


async def test_an_update_that_waited_for_its_retry_is_overtaken_by_a_newer_one_with_attempts_of_its_own(
    items: OutboundItems,
) -> None:
    old = await items.put("update", attempts=1)
    await items.try_later(await items.take(old), BACKOFF_S)
    new = await items.put("update")
    assert await items.claim() is None
    items.advance(seconds=BACKOFF_S)
    claim = await items.take(new)
    assert (claim.attempts, claim.superseded) == (1, (old,))


async def test_an_update_behind_a_register_that_failed_becomes_the_register(items: OutboundItems) -> None:
    await refused(items)
    update = await items.put("update")
    claim = await items.take(update)
    assert claim.item.action is Action.REGISTER
    assert (await items.row(update))["action"] == "register"
    await items.refuse(claim)
    assert (await items.take(await items.put("update"))).item.action is Action.REGISTER


async def test_an_update_stays_one_where_the_other_side_knows_the_organization(items: OutboundItems) -> None:
    await refused(items)
    await accepted(items, "deactivate")
    assert (await items.take(await items.put("update"))).item.action is Action.UPDATE
    register = await accepted(items, "register", 2)
    await items.retry(register)
    await items.refuse(await items.take(register))
    assert (await items.take(await items.put("update", 2))).item.action is Action.UPDATE
    assert (await items.take(await items.put("update", 3))).item.action is Action.UPDATE
    await refused(items, "register", 4)
    assert (await items.take(await items.put("deactivate", 4))).item.action is Action.DEACTIVATE


async def test_an_old_item_put_back_after_later_news_was_accepted_is_never_sent(items: OutboundItems) -> None:
    old = await refused(items)
    new = await accepted(items, "update")
    await items.retry(old)
    assert await items.claim() is None
    assert await superseded_by(items, old) == new


async def test_an_old_item_is_not_sent_after_a_later_one_that_a_person_has_seen_to(items: OutboundItems) -> None:
    old, new = await refused(items), await refused(items, "deactivate")
    await items.database.execute("UPDATE ecosystem_sync_queue SET status = 'success' WHERE id = $1", new)
    await items.retry(old)
    assert await items.claim() is None
    assert await superseded_by(items, old) == new


async def test_an_old_item_is_not_sent_although_the_later_one_was_put_back_as_well(items: OutboundItems) -> None:
    old, new = await accepted(items), await accepted(items, "update")
    await items.database.execute("UPDATE ecosystem_sync_queue SET status = 'pending', attempts = 0")
    await items.refuse(await items.take(new))
    assert await superseded_by(items, old) == new
    assert await items.claim() is None


async def test_a_failed_item_put_back_while_later_ones_wait_goes_first(items: OutboundItems) -> None:
    register = await refused(items)
    update = await items.put("update")
    await items.retry(register)
    await items.accept(await items.take(register))
    claim = await items.take(update)
    assert claim.item.action is Action.UPDATE


async def test_an_item_put_back_while_a_later_one_is_on_its_way_waits_for_its_end(items: OutboundItems) -> None:
    register = await refused(items)
    update = await items.put("update")
    claim = await items.take(update)
    await items.retry(register)
    assert await items.claim() is None
    await items.refuse(claim)  # the later one tells nothing: the earlier one may
    await items.take(register)


async def test_a_superseding_item_that_fails_leaves_its_predecessors_ended(items: OutboundItems) -> None:
    first, last = await items.put("update"), await items.put("update")
    await items.refuse(await items.take(last))
    assert await superseded_by(items, first) == last
    assert await items.claim() is None
    await items.retry(first)  # whoever wants it sent all the same
    await items.accept(await items.take(first))
    await items.retry(last)
    await items.take(last)


async def test_a_superseding_item_that_a_person_deletes_gives_its_predecessors_news_back(items: OutboundItems) -> None:
    first, second, last = [await items.put("update") for _ in range(3)]
    claim = await items.take(last)
    await items.database.execute("DELETE FROM ecosystem_sync_queue WHERE id = $1", last)
    assert not await items.accept(claim)
    assert (await items.take(second)).superseded == (first,)


async def test_who_deletes_a_failure_or_what_was_accepted_sends_nothing_by_that(items: OutboundItems) -> None:
    for end in (items.accept, items.refuse):
        await items.put("update")
        last = await items.put("update")
        await end(await items.take(last))
        if end == items.accept:
            await items.retry(last)
        await items.database.execute("DELETE FROM ecosystem_sync_queue WHERE id = $1", last)
        assert await items.claim() is None


async def test_an_item_that_another_program_has_taken_holds_its_organization_up(items: OutboundItems) -> None:
    first, second = await items.put("deactivate"), await items.put()
    await items.database.execute("UPDATE ecosystem_sync_queue SET status = 'processing' WHERE id = $1", second)
    assert await items.claim() is None
    await items.database.execute("UPDATE ecosystem_sync_queue SET status = 'failed' WHERE id = $1", second)
    await items.take(first)


async def test_many_that_are_held_up_are_all_sent_in_the_end(items: OutboundItems) -> None:
    register = await items.put()
    await items.database.execute(
        "INSERT INTO ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload)"
        " SELECT q.entity_type, q.entity_id, q.ecosystem_org_id,"
        " CASE WHEN n % 500 = 0 THEN 'deactivate' ELSE 'update' END, '{}'"
        " FROM ecosystem_sync_queue q, generate_series(1, 1200) n"
    )
    other = await items.put(number=2)
    await items.try_later(await items.take(register), BACKOFF_S)
    await items.accept(await items.take(other))
    assert await items.claim() is None
    items.advance(seconds=BACKOFF_S)
    collapsed = []
    while (claim := await items.claim()) is not None:
        collapsed.append(len(claim.superseded))
        await items.accept(claim)
    assert collapsed == [0, 498, 0, 498, 0, 199]
    assert await items.database.fetchval("SELECT count(*) FROM ecosystem_sync_queue WHERE status <> 'success'") == 0


@dataclass(slots=True)
class World:
    """The queue, what is on its way, and what the other side took in its order."""

    items: OutboundItems
    flying: list[Claim] = field(default_factory=list)
    taken: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    counted: Counter[UUID] = field(default_factory=Counter)

    async def rows(self) -> list[dict[str, Any]]:
        rows = await self.items.database.fetch("SELECT * FROM ecosystem_sync_queue ORDER BY position")
        return [dict(row) for row in rows]

    async def claim(self) -> Claim | None:
        """Take an item; it must be one that may be sent now, and there must be none where none is given."""
        may_go = self.may_go(await self.rows())
        claim = await self.items.claim()
        if claim is None:
            assert not may_go
            return None
        rows = {row["id"]: row for row in await self.rows()}
        assert claim.item.ecosystem_org_id in may_go
        assert all(rows[each]["superseded_by"] == claim.item.id for each in claim.superseded)
        self.counted[claim.item.id] += 1
        assert claim.attempts == self.counted[claim.item.id] <= MAX_ATTEMPTS
        self.flying.append(claim)
        return claim

    def may_go(self, rows: list[dict[str, Any]]) -> set[str]:
        """Find the organizations of which something is to be sent now."""
        found = set()
        for name in {row["ecosystem_org_id"] for row in rows}:
            of_it = [row for row in rows if row["ecosystem_org_id"] == name]
            waiting = [row for row in of_it if row["status"] == "pending"]
            while waiting and self.is_due(waiting[0]) and waiting[0]["position"] < max(self.taken[name], default=0):
                waiting.pop(0)
            if waiting and self.is_due(waiting[0]) and all(row["status"] != "processing" for row in of_it):
                found.add(name)
        return found

    def is_due(self, row: dict[str, Any]) -> bool:
        return row["available_at"] is None or row["available_at"] <= self.items.now

    async def end(self, claim: Claim, how: str) -> None:
        """Let an attempt end, as the deliverer does."""
        position = await self.items.database.fetchval(
            "SELECT position FROM ecosystem_sync_queue WHERE id = $1", claim.item.id
        )
        if how == "accept" and await self.items.accept(claim):
            self.taken[claim.item.ecosystem_org_id].append(position)
        elif how == "refuse" or (how == "fail" and claim.attempts >= MAX_ATTEMPTS):
            await self.items.refuse(claim)
        elif how == "fail":
            await self.items.try_later(claim, BACKOFF_S * claim.attempts)
        elif how == "defer":
            at = self.items.now
            if await self.items.queue.put_off(claim, "HTTP 429", 429, at, until=at, is_counted=False):
                self.counted[claim.item.id] -= 1

    async def edit(self, sql: str, number: int) -> None:
        """Let a person do something to some item; one that waits then has an attempt left."""
        if rows := await self.rows():
            item_id = rows[number % len(rows)]["id"]
            await self.items.database.execute(sql, item_id)
            if any(row["id"] == item_id and row["status"] == "pending" for row in await self.rows()):
                self.counted[item_id] = min(self.counted[item_id], MAX_ATTEMPTS - 1)

    async def check(self) -> None:
        rows = await self.rows()
        by_id = {row["id"]: row for row in rows}
        on_its_way = Counter(row["ecosystem_org_id"] for row in rows if row["status"] == "processing")
        assert set(on_its_way.values()) <= {1}
        for taken in self.taken.values():
            assert taken == sorted(taken)
        for row in rows:
            assert row["attempts"] <= MAX_ATTEMPTS
            if row["superseded_by"] in by_id:
                assert by_id[row["superseded_by"]]["position"] > row["position"]
        for name in {row["ecosystem_org_id"] for row in rows}:
            self.check_end([row for row in rows if row["ecosystem_org_id"] == name], self.taken[name])

    @staticmethod
    def check_end(of_it: list[dict[str, Any]], taken: list[int]) -> None:
        """Where nothing of an organization waits and its last news did not fail, the other side has that."""
        if any(row["status"] in ("pending", "processing") for row in of_it) or of_it[-1]["status"] == "failed":
            return
        told = [row["position"] for row in of_it if row["superseded_by"] is None and row["status"] == "success"]
        assert taken[-1] == told[-1]


async def put(world: World, number: int) -> None:
    await world.items.put(("register", "update", "update", "deactivate")[number // 3 % 4], number % 3)


async def take(world: World, _: int) -> None:
    await world.claim()


async def end(world: World, number: int) -> None:
    ends = ("accept", "accept", "refuse", "fail", "fail", "defer")
    if world.flying:
        await world.end(world.flying.pop(number % len(world.flying)), ends[number // 7 % len(ends)])


async def die(world: World, number: int) -> None:
    if world.flying:
        world.flying.pop(number % len(world.flying))


async def rescue(world: World, _: int) -> None:
    await world.items.queue.return_stuck(world.items.now)


async def reset(world: World, _: int) -> None:
    """Put back all that is on its way: by PostgreSQL's clock all of it is old."""
    on_its_way = [row["id"] for row in await world.rows() if row["status"] == "processing"]
    await world.items.database.execute(RESET_STUCK)
    for item_id in on_its_way:
        world.counted[item_id] = min(world.counted[item_id], MAX_ATTEMPTS - 1)


async def retry(world: World, number: int) -> None:
    if rows := await world.rows():
        item_id = rows[number % len(rows)]["id"]
        await world.items.retry(item_id)
        world.counted[item_id] = 0


async def put_back(world: World, number: int) -> None:
    await world.edit("UPDATE ecosystem_sync_queue SET status = 'pending' WHERE id = $1", number)


async def edit(world: World, number: int) -> None:
    await world.edit("""UPDATE ecosystem_sync_queue SET payload = payload || '{"a": 1}' WHERE id = $1""", number)


async def delete(world: World, number: int) -> None:
    # What the other side has seen of an organization is known by its rows; who deletes a failure gives its news up.
    sql = "DELETE FROM ecosystem_sync_queue WHERE id = $1 AND accepted_at IS NULL AND status <> 'failed'"
    ended = [row["id"] for row in await world.rows() if row["status"] == "success"]
    await world.edit(sql, number)
    for row in await world.rows():
        if row["id"] in ended and row["status"] == "pending":
            world.counted[row["id"]] = 0


async def wait(world: World, number: int) -> None:
    world.items.advance(seconds=(10, 31, 61, 200)[number % 4])


STEPS = st.tuples(
    st.sampled_from([*(put, take, end) * 4, take, die, rescue, reset, retry, put_back, edit, delete, wait]),
    st.integers(0, 2**16),
)


async def work_off(world: World) -> None:
    """Let all that is left be sent, with a deliverer that meets no fault."""
    for flying in world.flying:
        await world.end(flying, "accept")
    world.flying.clear()
    world.items.advance(seconds=3600)
    await world.items.queue.return_stuck(world.items.now)
    while (claim := await world.claim()) is not None:
        await world.end(claim, "accept")
        await world.check()
    assert not [row for row in await world.rows() if row["status"] in ("pending", "processing")]


Step = tuple[Callable[[World, int], Awaitable[None]], int]


@settings(
    max_examples=1000 if os.environ.get("EVENTSYNC_PROVE") else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=20, max_size=80))
async def test_whatever_people_and_deliverers_do_an_organizations_last_news_is_what_arrives_last(
    database: asyncpg.Connection, pool: Database, connection_ids: list[ConnectionId], steps: list[Step]
) -> None:
    await database.execute("TRUNCATE ecosystem_sync_queue CASCADE")
    world = World(OutboundItems(database, pool, connection_ids[0]))
    world.items.advance(days=-1)
    for step, number in steps:
        await step(world, number)
        await world.check()
    await work_off(world)
