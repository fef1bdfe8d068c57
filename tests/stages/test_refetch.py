"""Refetching: one read at a time per record answers every event that came before it, whatever the vendor does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.domain.events import EventId
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.sandbox import QuotaLimits, SandboxOptions, serve
from eventsync.stages.refetch import MAX_ATTEMPTS, Refetcher
from eventsync.vendorkit.budget import BudgetSpent
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendors.intakeq import VENDOR
from stages.note_reader import NoteReader, a_note_was_locked, at, leased, raising, refetcher_of
from stages.spine import NOW, Spine, a_connection, history_of, outcomes, queued, sample


async def refetch(refetcher: Refetcher, event_id: EventId) -> None:
    await refetcher.refetch(await leased(refetcher, event_id))


async def document(database: asyncpg.Connection) -> dict[str, Any]:
    row = await database.fetchrow("SELECT * FROM documents")
    assert row is not None
    return dict(row)


@pytest.mark.parametrize(
    ("name", "kind", "id_field"), [("note_locked", "note", "NoteId"), ("intake_submitted", "intake", "IntakeId")]
)
async def test_a_named_record_is_read_and_kept_sealed(
    spine: Spine, database: asyncpg.Connection, keyring: Keyring, name: str, kind: str, id_field: str
) -> None:
    webhook = sample(name)
    (event_id,) = await spine.apply(webhook)
    await refetch(refetcher_of(spine, NoteReader()), event_id)
    row = await document(database)
    assert (row["kind"], row["external_id"], row["applied_event_id"]) == (kind, webhook[id_field], event_id)
    context = f"document:{spine.connection_id}:{kind}:{webhook[id_field]}"
    content = keyring.open(row["content_sealed"], context)
    assert orjson.loads(content)["Id"] == webhook[id_field]
    assert webhook[id_field].encode() in content
    assert webhook[id_field].encode() not in row["content_sealed"]  # long enough that chance cannot write it
    ended = await history_of(database, event_id)
    assert (ended["outcome"], ended["event_type"], ended["attempts"]) == ("applied", webhook["Type"], 1)


async def test_a_named_record_is_read_from_the_pretend_practice_by_the_real_client(
    spine: Spine, database: asyncpg.Connection, keyring: Keyring
) -> None:
    options = SandboxOptions(clients=10, appointments=20, quota=QuotaLimits(per_minute=None, per_day=None))
    async with serve(options) as running, aiohttp.ClientSession() as session:
        budget = PostgresBudget(spine.pool, "test", BudgetLimits(10, 500), spine.clock)
        http = VendorHttp(session, budget)
        spine.connections[spine.connection_id] = a_connection(
            spine.connection_id, base_url=running.api_url, api_key=running.api_key
        )
        url, headers = f"{running.api_url}/notes/summary", {"X-Auth-Key": running.api_key}
        async with session.get(url, headers=headers) as answer:
            note_id = (await answer.json(content_type=None))[0]["Id"]
        refetcher = Refetcher(
            spine.queue,
            spine.writer,
            spine.directory,
            lambda connection: VENDOR.client(connection, http),
            spine.metrics,
            spine.clock,
        )
        (known,) = await a_note_was_locked(spine, note_id)
        (unknown,) = await a_note_was_locked(spine, "65f0c0ffee65f0c0ffee9999")
        await refetch(refetcher, known)
        await refetch(refetcher, unknown)
    row = await database.fetchrow("SELECT * FROM documents WHERE external_id = $1", note_id)
    assert row is not None
    content = keyring.open(row["content_sealed"], f"document:{spine.connection_id}:note:{note_id}")
    assert orjson.loads(content)["Id"] == note_id
    assert await database.fetchval("SELECT deleted_at IS NOT NULL FROM documents WHERE external_id <> $1", note_id)
    assert await database.fetchval("SELECT count(*) FROM api_calls") == 2


async def test_one_read_answers_all_that_came_before_it_began_and_nothing_later(
    spine: Spine, database: asyncpg.Connection
) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    client = NoteReader(at(gate, begun))
    refetcher = refetcher_of(spine, client)
    before = await a_note_was_locked(spine, times=3)
    (other_note,) = await a_note_was_locked(spine, "n2")
    spine.clock.advance(1)
    reading = asyncio.create_task(refetch(refetcher, before[1]))
    await begun.wait()
    spine.clock.advance(1)
    (later,) = await a_note_was_locked(spine)
    gate.set()
    await reading
    assert [(await history_of(database, event_id))["outcome"] for event_id in before] == ["applied"] * 3
    for waiting in (later, other_note):
        assert (await queued(database, waiting))["status"] == "pending"
    await refetch(refetcher, later)
    assert client.sequences == {"n1": [1, 2]}
    assert (await history_of(database, later))["outcome"] == "unchanged"


async def test_while_one_reads_the_others_wait_without_an_attempt(spine: Spine, database: asyncpg.Connection) -> None:
    refetcher = refetcher_of(spine, NoteReader())
    one, other = await a_note_was_locked(spine, times=2)
    await spine.publish_all()
    assert await refetcher.lease(one) is not None
    assert await refetcher.lease(other) is None
    row = await queued(database, other)
    assert (row["status"], row["attempts"], row["available_at"]) == ("pending", 0, NOW + timedelta(seconds=2))


async def test_a_spent_budget_makes_the_event_wait_without_counting_an_attempt(
    spine: Spine, database: asyncpg.Connection
) -> None:
    client = NoteReader(raising(BudgetSpent("spent", retry_after_s=120.0)))
    refetcher = refetcher_of(spine, client)
    (event_id,) = await a_note_was_locked(spine)
    for _ in range(MAX_ATTEMPTS + 1):
        await refetch(refetcher, event_id)
        row = await queued(database, event_id)
        assert (row["status"], row["attempts"]) == ("pending", 0)
        assert row["available_at"] == spine.clock() + timedelta(seconds=120)
        assert await refetcher.lease(event_id) is None  # an old copy of the message
        spine.clock.advance(121)
    client.before = None
    await refetch(refetcher, event_id)
    assert await outcomes(database) == {"applied": 1}


async def test_an_unreachable_vendor_is_tried_ever_later_until_the_event_parks(
    spine: Spine, database: asyncpg.Connection
) -> None:
    refetcher = refetcher_of(spine, NoteReader(raising(Transient("HTTP 503"))))
    (event_id,) = await a_note_was_locked(spine)
    pauses = []
    for _ in range(MAX_ATTEMPTS - 1):
        await refetch(refetcher, event_id)
        row = await queued(database, event_id)
        pauses.append((row["available_at"] - spine.clock()).total_seconds())
        spine.clock.advance(pauses[-1] + 0.001)
    assert pauses[:3] == [15.0, 30.0, 60.0]
    assert pauses[-1] == 3600.0
    await refetch(refetcher, event_id)
    row = await queued(database, event_id)
    assert (row["status"], row["reason"], row["error"]) == ("parked", "vendor_unreachable", "HTTP 503")


async def test_the_vendors_own_wish_sets_the_next_try(spine: Spine, database: asyncpg.Connection) -> None:
    refetcher = refetcher_of(spine, NoteReader(raising(Transient("HTTP 429", retry_after_s=77.0))))
    (event_id,) = await a_note_was_locked(spine)
    await refetch(refetcher, event_id)
    assert (await queued(database, event_id))["available_at"] == NOW + timedelta(seconds=77)


async def test_a_note_that_is_gone_leaves_a_tombstone_without_its_content(
    spine: Spine, database: asyncpg.Connection
) -> None:
    client = NoteReader()
    refetcher = refetcher_of(spine, client)
    for gone in (False, True, True):
        client.gone = gone
        spine.clock.advance(1)
        (event_id,) = await a_note_was_locked(spine)
        await refetch(refetcher, event_id)
    row = await document(database)
    assert row["deleted_at"] is not None
    assert row["content_sealed"] is None
    assert await outcomes(database) == {"applied": 2, "unchanged": 1}


async def test_refused_credentials_wait_for_a_person_and_park_nothing(
    spine: Spine, database: asyncpg.Connection
) -> None:
    refetcher = refetcher_of(spine, NoteReader(raising(Misconfigured("enter the API key"))))
    (event_id,) = await a_note_was_locked(spine)
    for _ in range(MAX_ATTEMPTS + 1):
        await refetch(refetcher, event_id)
        spine.clock.advance(301)
    row = await queued(database, event_id)
    assert (row["status"], row["attempts"], row["error"]) == ("pending", 0, "enter the API key")


async def test_what_can_never_be_read_parks_with_its_reason(spine: Spine, database: asyncpg.Connection) -> None:
    refetcher = refetcher_of(spine, NoteReader(raising(Rejected("invalid_id", "no such id"))))
    (event_id,) = await a_note_was_locked(spine)
    await refetch(refetcher, event_id)
    assert await outcomes(database) == {"invalid_id": 1}
    (again,) = await a_note_was_locked(spine)
    assert await refetcher.lease(again) is not None  # the record is not held any more


async def test_a_fault_of_ours_is_tried_again_and_parks_in_the_end_without_telling_its_data(
    spine: Spine, database: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    refetcher = refetcher_of(spine, NoteReader(raising(KeyError("Test Client 12"))))
    (event_id,) = await a_note_was_locked(spine)
    for _ in range(MAX_ATTEMPTS):
        await refetch(refetcher, event_id)
        spine.clock.advance(3601)
    row = await queued(database, event_id)
    assert (row["status"], row["reason"], row["error"]) == ("parked", "internal_error", "KeyError")
    assert "Test Client" not in capsys.readouterr().out


async def test_a_worker_that_died_in_mid_read_leaves_a_lease_that_runs_out_and_cannot_win_afterwards(
    spine: Spine, database: asyncpg.Connection
) -> None:
    slow, quick = NoteReader(), NoteReader()
    slow.text, quick.text = "what the slow worker saw", "what the quick worker saw"
    dead, alive = refetcher_of(spine, slow), refetcher_of(spine, quick)
    (event_id,) = await a_note_was_locked(spine)
    await spine.publish_all()
    lost = await leased(dead, event_id)
    relay = spine.relay()
    await relay.run_once()
    assert (await queued(database, event_id))["status"] == "running"
    spine.clock.advance(301)
    assert await relay.run_once() == 1
    lease = await leased(alive, event_id)
    assert (lease.attempts, lease.sequence) == (2, 2)
    await alive.refetch(lease)
    await dead.refetch(lost)  # it was only very slow
    assert (await document(database))["title"] == "what the quick worker saw"
    assert await outcomes(database) == {"applied": 1}


async def test_an_event_whose_workers_always_die_is_parked(spine: Spine, database: asyncpg.Connection) -> None:
    client = NoteReader()
    refetcher = refetcher_of(spine, client)
    (event_id,) = await a_note_was_locked(spine)
    for _ in range(MAX_ATTEMPTS):
        await leased(refetcher, event_id)
        spine.clock.advance(301)
        await spine.queue.return_expired_leases(spine.clock())
    await refetch(refetcher, event_id)
    assert await outcomes(database) == {"kills_the_worker": 1}
    assert client.reads == 0


async def test_an_event_of_a_disabled_connection_is_not_read(spine: Spine, database: asyncpg.Connection) -> None:
    client = NoteReader()
    (event_id,) = await a_note_was_locked(spine)
    spine.directory._known.clear()
    spine.connections[spine.connection_id] = a_connection(spine.connection_id, disabled_at=spine.clock())
    await refetch(refetcher_of(spine, client), event_id)
    assert await outcomes(database) == {"connection_disabled": 1}
    assert client.reads == 0
