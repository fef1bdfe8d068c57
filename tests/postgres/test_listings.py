"""What an organization sees: an owner all of its rows, a partner whom it follows today and nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.changes import Authority, Delete, EntityRef, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.records import Appointment, AppointmentStatus, Patient, RecordKind, content_hash, patient_id_of
from eventsync.postgres.affiliation_rows import AffiliationTerms
from eventsync.postgres.affiliations import Affiliations
from eventsync.postgres.database import Database
from eventsync.postgres.linking import PatientLinks
from eventsync.postgres.listings import AppointmentFilter, ListedAppointment, Listings, PatientFilter
from eventsync.postgres.providers import Providers
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.postgres.tenants import Organizations

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TODAY = NOW.date()
DAY = timedelta(days=1)
ALL_PATIENTS = PatientFilter()
ALL_APPOINTMENTS = AppointmentFilter()


@dataclass(frozen=True, slots=True)
class Practice:
    """An owner with one connection beside another owner's, and a partner."""

    pool: Database
    writer: RecordWriter
    listings: Listings
    connections: list[ConnectionId]
    owner_id: OrganizationId
    partner_id: OrganizationId

    async def client(self, external_id: str, *, last: str = "Client", email: str | None = None) -> UUID:
        content = Patient("Test", last, email=email)
        await self._write(EntityRef(self.connections[0], RecordKind.PATIENT, external_id), content)
        return patient_id_of(self.connections[0], external_id)

    async def appointment(
        self, external_id: str, client: str, start: datetime = NOW + DAY, *, connection: int = 0, deleted: bool = False
    ) -> None:
        end = start + timedelta(minutes=50)
        content = Appointment(
            AppointmentStatus.CONFIRMED,
            "Confirmed",
            start,
            end,
            client_external_id=client,
            practitioner_external_id="p1",
            practitioner_name="From the vendor",
        )
        ref = EntityRef(self.connections[connection], RecordKind.APPOINTMENT, external_id)
        await self._write(ref, content, deleted=deleted)

    async def follow(self, patient_id: UUID, terms: AffiliationTerms | None = None) -> UUID:
        given = terms or AffiliationTerms(start_date=TODAY)
        return await Affiliations(self.pool).add(self.owner_id, patient_id, self.partner_id, given, NOW)

    async def patients_seen(self, organization_id: OrganizationId | None) -> list[UUID]:
        return [patient.id for patient in await self.listings.patients(organization_id, ALL_PATIENTS, NOW)]

    async def appointments_seen(self, organization_id: OrganizationId | None) -> list[str]:
        return names(await self.listings.appointments(organization_id, ALL_APPOINTMENTS, NOW))

    async def _write(self, ref: EntityRef, content: Patient | Appointment, *, deleted: bool = False) -> None:
        version = Version(Authority.RECORD, 1_772_000_000_000, deleted, Source.API, 1, 1, content_hash(content))
        change = Delete(ref, version, content) if deleted else Upsert(ref, version, content)
        async with self.pool.transaction() as session:
            await self.writer.write(session, [EventChange(None, change)], NOW)


def names(appointments: list[ListedAppointment]) -> list[str]:
    return [appointment.external_id for appointment in appointments]


@pytest.fixture
async def practice(
    database: asyncpg.Connection, pool: Database, keyring: Keyring, connection_ids: list[ConnectionId]
) -> Practice:
    owner = await database.fetchval("SELECT organization_id FROM connections WHERE id = $1", connection_ids[0])
    partner = await Organizations(pool).add("Test Partner", None, NOW)
    writer = RecordWriter(keyring)
    return Practice(pool, writer, Listings(pool), connection_ids, OrganizationId(owner), partner.id)


async def test_an_owner_sees_all_of_its_rows_and_an_admin_everyones(practice: Practice) -> None:
    mine = await practice.client("12")
    await practice.appointment("a1", "12")
    await practice.appointment("b1", "12", NOW + 2 * DAY, connection=1)
    assert await practice.patients_seen(practice.owner_id) == [mine]
    assert await practice.appointments_seen(practice.owner_id) == ["a1"]
    assert await practice.appointments_seen(None) == ["a1", "b1"]


async def test_a_stranger_sees_nothing(practice: Practice) -> None:
    await practice.client("12")
    await practice.appointment("a1", "12")
    stranger = OrganizationId(uuid4())
    assert await practice.patients_seen(stranger) == []
    assert await practice.appointments_seen(stranger) == []


async def test_a_partner_sees_whom_it_follows_and_nobody_else(practice: Practice) -> None:
    followed = await practice.client("12")
    await practice.client("13")
    await practice.appointment("a1", "12")
    await practice.appointment("a2", "13")
    await practice.follow(followed)
    assert await practice.patients_seen(practice.partner_id) == [followed]
    assert await practice.appointments_seen(practice.partner_id) == ["a1"]


@pytest.mark.parametrize(
    ("terms", "sees"),
    [
        (AffiliationTerms(start_date=TODAY), True),
        (AffiliationTerms(start_date=TODAY + DAY), False),
        (AffiliationTerms(start_date=TODAY - DAY, end_date=TODAY), True),
        (AffiliationTerms(start_date=TODAY - 2 * DAY, end_date=TODAY - DAY), False),
        (AffiliationTerms(start_date=TODAY, consent_expires_on=TODAY), True),
        (AffiliationTerms(start_date=TODAY, consent_expires_on=TODAY - DAY), False),
        (AffiliationTerms(start_date=TODAY, end_date=date(2027, 1, 1), consent_expires_on=TODAY - DAY), False),
    ],
)
async def test_a_partner_sees_a_patient_on_the_days_of_its_affiliation_and_consent(
    practice: Practice, terms: AffiliationTerms, *, sees: bool
) -> None:
    patient = await practice.client("12")
    await practice.appointment("a1", "12")
    await practice.follow(patient, terms)
    assert await practice.patients_seen(practice.partner_id) == ([patient] if sees else [])
    assert await practice.appointments_seen(practice.partner_id) == (["a1"] if sees else [])


async def test_an_ended_affiliation_shows_nothing_at_once(practice: Practice) -> None:
    patient = await practice.client("12")
    await practice.appointment("a1", "12")
    affiliation = await practice.follow(patient)
    await Affiliations(practice.pool).end(affiliation, practice.owner_id, TODAY, NOW)
    assert await practice.patients_seen(practice.partner_id) == []
    assert await practice.appointments_seen(practice.partner_id) == []


async def test_an_owner_that_follows_its_own_patient_sees_it_once(practice: Practice) -> None:
    patient = await practice.client("12")
    await practice.appointment("a1", "12")
    terms = AffiliationTerms(start_date=TODAY)
    await Affiliations(practice.pool).add(practice.owner_id, patient, practice.owner_id, terms, NOW)
    assert await practice.patients_seen(practice.owner_id) == [patient]
    assert await practice.appointments_seen(practice.owner_id) == ["a1"]


async def test_a_partner_follows_a_patient_through_its_link(practice: Practice) -> None:
    affiliations = Affiliations(practice.pool)
    row = {"email": "a@example.test", "start_date": "2026-01-01"}
    await affiliations.import_rows(practice.owner_id, [(2, row)], NOW, partner_id=practice.partner_id)
    await practice.client("12", email="a@example.test")
    await practice.appointment("a1", "12")
    assert await practice.appointments_seen(practice.partner_id) == []
    await PatientLinks(practice.pool).link_by_email(NOW)
    assert await practice.appointments_seen(practice.partner_id) == ["a1"]
    assert len(await practice.patients_seen(practice.owner_id)) == 1


async def test_appointments_come_by_start_and_pages_give_each_once(practice: Practice) -> None:
    patient = await practice.client("12")
    await practice.follow(patient)
    for number in range(7):
        await practice.appointment(f"a{number}", "12", NOW + DAY * (1 + number // 3))
    for organization_id in (practice.owner_id, practice.partner_id):
        seen: list[ListedAppointment] = []
        page = await practice.listings.appointments(organization_id, ALL_APPOINTMENTS, NOW, limit=2)
        while page:
            seen += page
            page = await practice.listings.appointments(
                organization_id, ALL_APPOINTMENTS, NOW, after=page[-1].cursor, limit=2
            )
        assert sorted(names(seen)) == [f"a{number}" for number in range(7)]
        assert [entry.start_time for entry in seen] == sorted(entry.start_time for entry in seen)


async def test_appointments_are_filtered_by_patient_connection_and_time(practice: Practice) -> None:
    first, second = await practice.client("12"), await practice.client("13")
    await practice.appointment("a1", "12", NOW)
    await practice.appointment("a2", "12", NOW + DAY)
    await practice.appointment("a3", "13", NOW + DAY)
    for patient in (first, second):
        await practice.follow(patient)
    wanted = {
        AppointmentFilter(patient_id=first): ["a1", "a2"],
        AppointmentFilter(patient_id=first, since=NOW + DAY): ["a2"],
        AppointmentFilter(until=NOW + DAY): ["a1"],
        AppointmentFilter(connection_id=practice.connections[0], patient_id=second): ["a3"],
        AppointmentFilter(connection_id=practice.connections[1]): [],
    }
    for organization_id in (practice.owner_id, practice.partner_id):
        for entry, expected in wanted.items():
            assert names(await practice.listings.appointments(organization_id, entry, NOW)) == expected


async def test_deleted_appointments_are_shown_on_request_only(practice: Practice) -> None:
    await practice.client("12")
    await practice.appointment("a1", "12", deleted=True)
    assert await practice.appointments_seen(practice.owner_id) == []
    (deleted,) = await practice.listings.appointments(practice.owner_id, AppointmentFilter(with_deleted=True), NOW)
    assert deleted.deleted_at is not None


async def test_a_confirmed_appointment_that_is_over_shows_as_completed(practice: Practice) -> None:
    await practice.client("12")
    await practice.appointment("past", "12", NOW - DAY)
    await practice.appointment("next", "12", NOW + DAY)
    shown = await practice.listings.appointments(practice.owner_id, ALL_APPOINTMENTS, NOW)
    assert [(entry.external_id, entry.status) for entry in shown] == [("past", "completed"), ("next", "confirmed")]


async def test_a_mapped_practitioner_shows_by_the_organizations_own_name(practice: Practice) -> None:
    await practice.client("12")
    await practice.appointment("a1", "12")
    await Providers(practice.pool).map(practice.connections[0], "p1", "Dr Test", None, NOW, practice.owner_id)
    (shown,) = await practice.listings.appointments(practice.owner_id, ALL_APPOINTMENTS, NOW)
    assert (shown.provider_name, shown.practitioner_name) == ("Dr Test", "From the vendor")


async def test_patients_come_by_name_and_pages_give_each_once(practice: Practice) -> None:
    clients = [await practice.client(str(number), last=f"Client {number // 2}") for number in range(5)]
    for patient in clients:
        await practice.follow(patient)
    for organization_id in (practice.owner_id, practice.partner_id):
        seen = []
        page = await practice.listings.patients(organization_id, ALL_PATIENTS, NOW, limit=2)
        while page:
            seen += page
            page = await practice.listings.patients(organization_id, ALL_PATIENTS, NOW, after=page[-1].cursor, limit=2)
        assert sorted(patient.id for patient in seen) == sorted(clients)
        assert [patient.last_name for patient in seen] == sorted(patient.last_name for patient in seen)


async def test_patients_are_filtered_by_id_email_and_status(practice: Practice) -> None:
    first = await practice.client("12", email="A@example.test")
    second = await practice.client("13")
    wanted = {
        PatientFilter(patient_id=second): [second],
        PatientFilter(email=" a@EXAMPLE.test"): [first],
        PatientFilter(status="archived"): [],
    }
    for entry, expected in wanted.items():
        found = await practice.listings.patients(practice.owner_id, entry, NOW)
        assert [patient.id for patient in found] == expected


async def test_no_personal_data_stands_in_what_a_row_prints_of_itself(practice: Practice) -> None:
    await practice.client("12", last="Surname", email="a@example.test")
    shown = await practice.listings.patients(practice.owner_id, ALL_PATIENTS, NOW)
    assert "Surname" not in repr(shown)
    assert "example.test" not in repr(shown)
    assert "Surname" not in repr(shown[0].cursor)
