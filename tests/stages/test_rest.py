"""How long a deliverer rests: after an answer that asks it to wait, and while nothing is taken at the other side."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import Deferred, Failed, Refused
from eventsync.postgres.database import Database
from eventsync.stages.rest import Rest
from stages.delivery_site import ACCEPTED, FAILED, HALTED, DeliverySite, ManualSeconds, ScriptedRegistry


@pytest.fixture
def site(pool: Database, database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> DeliverySite:
    return DeliverySite(pool, database, connection_ids[0])


@pytest.mark.parametrize("retry_after_s", [None, 90.0])
async def test_a_deferred_attempt_does_not_count_and_the_others_wait_along(
    site: DeliverySite, retry_after_s: float | None
) -> None:
    items = [await site.put(number) for number in (1, 2)]
    site.registry = ScriptedRegistry(Deferred("not now", 429, retry_after_s), ACCEPTED)
    deliverer = site.deliverer()
    delivery = await deliverer.deliver_next()
    wait_s = retry_after_s or 1.0
    assert delivery is not None
    assert delivery.next_try_at == site.clock() + timedelta(seconds=wait_s)
    assert await site.state(items[0]) == ("pending", 0, "not now")
    site.advance(wait_s - 0.5)
    assert deliverer.resting_s == 0.5
    assert await deliverer.deliver_next() is None
    site.advance(0.5)
    while await deliverer.deliver_next():
        pass
    assert await site.statuses() == ["success", "success"]
    assert (await site.row(items[0]))["attempts"] == 1


async def test_a_failure_that_names_a_wait_keeps_the_whole_deliverer_waiting(site: DeliverySite) -> None:
    items = [await site.put(number) for number in (1, 2)]
    site.registry = ScriptedRegistry(Failed("busy", 503, retry_after_s=120), ACCEPTED)
    deliverer = site.deliverer()
    delivery = await deliverer.deliver_next()
    assert delivery is not None
    assert delivery.next_try_at is not None
    assert delivery.next_try_at >= site.clock() + timedelta(seconds=120)
    assert (await site.state(items[0]))[1] == 1
    site.advance(119)
    assert await deliverer.deliver_next() is None
    site.advance(1)
    assert await deliverer.deliver_next() is not None


async def test_an_outage_at_the_other_side_does_not_burn_every_items_attempts(site: DeliverySite) -> None:
    for number in range(20):
        await site.put(number)
    site.registry = ScriptedRegistry(FAILED)
    deliverer = site.deliverer()
    for _ in range(600):  # ten minutes
        await deliverer.deliver_next()
        site.advance(1)
    assert 3 <= len(site.scripted.sent) <= 8
    assert "failed" not in await site.statuses()


async def test_a_changed_connection_ends_the_rest(site: DeliverySite) -> None:
    await site.put()
    site.registry = ScriptedRegistry(Deferred("cannot connect", None, 3600.0))
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    assert deliverer.resting_s == 3600
    site.registry = ScriptedRegistry()
    assert await deliverer.deliver_next() is not None
    assert await site.statuses() == ["success"]


def test_what_is_unreachable_is_tried_seldomer_and_seldomer_until_it_answers() -> None:
    seconds = ManualSeconds()
    rest = Rest(seconds)
    waits = []
    for _ in range(8):
        rest.note(Deferred("cannot connect"))
        waits.append(rest.left_s)
        seconds.now_s += rest.left_s
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    rest.note(FAILED)
    assert rest.left_s == 0
    rest.note(Deferred("cannot connect"))
    assert rest.left_s == 1


def test_failures_in_a_row_let_the_queue_rest_longer_and_longer_until_something_is_taken() -> None:
    seconds = ManualSeconds()
    rest = Rest(seconds)
    waits = []
    for _ in range(8):
        rest.note(FAILED)
        waits.append(rest.left_s)
        seconds.now_s += rest.left_s
    assert waits == [0, 0, 30, 60, 120, 240, 300, 300]
    rest.note(Refused("no", 400))
    rest.note(FAILED)
    assert rest.left_s == 0


def test_what_halts_the_queue_lets_no_single_deliverer_rest() -> None:
    rest = Rest(ManualSeconds())
    rest.note(HALTED)
    assert rest.left_s == 0


@pytest.mark.parametrize("wait_s", [7, 7.5])
def test_a_stated_wait_is_kept_to_the_second(wait_s: float) -> None:
    seconds = ManualSeconds()
    rest = Rest(seconds)
    rest.note(Deferred("limit", 429, wait_s))
    assert rest.left_s == wait_s
    seconds.now_s += wait_s
    assert rest.left_s == 0


async def test_an_item_that_alone_is_put_off_does_not_hold_the_others_up(site: DeliverySite) -> None:
    put_off, fine = await site.put(1), await site.put(2)
    site.registry = ScriptedRegistry(Deferred("not now", 429, 40.0), ACCEPTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    site.advance(41)
    await deliverer.deliver_next()
    assert [(await site.state(item_id))[0] for item_id in (put_off, fine)] == ["pending", "success"]
