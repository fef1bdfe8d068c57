"""Whatever people, deliverers, deaths and time do to the queue: each organization's last news arrives last.

The steps go through the real SQL; a model beside it knows what may be sent and what the other side has taken.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import MAX_ATTEMPTS
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import Claim
from postgres.outbound_items import BACKOFF_S, RESET_STUCK, OutboundItems


@dataclass(slots=True)
class World:
    """The queue, what is on its way, and what the other side took in its order."""

    items: OutboundItems
    flying: list[Claim] = field(default_factory=list)
    taken: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    counted: Counter[UUID] = field(default_factory=Counter)
    reached: set[UUID] = field(default_factory=set)  # what the other side took, or may have taken

    async def rows(self) -> list[dict[str, Any]]:
        rows = await self.items.database.fetch("SELECT * FROM ecosystem_sync_queue ORDER BY position")
        return [dict(row) for row in rows]

    async def claim(self) -> Claim | None:
        """Take an item; it must be one that may be sent now, and there must be none where none is given."""
        before = await self.rows()
        may_go = self.may_go(before)
        claim = await self.items.claim()
        if claim is None:
            assert not may_go
            return None
        rows = {row["id"]: row for row in await self.rows()}
        assert claim.item.ecosystem_org_id in may_go
        assert all(rows[each]["superseded_by"] == claim.item.id for each in claim.superseded)
        of_it = [row for row in before if row["ecosystem_org_id"] == claim.item.ecosystem_org_id]
        assert rows[claim.item.id]["position"] >= self.last_reached(of_it)
        if any(row["id"] == claim.item.id and row["status"] == "failed" for row in before):
            self.counted[claim.item.id] = 0  # it goes anew, in the place of an older one
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
            reached = self.last_reached(of_it)
            if waiting and self.is_due(waiting[0]) and waiting[0]["position"] < reached:
                anew = [row for row in of_it if row["position"] == reached and row["status"] == "failed"]
                waiting = [*anew, *(row for row in waiting if row["position"] >= reached)]
            if waiting and self.is_due(waiting[0]) and all(row["status"] != "processing" for row in of_it):
                found.add(name)
        return found

    def last_reached(self, of_it: list[dict[str, Any]]) -> int:
        return max((row["position"] for row in of_it if row["id"] in self.reached), default=0)

    async def give_up_flights(self, do: Awaitable[object]) -> None:
        """Let something happen to what is on its way: nobody knows what became of it there."""
        flying = [row["id"] for row in await self.rows() if row["status"] == "processing"]
        await do
        now = {row["id"]: row["status"] for row in await self.rows()}
        self.reached.update(each for each in flying if now.get(each) in ("pending", "failed"))

    def is_due(self, row: dict[str, Any]) -> bool:
        return row["available_at"] is None or row["available_at"] <= self.items.now

    async def end(self, claim: Claim, how: str) -> None:
        """Let an attempt end, as the deliverer does."""
        position = await self.items.database.fetchval(
            "SELECT position FROM ecosystem_sync_queue WHERE id = $1", claim.item.id
        )
        if how == "accept" and await self.items.accept(claim):
            self.taken[claim.item.ecosystem_org_id].append(position)
            self.reached.add(claim.item.id)
        elif how == "refuse":
            await self.items.refuse(claim)
        elif how == "fail" and claim.attempts >= MAX_ATTEMPTS:
            if await self.items.queue.fail(claim, "HTTP 503", 503, self.items.now, may_have_arrived=True):
                self.reached.add(claim.item.id)
        elif how == "fail" and await self.items.try_later(claim, BACKOFF_S * claim.attempts):
            self.reached.add(claim.item.id)
        elif how == "defer":
            at = self.items.now
            if await self.items.queue.put_off(claim, "HTTP 429", 429, at, until=at, is_counted=False):
                self.counted[claim.item.id] -= 1

    async def edit(self, sql: str, number: int) -> None:
        """Let a person do something to some item; one that waits then has an attempt left."""
        if rows := await self.rows():
            item_id = rows[number % len(rows)]["id"]
            await self.give_up_flights(self.items.database.execute(sql, item_id))
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
    await world.give_up_flights(world.items.queue.return_stuck(world.items.now))


async def reset(world: World, _: int) -> None:
    """Put back all that is on its way: by PostgreSQL's clock all of it is old."""
    on_its_way = [row["id"] for row in await world.rows() if row["status"] == "processing"]
    await world.give_up_flights(world.items.database.execute(RESET_STUCK))
    for item_id in on_its_way:
        world.counted[item_id] = min(world.counted[item_id], MAX_ATTEMPTS - 1)


async def retry(world: World, number: int) -> None:
    if rows := await world.rows():
        item_id = rows[number % len(rows)]["id"]
        await world.give_up_flights(world.items.retry(item_id))
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
    await rescue(world, 0)
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
