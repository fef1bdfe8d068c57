"""An attempt and its lease: a standstill, a stop, a death or an outage before its end, and what counts of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import Deferred
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import Claim, OutboundQueue
from servers.eventually import eventually
from servers.proxy import TcpProxy
from stages.delivery_site import DeliverySite
from stages.spine import DEADLINE_S


@pytest.fixture
def site(pool: Database, database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> DeliverySite:
    return DeliverySite(pool, database, connection_ids[0])


class StandingQueue(OutboundQueue):
    """A queue whose claim is followed by a standstill of the whole process."""

    def __init__(self, site: DeliverySite, *, clock_s: float, seconds: float) -> None:
        super().__init__(site.pool)
        self._site, self._clock_s, self._seconds = site, clock_s, seconds

    async def claim(self, connection_id: ConnectionId, now: datetime, leased_until: datetime) -> Claim | None:
        claim = await super().claim(connection_id, now, leased_until)
        self._site.clock.advance(self._clock_s)
        self._site.seconds.now_s += self._seconds
        return claim


@pytest.mark.parametrize(("clock_s", "seconds"), [(0.0, 61.0), (61.0, 0.0), (-600.0, 61.0)])
async def test_a_process_that_stood_still_sends_nothing_that_may_be_anothers_by_now(
    site: DeliverySite, clock_s: float, seconds: float
) -> None:
    item_id = await site.put()
    delivery = await site.deliverer(queue=StandingQueue(site, clock_s=clock_s, seconds=seconds)).deliver_next()
    assert delivery is not None
    assert isinstance(delivery.answer, Deferred)
    assert site.scripted.sent == []
    assert (await site.state(item_id))[:2] == ("pending", 0)


async def test_an_attempt_ends_before_its_lease_does_and_counts_as_one_whose_outcome_nobody_knows(
    site: DeliverySite,
) -> None:
    item_id = await site.put()
    site.scripted.gate.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(DEADLINE_S):
        delivery = await site.deliverer(lease_s=1.0, monotonic=loop.time).deliver_next()
    assert loop.time() - began < 1.0
    assert delivery is not None
    assert delivery.is_kept
    assert (await site.state(item_id))[:2] == ("pending", 1)


async def test_an_attempt_under_way_when_its_worker_is_stopped_ends_in_order(site: DeliverySite) -> None:
    item_id = await site.put()
    site.scripted.gate.clear()
    delivering = asyncio.create_task(site.deliverer().deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        delivering.cancel()
        site.scripted.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await delivering
    assert (await site.state(item_id))[:2] == ("success", 1)


async def test_an_attempt_that_outlasts_the_grace_counts_and_is_made_again_with_its_key(site: DeliverySite) -> None:
    item_id = await site.put()
    site.scripted.gate.clear()
    delivering = asyncio.create_task(site.deliverer(grace_s=0.0).deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
    assert (await site.state(item_id))[:2] == ("processing", 1)
    other = site.deliverer()
    assert await other.return_stuck() == []
    assert await other.deliver_next() is None
    site.advance(61)
    (stuck,) = await other.return_stuck()
    assert (stuck.id, stuck.is_given_up) == (item_id, False)
    site.scripted.gate.set()
    await other.deliver_next()
    assert (await site.state(item_id))[:2] == ("success", 2)
    assert len({item.idempotency_key for item in site.scripted.sent}) == 1


async def test_the_third_death_over_an_item_ends_it(site: DeliverySite) -> None:
    item_id = await site.put()
    with capture_logs() as logs:
        for _ in range(3):
            now = site.clock()
            assert await site.queue.claim(site.connection_id, now, now + timedelta(seconds=60)) is not None
            site.advance(61)
            await site.deliverer().return_stuck()
    assert (await site.state(item_id))[:2] == ("failed", 3)
    assert logs[-1]["event"] == "outbound_item_given_up"


async def test_an_answer_is_written_however_long_postgresql_is_away(
    site: DeliverySite, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    item_id = await site.put()
    proxy = await tcp_proxy(site.pool.url)
    pool = Database(proxy.url)
    await pool.open()
    site.scripted.gate.clear()
    delivering = asyncio.create_task(site.deliverer(queue=OutboundQueue(pool)).deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        await proxy.refuse()
        proxy.cut()
        with capture_logs() as logs:
            site.scripted.gate.set()
            await eventually(lambda: [entry for entry in logs if entry["event"] == "holding_on"])
            await proxy.accept()
            delivery = await delivering
    assert delivery is not None
    assert delivery.is_kept
    assert (await site.state(item_id))[:2] == ("success", 1)
    assert len(site.scripted.sent) == 1
    await pool.close()


async def test_an_answer_that_could_not_be_written_in_time_leaves_the_item_to_whoever_took_it(
    site: DeliverySite, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    item_id = await site.put()
    proxy = await tcp_proxy(site.pool.url)
    pool = Database(proxy.url)
    await pool.open()
    site.scripted.gate.clear()
    delivering = asyncio.create_task(site.deliverer(queue=OutboundQueue(pool)).deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        await proxy.refuse()
        proxy.cut()
        site.scripted.gate.set()
        await site.queue.return_stuck(site.clock() + timedelta(seconds=61))
        now = site.clock() + timedelta(seconds=62)
        assert await site.queue.claim(site.connection_id, now, now + timedelta(seconds=60)) is not None
        await proxy.accept()
        delivery = await delivering
    assert delivery is not None
    assert not delivery.is_kept
    assert (await site.state(item_id))[:2] == ("processing", 2)
    await pool.close()
