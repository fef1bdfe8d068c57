"""The outbound queue's pause through its real SQL: when it begins and ends, and the probes that it lets through."""

from __future__ import annotations

from datetime import datetime, timedelta

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import Claim
from postgres.outbound_items import OutboundItems

PROBE_EVERY = timedelta(minutes=1)


@pytest.fixture
def items(database: asyncpg.Connection, pool: Database, connection_ids: list[ConnectionId]) -> OutboundItems:
    return OutboundItems(database, pool, connection_ids[0])


async def pause(items: OutboundItems, reason: str = "HTTP 401") -> bool:
    return await items.queue.pause(items.connection_id, reason, items.now, items.now + PROBE_EVERY)


async def halted(items: OutboundItems) -> Claim:
    """Let a first item find the account refused."""
    claim = await items.take()
    await pause(items)
    await items.queue.put_off(claim, "HTTP 401", 401, items.now, until=None, is_counted=False)
    return claim


async def test_a_paused_queue_gives_nothing_out_until_a_probe_is_due_and_then_one(items: OutboundItems) -> None:
    await items.put()
    await items.put(number=2)
    await halted(items)
    items.advance(seconds=59.999)
    assert await items.claim() is None
    items.advance(seconds=0.001)
    probe = await items.take()
    assert probe.is_probe
    assert probe.attempts == 1
    assert await items.claim() is None
    items.advance(seconds=59.999)
    assert await items.claim() is None
    items.advance(seconds=0.001)  # the first probe's deliverer died
    second = await items.take()
    assert second.is_probe
    assert second.item.id != probe.item.id


async def test_a_pause_begins_once_and_keeps_its_beginning(items: OutboundItems) -> None:
    began_at = items.now
    assert await pause(items)
    assert not await pause(items)  # another deliverer, at the very same time
    items.advance(minutes=3)
    assert not await pause(items, "HTTP 403")
    measure = await items.queue.measure()
    assert (measure.paused_at, measure.paused_reason) == (began_at, "HTTP 403")
    assert await items.queue.resume(items.connection_id) == began_at
    assert await items.queue.resume(items.connection_id) is None
    assert (await items.queue.measure()).paused_at is None
    assert await pause(items)


async def test_a_resumed_queue_goes_on_with_all(items: OutboundItems) -> None:
    await items.put()
    await items.put(number=2)
    await halted(items)
    await items.queue.resume(items.connection_id)
    claims = [await items.take(), await items.take()]
    assert [claim.is_probe for claim in claims] == [False, False]


async def test_a_changed_connection_is_tried_at_once_and_once(items: OutboundItems) -> None:
    await items.put()
    await items.put(number=2)
    await halted(items)
    items.advance(seconds=5)
    await changed(items, items.now)
    probe = await items.take()
    assert probe.is_probe
    assert await items.claim() is None
    await pause(items)  # refused again
    await items.queue.put_off(probe, "HTTP 401", 401, items.now, until=None, is_counted=False)
    assert await items.claim() is None
    items.advance(seconds=5)
    await changed(items, items.now)
    assert (await items.take()).is_probe


async def test_a_connection_changed_by_a_clock_ahead_gives_one_probe_only(items: OutboundItems) -> None:
    await items.put()
    await items.put(number=2)
    await halted(items)
    await changed(items, items.now + timedelta(minutes=10))
    assert (await items.take()).is_probe
    items.advance(seconds=1)
    assert await items.claim() is None


async def changed(items: OutboundItems, at: datetime) -> None:
    await items.database.execute("UPDATE connections SET updated_at = $2 WHERE id = $1", items.connection_id, at)


async def test_the_pause_of_one_connection_is_none_of_anothers(
    items: OutboundItems, connection_ids: list[ConnectionId]
) -> None:
    await items.put()
    await items.queue.pause(connection_ids[1], "HTTP 401", items.now, items.now + PROBE_EVERY)
    assert not (await items.take()).is_probe


async def test_the_pause_of_a_disabled_connection_is_not_told(items: OutboundItems) -> None:
    await pause(items)
    await items.database.execute("UPDATE connections SET disabled_at = now() WHERE id = $1", items.connection_id)
    assert (await items.queue.measure()).paused_at is None


async def test_a_pause_without_anything_to_send_spends_no_probe(items: OutboundItems) -> None:
    await pause(items)
    items.advance(minutes=2)
    assert await items.claim() is None
    await items.put()
    assert (await items.take()).is_probe
