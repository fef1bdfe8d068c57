"""A refused account halts all deliverers: one alarm, one probe a minute, and what lets them go on."""

from __future__ import annotations

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import Answer, Deferred, Refused
from eventsync.postgres.database import Database
from stages.delivery_site import ACCEPTED, FAILED, HALTED, DeliverySite, ScriptedRegistry


@pytest.fixture
def site(pool: Database, database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> DeliverySite:
    return DeliverySite(pool, database, connection_ids[0])


async def test_a_refused_account_halts_every_deliverer_with_one_alarm_and_a_probe_resumes(site: DeliverySite) -> None:
    items = [await site.put(number) for number in (1, 2)]
    site.registry = ScriptedRegistry(HALTED, HALTED, ACCEPTED)
    deliverers = [site.deliverer(), site.deliverer()]
    with capture_logs() as logs:
        for _ in range(2):
            for deliverer in deliverers:
                await deliverer.deliver_next()
            assert await site.state(items[0]) == ("pending", 0, "the key is refused")
            site.advance(60)
        assert len(site.scripted.sent) == 2  # one a minute, whoever asks
        for deliverer in deliverers:
            while await deliverer.deliver_next():
                pass
    assert [entry["log_level"] for entry in logs if entry["event"] == "outbound_paused"] == ["error"]
    assert [entry["event"] for entry in logs].count("outbound_resumed") == 1
    assert await site.statuses() == ["success", "success"]
    assert (await site.row(items[0]))["attempts"] == 1


async def test_a_refused_probe_shows_that_the_account_works_again(site: DeliverySite) -> None:
    for number in (1, 2):
        await site.put(number)
    site.registry = ScriptedRegistry(HALTED, Refused("no such plan", 400), ACCEPTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    site.advance(60)
    while await deliverer.deliver_next():
        pass
    assert await site.statuses() == ["success", "failed"]  # the other item was the probe


@pytest.mark.parametrize("answer", [FAILED, Deferred("not now", None, 1.0)])
async def test_a_probe_that_tells_nothing_of_the_account_leaves_it_paused(site: DeliverySite, answer: Answer) -> None:
    for number in (1, 2):
        await site.put(number)
    site.registry = ScriptedRegistry(HALTED, answer, ACCEPTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    site.advance(60)
    assert await deliverer.deliver_next() is not None
    site.advance(2)
    assert await deliverer.deliver_next() is None
    assert (await site.queue.measure()).paused_at is not None
    site.advance(60)
    while await deliverer.deliver_next():
        pass
    assert (await site.queue.measure()).paused_at is None


async def test_a_changed_connection_is_tried_at_once_although_the_queue_is_paused(site: DeliverySite) -> None:
    await site.put()
    site.registry = ScriptedRegistry(HALTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    site.advance(1)
    assert await deliverer.deliver_next() is None
    await site.database.execute(
        "UPDATE connections SET updated_at = $2 WHERE id = $1", site.connection_id, site.clock()
    )
    site.registry = ScriptedRegistry()
    assert await deliverer.deliver_next() is not None
    assert await site.statuses() == ["success"]


async def test_an_item_that_alone_is_refused_leaves_the_next_probe_to_another(site: DeliverySite) -> None:
    refused, fine = await site.put(1), await site.put(2)
    site.registry = ScriptedRegistry(HALTED, ACCEPTED, HALTED, ACCEPTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    site.advance(61)
    await deliverer.deliver_next()
    assert [await site.state(item_id) for item_id in (refused, fine)] == [
        ("pending", 0, "the key is refused"),
        ("success", 1, None),
    ]
