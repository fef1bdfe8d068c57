"""The outbound queue's news on the bus: one wake-up for a burst, and none that anything depends on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.bus.memory import MemoryBus
from eventsync.bus.wire import Message, QueueName, decode
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database
from eventsync.stages.bus_link import BusLink
from eventsync.stages.wake import WakeRelay
from servers.eventually import eventually
from stages.delivery_site import DeliverySite
from stages.spine import DEADLINE_S, Spine, take


class CountingBus(MemoryBus):
    """Notes what is published; while `hangs`, no publish is confirmed."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Message] = []
        self.hangs = False

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        await super().publish(messages)
        self.published += messages


@pytest.fixture
def site(pool: Database, database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> DeliverySite:
    return DeliverySite(pool, database, connection_ids[0])


@pytest.fixture
def counted(spine: Spine) -> CountingBus:
    """A bus that counts, in the place of the spine's."""
    bus = CountingBus()
    spine.bus = bus
    spine.link = BusLink(bus, spine.queue)
    return bus


async def test_an_insert_puts_a_wake_up_without_any_data_on_the_bus(bus_spine: Spine, site: DeliverySite) -> None:
    await bus_spine.link.restore()
    async with bus_spine.running(WakeRelay(bus_spine.link, bus_spine.listener), bus_spine.listener):
        await eventually(lambda: bus_spine.listener.is_proven)
        subscription = await bus_spine.bus.subscribe(QueueName.DELIVER, 10)
        await site.put()
        (delivery,) = await take(subscription, 1)
        assert decode(delivery.body) == {"v": 1, "type": "outbound.due"}
        await subscription.close()


async def test_a_person_who_puts_an_item_back_wakes_the_deliverers(
    spine: Spine, counted: CountingBus, site: DeliverySite
) -> None:
    item_id = await site.put()
    await site.deliverer().deliver_next()
    async with spine.running(WakeRelay(spine.link, spine.listener), spine.listener):
        await eventually(lambda: spine.listener.is_proven and len(counted.published) >= 2)  # the start's own
        before = len(counted.published)
        await site.put_back(item_id)
        await eventually(lambda: len(counted.published) > before)


async def test_a_burst_of_inserts_makes_few_wake_ups(spine: Spine, counted: CountingBus, site: DeliverySite) -> None:
    async with spine.running(WakeRelay(spine.link, spine.listener), spine.listener):
        await eventually(lambda: spine.listener.is_proven and len(counted.published) >= 2)
        before = len(counted.published)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(200):
            await site.put(number)
        marker = spine.count("eventsync_notifications_total", channel="eventsync_outbound")
        assert marker > 0
        await eventually(lambda: spine.count("eventsync_notifications_total", channel="eventsync_outbound") >= 200)
        lasted_s = loop.time() - began
    assert 1 <= len(counted.published) - before <= 2 + lasted_s / 0.02


async def test_a_bus_that_does_not_confirm_is_left_after_the_timeout(spine: Spine, counted: CountingBus) -> None:
    counted.hangs = True
    relay = WakeRelay(spine.link, spine.listener, publish_timeout_s=0.05)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Transient, match="did not confirm"):
            await relay.run()


async def test_while_the_bus_is_away_news_are_dropped_with_one_word_and_its_return_is_told(
    spine: Spine, counted: CountingBus, site: DeliverySite
) -> None:
    relay = WakeRelay(spine.link, spine.listener, publish_timeout_s=0.02)
    counted.hangs = True
    with capture_logs() as logs:
        async with spine.running(relay, spine.listener):
            await eventually(lambda: spine.count("eventsync_worker_restarts_total", worker="relay:outbound") >= 3)
            await site.put()
            counted.hangs = False
            await eventually(lambda: counted.published)
    assert len([entry for entry in logs if entry["event"] == "worker_failed"]) == 1
