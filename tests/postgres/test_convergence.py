"""Invariant 3 through the real SQL: any permutation, duplication or delay of the same changes ends in the same rows."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventsync.crypto import Keyring
from eventsync.domain.changes import Absence, Authority, Delete, EntityRef, RecordChange, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId
from eventsync.domain.merging import RecordState, merge_all
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
from eventsync.postgres.database import Database
from eventsync.postgres.records import EventChange, RecordWriter

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
START = datetime(2026, 3, 2, 9, tzinfo=UTC)
BASE_MS = 1_772_000_000_000
MINUTE_MS = 60_000

# Small ranges on purpose: equal times, equal contents and crossing reads are what must be decided.
positions = st.integers(0, 4).map(lambda step: BASE_MS + step * 10 * MINUTE_MS)
reads = st.integers(0, 5).map(lambda step: BASE_MS + step * 10 * MINUTE_MS + MINUTE_MS)
sources = st.sampled_from(Source)
keys = st.sampled_from(["a1", "a2"])


def version_of(
    content: Content | None, position: int, source: Source, read_ms: int, *, deleted: bool, authority: Authority
) -> Version:
    return Version(
        authority=authority,
        position=position,
        deleted=deleted,
        source=source,
        read_began_ms=read_ms if source is Source.API else 0,
        mapping_version=1,
        content_hash=content_hash(content),
    )


@st.composite
def appointments(draw: st.DrawFn) -> Appointment:
    start = START + timedelta(days=draw(st.sampled_from([0, 0, 40])))
    return Appointment(
        status=draw(st.sampled_from(AppointmentStatus)),
        vendor_status="Confirmed",
        start_time=start,
        end_time=start + timedelta(minutes=50),
        client_external_id=draw(st.sampled_from([None, "7"])),
    )


@st.composite
def appointment_changes(draw: st.DrawFn, connection_id: ConnectionId) -> RecordChange:
    entity = EntityRef(connection_id, RecordKind.APPOINTMENT, draw(keys))
    kind = draw(st.sampled_from(["upsert", "upsert", "upsert", "delete", "absence"]))
    if kind == "absence":
        return Absence(
            entity, draw(reads), START - timedelta(days=30), START + timedelta(days=draw(st.sampled_from([30, 90])))
        )
    content = draw(appointments())
    version = version_of(
        content, draw(positions), draw(sources), draw(reads), deleted=kind == "delete", authority=Authority.RECORD
    )
    if kind == "delete":
        return Delete(entity, version, content)
    extras = st.builds(AppointmentExtras, package_name=st.sampled_from([None, "Ten visits"]))
    rich = draw(st.none() | extras) if version.source is Source.API else None
    return Upsert(entity, version, content, rich)


@st.composite
def patient_changes(draw: st.DrawFn, connection_id: ConnectionId) -> RecordChange:
    content = Patient(
        draw(st.sampled_from(["Test", "Probe"])), "Client", email=draw(st.sampled_from([None, "t@example.test"]))
    )
    authority = draw(st.sampled_from(Authority))
    version = version_of(content, draw(positions), draw(sources), draw(reads), deleted=False, authority=authority)
    return Upsert(EntityRef(connection_id, RecordKind.PATIENT, "7"), version, content)


@st.composite
def document_changes(draw: st.DrawFn, connection_id: ConnectionId) -> RecordChange:
    entity = EntityRef(connection_id, draw(st.sampled_from([RecordKind.NOTE, RecordKind.INVOICE])), "d1")
    content = Document("locked", "Progress note", "7", START, draw(st.sampled_from([b'{"a":1}', b'{"a":2}'])))
    gone = draw(st.booleans())
    version = version_of(
        None if gone else content, draw(positions), draw(sources), draw(reads), deleted=gone, authority=Authority.RECORD
    )
    return Delete(entity, version) if gone else Upsert(entity, version, content)


def read_again(upsert: Upsert, read_ms: int, *, is_edited: bool) -> Upsert:
    """Find what was said before, or what was edited since without its modification time having been moved."""
    content = edited(upsert.content) if is_edited else upsert.content
    version = upsert.version._replace(source=Source.API, read_began_ms=read_ms, content_hash=content_hash(content))
    return Upsert(upsert.entity, version, content)


def edited(content: Content) -> Content:
    """Change one field."""
    if isinstance(content, Appointment):
        return replace(content, practitioner_name="Test Practitioner")
    return replace(content, phone="2025550100") if isinstance(content, Patient) else replace(content, title="Edited")


@st.composite
def histories(draw: st.DrawFn, connection_id: ConnectionId) -> list[RecordChange]:
    """Draw changes of all kinds, absences of each of their records, and reads that find again what was said before."""
    change = appointment_changes(connection_id) | patient_changes(connection_id) | document_changes(connection_id)
    changes = draw(st.lists(change, min_size=2, max_size=9))
    upserts = [each for each in changes if isinstance(each, Upsert)]
    if upserts:
        again = st.tuples(st.sampled_from(upserts), reads, st.booleans())
        changes += [
            read_again(upsert, read_ms, is_edited=is_edited)
            for upsert, read_ms, is_edited in draw(st.lists(again, max_size=6))
        ]
    for each, read_ms in draw(st.lists(st.tuples(st.sampled_from(changes), reads), max_size=2)):
        changes.append(Absence(each.entity, read_ms, START - timedelta(days=30), START + timedelta(days=30)))
    return changes


@pytest.fixture
def writer(keyring: Keyring) -> RecordWriter:
    return RecordWriter(keyring)


_THROUGH_SQL = settings(
    max_examples=3000 if os.environ.get("EVENTSYNC_PROVE") else 200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_THROUGH_SQL
@given(data=st.data())
async def test_any_order_and_any_batches_of_the_same_changes_end_in_the_same_rows(
    pool: Database,
    database: asyncpg.Connection,
    writer: RecordWriter,
    connection_ids: list[ConnectionId],
    data: st.DataObject,
) -> None:
    changes = data.draw(histories(connection_ids[0]))
    shuffler = random.Random(data.draw(st.integers(0, 2**32)))
    first = await rows_after(pool, database, writer, changes, shuffler)
    other_order = [*changes, *data.draw(st.lists(st.sampled_from(changes), max_size=4))]
    shuffler.shuffle(other_order)
    second = await rows_after(pool, database, writer, other_order, shuffler)
    assert first == second


@_THROUGH_SQL
@given(data=st.data())
async def test_reads_in_order_that_leave_out_what_they_repeat_end_in_what_any_order_of_all_shows(
    pool: Database,
    database: asyncpg.Connection,
    writer: RecordWriter,
    connection_ids: list[ConnectionId],
    data: st.DataObject,
) -> None:
    changes = one_statement_a_read(data.draw(histories(connection_ids[0])))
    shuffler = random.Random(data.draw(st.integers(0, 2**32)))
    shuffler.shuffle(changes)
    merged = await rows_after(pool, database, writer, changes, shuffler)
    others = [*changes, *data.draw(st.lists(st.sampled_from(changes), max_size=4))]  # what comes again is not later
    others = with_reads_in_order(others, shuffler)
    compared = await rows_after(pool, database, writer, others, shuffler, in_order=True, largest_batch=3)
    assert shown(merged) == shown(compared)


@_THROUGH_SQL
@given(data=st.data())
async def test_what_the_rows_say_is_what_the_merging_rules_say(
    pool: Database,
    database: asyncpg.Connection,
    writer: RecordWriter,
    connection_ids: list[ConnectionId],
    data: st.DataObject,
) -> None:
    changes = data.draw(st.lists(appointment_changes(connection_ids[0]), min_size=1, max_size=6))
    rows = await rows_after(pool, database, writer, changes, random.Random(1))
    for external_id in {change.entity.external_id for change in changes}:
        state = merge_all(RecordState(), [c for c in changes if c.entity.external_id == external_id])
        row = next((row for row in rows["appointments"] if row["external_id"] == external_id), None)
        assert (row is None) == (state.core is None)
        if row is not None and state.core is not None:
            assert row["version"] == state.core.version.to_bytes()
            assert (row["deleted_at"] is None) == (state.deleted_at_ms is None)


def read_of(change: RecordChange) -> int | None:
    """When the read began that `change` comes from; None where order does not matter: webhooks, and mere mentions."""
    if isinstance(change, Absence):
        return change.read_began_ms
    version = change.version
    return version.read_began_ms if (version.source, version.authority) == (Source.API, Authority.RECORD) else None


def one_statement_a_read(changes: Sequence[RecordChange]) -> list[RecordChange]:
    """Leave out what a read says of a record beyond the first thing, as a walk over a list does."""
    told: dict[object, RecordChange] = {}
    for place, change in enumerate(changes):
        read_ms = read_of(change)
        told.setdefault(place if read_ms is None else (change.entity, read_ms), change)
    return list(told.values())


def with_reads_in_order(changes: Sequence[RecordChange], shuffler: random.Random) -> list[RecordChange]:
    """Shuffle `changes`, but for reads, which come in the order in which they began."""
    shuffled = shuffler.sample(changes, len(changes))
    reads_in_order = iter(sorted((c for c in shuffled if read_of(c) is not None), key=lambda c: read_of(c) or 0))
    return [change if read_of(change) is None else next(reads_in_order) for change in shuffled]


def shown(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Leave out when a record was last seen, which is no part of what a reader is shown of it."""
    return {table: [_without_the_reads_time(row) for row in found] for table, found in rows.items()}


def _without_the_reads_time(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name != "seen_at"}
    if "version" in kept:
        version = Version.from_bytes(kept["version"])
        kept["version"] = version._replace(read_began_ms=0)
    return kept


async def rows_after(
    pool: Database,
    database: asyncpg.Connection,
    writer: RecordWriter,
    changes: Sequence[RecordChange],
    shuffler: random.Random,
    *,
    in_order: bool = False,
    largest_batch: int = 100,
) -> dict[str, list[dict[str, Any]]]:
    """Write `changes` in batches of random sizes to empty tables, and read what they ended in."""
    await database.execute("TRUNCATE appointments, patients, patient_identities, documents, record_absences CASCADE")
    waiting = [EventChange(None, change) for change in changes]
    while waiting:
        size = shuffler.randint(1, min(largest_batch, len(waiting)))
        async with pool.transaction() as session:
            await writer.write(session, waiting[:size], NOW, reads_in_order=in_order)
        waiting = waiting[size:]
    return {
        table: await rows_of(database, table)
        for table in ("appointments", "patient_identities", "documents", "patients")
    }


async def rows_of(database: asyncpg.Connection, table: str) -> list[dict[str, Any]]:
    rows = await database.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608  # one of four literals
    return [
        {name: value for name, value in row.items() if name not in {"content_sealed", "applied_event_id"}}
        for row in rows
    ]
