"""Searching events and explaining records: whole, in order, and for the owner only."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.changes import Authority, EntityRef, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.errors import Misconfigured
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Outcome, new_event_id
from eventsync.domain.records import (
    Appointment,
    AppointmentStatus,
    Content,
    Document,
    Patient,
    RecordKind,
    content_hash,
    patient_id_of,
    record_id_of,
)
from eventsync.postgres.database import Database
from eventsync.postgres.explain import explain
from eventsync.postgres.queue import EventQueue, finish
from eventsync.postgres.queue_values import Finished, Parked
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.postgres.search import SQL, EventFilter, EventSearch

NOW = datetime.now(UTC).replace(microsecond=0)
BODY = b'{"EventType":"Test"}'


@dataclass(frozen=True, slots=True)
class Spine:
    """Stores, ends and parks events as the stages do."""

    pool: Database
    queue: EventQueue
    writer: RecordWriter
    connections: Sequence[ConnectionId]

    async def event(self, at_s: int = 0, *, connection: int = 0) -> EventId:
        """Receive an event `at_s` seconds after NOW."""
        event_id = new_event_id(NOW + timedelta(seconds=at_s), secrets.token_bytes(10))
        headers = (("Content-Type", "application/json"),)
        await self.queue.store(
            [IncomingEvent(event_id, self.connections[connection], "intakeq", EventSource.WEBHOOK, headers, BODY)]
        )
        return event_id

    async def applied(
        self, at_s: int, kind: RecordKind, external_id: str, *, connection: int = 0, event_type: str = "Changed"
    ) -> EventId:
        """Receive an event that changes a record's status, and end it."""
        event_id = await self.event(at_s, connection=connection)
        finished = Finished(
            event_id, Outcome.APPLIED, event_type, kind.value, external_id, 1, changed_fields=("status",)
        )
        async with self.pool.transaction() as session:
            await finish(session, [finished], NOW)
        return event_id

    async def park(self, event_id: EventId) -> None:
        await self.queue.park([Parked(event_id, "not_json", "The body is not JSON.")])

    async def write(
        self, kind: RecordKind, external_id: str, content: Content, *, connection: int = 0, by: EventId | None = None
    ) -> None:
        ref = EntityRef(self.connections[connection], kind, external_id)
        version = Version(Authority.RECORD, 1_772_000_000_000, False, Source.API, 77_000, 1, content_hash(content))
        async with self.pool.transaction() as session:
            await self.writer.write(session, [EventChange(by, Upsert(ref, version, content))], NOW)


def an_appointment(client: str | None = None) -> Appointment:
    return Appointment(
        AppointmentStatus.CONFIRMED, "Confirmed", NOW, NOW + timedelta(minutes=50), client_external_id=client
    )


@pytest.fixture
def spine(pool: Database, keyring: Keyring, connection_ids: list[ConnectionId]) -> Spine:
    return Spine(pool, EventQueue(pool, keyring), RecordWriter(keyring), connection_ids)


@pytest.fixture
def search(pool: Database, keyring: Keyring) -> EventSearch:
    return EventSearch(pool, keyring)


@pytest.fixture
async def owner_id(database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> OrganizationId:
    found = await database.fetchval("SELECT organization_id FROM connections WHERE id = $1", connection_ids[0])
    return OrganizationId(found)


async def test_unfinished_and_finished_events_are_found_together_the_latest_first(
    spine: Spine, search: EventSearch
) -> None:
    first = await spine.applied(1, RecordKind.APPOINTMENT, "1")
    second = await spine.event(2)
    third = await spine.event(3)
    await spine.park(third)
    found = await search.events(EventFilter())
    assert [(event.event_id, event.state) for event in found] == [
        (third, "parked"),
        (second, "pending"),
        (first, "applied"),
    ]
    assert (found[0].reason, found[0].error) == ("not_json", "The body is not JSON.")
    assert (found[2].changed_fields, found[2].finished_at) == (("status",), NOW)


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        (EventFilter(state="applied"), [2, 0]),
        (EventFilter(state="pending"), [1]),
        (EventFilter(vendor="intakeq"), [2, 1, 0]),
        (EventFilter(vendor="cliniko"), []),
        (EventFilter(event_type="Booked"), [0]),
        (EventFilter(entity_kind="appointment", entity_id="1"), [0]),
        (EventFilter(entity_kind="invoice"), [2]),
        (EventFilter(since=NOW + timedelta(seconds=2)), [2, 1]),
        (EventFilter(until=NOW + timedelta(seconds=2)), [0]),
        (EventFilter(since=NOW + timedelta(seconds=2), until=NOW + timedelta(seconds=3)), [1]),
    ],
)
async def test_each_filter_finds_what_it_says(
    spine: Spine, search: EventSearch, wanted: EventFilter, places: list[int]
) -> None:
    events = [
        await spine.applied(1, RecordKind.APPOINTMENT, "1", event_type="Booked"),
        await spine.event(2),
        await spine.applied(3, RecordKind.INVOICE, "1"),
    ]
    assert [event.event_id for event in await search.events(wanted)] == [events[place] for place in places]


async def test_an_organization_finds_its_own_events_only(
    spine: Spine, search: EventSearch, owner_id: OrganizationId
) -> None:
    mine = await spine.applied(1, RecordKind.APPOINTMENT, "1", connection=0)
    theirs = await spine.applied(2, RecordKind.APPOINTMENT, "1", connection=1)
    assert [event.event_id for event in await search.events(EventFilter(organization_id=owner_id))] == [mine]
    across = EventFilter(organization_id=owner_id, connection_id=spine.connections[1])
    assert await search.events(across) == []
    assert await search.event(theirs, owner_id) is None
    assert await search.event(mine, owner_id) is not None
    assert await search.event(theirs, None) is not None


async def test_pages_give_every_event_once_although_many_came_in_one_millisecond(
    spine: Spine, search: EventSearch
) -> None:
    ids = {await spine.event(1) for _ in range(7)} | {await spine.event(2) for _ in range(3)}
    seen: list[UUID] = []
    page = await search.events(EventFilter(), limit=4)
    while page:
        seen += [event.event_id for event in page]
        page = await search.events(EventFilter(), after=page[-1].cursor, limit=4)
    assert len(seen) == 10
    assert set(seen) == ids
    assert seen == sorted(seen, reverse=True)


async def test_an_event_shows_its_place_while_unfinished_and_its_payload_on_request(
    spine: Spine, search: EventSearch
) -> None:
    waiting, ended = await spine.event(1), await spine.applied(2, RecordKind.NOTE, "1")
    shown = await search.event(waiting, None, with_payload=True)
    assert shown is not None
    assert shown.place is not None
    assert shown.payload is not None
    assert (shown.place.work, shown.payload.body) == ("apply", BODY)
    assert shown.payload.headers == (("Content-Type", "application/json"),)
    assert "EventType" not in repr(shown)
    after = await search.event(ended, None)
    assert after is not None
    assert (after.place, after.payload) == (None, None)


async def test_an_event_outlives_its_payload(spine: Spine, search: EventSearch, database: asyncpg.Connection) -> None:
    ended = await spine.applied(1, RecordKind.NOTE, "1")
    await database.execute("DELETE FROM events")
    shown = await search.event(ended, None, with_payload=True)
    assert shown is not None
    assert shown.payload is None


@pytest.mark.parametrize("event_id", [uuid4(), UUID(int=0), UUID(int=2**128 - 1)])
async def test_an_id_that_is_no_events_finds_none(search: EventSearch, event_id: UUID) -> None:
    assert await search.event(event_id, None) is None


async def test_a_payload_sealed_with_a_missing_key_says_what_to_do(spine: Spine, pool: Database) -> None:
    event_id = await spine.event()
    with pytest.raises(Misconfigured, match="EVENTSYNC_ENCRYPTION_KEYS"):
        await EventSearch(pool, Keyring([b"o" * 32])).event(event_id, None, with_payload=True)


async def test_an_appointment_is_explained_by_either_id_with_every_event_in_order(
    spine: Spine, pool: Database, owner_id: OrganizationId
) -> None:
    events = [await spine.applied(second, RecordKind.APPOINTMENT, "1") for second in (3, 1, 2)]
    await spine.applied(4, RecordKind.APPOINTMENT, "2")
    await spine.write(RecordKind.APPOINTMENT, "1", an_appointment(), by=events[0])
    our_id = record_id_of(spine.connections[0], RecordKind.APPOINTMENT, "1")
    for reference in ("1", str(our_id)):
        found = await explain(pool, RecordKind.APPOINTMENT, reference, owner_id)
        (facts,) = found.records
        assert (facts.id, facts.external_id, facts.status) == (our_id, "1", "confirmed")
        assert (facts.version.position, facts.applied_event_id) == (1_772_000_000_000, events[0])
        assert (facts.verified_at, facts.deleted_at) == (datetime.fromtimestamp(1_772_000_000, UTC), None)
        assert [event.event_id for event in found.history] == [events[1], events[2], events[0]]
        assert found.unfinished == ()


async def test_unfinished_events_that_name_a_record_are_told_apart_even_before_it_has_a_row(
    spine: Spine, pool: Database, database: asyncpg.Connection
) -> None:
    event_id = await spine.event()
    await database.execute("UPDATE event_queue SET entity_kind = 'note', entity_id = '9', work = 'refetch'")
    found = await explain(pool, RecordKind.NOTE, "9", None)
    assert (found.records, found.history) == ((), ())
    assert [event.event_id for event in found.unfinished] == [event_id]


async def test_one_external_id_means_a_record_in_each_connection_but_only_the_askers(
    spine: Spine, pool: Database, owner_id: OrganizationId
) -> None:
    for connection in (0, 1):
        await spine.write(RecordKind.APPOINTMENT, "1", an_appointment(), connection=connection)
        await spine.applied(connection, RecordKind.APPOINTMENT, "1", connection=connection)
    everyone = await explain(pool, RecordKind.APPOINTMENT, "1", None)
    assert (len(everyone.records), len(everyone.events)) == (2, 2)
    mine = await explain(pool, RecordKind.APPOINTMENT, "1", owner_id)
    assert [facts.connection_id for facts in mine.records] == [spine.connections[0]]
    assert len(mine.events) == 1
    their_id = record_id_of(spine.connections[1], RecordKind.APPOINTMENT, "1")
    nothing = await explain(pool, RecordKind.APPOINTMENT, str(their_id), owner_id)
    assert (nothing.records, nothing.events) == ((), ())


async def test_a_patients_history_holds_what_came_with_its_appointments_and_documents(
    spine: Spine, pool: Database
) -> None:
    events = [
        await spine.applied(1, RecordKind.APPOINTMENT, "a1"),
        await spine.applied(2, RecordKind.INVOICE, "i1"),
        await spine.applied(3, RecordKind.PATIENT, "12"),
    ]
    elsewhere = await spine.applied(4, RecordKind.APPOINTMENT, "a2")
    await spine.write(RecordKind.PATIENT, "12", Patient("Test", "Client"), by=elsewhere)
    await spine.write(RecordKind.APPOINTMENT, "a1", an_appointment("12"))
    await spine.write(RecordKind.INVOICE, "i1", Document("paid", "Invoice", "12", NOW, b"{}"))
    patient_id = patient_id_of(spine.connections[0], "12")
    for reference in ("12", str(patient_id)):
        found = await explain(pool, RecordKind.PATIENT, reference, None)
        assert [facts.patient_id for facts in found.records] == [patient_id]
        assert [event.event_id for event in found.events] == [*events, elsewhere]


@pytest.mark.parametrize("kind", RecordKind)
async def test_an_unknown_record_is_explained_as_nothing(pool: Database, spine: Spine, kind: RecordKind) -> None:
    found = await explain(pool, kind, "nobody", None)
    assert (found.records, found.events) == ((), ())


async def test_the_latest_events_are_found_without_reading_the_whole_history(
    database: asyncpg.Connection, spine: Spine
) -> None:
    await fill_history(database, spine.connections[0])
    async with database.transaction():
        await database.execute(SQL.plan_for_values)
        plan = await plan_of(database, SQL.list_events, *[None] * 10, 50)
        of_one = await plan_of(
            database, SQL.list_events, [spine.connections[0]], None, None, None, "appointment", "77", *[None] * 4, 50
        )
    assert rows_read(plan) < 500
    assert rows_read(of_one) < 500


async def fill_history(database: asyncpg.Connection, connection_id: ConnectionId) -> None:
    """Put 20,000 ended events into the last two weeks."""
    await database.execute(
        "INSERT INTO event_history (event_id, received_at, connection_id, vendor, source, event_type, entity_kind,"
        " entity_id, outcome, attempts, finished_at)"
        " SELECT gen_random_uuid(), $2::timestamptz - n * interval '1 minute', $1, 'intakeq', 'webhook', 'Changed',"
        " 'appointment', (n % 5000)::text, 'applied', 1, $2 FROM generate_series(1, 20000) n",
        connection_id,
        NOW,
    )
    await database.execute("ANALYZE event_history")


async def plan_of(database: asyncpg.Connection, statement: str, *arguments: object) -> dict[str, Any]:
    text = await database.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments)
    plan: dict[str, Any] = orjson.loads(text)[0]["Plan"]
    return plan


def rows_read(plan: dict[str, Any]) -> int:
    """Count the rows that the leaves of a plan gave or threw away."""
    children = plan.get("Plans", [])
    if children:
        return sum(rows_read(child) for child in children)
    return int((plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"])
