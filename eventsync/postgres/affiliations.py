"""Which partner organization follows which patient: given one by one or as a file, ended, listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID, uuid4

from eventsync.domain.connections import OrganizationId
from eventsync.domain.errors import Rejected
from eventsync.postgres.affiliation_rows import AffiliationRow, AffiliationTerms, read_row
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements
from eventsync.postgres.tenants import find_organization

_UNKNOWN_NAME = "Unknown"


@dataclass(frozen=True, slots=True)
class _Sql:
    lock_import: str
    find_patient: str
    find_by_client_id: str
    find_by_email: str
    insert_local_patient: str
    upsert: str
    end: str
    list: str


SQL = load_statements(_Sql, "affiliations.sql")


@dataclass(frozen=True, slots=True)
class Affiliation:
    """A partner (`organization_id`) follows a patient of the owner. Dates are inclusive; ids only, no names."""

    id: UUID
    patient_id: UUID
    owner_id: OrganizationId
    organization_id: OrganizationId
    affiliation_type: str
    status: str
    start_date: date
    end_date: date | None
    consent_expires_on: date | None
    last_practiceq_sync_at: datetime | None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out: its line in the file, and what is wrong with it, without its values."""

    line: int
    problem: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did: affiliations added and changed, patients made because nobody knew them, rows left out."""

    added: int
    updated: int
    patients_created: int
    bad_rows: tuple[BadRow, ...]


@dataclass(frozen=True, slots=True)
class _Imported:
    is_new: bool
    is_new_patient: bool


class Affiliations:
    """`patient_organization_affiliations`, seen from the organization that owns the patients."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self,
        owner_id: OrganizationId,
        patient_id: UUID,
        partner_id: OrganizationId,
        terms: AffiliationTerms,
        now: datetime,
    ) -> UUID:
        """Let a partner follow a patient; a living affiliation of the two gets the new terms.

        Raises Rejected("unknown_patient") where the owner has no such patient.
        """
        async with self._database.transaction() as session:
            found = await session.fetchval(SQL.find_patient, patient_id, owner_id)
            if found is None:
                raise Rejected("unknown_patient", "the organization has no such patient")
            affiliation_id: UUID = (await _upsert(session, found, partner_id, terms, now))["id"]
            return affiliation_id

    async def end(self, affiliation_id: UUID, owner_id: OrganizationId | None, last_day: date, now: datetime) -> bool:
        """End an affiliation of the owner's patient (None: anyone's); False where there is no such living one."""
        async with self._database.session() as session:
            return await session.fetchval(SQL.end, affiliation_id, last_day, owner_id, now) is not None

    async def of(
        self,
        organization_id: OrganizationId | None,
        *,
        patient_id: UUID | None = None,
        after_id: UUID | None = None,
        limit: int = 100,
    ) -> list[Affiliation]:
        """List what concerns the organization as owner or partner (None: everyone), ended ones included, by id."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.list, organization_id, patient_id, after_id, limit)
        return [Affiliation(**dict(row)) for row in rows]

    async def import_rows(
        self,
        owner_id: OrganizationId,
        rows: Iterable[tuple[int, Mapping[str, str | None]]],
        now: datetime,
        *,
        partner_id: OrganizationId | None = None,
    ) -> ImportReport:
        """Take in the rows of a file, given with their line numbers and by column name (`affiliation_rows.COLUMNS`).

        A row without an `organization` is `partner_id`'s. A patient whom nobody knows is made a local one of the
        owner, for linking to find later. Rows that are wrong are left out and reported; the others are kept.
        """
        imported: list[_Imported] = []
        bad_rows: list[BadRow] = []
        async with self._database.transaction() as session:
            await session.execute(SQL.lock_import, owner_id)
            for line, row in rows:
                try:
                    imported.append(await _import_row(session, owner_id, partner_id, read_row(row), now))
                except Rejected as error:
                    bad_rows.append(BadRow(line, str(error)))
        return ImportReport(
            added=sum(entry.is_new for entry in imported),
            updated=sum(not entry.is_new for entry in imported),
            patients_created=sum(entry.is_new_patient for entry in imported),
            bad_rows=tuple(bad_rows),
        )


async def _import_row(
    session: Session, owner_id: OrganizationId, partner_id: OrganizationId | None, row: AffiliationRow, now: datetime
) -> _Imported:
    partner = await _partner(session, row, partner_id)
    patient_id = await _known_patient(session, owner_id, row)
    is_new_patient = patient_id is None
    if patient_id is None:
        patient_id = await _insert_local_patient(session, owner_id, row, now)
    affiliation = await _upsert(session, patient_id, partner, row.terms, now)
    return _Imported(affiliation["is_new"], is_new_patient)


async def _partner(session: Session, row: AffiliationRow, partner_id: OrganizationId | None) -> OrganizationId:
    if row.organization is not None:
        found = await find_organization(session, row.organization)
        if found is None:
            raise Rejected("invalid_row", "organization names none that is known: see `eventsync orgs list`")
        return found.id
    if partner_id is None:
        raise Rejected("invalid_row", "organization is missing: which partner follows this patient?")
    return partner_id


async def _known_patient(session: Session, owner_id: OrganizationId, row: AffiliationRow) -> UUID | None:
    """Find whom the row means; None for somebody new. Raises Rejected where it may be several, or somebody else."""
    if row.intakeq_client_id is not None:
        found = await session.fetch(SQL.find_by_client_id, owner_id, row.intakeq_client_id)
        if len(found) > 1:
            raise Rejected("invalid_row", "intakeq_client_id belongs to clients of several connections: give an email")
        if found:
            patient_id: UUID = found[0]["id"]
            return patient_id
    if row.email is None:
        raise Rejected("invalid_row", "no client has this intakeq_client_id yet: give an email as well")
    return _one_of(await session.fetch(SQL.find_by_email, owner_id, row.email), row)


def _one_of(sharing_the_email: list[Any], row: AffiliationRow) -> UUID | None:
    """Choose among the patients with the row's e-mail, by name where the row has one: families share addresses."""
    matching = [patient["id"] for patient in sharing_the_email if _may_be(patient, row)]
    if len(matching) > 1:
        raise Rejected("invalid_row", "several patients have this email: give intakeq_client_id, or both names")
    if sharing_the_email and not matching:
        raise Rejected("invalid_row", "email belongs to a patient of another name: correct it, or leave the names out")
    found: UUID | None = matching[0] if matching else None
    return found


def _may_be(patient: Mapping[str, Any], row: AffiliationRow) -> bool:
    names = (row.first_name, row.last_name)
    return any(
        all(given is None or _same_name(given, known) for given, known in zip(names, entry, strict=True))
        for entry in (
            (patient["first_name"], patient["last_name"]),
            (patient["own_first_name"], patient["own_last_name"]),
        )
    )


def _same_name(given: str, known: str | None) -> bool:
    return known is not None and (known == _UNKNOWN_NAME or given.casefold() == " ".join(known.split()).casefold())


async def _insert_local_patient(session: Session, owner_id: OrganizationId, row: AffiliationRow, now: datetime) -> UUID:
    patient_id = uuid4()
    names = row.first_name or _UNKNOWN_NAME, row.last_name or _UNKNOWN_NAME
    await session.execute(SQL.insert_local_patient, patient_id, owner_id, *names, row.email, now)
    return patient_id


async def _upsert(
    session: Session, patient_id: UUID, partner_id: OrganizationId, terms: AffiliationTerms, now: datetime
) -> Any:
    start_date = terms.start_date or min(now.date(), terms.end_date or now.date())
    return await session.fetchrow(
        SQL.upsert,
        patient_id,
        partner_id,
        terms.affiliation_type.value,
        start_date,
        terms.end_date,
        terms.consent_expires_on,
        now,
    )
