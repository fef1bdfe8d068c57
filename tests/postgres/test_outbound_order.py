"""The order of one organization's items: kept whatever happens, so that the other side ends with its last news."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import Action, ItemId
from eventsync.postgres.database import Database
from postgres.outbound_items import BACKOFF_S, LEASE, OutboundItems


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
    until = items.now + timedelta(seconds=100)  # by an attempt that nobody looked at
    await items.queue.put_off(await items.take(second), "HTTP 429", 429, items.now, until=until, is_counted=False)
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


async def fail_unheard(items: OutboundItems) -> None:
    """Let the third attempt end without an answer: what was sent may have arrived."""
    claim = await items.take()
    assert await items.queue.fail(claim, "HTTP 503", 503, items.now, may_have_arrived=True)


async def test_an_older_item_put_back_is_never_sent_after_a_later_one_that_may_have_arrived(
    items: OutboundItems,
) -> None:
    old = await items.put()
    await items.refuse(await items.take(old))
    new = await items.put("update")
    await items.try_later(await items.take(new))
    await items.retry(old)
    assert await items.claim() is None
    assert (await items.row(old))["superseded_by"] == new
    items.advance(seconds=BACKOFF_S)
    assert (await items.take(new)).item.action == Action.REGISTER


async def test_of_two_failures_put_back_the_later_goes_where_it_may_have_arrived(items: OutboundItems) -> None:
    old, new = await items.put(), await items.put("deactivate")
    await fail_unheard(items)
    await fail_unheard(items)
    await items.retry(old)
    await items.retry(new)
    await items.accept(await items.take(new))
    assert (await items.row(old))["superseded_by"] == new
    assert await items.claim() is None


async def test_a_later_failure_that_may_have_arrived_goes_in_the_place_of_an_older_one_put_back(
    items: OutboundItems,
) -> None:
    old, new = await items.put(), await items.put("deactivate")
    await fail_unheard(items)
    await fail_unheard(items)
    await items.retry(old)
    claim = await items.take(new)
    assert claim.attempts == 1
    assert (await items.row(old))["superseded_by"] == new


async def test_a_dead_deliverers_item_may_have_arrived(items: OutboundItems) -> None:
    old = await items.put()
    await items.refuse(await items.take(old))
    new = await items.put("update")
    await items.take(new)
    items.advance(seconds=LEASE.total_seconds() + 1)
    await items.queue.return_stuck(items.now)
    await items.retry(old)
    await items.take(new)
    assert (await items.row(old))["superseded_by"] == new


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
