"""What an organization sees of appointments and patients: its own rows, and those of the patients it follows today.

Rows are personal data: whoever shows them writes the access log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    plan_for_values: str
    list_appointments: str
    list_patients: str


SQL = load_statements(_Sql, "listings.sql")


@dataclass(frozen=True, slots=True)
class AppointmentCursor:
    """The last appointment of a page: the next page begins after it."""

    start_time: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class AppointmentFilter:
    """Which appointments are wanted: None asks for all; they start in [since, until)."""

    connection_id: ConnectionId | None = None
    patient_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    with_deleted: bool = False


@dataclass(frozen=True, slots=True)
class ListedAppointment:
    """An appointment as people see it: a confirmed one that is over shows as `completed`.

    `provider_name` is how the organization names the practitioner, None where it was not mapped. `meeting_url_status`
    is `available`, `not_in_api` for a telehealth visit whose link the vendor's API does not carry (Google Meet), or
    None. `verified_at` is when the appointment was last known to stand so, by a read of its own, the vendor's time or a
    complete list.
    """

    id: UUID
    connection_id: ConnectionId
    external_id: str
    patient_id: UUID | None
    status: str
    vendor_status: str
    start_time: datetime
    end_time: datetime
    duration_minutes: int | None
    practitioner_external_id: str | None
    practitioner_name: str | None
    provider_name: str | None
    service_name: str | None
    location_name: str | None
    location_type: str | None
    meeting_url: str | None = field(repr=False)
    meeting_url_status: str | None
    price: Decimal | None
    cancellation_reason: str | None = field(repr=False)
    source_version: datetime
    verified_at: datetime
    changed_at: datetime
    deleted_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def cursor(self) -> AppointmentCursor:
        """Where the page after this appointment begins."""
        return AppointmentCursor(self.start_time, self.id)


@dataclass(frozen=True, slots=True)
class PatientCursor:
    """The last patient of a page: the next page begins after it."""

    last_name: str = field(repr=False)
    first_name: str = field(repr=False)
    id: UUID


@dataclass(frozen=True, slots=True)
class PatientFilter:
    """Which patients are wanted: None asks for all."""

    patient_id: UUID | None = None
    email: str | None = field(default=None, repr=False)
    status: str | None = None


@dataclass(frozen=True, slots=True)
class ListedPatient:
    """A patient as people see it; `organization_id` is the owner's. Patients that were linked away are not listed.

    `verified_at` is when the vendor's client behind the patient was last known to stand so, None where there is none.
    """

    id: UUID
    organization_id: OrganizationId
    first_name: str = field(repr=False)
    last_name: str = field(repr=False)
    email: str | None = field(repr=False)
    phone: str | None = field(repr=False)
    date_of_birth: date | None = field(repr=False)
    intakeq_client_id: str | None
    status: str
    origin: str
    verified_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def cursor(self) -> PatientCursor:
        """Where the page after this patient begins."""
        return PatientCursor(self.last_name, self.first_name, self.id)


class Listings:
    """Pages of appointments and patients; `organization_id` of None is an admin, who sees everyone's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def appointments(
        self,
        organization_id: OrganizationId | None,
        wanted: AppointmentFilter,
        now: datetime,
        *,
        after: AppointmentCursor | None = None,
        limit: int = 100,
    ) -> list[ListedAppointment]:
        """List a page of what the organization sees at `now`, by start."""
        async with self._database.transaction() as session:
            await session.execute(SQL.plan_for_values)
            rows = await session.fetch(
                SQL.list_appointments,
                organization_id,
                now.date(),
                wanted.connection_id,
                wanted.patient_id,
                wanted.since,
                wanted.until,
                None if after is None else after.start_time,
                None if after is None else after.id,
                wanted.with_deleted,
                limit,
                now,
            )
        return [ListedAppointment(**dict(row)) for row in rows]

    async def patients(
        self,
        organization_id: OrganizationId | None,
        wanted: PatientFilter,
        now: datetime,
        *,
        after: PatientCursor | None = None,
        limit: int = 100,
    ) -> list[ListedPatient]:
        """List a page of what the organization sees at `now`, by name."""
        async with self._database.transaction() as session:
            await session.execute(SQL.plan_for_values)
            rows = await session.fetch(
                SQL.list_patients,
                organization_id,
                now.date(),
                wanted.patient_id,
                wanted.email,
                wanted.status,
                None if after is None else after.last_name,
                None if after is None else after.first_name,
                None if after is None else after.id,
                limit,
            )
        return [ListedPatient(**dict(row)) for row in rows]
