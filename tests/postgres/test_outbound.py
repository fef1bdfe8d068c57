"""The outbound queue through its real SQL: what is claimed and when, how attempts end, what is told of what waits."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import MAX_ATTEMPTS, Action, ItemStatus
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import Preview
from postgres.outbound_items import LEASE, OutboundItems, organization


@pytest.fixture
def items(database: asyncpg.Connection, pool: Database, connection_ids: list[ConnectionId]) -> OutboundItems:
    return OutboundItems(database, pool, connection_ids[0])


async def previewed(items: OutboundItems, at_most: int = 10) -> list[Preview]:
    return await items.queue.preview(at_most)


async def test_a_claim_holds_what_is_to_be_sent_and_counts_the_attempt_before_it_is_made(items: OutboundItems) -> None:
    item_id = await items.put()
    claim = await items.take(item_id)
    row = await items.row(item_id)
    assert (row["status"], row["attempts"], row["last_attempt_at"]) == ("processing", 1, items.now)
    assert (row["leased_until"], row["claim_id"]) == (items.now + LEASE, claim.claim_id)
    item = claim.item
    assert (item.entity_type, item.ecosystem_org_id, item.action) == ("practice", organization(1), Action.REGISTER)
    assert (item.payload, item.idempotency_key) == ({"organization_name": "Test Practice 1"}, row["idempotency_key"])
    assert (claim.attempts, claim.claimed_at, claim.is_probe, claim.superseded) == (1, items.now, False, ())
    assert await items.claim() is None


async def test_an_accepted_item_ends_with_the_remote_id_and_answers_when_it_was_made(items: OutboundItems) -> None:
    item_id = await items.put()
    claim = await items.take()
    items.advance(seconds=2)
    created_at = await items.queue.succeed(claim, "remote-7", 201, items.now)
    row = await items.row(item_id)
    assert created_at == row["created_at"]
    assert (row["status"], row["processed_at"], row["remote_org_id"]) == ("success", items.now, "remote-7")
    assert (row["claim_id"], row["leased_until"], row["error_message"]) == (None, None, None)
    assert await items.attempts(item_id) == [
        {
            "attempt": 1,
            "is_counted": True,
            "started_at": claim.claimed_at,
            "ended_at": items.now,
            "http_status": 201,
            "error": None,
        }
    ]


async def test_an_answer_without_an_id_keeps_the_one_that_is_known(items: OutboundItems) -> None:
    item_id = await items.put(remote_org_id="remote-5")
    await items.queue.succeed(await items.take(), None, 409, items.now)
    assert (await items.row(item_id))["remote_org_id"] == "remote-5"


async def test_a_refused_item_fails_with_the_words_that_the_other_side_gave(items: OutboundItems) -> None:
    item_id = await items.put()
    assert await items.queue.fail(await items.take(), "rfc is malformed", 422, items.now)
    row = await items.row(item_id)
    assert (row["status"], row["error_message"], row["processed_at"]) == ("failed", "rfc is malformed", items.now)
    assert [(each["http_status"], each["error"]) for each in await items.attempts(item_id)] == [
        (422, "rfc is malformed")
    ]


async def test_each_attempts_error_is_kept_and_none_begins_before_its_time(items: OutboundItems) -> None:
    item_id = await items.put()
    for number in (1, 2):
        claim = await items.take(item_id)
        assert await items.try_later(claim, 30 * number)
        assert (await items.row(item_id))["error_message"] == "HTTP 503"
        items.advance(seconds=30 * number - 0.001)
        assert await items.claim() is None
        items.advance(seconds=0.001)
    claim = await items.take(item_id)
    assert claim.attempts == MAX_ATTEMPTS
    await items.accept(claim)
    kept = [(each["attempt"], each["is_counted"], each["error"]) for each in await items.attempts(item_id)]
    assert kept == [(1, True, "HTTP 503"), (2, True, "HTTP 503"), (3, True, None)]


async def test_an_end_that_was_written_unheard_is_answered_alike_and_written_once(items: OutboundItems) -> None:
    item_id = await items.put()
    claim = await items.take()
    created_at = await items.queue.succeed(claim, "remote-7", 201, items.now)
    items.advance(seconds=2)
    assert await items.queue.succeed(claim, "remote-7", 201, items.now) == created_at
    row = await items.row(item_id)
    assert (row["status"], row["processed_at"]) == ("success", items.now - timedelta(seconds=2))
    assert len(await items.attempts(item_id)) == 1


async def test_a_retry_keeps_the_idempotency_key(items: OutboundItems) -> None:
    await items.put()
    first = await items.take()
    await items.try_later(first)
    items.advance(seconds=30)
    assert (await items.take()).item.idempotency_key == first.item.idempotency_key


@pytest.mark.parametrize("earlier", range(MAX_ATTEMPTS))
async def test_an_attempt_that_nobody_looked_at_is_taken_back(items: OutboundItems, earlier: int) -> None:
    item_id = await items.put(attempts=earlier)
    claim = await items.take()
    assert claim.attempts == earlier + 1
    assert await items.queue.put_off(claim, "HTTP 429", 429, items.now, until=None, is_counted=False)
    row = await items.row(item_id)
    assert (row["status"], row["attempts"], row["error_message"]) == ("pending", earlier, "HTTP 429")
    assert [(each["attempt"], each["is_counted"]) for each in await items.attempts(item_id)] == [(earlier + 1, False)]
    assert (await items.take(item_id)).attempts == earlier + 1


async def test_a_dead_deliverers_attempt_counts_and_the_next_has_the_same_key(items: OutboundItems) -> None:
    item_id = await items.put()
    first = await items.take()
    items.advance(seconds=60)
    assert await items.queue.return_stuck(items.now) == []  # the lease has not run out yet
    items.advance(seconds=0.001)
    (stuck,) = await items.queue.return_stuck(items.now)
    assert (stuck.id, stuck.attempts, stuck.is_given_up) == (item_id, 1, False)
    assert [(each["attempt"], each["is_counted"]) for each in await items.attempts(item_id)] == [(1, True)]
    assert not await items.accept(first)
    second = await items.take(item_id)
    assert (second.attempts, second.item.idempotency_key) == (2, first.item.idempotency_key)


async def test_the_third_death_ends_an_item_and_says_what_to_do(items: OutboundItems) -> None:
    item_id = await items.put()
    given_up = []
    for _ in range(MAX_ATTEMPTS):
        await items.take(item_id)
        items.advance(seconds=61)
        given_up += [stuck.is_given_up for stuck in await items.queue.return_stuck(items.now)]
    assert given_up == [False, False, True]
    row = await items.row(item_id)
    assert (row["status"], row["attempts"], row["processed_at"]) == ("failed", MAX_ATTEMPTS, items.now)
    assert "put the item back to pending" in row["error_message"]
    assert len(await items.attempts(item_id)) == MAX_ATTEMPTS
    assert await items.claim() is None


async def test_only_what_is_stuck_is_returned_and_only_once(items: OutboundItems) -> None:
    await items.put()
    await items.take()
    items.advance(seconds=61)
    await items.put(number=2)
    lives = await items.take()
    assert len(await items.queue.return_stuck(items.now)) == 1
    assert await items.queue.return_stuck(items.now) == []
    assert await items.accept(lives)


@pytest.mark.parametrize("written", ["last_attempt_at = now()", "last_attempt_at = NULL", "attempts = 1"])
async def test_another_programs_item_is_left_to_it_for_ten_minutes(items: OutboundItems, written: str) -> None:
    item_id = await items.put(
        created_at=items.now - timedelta(days=3), last_attempt_at=items.now - timedelta(days=2), attempts=1
    )
    sql = f"UPDATE ecosystem_sync_queue SET status = 'processing', {written} WHERE id = $1"  # noqa: S608  # ours
    await items.database.execute(sql, item_id)
    items.advance(minutes=9)
    assert await items.queue.return_stuck(items.now) == []
    items.advance(minutes=1)
    assert [stuck.id for stuck in await items.queue.return_stuck(items.now)] == [item_id]
    assert await items.status(item_id) == "pending"


@pytest.mark.parametrize("minutes", [9, 11])
async def test_another_programs_item_is_taken_back_ten_minutes_after_the_time_that_it_wrote_down(
    items: OutboundItems, minutes: int
) -> None:
    item_id = await items.put()
    sql = "UPDATE ecosystem_sync_queue SET status = 'processing', last_attempt_at = $2 WHERE id = $1"
    await items.database.execute(sql, item_id, items.now - timedelta(minutes=minutes))
    assert len(await items.queue.return_stuck(items.now)) == (minutes > 10)


@pytest.mark.parametrize("last_attempt_at", [None, -11])
async def test_a_row_that_came_as_stuck_is_taken_back(items: OutboundItems, last_attempt_at: int | None) -> None:
    ago = items.now - timedelta(minutes=11)
    at = None if last_attempt_at is None else ago
    item_id = await items.put(status="processing", attempts=1, last_attempt_at=at, created_at=ago)
    assert [stuck.id for stuck in await items.queue.return_stuck(items.now)] == [item_id]
    assert (await items.row(item_id))["attempts"] == 1


async def test_what_has_been_due_longest_goes_first(items: OutboundItems) -> None:
    late, early = [
        await items.put(number=number, created_at=items.now - timedelta(minutes=minutes))
        for number, minutes in ((1, 5), (2, 9))
    ]
    waited = await items.put(number=3, available_at=items.now - timedelta(minutes=7))
    assert [(await items.take()).item.id for _ in range(3)] == [early, waited, late]


async def test_an_item_made_by_a_clock_ahead_of_the_deliverers_is_due(items: OutboundItems) -> None:
    items.now -= timedelta(minutes=5)
    item_id = await items.put()
    claim = await items.take(item_id)
    assert claim.claimed_at == items.now


async def test_an_item_that_waits_for_its_retry_waits_by_the_deliverers_clock(items: OutboundItems) -> None:
    items.now -= timedelta(minutes=5)
    await items.put()
    await items.try_later(await items.take(), 30)  # which is over by the database's clock
    assert await items.claim() is None
    items.advance(seconds=30)
    assert await items.claim() is not None


async def test_an_item_that_is_made_for_later_waits_until_then(items: OutboundItems) -> None:
    await items.put(created_at=items.now + timedelta(hours=1))
    assert await items.claim() is None
    assert await items.queue.next_due(items.now) == items.now + timedelta(hours=1)
    items.advance(hours=1)
    assert await items.claim() is not None


async def test_nothing_is_claimed_for_a_connection_that_is_disabled_or_gone(items: OutboundItems) -> None:
    await items.put()
    await items.database.execute("UPDATE connections SET disabled_at = now() WHERE id = $1", items.connection_id)
    assert await items.claim() is None
    assert await items.queue.claim(ConnectionId(uuid4()), items.now, items.now + LEASE) is None
    await items.database.execute("UPDATE connections SET disabled_at = NULL WHERE id = $1", items.connection_id)
    assert await items.claim() is not None


async def test_the_measure_counts_what_is_unfinished_and_what_failed(items: OutboundItems) -> None:
    empty = await items.queue.measure()
    assert dict(empty.counts) == {ItemStatus.PENDING: 0, ItemStatus.PROCESSING: 0, ItemStatus.FAILED: 0}
    assert empty.waiting_since is None
    oldest = await items.put(number=1)
    for number in (2, 3, 4):
        await items.put(number=number)
    await items.refuse(await items.take(oldest))
    await items.accept(await items.take())
    third = await items.take()
    measure = await items.queue.measure()
    assert dict(measure.counts) == {ItemStatus.PENDING: 1, ItemStatus.PROCESSING: 1, ItemStatus.FAILED: 1}
    assert measure.waiting_since == (await items.row(third.item.id))["waiting_since"]


async def test_news_has_been_waiting_since_the_first_item_that_brought_it(items: OutboundItems) -> None:
    first = await items.put("update")
    await items.try_later(await items.take(first))
    since = (await items.row(first))["waiting_since"]
    second = await items.put("update")
    items.advance(seconds=30)
    claim = await items.take(second)
    assert (await items.queue.measure()).waiting_since == since
    await items.try_later(claim)
    assert (await items.queue.measure()).waiting_since == since


async def test_the_next_time_to_look_is_a_retrys_or_the_end_of_a_lease(items: OutboundItems) -> None:
    assert await items.queue.next_due(items.now) is None
    await items.put()
    assert await items.queue.next_due(items.now) is None  # it is due, and was rung for
    await items.try_later(await items.take(), 300)
    assert await items.queue.next_due(items.now) == items.now + timedelta(seconds=300)
    await items.put(number=2)
    await items.take()
    assert await items.queue.next_due(items.now) == items.now + LEASE


async def test_the_preview_shows_what_would_be_sent_in_that_order_and_claims_nothing(items: OutboundItems) -> None:
    waits = await items.put(number=1)
    await items.try_later(await items.take(waits), 300)
    for action in ("update", "deactivate"):
        await items.put(action, 1)
    await items.put("update", 2)
    last = await items.put("update", 2)
    await items.put("deactivate", 2)
    on_its_way = await items.put(number=3, created_at=items.now - timedelta(hours=1))
    await items.take(on_its_way)
    await items.put("update", 3)
    shown = await previewed(items)
    assert [(each.item.id, each.behind, each.attempts) for each in shown] == [(last, 1, 0), (waits, 2, 1)]
    assert [each.available_at for each in shown] == [None, items.now + timedelta(seconds=300)]
    assert [each.item.id for each in await previewed(items, 1)] == [last]
    assert (await items.take()).item.id == last


async def test_the_preview_leaves_out_what_tells_less_than_was_accepted_since(items: OutboundItems) -> None:
    old = await items.put()
    await items.refuse(await items.take(old))
    await items.put("update")
    await items.accept(await items.take())
    await items.retry(old)
    assert await previewed(items) == []
    new = await items.put("update")
    assert [(each.item.id, each.behind) for each in await previewed(items)] == [(new, 0)]


@pytest.mark.parametrize("unreadable", ["1e400", "[" * 2000 + "]" * 2000])
async def test_an_item_that_cannot_be_read_fails_alone_and_is_not_sent(items: OutboundItems, unreadable: str) -> None:
    item_id = await items.put(payload=f'{{"total_bookings": {unreadable}}}')
    other = await items.put(number=2)
    assert [each.item.id for each in await previewed(items)] == [other]
    await items.take(other)
    row = await items.row(item_id)
    assert row["status"] == "failed"
    assert "correct it" in row["error_message"]


async def test_a_deleted_item_ends_for_nothing(items: OutboundItems) -> None:
    item_id = await items.put()
    claim = await items.take()
    await items.database.execute("DELETE FROM ecosystem_sync_queue WHERE id = $1", item_id)
    assert await items.queue.succeed(claim, None, 200, items.now) is None
    assert not await items.refuse(claim)
    assert not await items.try_later(claim)
    assert await items.database.fetchval("SELECT count(*) FROM ecosystem_sync_attempts") == 0


async def test_what_was_tried_of_a_deleted_item_goes_with_it(items: OutboundItems) -> None:
    item_id = await items.put()
    await items.accept(await items.take())
    await items.database.execute("DELETE FROM ecosystem_sync_queue WHERE id = $1", item_id)
    assert await items.attempts(item_id) == []
