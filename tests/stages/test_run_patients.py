"""Whose appointments a run has read: counted for its row, told to the affiliations, and to partners only their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus, SyncType
from eventsync.postgres.database import Database
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


async def patient_of(database: asyncpg.Connection, client_id: object) -> UUID:
    found: UUID = await database.fetchval(
        "SELECT patient_id FROM patient_identities WHERE external_id = $1", str(client_id)
    )
    return found


async def partner(database: asyncpg.Connection) -> UUID:
    found: UUID = await database.fetchval("INSERT INTO organizations (name) VALUES ('Test Partner') RETURNING id")
    return found


async def affiliate(
    database: asyncpg.Connection, patient_id: UUID, organization_id: UUID, since: date, until: date | None = None
) -> None:
    await database.execute(
        "INSERT INTO patient_organization_affiliations (patient_id, organization_id, start_date, end_date)"
        " VALUES ($1, $2, $3, $4)",
        *(patient_id, organization_id, since, until),
    )


async def add_local_patient(database: asyncpg.Connection, site: SyncSite, email: str | None) -> UUID:
    patient_id = uuid4()
    await database.execute(
        "INSERT INTO patients (id, organization_id, first_name, last_name, email, origin)"
        " VALUES ($1, $2, 'Local', 'Test', $3, 'local')",
        *(patient_id, site.owner_id, email),
    )
    await database.execute(
        "INSERT INTO local_patients (patient_id, organization_id, first_name, last_name, email, created_at)"
        " VALUES ($1, $2, 'Local', 'Test', $3, $4)",
        *(patient_id, site.owner_id, email, site.clock()),
    )
    return patient_id


async def test_patients_are_counted_by_who_follows_them(site: SyncSite, database: asyncpg.Connection) -> None:
    today = site.clock().date()
    follower = await partner(database)
    clients = list(site.practice.clients)
    for client_id, until in ((clients[0], None), (clients[1], today), (clients[2], today - timedelta(days=1))):
        patient_id = await patient_of(database, client_id)
        await affiliate(database, patient_id, follower, today - timedelta(days=30), until)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert (run.counts.patients_processed, run.counts.patients_failed) == (2, 0)
    assert run.metadata["totalPatients"] == 2
    assert run.metadata["duration_ms"] >= 0
    assert run.metadata["unaffiliatedPatientsSynced"] == 3
    assert run.metadata["newPatientsDiscovered"] == 0


async def test_an_affiliated_patient_whom_nothing_connects_with_the_vendor_fails_and_the_others_do_not(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    today = site.clock().date()
    follower = await partner(database)
    unreachable = await add_local_patient(database, site, None)
    reachable = await add_local_patient(database, site, "local@example.test")
    followed = await patient_of(database, next(iter(site.practice.clients)))
    for patient_id in (unreachable, reachable, followed):
        await affiliate(database, patient_id, follower, today)
    run = await site.sync()
    assert run.status is RunStatus.PARTIAL_SUCCESS, run
    assert run.error_message == "Patient has no email"
    assert run.metadata["errors"] == [{"patientId": str(unreachable), "error": "Patient has no email"}]
    assert (run.counts.patients_processed, run.counts.patients_failed) == (2, 1)
    assert run.metadata["totalPatients"] == 3


async def test_an_unaffiliated_local_patient_without_email_is_nobodys_error(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    await add_local_patient(database, site, None)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert run.counts.patients_failed == 0


async def test_a_patient_with_an_unreadable_appointment_is_counted_as_failed(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    chosen = min(site.practice.appointments.values(), key=lambda a: a.start_ms)
    await affiliate(
        database, await patient_of(database, chosen.client_id), await partner(database), site.clock().date()
    )
    site.practice.put_appointment(replace(chosen, price=1e15, modified_ms=site.ms()))
    site.clock.advance(minutes=10)
    run = await site.sync()
    assert (run.counts.patients_processed, run.counts.patients_failed) == (0, 1)


async def test_new_patients_are_discovered_once_by_list_or_by_appointment(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    client_id = site.sandbox.act_unheard("add_client", first_name="New", last_name="Test Client").record_id
    site.sandbox.act_unheard("book", client_id=int(client_id), start_ms=site.ms(days=3))
    site.clock.advance(minutes=10)
    run = await site.sync()
    assert run.metadata["newPatientsDiscovered"] == 1
    patient = await database.fetchrow("SELECT * FROM patients WHERE intakeq_client_id = $1", client_id)
    assert patient is not None
    assert (patient["first_name"], patient["last_name"]) == ("New", "Test Client")
    site.clock.advance(hours=1)
    assert (await site.sync()).metadata["newPatientsDiscovered"] == 0


async def test_affiliations_tell_when_their_patients_were_last_read(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    today = site.clock().date()
    follower = await partner(database)
    clients = list(site.practice.clients)
    for client_id in clients[:2]:
        await affiliate(database, await patient_of(database, client_id), follower, today)
    synced = "SELECT last_practiceq_sync_at AS at FROM patient_organization_affiliations ORDER BY at NULLS LAST"
    assert [row["at"] for row in await database.fetch(synced)] == [None, None]
    full = await site.sync()
    assert [row["at"] for row in await database.fetch(synced)] == [full.started_at] * 2
    site.clock.advance(hours=7)
    site.sandbox.act_unheard("book", client_id=clients[0], start_ms=site.ms(days=3))
    site.clock.advance(minutes=10)
    sweep = await site.sync(SyncType.AUTOMATED_SWEEP)
    last = await database.fetchval(
        "SELECT last_practiceq_sync_at FROM patient_organization_affiliations WHERE patient_id = $1",
        await patient_of(database, clients[0]),
    )
    assert last == sweep.started_at
    site.sandbox.set_api_key("another-key")
    await site.sync()
    assert max(row["at"] for row in await database.fetch(synced)) == sweep.started_at


async def test_a_partners_refresh_of_all_counts_only_the_patients_it_follows(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    today = site.clock().date()
    mine, theirs = await partner(database), await partner(database)
    clients = list(site.practice.clients)
    await affiliate(database, await patient_of(database, clients[0]), mine, today)
    await affiliate(database, await patient_of(database, clients[1]), theirs, today)
    unreachable = await add_local_patient(database, site, None)
    await affiliate(database, unreachable, theirs, today)
    for client_id in clients[:3]:
        site.sandbox.act_unheard("book", client_id=client_id, start_ms=site.ms(days=3))
    held = sum(a.client_id == clients[0] for a in site.practice.appointments.values())
    site.sandbox.act_unheard("add_client")
    site.sandbox.act_unheard(
        "delete", id=next(a.id for a in site.practice.appointments.values() if a.client_id == clients[1])
    )
    site.clock.advance(minutes=10)
    run = await site.sync(SyncType.MANUAL_ORG_BULK, organization_id=mine)
    assert run.status is RunStatus.COMPLETED, run
    assert (run.counts.patients_processed, run.counts.patients_failed) == (1, 0)
    counts = run.counts
    assert (counts.appointments_new, counts.appointments_updated, counts.appointments_unchanged) == (1, 0, held - 1)
    of_others = ("unaffiliatedPatientsSynced", "newPatientsDiscovered", "appointments_deleted")
    assert [run.metadata[name] for name in of_others] == [0, 0, 0]
    assert await database.fetchval("SELECT count(*) FROM appointments") == 33  # what was read is written for all
