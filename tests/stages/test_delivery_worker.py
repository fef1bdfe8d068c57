"""The worker that keeps the outbound queue worked off: woken, polling, resting, and never turning without reason."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from eventsync.bus.topology import RoutingKey
from eventsync.bus.wire import Message, encode
from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import Accepted, Action, Answer, Deferred, Halted, OutboundItem
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import Claim, OutboundQueue, Stuck
from eventsync.stages.wake import WakeRelay
from servers.eventually import eventually
from stages.delivery_site import (
    ACCEPTED,
    FAILED,
    NEVER_S,
    DeliverySite,
    ScriptedRegistry,
    is_over,
    organizations,
    worker_of,
    working,
)
from stages.spine import DEADLINE_S, RunningClock, Spine


class CountingQueue(OutboundQueue):
    """Counts how often it is asked."""

    def __init__(self, pool: Database) -> None:
        super().__init__(pool)
        self.asked: Counter[str] = Counter()

    async def claim(self, connection_id: ConnectionId, now: datetime, leased_until: datetime) -> Claim | None:
        self.asked["claim"] += 1
        return await super().claim(connection_id, now, leased_until)

    async def next_due(self, now: datetime) -> datetime | None:
        self.asked["next_due"] += 1
        return await super().next_due(now)

    async def return_stuck(self, now: datetime) -> list[Stuck]:
        self.asked["return_stuck"] += 1
        return await super().return_stuck(now)


@pytest.fixture
def site(pool: Database, database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> DeliverySite:
    """A queue worked off by the machine's clock."""
    return DeliverySite(pool, database, connection_ids[0], clock=RunningClock())


async def test_an_insert_is_delivered_over_the_bus_without_waiting_for_a_poll(
    bus_spine: Spine, site: DeliverySite
) -> None:
    async with working(site, bus_spine):
        for number in range(5):
            item_id = await site.put(number)
            await eventually(lambda item_id=item_id: is_over(site, item_id))  # type: ignore[misc]  # bound at once
    assert organizations(site.scripted.sent) == list(range(5))


async def test_most_inserts_are_on_their_way_within_a_tenth_of_a_second(bus_spine: Spine, site: DeliverySite) -> None:
    registry = TimingRegistry()
    site.registry = registry
    loop = asyncio.get_running_loop()
    latencies_s = []
    async with working(site, bus_spine):
        for number in range(40):
            began = loop.time()
            await site.put(number)
            async with asyncio.timeout(DEADLINE_S):
                latencies_s.append(await registry.times.get() - began)
            await asyncio.sleep(0.01 * (number % 5))
    assert sorted(latencies_s)[len(latencies_s) // 2] < 0.1


class TimingRegistry(ScriptedRegistry):
    """Tells when each item came, by the loop's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.times: asyncio.Queue[float] = asyncio.Queue()

    async def deliver(self, item: OutboundItem) -> Any:
        self.times.put_nowait(asyncio.get_running_loop().time())
        return await super().deliver(item)


async def test_an_item_that_a_person_puts_back_is_sent_again_within_seconds(spine: Spine, site: DeliverySite) -> None:
    async with working(site, spine):
        item_id = await site.put()
        await eventually(lambda: is_over(site, item_id))
        await site.put_back(item_id)
        await eventually(lambda: len(site.scripted.sent) == 2)
    first, second = site.scripted.sent
    assert first.idempotency_key != second.idempotency_key


async def test_what_was_due_before_the_start_is_delivered_and_what_died_is_taken_back(
    spine: Spine, site: DeliverySite
) -> None:
    items = [await site.put(1), await site.put(2)]
    now = site.clock()
    dead = await site.queue.claim(site.connection_id, now, now - timedelta(seconds=1))
    assert dead is not None
    async with spine.running(worker_of(site, spine, poll_s=NEVER_S)):
        for item_id in items:
            await eventually(lambda item_id=item_id: is_over(site, item_id))  # type: ignore[misc]  # bound at once
    assert organizations(site.scripted.sent) == [2, 1]


async def test_without_any_wake_up_polling_delivers(spine: Spine, site: DeliverySite) -> None:
    async with spine.running(worker_of(site, spine, poll_s=0.05)):  # nobody listens, nobody relays
        await eventually(lambda: spine.bus.connected)
        item_id = await site.put()
        await eventually(lambda: is_over(site, item_id))


async def test_a_retry_is_made_when_it_is_due_although_nobody_rings(spine: Spine, site: DeliverySite) -> None:
    async with working(site, spine):
        now = site.clock()
        async with site.database.transaction():
            item_id = await site.put()
            await site.database.execute(
                "UPDATE ecosystem_sync_queue SET available_at = $1, claim_id = gen_random_uuid()",  # as deliverers do
                now + timedelta(seconds=0.5),
            )
        await site.put(2)  # rings, long before the other's time
        await eventually(lambda: len(site.scripted.sent) == 1)
        assert organizations(site.scripted.sent) == [2]
        await eventually(lambda: is_over(site, item_id))


async def test_it_looks_again_soon_while_no_wake_up_can_come_and_seldom_otherwise(
    spine: Spine, site: DeliverySite
) -> None:
    worker = worker_of(site, spine)
    assert await worker.run_once() == 1.0
    async with spine.running(worker, spine.listener):
        await eventually(lambda: not worker._is_deaf)
        assert await worker.run_once() == 5.0
    assert await worker.run_once() == 1.0


BLOCKED: dict[str, Answer] = {
    "paused": Halted("the key is refused", 401),
    "resting": Deferred("cannot connect", None, 3600.0),
    "waiting for its next attempt": FAILED,
}


@pytest.mark.parametrize("state", BLOCKED)
async def test_what_is_due_but_may_not_be_sent_does_not_let_it_turn_without_end(
    spine: Spine, site: DeliverySite, state: str
) -> None:
    for action in (Action.REGISTER, Action.UPDATE):
        await site.put(1, action)  # the second is due, behind the first
    site.registry = ScriptedRegistry(BLOCKED[state])
    queue = CountingQueue(site.pool)
    async with working(site, spine, queue=queue, poll_s=5.0):
        await eventually(lambda: site.scripted.sent)
        await asyncio.sleep(1.0)  # time in which it could turn
    assert len(site.scripted.sent) == 1
    assert queue.asked.total() < 40


async def test_without_a_connection_it_waits_and_a_new_one_is_used_at_once(spine: Spine, site: DeliverySite) -> None:
    site.registry = None
    queue = CountingQueue(site.pool)
    async with working(site, spine, queue=queue) as worker:
        item_id = await site.put()
        await asyncio.sleep(0.5)  # time in which it could turn
        assert queue.asked.total() < 20
        site.registry = ScriptedRegistry()
        await site.database.execute("UPDATE connections SET updated_at = now()")
        await eventually(lambda: is_over(site, item_id))
        assert worker.trouble == ""


async def test_an_expired_lease_that_cannot_be_taken_back_does_not_let_it_turn_without_end(
    spine: Spine, site: DeliverySite, database_url: str
) -> None:
    item_id = await site.put()
    now = site.clock()
    await site.queue.claim(site.connection_id, now, now - timedelta(seconds=1))
    person = await asyncpg.connect(database_url, timeout=10)
    queue = CountingQueue(site.pool)
    async with person.transaction():
        await person.execute("SELECT 1 FROM ecosystem_sync_queue WHERE id = $1 FOR UPDATE", item_id)
        async with working(site, spine, queue=queue, poll_s=5.0):
            await asyncio.sleep(1.0)  # time in which it could turn
    assert queue.asked.total() < 20
    await person.close(timeout=10)


async def test_a_changed_connection_ends_a_rest_at_once(spine: Spine, site: DeliverySite) -> None:
    site.registry = ScriptedRegistry(Deferred("cannot connect", None, NEVER_S), ACCEPTED)
    first = site.registry
    async with working(site, spine) as worker:
        item_id = await site.put()
        await eventually(lambda: worker._deliverer.resting_s > 0)
        site.registry = ScriptedRegistry()
        await site.database.execute("UPDATE connections SET updated_at = now()")
        await eventually(lambda: is_over(site, item_id))
    assert len(first.sent) == len(site.registry.sent) == 1


async def test_each_wake_up_is_acknowledged_while_a_delivery_is_still_under_way(
    bus_spine: Spine, site: DeliverySite
) -> None:
    site.scripted.gate.clear()
    wake_up = Message(RoutingKey.DELIVER, encode({"type": "outbound.due"}))
    async with working(site, bus_spine):
        await site.put()
        await eventually(lambda: site.scripted.sent)
        for _ in range(30):  # more than may be unacknowledged
            await bus_spine.bus.publish([wake_up])
        (subscription,) = bus_spine.bus._subscriptions  # type: ignore[attr-defined]  # both buses have them
        await eventually(lambda: not subscription._unacknowledged)
        site.scripted.gate.set()
    assert await site.statuses() == ["success"]


async def test_an_orderly_stop_in_the_middle_of_a_post_repeats_nothing(spine: Spine, site: DeliverySite) -> None:
    item_id = await site.put()
    site.scripted.gate.clear()
    worker = worker_of(site, spine)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        await site.put(2)
        running.cancel()
        await asyncio.sleep(0)
        site.scripted.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert (await site.state(item_id))[:2] == ("success", 1)
    assert organizations(site.scripted.sent) == [1]


async def test_workers_side_by_side_send_each_item_once(bus_spine: Spine, site: DeliverySite) -> None:
    site.registry = ScriptedRegistry(Accepted(None, 200))
    workers = [worker_of(site, bus_spine, poll_s=0.2) for _ in range(3)]
    for number, worker in enumerate(workers):
        worker.name = f"worker:deliver:{number}"
    relay = WakeRelay(bus_spine.link, bus_spine.listener)
    async with bus_spine.running(relay, *workers, bus_spine.listener):
        for number in range(60):
            await site.put(number)
        await eventually(lambda: all_over(site), deadline_s=DEADLINE_S)
    assert sorted(organizations(site.scripted.sent)) == list(range(60))


async def all_over(site: DeliverySite) -> bool:
    return set(await site.statuses()) == {"success"}
