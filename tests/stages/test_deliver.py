"""One attempt of the deliverer: what becomes of its item, and that it stops no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import Accepted, Action, Refused
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.postgres.database import Database
from eventsync.stages.deliver import Delivery
from stages.delivery_site import ACCEPTED, FAILED, DeliverySite, ScriptedRegistry, organizations
from stages.spine import DEADLINE_S


@pytest.fixture
def site(pool: Database, database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> DeliverySite:
    return DeliverySite(pool, database, connection_ids[0])


async def test_an_accepted_item_succeeds_and_keeps_the_remote_id(site: DeliverySite) -> None:
    item_id = await site.put()
    delivery = await site.deliverer().deliver_next()
    assert delivery is not None
    assert delivery == Delivery(delivery.claim, ACCEPTED, is_kept=True)
    row = await site.row(item_id)
    assert (row["status"], row["attempts"], row["remote_org_id"]) == ("success", 1, "remote-1")
    assert [item.idempotency_key for item in site.scripted.sent] == [row["idempotency_key"]]
    assert site.count("accepted") == 1
    assert site.metrics.registry.get_sample_value("eventsync_outbound_delivery_seconds_count") == 1


async def test_without_anything_due_nothing_is_sent(site: DeliverySite) -> None:
    assert await site.deliverer().deliver_next() is None
    assert site.scripted.sent == []


async def test_without_a_connection_an_item_waits_untouched(site: DeliverySite) -> None:
    item_id = await site.put()
    site.registry = None
    assert await site.deliverer().deliver_next() is None
    assert await site.state(item_id) == ("pending", 0, None)


async def test_a_refused_item_fails_at_once_with_the_servers_words(site: DeliverySite) -> None:
    item_id = await site.put()
    site.registry = ScriptedRegistry(Refused("rfc: not a tax id", 422))
    with capture_logs() as logs:
        await site.deliverer().deliver_next()
    assert await site.state(item_id) == ("failed", 1, "rfc: not a tax id")
    assert "not a tax id" not in str(logs)
    assert logs[-1]["event"] == "outbound_attempt_refused"


async def test_three_failed_attempts_end_an_item_and_each_keeps_the_key_and_waits_longer(site: DeliverySite) -> None:
    item_id = await site.put()
    site.registry = ScriptedRegistry(FAILED)
    deliverer = site.deliverer()
    waits = []
    for attempt in (1, 2):
        delivery = await deliverer.deliver_next()
        assert delivery is not None
        assert delivery.next_try_at is not None
        assert await site.state(item_id) == ("pending", attempt, "it broke")
        waits.append((delivery.next_try_at - site.clock()).total_seconds())
        assert await deliverer.deliver_next() is None
        site.advance(waits[-1])
    assert 15 <= waits[0] <= 45
    assert 60 <= waits[1] <= 180
    delivery = await deliverer.deliver_next()
    assert delivery is not None
    assert delivery.next_try_at is None
    assert await site.state(item_id) == ("failed", 3, "it broke")
    site.advance(10_000)
    assert await deliverer.deliver_next() is None
    assert len({item.idempotency_key for item in site.scripted.sent}) == 1


async def test_a_failing_item_does_not_hold_up_those_behind_it(site: DeliverySite) -> None:
    items = [await site.put(number) for number in (1, 2, 3)]
    site.registry = ScriptedRegistry(FAILED, ACCEPTED)
    deliverer = site.deliverer()
    while await deliverer.deliver_next():
        pass
    assert organizations(site.scripted.sent) == [1, 2, 3]
    assert [(await site.state(item))[0] for item in items] == ["pending", "success", "success"]


async def test_a_person_who_puts_an_item_back_during_its_post_gets_another_attempt(site: DeliverySite) -> None:
    item_id = await site.put()
    site.scripted.gate.clear()
    deliverer = site.deliverer()
    delivering = asyncio.create_task(deliverer.deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        await site.put_back(item_id)
        site.scripted.gate.set()
        delivery = await delivering
    assert delivery is not None
    assert not delivery.is_kept
    assert (await site.state(item_id))[0] == "pending"
    assert site.count("lost") == 1
    await deliverer.deliver_next()
    assert (await site.state(item_id))[0] == "success"


@pytest.mark.parametrize("error", [ZeroDivisionError("Test Client 12"), KeyError("name")])
async def test_a_fault_of_ours_in_one_item_counts_for_it_and_stops_no_other(
    site: DeliverySite, error: Exception
) -> None:
    items = [await site.put(number) for number in range(5)]
    site.registry = ScriptedRegistry(*[error] * 4, ACCEPTED)
    deliverer = site.deliverer()
    with capture_logs() as logs:
        while await deliverer.deliver_next():
            pass
    assert await site.state(items[0]) == ("pending", 1, f"internal error ({type(error).__name__})")
    assert (await site.statuses())[4] == "success"
    (first, *_) = [entry for entry in logs if entry["event"] == "outbound_item_broke_off"]
    assert first["where"].startswith("stages.delivery_site:")
    assert "Test Client" not in str(logs)


@pytest.mark.parametrize("error", [Transient("the ledger is away"), Misconfigured("PostgreSQL refuses us")])
async def test_an_attempt_for_which_the_budget_cannot_be_asked_does_not_count(
    site: DeliverySite, error: Exception
) -> None:
    item_id = await site.put()
    site.registry = ScriptedRegistry(error)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    assert await site.state(item_id) == ("pending", 0, str(error))
    assert deliverer.resting_s == 1.0


async def test_words_that_postgresql_cannot_hold_do_not_let_an_item_be_sent_again(site: DeliverySite) -> None:
    items = [await site.put(number) for number in (1, 2)]
    site.registry = ScriptedRegistry(Accepted("a\0b\ud800", 200), Refused("no\0\udfff" + "x" * 5000, 400))
    deliverer = site.deliverer()
    while await deliverer.deliver_next():
        pass
    assert await site.statuses() == ["success", "failed"]
    assert (await site.row(items[0]))["remote_org_id"] == "ab?"
    assert ((await site.state(items[1]))[2] or "").startswith("no?xxx")


async def test_an_update_waits_for_its_register_and_carries_the_updates_before_it(site: DeliverySite) -> None:
    await site.put(1)
    await site.put(1, Action.UPDATE, {"organization_name": "Test Practice 1b"})
    await site.put(1, Action.UPDATE, {"organization_name": "Test Practice 1c"})
    site.registry = ScriptedRegistry(FAILED, ACCEPTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    assert await deliverer.deliver_next() is None  # the update waits for its register
    site.advance(60)
    deliveries = [delivery async for delivery in all_of(deliverer.deliver_next)]
    assert [delivery.claim.item.action for delivery in deliveries] == [Action.REGISTER, Action.UPDATE]
    assert len(deliveries[1].claim.superseded) == 1
    assert await site.statuses() == ["success"] * 3


async def all_of(deliver_next: Callable[[], Awaitable[Delivery | None]]) -> Any:
    while (delivery := await deliver_next()) is not None:
        yield delivery
