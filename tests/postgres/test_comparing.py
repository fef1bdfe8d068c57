"""Pages of an API met with rows that stand: what they repeat is neither loaded, locked nor written; the rest is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.changes import Absence, Authority, Delete, EntityRef, RecordChange, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import Outcome
from eventsync.domain.records import (
    Appointment,
    AppointmentExtras,
    AppointmentStatus,
    Content,
    Document,
    Patient,
    RecordKind,
    content_hash,
)
from eventsync.postgres.comparing import SQL, arguments
from eventsync.postgres.database import Database
from eventsync.postgres.records import EventChange, RecordWriter

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
START = datetime(2026, 3, 2, 9, tzinfo=UTC)
BASE_MS = 1_772_000_000_000
HOUR_MS = 3_600_000
FIRST_READ, SECOND_READ, THIRD_READ = (BASE_MS + hours * HOUR_MS for hours in (1, 2, 3))
PAGE = [f"a{number}" for number in range(100)]
UNCHANGED, STALE, APPLIED = Outcome.UNCHANGED, Outcome.STALE, Outcome.APPLIED


@pytest.fixture
def connection_id(connection_ids: list[ConnectionId]) -> ConnectionId:
    return connection_ids[0]


class Copy:
    """The rows of one practice, written through the one write path."""

    def __init__(self, pool: Database, database: asyncpg.Connection, keyring: Keyring) -> None:
        self._pool = pool
        self._database = database
        self._writer = RecordWriter(keyring)

    async def write(self, *changes: RecordChange, in_order: bool = True, at: datetime = NOW) -> list[Outcome]:
        entries = [EventChange(None, change) for change in changes]
        async with self._pool.transaction() as session:
            merged = await self._writer.write(session, entries, at, reads_in_order=in_order)
        return [each.outcome for each in merged]

    async def written_since(self, at: datetime) -> list[str]:
        """Name the appointments that were written at `at` or later."""
        rows = await self._database.fetch("SELECT external_id FROM appointments WHERE updated_at >= $1 ORDER BY 1", at)
        return [row["external_id"] for row in rows]

    async def places(self, table: str = "appointments") -> list[tuple[object, ...]]:
        """Tell where every row lies: a row that is written lies elsewhere, and one that is locked has another xmax."""
        rows = await self._database.fetch(f"SELECT ctid, xmin, xmax FROM {table} ORDER BY 1")  # noqa: S608  # a literal
        return [tuple(row) for row in rows]


@pytest.fixture
def copy(pool: Database, database: asyncpg.Connection, keyring: Keyring) -> Copy:
    return Copy(pool, database, keyring)


def version(content: Content | None, read_ms: int, *, step: int = 0, deleted: bool = False) -> Version:
    source = Source.API if read_ms else Source.WEBHOOK
    return Version(Authority.RECORD, BASE_MS + step, deleted, source, read_ms, 1, content_hash(content))


def upsert(
    connection_id: ConnectionId, key: str = "a1", *, read_ms: int = 0, step: int = 0, service: str | None = None
) -> Upsert:
    content = Appointment(
        AppointmentStatus.CONFIRMED, "Confirmed", START, START + timedelta(minutes=50), service_name=service
    )
    entity = EntityRef(connection_id, RecordKind.APPOINTMENT, key)
    return Upsert(entity, version(content, read_ms, step=step), content)


def page(connection_id: ConnectionId, read_ms: int) -> list[Upsert]:
    return [upsert(connection_id, key, read_ms=read_ms) for key in PAGE]


def absence(connection_id: ConnectionId, read_ms: int) -> Absence:
    entity = EntityRef(connection_id, RecordKind.APPOINTMENT, "a1")
    return Absence(entity, read_ms, START - timedelta(days=30), START + timedelta(days=30))


async def test_a_later_read_that_repeats_a_page_touches_no_row_and_is_no_news(
    copy: Copy, database: asyncpg.Connection, connection_id: ConnectionId
) -> None:
    await copy.write(*page(connection_id, FIRST_READ))
    await database.execute("TRUNCATE change_outbox")
    before = await copy.places()
    assert await copy.write(*page(connection_id, SECOND_READ)) == [UNCHANGED] * len(PAGE)
    assert await copy.places() == before
    assert await database.fetchval("SELECT count(*) FROM change_outbox") == 0


async def test_of_a_page_only_what_differs_is_written(copy: Copy, connection_id: ConnectionId) -> None:
    await copy.write(*page(connection_id, FIRST_READ))
    second: list[RecordChange] = [*page(connection_id, SECOND_READ)]
    second[7] = upsert(connection_id, "a7", read_ms=SECOND_READ, step=1, service="changed")
    second[8] = upsert(connection_id, "a8", read_ms=SECOND_READ, service="changed in silence")
    second.append(upsert(connection_id, "new", read_ms=SECOND_READ))
    outcomes = await copy.write(*second, at=LATER)
    assert [place for place, outcome in enumerate(outcomes) if outcome is APPLIED] == [7, 8, 100]
    assert await copy.written_since(LATER) == ["a7", "a8", "new"]


async def test_a_page_is_recognized_while_someone_else_has_its_rows_locked(
    copy: Copy, database: asyncpg.Connection, connection_id: ConnectionId
) -> None:
    await copy.write(*page(connection_id, FIRST_READ))
    async with database.transaction():
        await database.execute("SELECT FROM appointments FOR UPDATE")
        async with asyncio.timeout(20):
            assert await copy.write(*page(connection_id, SECOND_READ)) == [UNCHANGED] * len(PAGE)


async def test_without_the_callers_word_a_later_read_moves_the_bookkeeping(
    copy: Copy, connection_id: ConnectionId
) -> None:
    await copy.write(*page(connection_id, FIRST_READ))
    assert await copy.write(*page(connection_id, SECOND_READ), in_order=False, at=LATER) == [UNCHANGED] * len(PAGE)
    assert len(await copy.written_since(LATER)) == len(PAGE)
    late = upsert(connection_id, "a1", read_ms=FIRST_READ + 1, service="between the reads, written after both")
    assert await copy.write(late, in_order=False) == [STALE]


async def test_the_same_page_twice_writes_nothing_even_without_the_callers_word(
    copy: Copy, connection_id: ConnectionId
) -> None:
    await copy.write(*page(connection_id, SECOND_READ))
    before = await copy.places()
    for read_ms in (SECOND_READ, FIRST_READ):
        assert await copy.write(*page(connection_id, read_ms), in_order=False) == [UNCHANGED] * len(PAGE)
    assert await copy.places() == before


async def test_what_a_webhook_told_is_written_once_by_the_read_that_confirms_it(
    copy: Copy, connection_id: ConnectionId
) -> None:
    await copy.write(upsert(connection_id))
    assert await copy.write(upsert(connection_id, read_ms=FIRST_READ), at=LATER) == [UNCHANGED]
    assert await copy.written_since(LATER) == ["a1"]
    assert await copy.write(upsert(connection_id, service="another at the same time")) == [STALE]
    before = await copy.places()
    assert await copy.write(upsert(connection_id, read_ms=SECOND_READ)) == [UNCHANGED]
    assert await copy.places() == before


async def test_a_page_that_a_webhook_overtook_is_stale_and_writes_nothing(
    copy: Copy, connection_id: ConnectionId
) -> None:
    await copy.write(upsert(connection_id, step=5, service="newer"))
    before = await copy.places()
    assert await copy.write(upsert(connection_id, read_ms=FIRST_READ)) == [STALE]
    assert await copy.places() == before


async def test_a_deleted_record_that_an_older_page_still_shows_stays_deleted(
    copy: Copy, database: asyncpg.Connection, connection_id: ConnectionId
) -> None:
    shown = upsert(connection_id, read_ms=FIRST_READ)
    await copy.write(shown)
    await copy.write(Delete(shown.entity, version(shown.content, 0, deleted=True), shown.content))
    before = await copy.places()
    assert await copy.write(upsert(connection_id, read_ms=SECOND_READ)) == [STALE]
    assert await copy.places() == before
    assert await database.fetchval("SELECT deleted_at FROM appointments") is not None


async def test_a_read_that_sees_an_absent_record_again_revives_it_and_later_ones_leave_it_alone(
    copy: Copy, database: asyncpg.Connection, connection_id: ConnectionId
) -> None:
    await copy.write(upsert(connection_id, read_ms=BASE_MS + 1))
    assert await copy.write(absence(connection_id, FIRST_READ)) == [APPLIED]
    assert await copy.write(upsert(connection_id, read_ms=SECOND_READ)) == [APPLIED]
    assert await database.fetchval("SELECT deleted_at FROM appointments") is None
    before = await copy.places()
    assert await copy.write(upsert(connection_id, read_ms=THIRD_READ)) == [UNCHANGED]
    assert await copy.places() == before


async def test_an_absence_later_than_what_was_left_out_still_counts(
    copy: Copy, database: asyncpg.Connection, connection_id: ConnectionId
) -> None:
    await copy.write(upsert(connection_id, read_ms=FIRST_READ))
    await copy.write(upsert(connection_id, read_ms=SECOND_READ))
    assert await copy.write(absence(connection_id, THIRD_READ)) == [APPLIED]
    assert await database.fetchval("SELECT deleted_at FROM appointments") is not None


async def test_a_record_of_which_the_batch_says_two_things_is_merged(copy: Copy, connection_id: ConnectionId) -> None:
    await copy.write(upsert(connection_id, read_ms=FIRST_READ))
    webhook = upsert(connection_id, step=1, service="changed")
    repeated = upsert(connection_id, read_ms=SECOND_READ)
    assert await copy.write(repeated, webhook, repeated) == [UNCHANGED, APPLIED, STALE]


async def test_a_newer_reading_of_the_same_object_is_written(copy: Copy, connection_id: ConnectionId) -> None:
    first = upsert(connection_id, read_ms=FIRST_READ)
    await copy.write(first)
    newer = replace(first, version=first.version._replace(read_began_ms=SECOND_READ, mapping_version=2))
    await copy.write(newer, at=LATER)
    assert await copy.written_since(LATER) == ["a1"]


async def test_what_carries_extras_is_merged(
    copy: Copy, database: asyncpg.Connection, connection_id: ConnectionId
) -> None:
    single = upsert(connection_id, read_ms=FIRST_READ)
    await copy.write(single)
    assert await copy.write(replace(single, extras=AppointmentExtras(package_name="Ten visits"))) == [APPLIED]
    assert await database.fetchval("SELECT package_name FROM appointments") == "Ten visits"


async def test_another_connections_record_of_the_same_id_is_another_record(
    copy: Copy, connection_ids: list[ConnectionId]
) -> None:
    ours, theirs = (upsert(connection_id, read_ms=FIRST_READ) for connection_id in connection_ids)
    assert await copy.write(ours) == [APPLIED]
    assert await copy.write(theirs) == [APPLIED]
    assert await copy.write(ours, theirs) == [UNCHANGED, UNCHANGED]


async def test_a_mention_of_a_client_whose_record_we_have_is_not_even_loaded(
    copy: Copy, database: asyncpg.Connection, connection_id: ConnectionId
) -> None:
    entity = EntityRef(connection_id, RecordKind.PATIENT, "7")
    record, mention = Patient("Test", "Client", email="client7@example.test"), Patient("Test", "Client")
    await copy.write(Upsert(entity, version(record, FIRST_READ), record))
    mentioned = Upsert(entity, version(mention, SECOND_READ, step=9)._replace(authority=Authority.MENTION), mention)
    async with database.transaction():
        await database.execute("SELECT FROM patient_identities FOR UPDATE")
        async with asyncio.timeout(20):
            assert await copy.write(mentioned, mentioned, in_order=False) == [STALE, STALE]


async def test_a_clients_record_is_written_by_every_later_read_as_its_version_chooses_what_people_see(
    copy: Copy, database: asyncpg.Connection, connection_id: ConnectionId
) -> None:
    entity, record = EntityRef(connection_id, RecordKind.PATIENT, "7"), Patient("Test", "Client")
    for read_ms in (FIRST_READ, SECOND_READ):
        await copy.write(Upsert(entity, version(record, read_ms), record))
    held = await database.fetchval("SELECT version FROM patient_identities")
    assert held == version(record, SECOND_READ).to_bytes()


@pytest.mark.parametrize("kind", [kind for kind in RecordKind if kind.is_document])
async def test_documents_are_recognized_without_being_opened(
    copy: Copy, database: asyncpg.Connection, connection_id: ConnectionId, kind: RecordKind
) -> None:
    entity, content = EntityRef(connection_id, kind, "d1"), Document("locked", "Test", None, START, b'{"Id":"d1"}')
    await copy.write(Upsert(entity, version(content, FIRST_READ), content))
    await database.execute("UPDATE documents SET content_sealed = 'does not open'")
    before = await copy.places("documents")
    assert await copy.write(Upsert(entity, version(content, SECOND_READ), content)) == [UNCHANGED]
    assert await copy.places("documents") == before


_GROWN = """
INSERT INTO appointments (id, connection_id, external_id, status, vendor_status, start_time, end_time, version,
                          source_version, content_hash, seen_at, changed_at, created_at, updated_at)
SELECT gen_random_uuid(), $1, 'a' || n, 'confirmed', 'Confirmed', $2, $2, $3, $2, '', $2, $2, $2, $2
FROM generate_series(0, 99999) n;
INSERT INTO patient_identities (connection_id, external_id, patient_id, version, content_hash, seen_at, changed_at,
                                created_at, updated_at)
SELECT $1, 'a' || n, gen_random_uuid(), $3, '', $2, $2, $2, $2 FROM generate_series(0, 19999) n;
INSERT INTO documents (id, connection_id, kind, external_id, version, content_hash, seen_at, changed_at, created_at,
                       updated_at)
SELECT gen_random_uuid(), $1, 'note', 'a' || n, $3, '', $2, $2, $2, $2 FROM generate_series(0, 19999) n;
INSERT INTO record_absences SELECT $1, k, 'a' || n, $2, $2, $2, 0
FROM generate_series(0, 19999) n, unnest(ARRAY['appointment', 'note']) k
"""


@pytest.mark.parametrize("in_order", [True, False])
async def test_a_page_finds_its_rows_by_index_among_a_hundred_thousand(
    database: asyncpg.Connection, connection_id: ConnectionId, *, in_order: bool
) -> None:
    held = upsert(connection_id, read_ms=FIRST_READ).version.to_bytes()
    long_ago = START - timedelta(days=1000)
    for statement in _GROWN.split(";"):
        parameters = [connection_id, long_ago, held]
        await database.execute(statement, *parameters[: 3 if "$3" in statement else 2])
    await database.execute("ANALYZE")
    batch = [upsert(connection_id, f"a{number}", read_ms=SECOND_READ) for number in range(0, 100_000, 100)]
    for mode in ("force_custom_plan", "force_generic_plan"):  # a prepared statement comes to have either
        await database.execute(f"SET plan_cache_mode = {mode}")
        explain = f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) {SQL.find_known}"
        plan = "\n".join(row[0] for row in await database.fetch(explain, *arguments(batch), in_order))
        for index in ("appointments_connection_id_external_id_key", "patient_identities_pkey", "documents_connection"):
            assert index in plan
        assert "record_absences_pkey" in plan or not in_order
        assert "Seq Scan" not in plan
