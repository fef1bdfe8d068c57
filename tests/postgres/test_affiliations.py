"""Partner organizations and the patients they follow; practitioners' names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.changes import Authority, EntityRef, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.errors import Rejected
from eventsync.domain.records import Patient, RecordKind, content_hash, patient_id_of
from eventsync.postgres.affiliation_rows import AffiliationTerms, AffiliationType
from eventsync.postgres.affiliations import Affiliations, BadRow, ImportReport
from eventsync.postgres.database import Database
from eventsync.postgres.linking import PatientLinks
from eventsync.postgres.providers import Providers
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.postgres.tenants import Organizations

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LATER = datetime(2026, 3, 3, 9, 0, tzinfo=UTC)
Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Practice:
    """An owner with one connection, a partner, and the ways in which a test tells of clients and files."""

    pool: Database
    keyring: Keyring
    affiliations: Affiliations
    connection_id: ConnectionId
    owner_id: OrganizationId
    partner_id: OrganizationId

    async def client(self, external_id: str, email: str | None, first: str = "Test", last: str = "Client") -> UUID:
        content = Patient(first, last, email=email)
        version = Version(Authority.RECORD, 1_772_000_000_000, False, Source.API, 1, 1, content_hash(content))
        change = Upsert(EntityRef(self.connection_id, RecordKind.PATIENT, external_id), version, content)
        async with self.pool.transaction() as session:
            await RecordWriter(self.keyring).write(session, [EventChange(None, change)], NOW)
        return patient_id_of(self.connection_id, external_id)

    async def take_in(self, *rows: Row, now: datetime = NOW, partner: bool = True) -> ImportReport:
        numbered = enumerate(rows, start=2)
        return await self.affiliations.import_rows(
            self.owner_id, numbered, now, partner_id=self.partner_id if partner else None
        )

    async def problem(self, row: Row, *, partner: bool = True) -> str:
        report = await self.take_in(row, partner=partner)
        assert report.added == report.updated == report.patients_created == 0
        (bad_row,) = report.bad_rows
        assert bad_row.line == 2
        return bad_row.problem

    async def followed(self) -> list[UUID]:
        return [entry.patient_id for entry in await self.affiliations.of(self.partner_id) if entry.status == "active"]


@pytest.fixture
async def practice(
    database: asyncpg.Connection, pool: Database, keyring: Keyring, connection_ids: list[ConnectionId]
) -> Practice:
    owner = await database.fetchval("SELECT organization_id FROM connections WHERE id = $1", connection_ids[0])
    partner = await Organizations(pool).add("Test Partner", "partner-1", NOW)
    return Practice(pool, keyring, Affiliations(pool), connection_ids[0], OrganizationId(owner), partner.id)


async def test_a_row_finds_its_patient_by_email_whatever_its_case(practice: Practice) -> None:
    patient = await practice.client("12", "Test.12@example.test")
    report = await practice.take_in({"email": " test.12@EXAMPLE.test "})
    assert report == ImportReport(added=1, updated=0, patients_created=0, bad_rows=())
    assert await practice.followed() == [patient]


async def test_a_row_finds_its_patient_by_client_id(practice: Practice) -> None:
    patient = await practice.client("12", None)
    await practice.take_in({"intakeq_client_id": "12"})
    assert await practice.followed() == [patient]


async def test_names_choose_among_patients_who_share_an_email(practice: Practice) -> None:
    await practice.client("12", "family@example.test", first="Parent")
    child = await practice.client("13", "family@example.test", first="Child")
    await practice.take_in({"email": "family@example.test", "first_name": "CHILD", "last_name": "client"})
    assert await practice.followed() == [child]


async def test_an_unknown_patient_becomes_a_local_one_that_linking_finds_later(practice: Practice) -> None:
    report = await practice.take_in({"email": "new@example.test", "first_name": "New", "last_name": "Client"})
    assert (report.added, report.patients_created) == (1, 1)
    (local,) = await practice.followed()
    client = await practice.client("14", "new@example.test")
    await PatientLinks(practice.pool).link_by_email(NOW)
    again = await practice.take_in({"intakeq_client_id": "14"}, now=LATER)
    assert (again.updated, again.patients_created) == (1, 0)
    assert await practice.followed() == [local]
    assert local != client


async def test_importing_the_same_file_twice_changes_nothing(practice: Practice) -> None:
    row = {"email": "new@example.test", "start_date": "2026-01-01"}
    await practice.take_in(row, row)
    before = await practice.affiliations.of(None)
    report = await practice.take_in(row, now=LATER)
    assert (report.added, report.updated, report.patients_created) == (0, 1, 0)
    assert await practice.affiliations.of(None) == before


async def test_two_imports_at_once_make_one_patient(practice: Practice) -> None:
    reports = await asyncio.gather(*(practice.take_in({"email": "new@example.test"}) for _ in range(4)))
    assert sum(report.patients_created for report in reports) == 1
    assert len(await practice.followed()) == 1


async def test_a_row_carries_its_terms(practice: Practice) -> None:
    row = {
        "email": "new@example.test",
        "affiliation_type": "Referral_Source",
        "start_date": "2026-01-01",
        "end_date": "2026-12-31",
        "consent_expires_on": "2026-06-30",
    }
    await practice.take_in(row)
    (entry,) = await practice.affiliations.of(None)
    assert (entry.affiliation_type, entry.status) == ("referral_source", "active")
    assert (entry.start_date, entry.end_date) == (date(2026, 1, 1), date(2026, 12, 31))
    assert entry.consent_expires_on == date(2026, 6, 30)


async def test_a_row_names_its_partner_itself_where_the_file_has_that_column(practice: Practice) -> None:
    report = await practice.take_in({"email": "new@example.test", "organization": "partner-1"}, partner=False)
    assert report.added == 1
    assert len(await practice.followed()) == 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "neither email nor intakeq_client_id"),
        ({"first_name": "Sam", "last_name": "Secret"}, "neither email nor intakeq_client_id"),
        ({"email": "secret"}, "email is not an e-mail address"),
        ({"email": "secret@"}, "email is not an e-mail address"),
        ({"email": "a@b\0secret"}, "characters that no text has"),
        ({"email": "a@b\ud800secret"}, "characters that no text has"),
        ({"email": "secret" * 60 + "@example.test"}, "email is longer than 320"),
        ({"email": "a@example.test", "affiliation_type": "secret"}, "affiliation_type is none of case_management"),
        ({"email": "a@example.test", "start_date": "secret"}, "start_date is not a date"),
        ({"email": "a@example.test", "end_date": "31.12.2026"}, "end_date is not a date"),
        ({"email": "a@example.test", "start_date": "2026-02-01", "end_date": "2026-01-01"}, "before start_date"),
        ({"email": "a@example.test", "secret": "x"}, "columns that are none of"),
        ({"email": "a@example.test", "organization": "secret"}, "organization names none"),
        ({"intakeq_client_id": "secret"}, "no client has this intakeq_client_id yet"),
    ],
)
async def test_a_wrong_row_is_reported_by_line_without_its_values(practice: Practice, row: Row, problem: str) -> None:
    found = await practice.problem(row)
    assert problem in found
    assert "secret" not in found.lower()


async def test_a_row_without_any_partner_is_reported(practice: Practice) -> None:
    assert "organization is missing" in await practice.problem({"email": "a@example.test"}, partner=False)


async def test_a_row_that_may_mean_several_patients_is_reported(practice: Practice) -> None:
    await practice.client("12", "family@example.test")
    await practice.client("13", "family@example.test")
    assert "several patients" in await practice.problem({"email": "family@example.test"})


async def test_a_row_whose_name_is_anothers_is_reported_and_makes_nobody(practice: Practice) -> None:
    await practice.client("12", "family@example.test", first="Parent")
    row = {"email": "family@example.test", "first_name": "Child"}
    assert "another name" in await practice.problem(row)


async def test_bad_rows_do_not_stop_good_ones(practice: Practice) -> None:
    report = await practice.take_in({"email": "?"}, {"email": "a@example.test"}, {}, {"email": "b@example.test"})
    assert report.added == 2
    assert [row.line for row in report.bad_rows] == [2, 4]
    assert all(isinstance(row, BadRow) for row in report.bad_rows)


async def test_a_patient_of_another_organization_is_nobody_here(practice: Practice) -> None:
    patient = await practice.client("12", "a@example.test")
    stranger = OrganizationId((await Organizations(practice.pool).add("Stranger", None, NOW)).id)
    with pytest.raises(Rejected, match="no such patient"):
        await practice.affiliations.add(stranger, patient, practice.partner_id, AffiliationTerms(), NOW)
    report = await practice.affiliations.import_rows(
        stranger, [(2, {"email": "a@example.test"})], NOW, partner_id=practice.partner_id
    )
    assert report.patients_created == 1
    assert patient not in await practice.followed()


async def test_an_affiliation_is_ended_by_the_owner_of_the_patient_only(practice: Practice) -> None:
    patient = await practice.client("12", None)
    terms = AffiliationTerms(AffiliationType.OTHER, start_date=date(2026, 1, 1))
    added = await practice.affiliations.add(practice.owner_id, patient, practice.partner_id, terms, NOW)
    last_day = date(2026, 3, 2)
    assert not await practice.affiliations.end(added, practice.partner_id, last_day, NOW)
    assert await practice.affiliations.end(added, practice.owner_id, last_day, NOW)
    assert not await practice.affiliations.end(added, practice.owner_id, last_day, NOW)
    (entry,) = await practice.affiliations.of(practice.owner_id)
    assert (entry.status, entry.end_date) == ("inactive", last_day)


async def test_a_patient_may_be_followed_again_after_an_end(practice: Practice) -> None:
    patient = await practice.client("12", None)
    first = await practice.affiliations.add(practice.owner_id, patient, practice.partner_id, AffiliationTerms(), NOW)
    await practice.affiliations.end(first, practice.owner_id, date(2026, 3, 2), NOW)
    second = await practice.affiliations.add(practice.owner_id, patient, practice.partner_id, AffiliationTerms(), LATER)
    assert first != second
    assert await practice.followed() == [patient]


async def test_affiliations_concern_owner_and_partner_and_nobody_else(practice: Practice) -> None:
    patient = await practice.client("12", None)
    await practice.affiliations.add(practice.owner_id, patient, practice.partner_id, AffiliationTerms(), NOW)
    for organization_id in (practice.owner_id, practice.partner_id, None):
        assert len(await practice.affiliations.of(organization_id)) == 1
    assert await practice.affiliations.of(OrganizationId(uuid4())) == []


async def test_a_practitioner_is_named_and_named_anew_within_the_organization(practice: Practice) -> None:
    providers = Providers(practice.pool)
    await providers.map(practice.connection_id, "p1", "Dr Test One", None, NOW, practice.owner_id)
    await providers.map(practice.connection_id, "p1", "Dr Test Two", "two@example.test", LATER, practice.owner_id)
    (provider,) = await providers.mapped(practice.owner_id)
    assert (provider.practitioner_id, provider.provider_name) == ("p1", "Dr Test Two")
    with pytest.raises(Rejected, match="no such connection"):
        await providers.map(practice.connection_id, "p1", "Dr Test", None, NOW, practice.partner_id)
    assert await providers.mapped(practice.partner_id) == []
