"""What operators do by SQL, as seed 000 tells them to, takes effect like eventsync's own doing.

Also: what wakes the deliverers, and what becomes of a queue that was there before eventsync.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import MAX_ATTEMPTS, ItemId
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Channel
from eventsync.postgres.migrations import migrate
from postgres.outbound_items import LIST_FAILED, LIST_PENDING, RESET_STUCK, OutboundItems, organization

_PLENURAS_OWN = """
CREATE TABLE ecosystem_sync_queue (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    entity_type TEXT NOT NULL CHECK (entity_type IN ('practice', 'therapist')),
    entity_id UUID NOT NULL,
    ecosystem_org_id TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('register', 'update', 'deactivate')),
    payload JSONB NOT NULL,
    status TEXT DEFAULT 'pending' CHECK (status IN ('pending', 'processing', 'success', 'failed')),
    attempts INTEGER DEFAULT 0,
    last_attempt_at TIMESTAMPTZ,
    error_message TEXT,
    created_at TIMESTAMPTZ DEFAULT NOW(),
    processed_at TIMESTAMPTZ
);
CREATE INDEX idx_ecosystem_sync_queue_status ON ecosystem_sync_queue (status, created_at);
CREATE INDEX idx_ecosystem_sync_queue_entity ON ecosystem_sync_queue (entity_type, entity_id);
"""


@pytest.fixture
def items(database: asyncpg.Connection, pool: Database, connection_ids: list[ConnectionId]) -> OutboundItems:
    return OutboundItems(database, pool, connection_ids[0])


class Bell:
    """Hears the outbound channel on a connection of its own."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._heard = 0

    def ring(self, *_: object) -> None:
        self._heard += 1

    async def rings(self) -> int:
        """Count the rings since it was last asked: all that was committed before has arrived, in order."""
        end = asyncio.Event()

        def heard_end(*_: object) -> None:
            end.set()

        await self._connection.add_listener("test_end", heard_end)
        await self._connection.execute("NOTIFY test_end")
        async with asyncio.timeout(10):
            await end.wait()
        await self._connection.remove_listener("test_end", heard_end)
        heard, self._heard = self._heard, 0
        return heard


@pytest.fixture
async def bell(database_url: str) -> AsyncIterator[Bell]:
    connection = await asyncpg.connect(database_url, timeout=10)
    bell = Bell(connection)
    await connection.add_listener(Channel.OUTBOUND, bell.ring)
    yield bell
    await connection.close(timeout=10)


async def failed(items: OutboundItems) -> ItemId:
    """Put in an item whose three attempts have failed."""
    item_id = await items.put()
    for _ in range(MAX_ATTEMPTS - 1):
        await items.try_later(await items.take(item_id), 0.0)
    assert await items.refuse(await items.take(item_id))
    return item_id


async def test_the_monitoring_queries_show_what_waits_and_what_failed(items: OutboundItems) -> None:
    failed_id = await failed(items)
    for number, minutes in ((2, 1), (3, 9)):
        await items.put(number=number, created_at=items.now - timedelta(minutes=minutes))
    pending = await items.database.fetch(LIST_PENDING)
    assert [row["ecosystem_org_id"] for row in pending] == [organization(3), organization(2)]
    assert [row["id"] for row in await items.database.fetch(LIST_FAILED)] == [failed_id]


async def test_a_manual_retry_begins_anew_at_once_under_another_key(items: OutboundItems) -> None:
    item_id = await failed(items)
    before = await items.row(item_id)
    await items.retry(item_id)
    row = await items.row(item_id)
    assert (row["status"], row["attempts"], row["processed_at"], row["available_at"]) == ("pending", 0, None, None)
    assert row["waiting_since"] > before["waiting_since"]
    for attempt in range(1, MAX_ATTEMPTS + 1):
        claim = await items.take(item_id)
        assert claim.attempts == attempt
        assert claim.item.idempotency_key == row["idempotency_key"] != before["idempotency_key"]
        await items.try_later(claim, 0.0)


async def test_a_manual_retry_that_forgets_the_attempts_leaves_one(items: OutboundItems) -> None:
    item_id = await failed(items)
    await items.database.execute("UPDATE ecosystem_sync_queue SET status = 'pending' WHERE id = $1", item_id)
    assert (await items.take(item_id)).attempts == MAX_ATTEMPTS


async def test_a_manual_retry_ends_the_wait_for_the_next_attempt_and_keeps_the_key(items: OutboundItems) -> None:
    item_id = await items.put()
    first = await items.take()
    await items.try_later(first, 3600)
    await items.retry(item_id)
    second = await items.take(item_id)
    assert (second.attempts, second.item.idempotency_key) == (1, first.item.idempotency_key)


async def test_the_reset_of_a_stuck_item_keeps_the_key_and_ends_the_claim(items: OutboundItems) -> None:
    item_id = await items.put()
    items.now -= timedelta(minutes=11)
    first = await items.take()
    await items.database.execute(RESET_STUCK)
    row = await items.row(item_id)
    assert (row["status"], row["claim_id"], row["leased_until"], row["attempts"]) == ("pending", None, None, 1)
    second = await items.take(item_id)
    assert (second.attempts, second.item.idempotency_key) == (2, first.item.idempotency_key)


async def test_the_reset_leaves_an_attempt_that_goes_on_alone(items: OutboundItems) -> None:
    await items.put()
    claim = await items.take()
    await items.database.execute(RESET_STUCK)
    assert await items.accept(claim)


async def test_the_reset_of_an_item_at_its_last_attempt_leaves_it_one(items: OutboundItems) -> None:
    item_id = await items.put(attempts=2)
    items.now -= timedelta(minutes=11)
    await items.take()
    await items.database.execute(RESET_STUCK)
    assert (await items.take(item_id)).attempts == MAX_ATTEMPTS


async def test_an_edited_payload_goes_out_at_once_under_another_key(items: OutboundItems) -> None:
    item_id = await items.put()
    first = await items.take()
    await items.try_later(first, 3600)
    await edit(items, item_id)
    second = await items.take(item_id)
    assert second.item.payload == {"organization_name": "Edited"}
    assert second.item.idempotency_key != first.item.idempotency_key


async def edit(items: OutboundItems, item_id: UUID) -> None:
    sql = """UPDATE ecosystem_sync_queue SET payload = '{"organization_name": "Edited"}' WHERE id = $1"""
    await items.database.execute(sql, item_id)


async def test_a_payload_edited_while_the_old_one_is_on_its_way_is_sent_as_well(items: OutboundItems) -> None:
    item_id = await items.put()
    first = await items.take()
    await edit(items, item_id)
    assert await items.status(item_id) == "pending"
    assert not await items.accept(first)
    second = await items.take(item_id)
    assert second.item.payload == {"organization_name": "Edited"}
    assert second.item.idempotency_key != first.item.idempotency_key
    assert await items.accept(second)


async def test_an_edit_of_what_has_ended_sends_nothing(items: OutboundItems) -> None:
    item_id = await items.put()
    await items.accept(await items.take())
    await edit(items, item_id)
    assert await items.status(item_id) == "success"
    assert await items.claim() is None


async def test_a_time_that_a_person_sets_is_kept(items: OutboundItems) -> None:
    item_id = await items.put()
    at = items.now + timedelta(hours=1)
    await items.database.execute("UPDATE ecosystem_sync_queue SET available_at = $2 WHERE id = $1", item_id, at)
    assert await items.claim() is None
    items.advance(hours=1)
    assert await items.claim() is not None


async def test_an_item_that_a_person_ends_by_hand_is_not_sent(items: OutboundItems) -> None:
    done, given_up = await items.put(), await items.put(number=2)
    await items.try_later(await items.take(done), 60)
    claim = await items.take(given_up)
    sql = "UPDATE ecosystem_sync_queue SET status = $2 WHERE id = $1"
    await items.database.execute(sql, done, "success")
    await items.database.execute(sql, given_up, "failed")
    items.advance(hours=1)
    assert await items.claim() is None
    assert not await items.accept(claim)
    row = await items.row(given_up)
    assert (row["status"], row["claim_id"], row["leased_until"]) == ("failed", None, None)


async def test_an_accepted_item_that_is_put_back_is_sent_again_under_another_key(items: OutboundItems) -> None:
    item_id = await items.put()
    first = await items.take()
    await items.accept(first)
    await items.retry(item_id)
    second = await items.take(item_id)
    assert second.item.idempotency_key != first.item.idempotency_key


@pytest.mark.parametrize("moved", [0, 1])
async def test_an_item_moved_to_another_organization_is_held_up_by_none_of_the_old(
    items: OutboundItems, moved: int
) -> None:
    both = first, behind = await items.put(), await items.put("update")
    await items.try_later(await items.take(first), 3600)
    assert await items.claim() is None  # and the second is held back
    sql = "UPDATE ecosystem_sync_queue SET ecosystem_org_id = $2 WHERE id = $1"
    await items.database.execute(sql, both[moved], organization(2))
    await items.take(behind) if moved else await items.accept(await items.take())
    assert (await items.claim() is None) is bool(moved)


async def test_it_rings_for_what_is_due_and_for_nothing_else(items: OutboundItems, bell: Bell) -> None:
    item_id = await items.put()
    assert await bell.rings() == 1
    claim = await items.take()
    assert await bell.rings() == 0
    await items.try_later(claim, 30)
    assert await bell.rings() == 0
    await items.retry(item_id)
    assert await bell.rings() == 1
    await items.retry(item_id)  # it is due already
    assert await bell.rings() == 0
    await items.refuse(await items.take())
    assert await bell.rings() == 0
    await items.retry(item_id)
    assert await bell.rings() == 1
    items.now -= timedelta(minutes=11)
    await items.queue.claim(items.connection_id, items.now + timedelta(minutes=11), items.now)
    await items.database.execute("UPDATE ecosystem_sync_queue SET last_attempt_at = now() - interval '11 minutes'")
    assert await bell.rings() == 0
    await items.database.execute(RESET_STUCK)
    assert await bell.rings() == 1
    items.advance(minutes=11)
    await items.accept(await items.take())
    assert await bell.rings() == 0


async def test_it_rings_for_what_a_dead_deliverer_left(items: OutboundItems, bell: Bell) -> None:
    await items.put()
    await items.take()
    await bell.rings()
    items.advance(seconds=61)
    await items.queue.return_stuck(items.now)
    assert await bell.rings() == 1


async def test_it_rings_for_who_was_held_up(items: OutboundItems, bell: Bell) -> None:
    first, _ = await items.put(), await items.put("update")
    await items.try_later(await items.take(first), 3600)
    assert await items.claim() is None
    await bell.rings()
    await items.database.execute("DELETE FROM ecosystem_sync_queue WHERE id = $1", first)
    assert await bell.rings() == 1
    assert await items.claim() is not None


async def test_many_rows_of_one_statement_ring_once(items: OutboundItems, bell: Bell) -> None:
    await items.database.execute(
        "INSERT INTO ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload, status)"
        " SELECT 'practice', gen_random_uuid(), 'plenura_' || n, 'register', '{}', 'failed'"
        " FROM generate_series(1, 50) n"
    )
    assert await bell.rings() == 1
    await items.database.execute("UPDATE ecosystem_sync_queue SET status = 'pending', attempts = 0")
    assert await bell.rings() == 1


async def test_a_queue_that_is_there_already_goes_on_in_the_order_of_its_making(empty_database_url: str) -> None:
    now = datetime.now(UTC)
    old = await asyncpg.connect(empty_database_url, timeout=10)
    try:
        await old.execute(_PLENURAS_OWN)
        ids: dict[str, UUID] = {}

        async def put(name: str, action: str, status: str | None, attempts: int | None, minutes: int) -> None:
            sql = (
                "INSERT INTO ecosystem_sync_queue (id, entity_type, entity_id, ecosystem_org_id, action, payload,"
                " status, attempts, created_at) VALUES ($1, 'practice', $1, 'plenura_1', $2, '{}', $3, $4, $5)"
            )
            ids[name] = uuid4()
            await old.execute(sql, ids[name], action, status, attempts, now - timedelta(minutes=minutes))

        await put("deactivated last", "deactivate", "pending", 0, 10)
        await put("tried four times", "update", "pending", 4, 20)
        await put("on its way", "register", "processing", 1, 30)
        await put("on its way before", "register", "processing", 1, 40)
        await put("accepted", "register", "success", 1, 50)
        await put("without a status", "update", None, None, 60)
        await migrate(empty_database_url)
        rows = {row["id"]: row for row in await old.fetch("SELECT * FROM ecosystem_sync_queue ORDER BY position")}
        by_age = ["without a status", "accepted", "on its way before", "on its way", "tried four times"]
        assert list(rows) == [ids[name] for name in (*by_age, "deactivated last")]
        assert [rows[ids[name]]["status"] for name in by_age] == [
            *("pending", "success", "pending", "processing", "pending"),
        ]
        assert rows[ids["tried four times"]]["attempts"] == MAX_ATTEMPTS - 1
        assert all(row["waiting_since"] == row["created_at"] for row in rows.values())
        assert {row["id"] for row in rows.values() if row["accepted_at"] is not None} == {ids["accepted"]}
        await put("new", "update", "pending", 0, 70)
        assert await old.fetchval("SELECT id FROM ecosystem_sync_queue ORDER BY position DESC LIMIT 1") == ids["new"]
    finally:
        await old.close(timeout=10)
