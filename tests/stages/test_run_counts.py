"""What a run's row says is what the run did: to appointments, to patients, and to the affiliations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.runs import Run, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.sandbox.intakeq.records import Appointment, AppointmentStatus
from stages.sync_site import SyncSite, open_site


@pytest.fixture
async def site(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    """A practice of five clients and 30 appointments to come, whose copy is whole, an hour ago."""
    async with open_site(pool, keyring, clients=5, appointments=0) as opened:
        opened.sandbox.act_unheard("book_many", count=30, start_ms=opened.ms(days=1), every_ms=6 * 3_600_000)
        opened.clock.advance(minutes=1)
        await opened.sync()
        opened.clock.advance(hours=1)
        yield opened


def counted(run: Run) -> tuple[int, int, int, int]:
    counts = run.counts
    return (
        counts.appointments_new,
        counts.appointments_updated,
        counts.appointments_unchanged,
        counts.appointments_errors,
    )


def first(site: SyncSite) -> Appointment:
    return min(site.practice.appointments.values(), key=lambda a: a.start_ms)


def alter(site: SyncSite, **fields: Any) -> str:
    """Let the first appointment be otherwise at the vendor, as no action makes it."""
    changed = replace(first(site), modified_ms=site.ms(), **fields)
    site.practice.put_appointment(changed)
    return changed.id


@pytest.mark.parametrize("field", ["price", "length", "location", "client_note", "practitioner_note", "service"])
async def test_each_edit_counts_as_one_update_and_no_other_row_is_written(
    site: SyncSite, database: asyncpg.Connection, field: str
) -> None:
    edited = first(site).id
    others = "SELECT xmin::text, external_id FROM appointments WHERE external_id <> $1 ORDER BY id"
    before = await database.fetch(others, edited)
    site.sandbox.act_unheard("edit", id=edited, field=field)
    site.clock.advance(minutes=1)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert counted(run) == (0, 1, 29, 0)
    assert await database.fetch(others, edited) == before
    await site.require_true_copy(database)


async def test_what_only_its_time_of_change_tells_is_unchanged(site: SyncSite, database: asyncpg.Connection) -> None:
    changed_at = "SELECT changed_at FROM appointments WHERE external_id = $1"
    edited = first(site).id
    before = await database.fetchval(changed_at, edited)
    site.sandbox.act_unheard("edit", id=edited, field="session")  # which lists do not show
    site.clock.advance(minutes=1)
    assert counted(await site.sync()) == (0, 0, 30, 0)
    assert await database.fetchval(changed_at, edited) == before


async def test_a_row_that_cannot_be_understood_is_one_error_and_its_neighbours_are_written(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    unreadable = alter(site, status="")
    booked = site.sandbox.act_unheard("book", start_ms=site.ms(days=2)).record_id
    site.clock.advance(minutes=10)
    for sync_type in (SyncType.AUTOMATED_SWEEP, SyncType.AUTOMATED_DAILY):
        run = await site.sync(sync_type)
        assert run.status is RunStatus.PARTIAL_SUCCESS, run
        assert run.counts.appointments_errors == 1
        assert run.error_message == "a row of the appointments was not kept (missing_field)"
        assert run.metadata["errors"] == [{"patientId": None, "error": run.error_message}]
        assert run.metadata["appointments_deleted"] == 0
    rows = await database.fetch("SELECT external_id FROM appointments WHERE deleted_at IS NULL")
    held = {row["external_id"] for row in rows}
    assert {unreadable, booked} <= held
    assert len(held) == 31
    assert await database.fetchval("SELECT count(*) FROM absence_candidates") == 0  # it was listed


async def test_a_row_without_a_readable_id_hides_no_other(site: SyncSite, database: asyncpg.Connection) -> None:
    site.practice.put_appointment(replace(first(site), id="", start_ms=site.ms(days=2)))
    gone = first(site)
    site.practice.put_appointment(replace(gone, deleted_ms=site.ms(days=-20)))  # of which no list tells
    site.clock.advance(minutes=10)
    run = await site.sync()
    assert run.status is RunStatus.PARTIAL_SUCCESS
    assert counted(run) == (0, 0, 29, 1)
    assert await database.fetchval("SELECT count(*) FROM absence_candidates") == 0  # any row may be the one without id
    del site.practice.appointments[""]
    site.practice.put_appointment(gone)


async def test_a_row_that_postgres_refuses_is_one_error_and_its_neighbours_are_written(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    refused = site.sandbox.act_unheard("book", start_ms=site.ms(days=2)).record_id
    kept = site.sandbox.act_unheard("book", start_ms=site.ms(days=2)).record_id
    await database.execute(f"ALTER TABLE appointments ADD CHECK (external_id <> '{refused}')")
    site.clock.advance(minutes=10)
    run = await site.sync()
    assert run.status is RunStatus.PARTIAL_SUCCESS, run
    assert counted(run) == (1, 0, 30, 1)
    assert run.error_message == "a row of the appointments was not kept (database_refused)"
    assert (
        await database.fetchval("SELECT count(*) FROM appointments WHERE external_id = ANY($1)", [kept, refused]) == 1
    )


async def test_a_client_that_cannot_be_understood_is_told_and_is_no_error_of_an_appointment(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    client = next(iter(site.practice.clients.values()))
    site.practice.put_client(replace(client, modified_ms=-1))
    run = await site.sync()
    assert run.status is RunStatus.PARTIAL_SUCCESS, run
    assert counted(run) == (0, 0, 30, 0)
    assert run.error_message is not None
    assert run.error_message.startswith("a row of the patients was not kept")
    assert await database.fetchval("SELECT count(*) FROM patient_identities WHERE deleted_at IS NOT NULL") == 0


async def test_the_sums_over_runs_are_what_happened(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, clients=5, appointments=0) as site:
        runs = [await site.sync()]
        booked: list[str] = []
        edited = deleted = 0
        for number in range(8):
            site.clock.advance(hours=1)
            if booked:
                site.sandbox.act_unheard("edit", id=booked[-3], field="price")
                site.sandbox.act_unheard("delete", id=booked[-2])
                edited, deleted = edited + 1, deleted + 1
            starts = [site.ms(days=5 + number, hours=hour) for hour in range(3)]
            booked += [site.sandbox.act_unheard("book", start_ms=start).record_id for start in starts]
            site.clock.advance(minutes=10)
            runs.append(await site.sync(SyncType.AUTOMATED_DAILY if number % 3 == 0 else SyncType.AUTOMATED_SWEEP))
        assert sum(run.counts.appointments_new for run in runs) == len(booked)
        assert sum(run.counts.appointments_updated for run in runs) == edited + deleted
        assert sum(run.metadata["appointments_deleted"] for run in runs) == deleted
        assert sum(run.metadata["newPatientsDiscovered"] for run in runs) == 5
        assert sum(run.counts.appointments_errors for run in runs) == 0


async def test_a_practitioner_without_a_name_is_warned_of_and_one_with_a_name_is_not(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    assert [text for text in (await site.sync()).metadata["warnings"] if "nknown practitioner" in text] == []
    alter(site, practitioner_id="0123456789abcdef01234567", practitioner_name="Test Stranger")
    site.clock.advance(minutes=10)
    run = await site.sync(SyncType.AUTOMATED_SWEEP)
    assert run.status is RunStatus.COMPLETED, run
    assert run.metadata["warnings"] == [
        "Unknown practitioner 0123456789abcdef01234567: map it with `eventsync providers map`"
    ]


@pytest.mark.parametrize(
    ("vendors", "ours"),
    [
        (AppointmentStatus.CONFIRMED, "confirmed"),
        (AppointmentStatus.WAITING, "scheduled"),
        (AppointmentStatus.CANCELED, "cancelled"),
        (AppointmentStatus.DECLINED, "cancelled"),
        (AppointmentStatus.MISSED, "no_show"),
        ("SomethingNew", "scheduled"),
    ],
)
async def test_a_status_is_told_in_our_words(
    site: SyncSite, database: asyncpg.Connection, vendors: str, ours: str
) -> None:
    changed = alter(site, status=vendors)
    site.clock.advance(minutes=10)
    await site.sync(SyncType.AUTOMATED_SWEEP)
    row = await database.fetchrow("SELECT status, vendor_status FROM appointments WHERE external_id = $1", changed)
    assert row is not None
    assert (row["status"], row["vendor_status"]) == (ours, str(vendors))


async def test_a_confirmed_appointment_that_is_past_reads_as_completed_and_is_not_written_for_it(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    changed = alter(site, status=AppointmentStatus.CONFIRMED, start_ms=site.ms(days=-400))
    site.clock.advance(minutes=10)
    await site.sync(SyncType.AUTOMATED_SWEEP)
    seen = await database.fetchval("SELECT status FROM v_appointments WHERE external_id = $1", changed)
    held = await database.fetchval("SELECT status FROM appointments WHERE external_id = $1", changed)
    assert (seen, held) == ("completed", "confirmed")


@pytest.mark.parametrize(
    ("place", "telehealth", "kind", "link"),
    [
        (
            "02",
            {"Provider": "Zoom", "JoinUrl": "https://meet.example.test/j/1"},
            "telehealth",
            "https://meet.example.test/j/1",
        ),
        (
            "10",
            {"Provider": "IntakeQ", "Invitation": "Join: https://meet.example.test/2."},
            "telehealth",
            "https://meet.example.test/2",
        ),
        ("11", None, "office", None),
        ("12", None, "home", None),
        ("02", None, "telehealth", None),  # Google Meet: its link is never told
        (None, {"Provider": "IntakeQ", "StartUrl": "https://meet.example.test/host"}, "telehealth", None),
        (None, None, None, None),
    ],
)
async def test_a_place_and_a_meeting_link_are_told_as_far_as_the_vendor_tells_them(
    site: SyncSite,
    database: asyncpg.Connection,
    place: str | None,
    telehealth: dict[str, str] | None,
    kind: str | None,
    link: str | None,
) -> None:
    changed = alter(site, place_of_service=place, telehealth=telehealth)
    site.clock.advance(minutes=10)
    await site.sync(SyncType.AUTOMATED_SWEEP)
    row = await database.fetchrow("SELECT location_type, meeting_url FROM appointments WHERE external_id = $1", changed)
    assert row is not None
    assert (row["location_type"], row["meeting_url"]) == (kind, link)


async def test_settings_that_cannot_be_read_fail_the_run_and_say_what_to_do(site: SyncSite) -> None:
    broken = replace(site.connection, settings={"days_back": "many"})
    site.spine.connections[site.connection.id] = broken
    site.spine.directory = type(site.spine.directory)(site.spine.load_connection, site.spine.listener)
    run = await site.sync()
    assert run.status is RunStatus.FAILED
    assert run.error_message is not None
    assert "eventsync connections update" in run.error_message
