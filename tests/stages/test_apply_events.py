"""What webhooks become: rows, tombstones, documents, and a history that says what each of them did."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.records import patient_id_of
from stages.spine import Spine, a_connection, an_appointment, history_of, outcomes, queued, sample

BASE_MS = 1_744_725_029_020


async def appointment(database: asyncpg.Connection, external_id: str | None = None) -> dict[str, Any]:
    row = await database.fetchrow("SELECT * FROM appointments WHERE $1::text IS NULL OR external_id = $1", external_id)
    assert row is not None
    return dict(row)


@pytest.mark.parametrize(
    ("name", "status", "vendor_status"),
    [
        ("appointment_created", "confirmed", "Confirmed"),
        ("appointment_confirmed", "confirmed", "Confirmed"),
        ("appointment_rescheduled", "confirmed", "Confirmed"),
        ("appointment_canceled", "cancelled", "Canceled"),
        ("appointment_declined", "cancelled", "Declined"),
        ("appointment_missed", "no_show", "Missed"),
    ],
)
async def test_an_appointments_event_becomes_its_row_and_its_clients(
    spine: Spine, database: asyncpg.Connection, name: str, status: str, vendor_status: str
) -> None:
    webhook = sample(name)
    (event_id,) = await spine.apply(webhook)
    fields, row = webhook["Appointment"], await appointment(database)
    client_id = str(fields["ClientId"])
    assert (row["external_id"], row["status"], row["vendor_status"]) == (fields["Id"], status, vendor_status)
    assert row["applied_event_id"] == event_id
    assert row["deleted_at"] is None
    assert row["patient_id"] == patient_id_of(spine.connection_id, client_id)
    patient = await database.fetchrow("SELECT * FROM patients WHERE id = $1", row["patient_id"])
    assert patient is not None
    assert (patient["intakeq_client_id"], patient["status"]) == (client_id, "active")
    ended = await history_of(database, event_id)
    assert (ended["outcome"], ended["event_type"]) == ("applied", webhook["EventType"])
    assert (ended["entity_kind"], ended["entity_id"]) == ("appointment", fields["Id"])
    assert {"status", "start_time", "patient.last_name"} <= set(ended["changed_fields"])


async def test_a_deleted_appointment_stays_as_a_tombstone(spine: Spine, database: asyncpg.Connection) -> None:
    webhook = sample("appointment_deleted")
    (event_id,) = await spine.apply(webhook)
    row = await appointment(database)
    assert row["deleted_at"] == row["source_version"]
    assert row["external_id"] == webhook["Appointment"]["Id"]
    assert (await history_of(database, event_id))["outcome"] == "applied"


async def test_a_delete_ends_a_living_row_and_a_later_event_about_the_past_does_not_revive_it(
    spine: Spine, database: asyncpg.Connection
) -> None:
    await spine.apply(an_appointment(LastModified=BASE_MS))
    await spine.apply(an_appointment(event="AppointmentDeleted", LastModified=BASE_MS + 1000))
    (late,) = await spine.apply(an_appointment(LastModified=BASE_MS + 500, Status="Missed"))
    assert (await appointment(database))["deleted_at"] is not None
    assert (await history_of(database, late))["outcome"] == "stale"


async def test_an_event_of_an_unknown_kind_is_kept_and_shown(spine: Spine, database: asyncpg.Connection) -> None:
    (event_id,) = await spine.apply({"EventType": "PractitionerSangASong"})
    row = await database.fetchrow("SELECT * FROM v_events WHERE event_id = $1", event_id)
    assert row is not None
    assert (row["state"], row["reason"]) == ("unchanged", "unknown_event_type")
    assert row["event_type"] == "PractitionerSangASong"


async def test_an_invoice_is_kept_sealed_and_opens(
    spine: Spine, database: asyncpg.Connection, keyring: Keyring
) -> None:
    webhook = sample("invoice_paid")
    await spine.apply(webhook)
    row = await database.fetchrow("SELECT * FROM documents")
    assert row is not None
    assert (row["kind"], row["external_id"], row["status"]) == ("invoice", webhook["Invoice"]["Id"], "Paid")
    assert webhook["Invoice"]["Id"].encode() not in row["content_sealed"]
    opened = keyring.open(row["content_sealed"], f"document:{spine.connection_id}:invoice:{row['external_id']}")
    assert orjson.loads(opened)["Number"] == webhook["Invoice"]["Number"]


async def test_duplicates_are_unchanged_within_a_batch_and_across_batches(
    spine: Spine, database: asyncpg.Connection
) -> None:
    event_ids = await spine.apply(*[an_appointment()] * 3)
    event_ids += await spine.apply(an_appointment())
    ends = [(await history_of(database, event_id))["outcome"] for event_id in event_ids]
    assert sorted(ends) == ["applied", "unchanged", "unchanged", "unchanged"]
    assert ends[3] == "unchanged"
    assert await database.fetchval("SELECT count(*) FROM appointments") == 1


async def test_an_older_event_after_a_newer_one_is_stale(spine: Spine, database: asyncpg.Connection) -> None:
    await spine.apply(an_appointment(LastModified=BASE_MS + 1000, Status="Canceled"))
    (older,) = await spine.apply(an_appointment(LastModified=BASE_MS, Status="Confirmed"))
    assert (await appointment(database))["status"] == "cancelled"
    assert (await history_of(database, older))["outcome"] == "stale"


@pytest.mark.parametrize(("order", "applied"), [((0, 1, 2), 3), ((2, 1, 0), 1), ((1, 2, 0), 2), ((2, 0, 1), 1)])
async def test_there_and_back_again_is_three_changes_in_any_order(
    spine: Spine, database: asyncpg.Connection, order: tuple[int, ...], applied: int
) -> None:
    steps = [
        an_appointment(
            LastModified=BASE_MS + step * 1000, StartDate=1_744_929_000_000 + shift, EndDate=1_744_939_000_000
        )
        for step, shift in enumerate((0, 3_600_000, 0))
    ]
    for step in order:
        await spine.apply(steps[step])
    row = await appointment(database)
    assert row["start_time"] == datetime.fromtimestamp(1_744_929_000, UTC)
    assert row["source_version"] == datetime.fromtimestamp((BASE_MS + 2000) / 1000, UTC)
    assert await database.fetchval("SELECT count(*) FROM event_history WHERE outcome = 'applied'") == applied


async def test_two_connections_with_the_same_numbers_and_emails_stay_apart(
    spine: Spine, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    one, other = connection_ids
    first = await spine.receive(an_appointment(7), connection_id=one)
    second = await spine.receive(an_appointment(7, ClientName="Somebody Else", Status="Missed"), connection_id=other)
    await spine.applier().apply([*first, *second])
    rows = await database.fetch("SELECT connection_id, external_id, status, patient_id FROM appointments")
    assert len({row["external_id"] for row in rows}) == 1
    assert {row["connection_id"]: row["status"] for row in rows} == {one: "confirmed", other: "no_show"}
    assert len({row["patient_id"] for row in rows}) == 2
    identities = await database.fetch("SELECT connection_id, last_name, email FROM patient_identities")
    assert {row["connection_id"]: row["last_name"] for row in identities} == {one: "Client 7", other: "Else"}
    assert {row["email"] for row in identities} == {"client7@example.test"}
    patients = await database.fetch(
        "SELECT p.organization_id, c.id FROM patients p JOIN patient_identities i ON i.patient_id = p.id"
        " JOIN connections c ON c.id = i.connection_id AND c.organization_id = p.organization_id"
    )
    assert {row["id"] for row in patients} == {one, other}


async def test_an_intake_or_a_note_waits_for_a_worker_to_read_it(spine: Spine, database: asyncpg.Connection) -> None:
    note, intake = await spine.apply(sample("note_locked"), sample("intake_submitted"))
    for event_id, kind in ((note, "note"), (intake, "intake")):
        row = await queued(database, event_id)
        assert (row["work"], row["status"], row["attempts"]) == ("refetch", "pending", 0)
        assert (row["entity_kind"], row["attempt_started_at"]) == (kind, None)
    assert (await queued(database, note))["entity_id"] == sample("note_locked")["NoteId"]


async def test_an_event_of_an_unknown_or_disabled_connection_is_parked(
    spine: Spine, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    one, other = connection_ids
    del spine.connections[one]
    spine.connections[other] = a_connection(other, disabled_at=spine.clock())
    unknown = await spine.receive(an_appointment(), connection_id=one)
    disabled = await spine.receive(an_appointment(), connection_id=other)
    await spine.applier().apply([*unknown, *disabled])
    assert await outcomes(database) == {"unknown_connection": 1, "connection_disabled": 1}
    assert spine.count("eventsync_events_parked_total", reason="connection_disabled") == 1


async def test_an_event_of_another_practice_is_parked(
    spine: Spine, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    spine.connections[spine.connection_id] = a_connection(spine.connection_id, practice_id="another")
    await spine.apply(an_appointment())
    assert await outcomes(database) == {"practice_mismatch": 1}


async def test_the_client_is_the_same_patient_whether_an_appointment_or_the_record_names_them_first(
    spine: Spine, database: asyncpg.Connection
) -> None:
    await spine.apply(an_appointment(7))
    (before,) = await database.fetch("SELECT * FROM patients")
    assert (before["first_name"], before["last_name"]) == ("Test", "Client 7")
    await spine.apply(an_appointment(7, ClientName="Probe Client 7", LastModified=BASE_MS + 1))
    (after,) = await database.fetch("SELECT * FROM patients")
    assert after["id"] == before["id"]
    assert after["first_name"] == "Probe"
