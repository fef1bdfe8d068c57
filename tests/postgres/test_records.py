"""The one write path on real rows: races, absences, news, and what is not written at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.changes import Absence, Authority, Delete, EntityRef, RecordChange, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Misconfigured, Rejected
from eventsync.domain.events import EventId, Outcome
from eventsync.domain.records import (
    Appointment,
    AppointmentStatus,
    Content,
    Document,
    Patient,
    RecordKind,
    content_hash,
)
from eventsync.postgres.database import Database, Session
from eventsync.postgres.records import EventChange, RecordWriter, take_news

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
BASE_MS = 1_772_000_000_000
HOUR_MS = 3_600_000
EVENT = EventId(UUID(int=5))
START = datetime(2026, 3, 2, 9, tzinfo=UTC)


@pytest.fixture
def writer(keyring: Keyring) -> RecordWriter:
    return RecordWriter(keyring)


@pytest.fixture
def connection_id(connection_ids: list[ConnectionId]) -> ConnectionId:
    return connection_ids[0]


def version(content: Content | None, position: int, *, deleted: bool = False, read_began_ms: int = 0) -> Version:
    source = Source.API if read_began_ms else Source.WEBHOOK
    return Version(Authority.RECORD, position, deleted, source, read_began_ms, 1, content_hash(content))


def an_appointment(
    connection_id: ConnectionId, key: str = "a1", *, step: int = 0, read_began_ms: int = 0, **fields: object
) -> Upsert:
    content = Appointment(AppointmentStatus.CONFIRMED, "Confirmed", START, START + timedelta(minutes=50))
    content = replace(content, **fields)  # type: ignore[arg-type]  # the caller's fields
    entity = EntityRef(connection_id, RecordKind.APPOINTMENT, key)
    return Upsert(entity, version(content, BASE_MS + step, read_began_ms=read_began_ms), content)


def an_absence(connection_id: ConnectionId, began_ms: int, key: str = "a1") -> Absence:
    entity = EntityRef(connection_id, RecordKind.APPOINTMENT, key)
    return Absence(entity, began_ms, START - timedelta(days=30), START + timedelta(days=30))


async def written(
    pool: Database, writer: RecordWriter, *changes: RecordChange, at: datetime = NOW, event_id: EventId | None = EVENT
) -> list[Outcome]:
    async with pool.transaction() as session:
        return [m.outcome for m in await writer.write(session, [EventChange(event_id, c) for c in changes], at)]


async def the_row(database: asyncpg.Connection) -> asyncpg.Record:
    row = await database.fetchrow("SELECT * FROM appointments")
    assert row is not None
    return row


@pytest.mark.parametrize("steps", [(1, 2), (2, 1)])
async def test_who_loses_the_race_to_insert_a_row_merges_with_the_winners(
    pool: Database,
    database: asyncpg.Connection,
    writer: RecordWriter,
    connection_id: ConnectionId,
    steps: tuple[int, int],
) -> None:
    first, second = (an_appointment(connection_id, step=step, service_name=f"step {step}") for step in steps)
    async with pool.transaction() as session:
        await writer.write(session, [EventChange(None, first)], NOW)
        racing = asyncio.create_task(written(pool, writer, second))
        await _until_waiting_for_a_lock(database)
    assert await racing == [Outcome.APPLIED if steps == (1, 2) else Outcome.STALE]
    assert (await the_row(database))["service_name"] == "step 2"


@pytest.mark.parametrize("absence_first", [True, False])
@pytest.mark.parametrize("known", [True, False])
async def test_a_change_and_an_absence_at_the_same_moment_end_as_one_after_the_other(
    pool: Database,
    database: asyncpg.Connection,
    writer: RecordWriter,
    connection_id: ConnectionId,
    *,
    absence_first: bool,
    known: bool,
) -> None:
    if known:
        await written(pool, writer, an_appointment(connection_id))
    pair: list[RecordChange] = [
        an_absence(connection_id, BASE_MS + HOUR_MS),
        an_appointment(connection_id, step=1, service_name="changed"),
    ]
    first, second = pair if absence_first else reversed(pair)
    async with pool.transaction() as session:
        await writer.write(session, [EventChange(None, first)], NOW)
        racing = asyncio.create_task(written(pool, writer, second))
        await _until_waiting_for_a_lock(database)
    await racing
    row = await the_row(database)
    assert (row["service_name"], row["deleted_at"] is None) == ("changed", False)


async def test_an_absence_ends_a_row_and_a_later_read_that_sees_it_revives_it(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    await written(pool, writer, an_appointment(connection_id))
    assert await written(pool, writer, an_absence(connection_id, BASE_MS + HOUR_MS)) == [Outcome.APPLIED]
    assert (await the_row(database))["deleted_at"] is not None
    assert await written(pool, writer, an_absence(connection_id, BASE_MS + HOUR_MS)) == [Outcome.UNCHANGED]
    seen = an_appointment(connection_id, read_began_ms=BASE_MS + 2 * HOUR_MS)
    assert await written(pool, writer, seen) == [Outcome.APPLIED]
    assert (await the_row(database))["deleted_at"] is None


async def test_an_absence_that_came_before_the_record_counts_when_it_comes(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    assert await written(pool, writer, an_absence(connection_id, BASE_MS + HOUR_MS)) == [Outcome.UNCHANGED]
    await written(pool, writer, an_appointment(connection_id))
    assert (await the_row(database))["deleted_at"] is not None


async def test_writers_with_the_same_rows_in_opposite_orders_never_wait_in_a_circle(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    async def write(number: int) -> None:
        changes = [an_appointment(connection_id, f"a{key}", step=number, service_name=f"{number}") for key in range(30)]
        await written(pool, writer, *(changes if number % 2 else changes[::-1]))

    await asyncio.gather(*[write(number) for number in range(1, 17)])
    rows = await database.fetch("SELECT service_name FROM appointments")
    assert [row["service_name"] for row in rows] == ["16"] * 30


async def test_what_changes_nothing_writes_nothing_and_is_no_news(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    change = an_appointment(connection_id)
    assert await written(pool, writer, change, change) == [Outcome.APPLIED, Outcome.UNCHANGED]
    before = await database.fetchrow("SELECT ctid, * FROM appointments")
    assert await written(pool, writer, change, at=LATER) == [Outcome.UNCHANGED]
    assert await written(pool, writer, at=LATER) == []
    assert await database.fetchrow("SELECT ctid, * FROM appointments") == before
    assert await database.fetchval("SELECT count(*) FROM change_outbox") == 1


async def test_a_newer_version_of_the_same_content_moves_the_version_but_is_no_news(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    await written(pool, writer, an_appointment(connection_id))
    same = an_appointment(connection_id, step=1000)
    assert await written(pool, writer, same, at=LATER, event_id=EventId(UUID(int=6))) == [Outcome.UNCHANGED]
    row = await the_row(database)
    assert row["version"] == same.version.to_bytes()
    assert (row["changed_at"], row["applied_event_id"], row["updated_at"]) == (NOW, EVENT, LATER)
    assert await database.fetchval("SELECT count(*) FROM change_outbox") == 1


async def test_many_changes_of_one_record_in_a_batch_are_one_row_and_one_piece_of_news(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    steps = [an_appointment(connection_id, step=step, service_name=f"{step}") for step in (2, 0, 3, 1)]
    expected = [Outcome.APPLIED, Outcome.STALE, Outcome.APPLIED, Outcome.STALE]
    assert await written(pool, writer, *steps) == expected
    async with pool.transaction() as session:
        (news,) = await take_news(session, 10)
    assert (news.position, news.deleted, news.event_id) == (BASE_MS + 3, False, EVENT)
    assert (await the_row(database))["service_name"] == "3"


async def test_news_are_taken_once_and_come_back_when_their_taker_fails(
    pool: Database, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    await written(pool, writer, *[an_appointment(connection_id, f"a{number}") for number in range(4)])

    async def take(session: Session, count: int) -> list[str]:
        return [news.external_id for news in await take_news(session, count)]

    async def take_and_fail() -> None:
        async with pool.transaction() as session:
            assert await take(session, 2) == ["a0", "a1"]
            async with pool.transaction() as other:
                assert await take(other, 10) == ["a2", "a3"]
            raise LookupError

    with pytest.raises(LookupError):
        await take_and_fail()
    async with pool.transaction() as session:
        assert await take(session, 10) == ["a0", "a1"]


async def test_a_value_that_no_column_holds_leaves_nothing_of_its_batch(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    good, bad = an_appointment(connection_id, "a1"), an_appointment(connection_id, "a2", price=Decimal("1e15"))
    with pytest.raises(Rejected) as refused:
        await written(pool, writer, good, bad)
    assert refused.value.reason == "database_refused"
    assert "1" not in str(refused.value)
    assert await database.fetchval("SELECT count(*) FROM appointments") == 0
    assert await database.fetchval("SELECT count(*) FROM change_outbox") == 0


async def test_values_survive_the_way_into_the_row_and_back(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    rich = an_appointment(
        connection_id,
        price=Decimal("12.50"),
        details={"ClientNote": 'quote " backslash \\ emoji \U0001f600', "CustomFields": [{"Text": None}]},
        start_time=datetime(1900, 1, 1, tzinfo=UTC),
        end_time=datetime(2199, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    )
    await written(pool, writer, rich)
    assert await written(pool, writer, rich) == [Outcome.UNCHANGED]
    row = await the_row(database)
    assert (row["price"], row["start_time"].year) == (Decimal("12.50"), 1900)


async def test_a_document_opens_in_its_own_place_only(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId, keyring: Keyring
) -> None:
    content = Document("Locked", "Progress note", None, START, b'{"Id":"d1"}')
    for key in ("d1", "d2"):
        entity = EntityRef(connection_id, RecordKind.NOTE, key)
        await written(pool, writer, Upsert(entity, version(content, 1), content))
    await database.execute(
        "UPDATE documents SET content_sealed = (SELECT content_sealed FROM documents WHERE external_id = 'd1')"
        " WHERE external_id = 'd2'"
    )
    entity = EntityRef(connection_id, RecordKind.NOTE, "d2")
    with pytest.raises(Misconfigured, match="does not open"):
        await written(pool, writer, Upsert(entity, version(content, 2), content))


async def test_a_deleted_patient_is_archived_and_a_living_record_outranks_any_mention(
    pool: Database, database: asyncpg.Connection, writer: RecordWriter, connection_id: ConnectionId
) -> None:
    entity = EntityRef(connection_id, RecordKind.PATIENT, "7")
    record, mention = Patient("Test", "Client"), Patient("Mentioned", "Client")
    late = version(mention, BASE_MS + HOUR_MS)._replace(authority=Authority.MENTION)
    await written(pool, writer, Upsert(entity, version(record, BASE_MS), record))
    assert await written(pool, writer, Upsert(entity, late, mention)) == [Outcome.STALE]
    assert await database.fetchval("SELECT first_name FROM patients") == "Test"
    await written(pool, writer, Delete(entity, version(record, BASE_MS + 1, deleted=True), record))
    assert await database.fetchval("SELECT status FROM patients") == "archived"


async def _until_waiting_for_a_lock(database: asyncpg.Connection) -> Sequence[object]:
    async with asyncio.timeout(10):
        while True:
            waiting: Sequence[object] = await database.fetch(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if waiting:
                return waiting
