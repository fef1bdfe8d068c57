"""One IntakeQ account over its API: single records for the refetch stage, lists for sweeps and backfills.

Sources: IntakeQ Appointments API (article 204), Client API (251), Questionnaire API (31), Notes API (342) and
Invoice API (385). What the answers mean is mapping's and documents' business.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, assert_never

from eventsync.domain.changes import Absence, EntityRef, RecordChange, Source, Summary
from eventsync.domain.connections import Connection
from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.domain.fields import Fields
from eventsync.domain.records import Practitioner, RecordKind
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.http import NotFound, VendorHttp
from eventsync.vendorkit.listing import Listing, Page
from eventsync.vendors.intakeq.documents import (
    deleted_document,
    document_summary,
    intake_change,
    invoice_change,
    note_change,
)
from eventsync.vendors.intakeq.lists import EVERYTHING, ListFilter, query
from eventsync.vendors.intakeq.mapping import (
    Reading,
    appointment_changes,
    client_id_of,
    patient_change,
    practitioner,
)
from eventsync.vendors.intakeq.paging import Rows, rows_of, understand, walk

_PATHS = {
    RecordKind.APPOINTMENT: "appointments",
    RecordKind.INVOICE: "invoices",
    RecordKind.INTAKE: "intakes",
    RecordKind.NOTE: "notes",
}
_ID_IN_PATH = re.compile(r"[0-9A-Za-z_-]+", re.ASCII)
_FIRST_TIME, _LAST_TIME = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_PROFILE_PARAMETERS = ("includeProfile", "IncludeProfile")  # documented both ways; which one works has changed


class IntakeQClient:
    """One account. Every method spends the connection's budget and raises as VendorHttp.get_json does.

    Lists are async iterators over pages of at most 100 rows. A failed page raises, so that it never looks like the
    last one. `read_began_ms` is when the whole read began, in Unix milliseconds.
    """

    def __init__(self, connection: Connection, http: VendorHttp) -> None:
        key = connection.api_key.strip()
        if not (key.isascii() and key.isprintable() and key):
            raise Misconfigured("The connection's API key cannot be sent: enter it as IntakeQ shows it (api_key).")
        self._connection_id = connection.id
        self._base_url = connection.base_url.rstrip("/")
        self._headers = {"X-Auth-Key": key, "Accept": "application/json"}
        self._http = http
        self._profile_parameter, self._other_profile_parameter = _PROFILE_PARAMETERS

    async def check_credentials(self) -> None:
        """List the practitioners, the cheapest call there is."""
        try:
            await self.practitioners(purpose=Purpose.CHECK)
        except NotFound:
            raise Misconfigured("There is no IntakeQ API at the connection's base_url: correct it.") from None

    async def refetch(
        self, entity: EntityRef, *, sequence: int, read_began_ms: int, purpose: Purpose = Purpose.REFETCH
    ) -> tuple[RecordChange, ...]:
        """Read one record. An appointment comes with a mention of its client.

        Where IntakeQ has the record no more, an intake or a note is a Delete at `sequence`. The other kinds are ordered
        by IntakeQ's modification time, which a missing record does not tell: theirs is an Absence over all time.
        """
        reading = Reading(self._connection_id, Source.API, read_began_ms)
        try:
            fields = await self._record(entity, purpose)
        except NotFound:
            return (_gone(reading, entity, sequence),)
        changes = _changes(reading, entity.kind, fields, sequence)
        if changes[0].entity != entity:
            raise Transient("IntakeQ answered with another record than the one asked for.")
        return changes

    async def practitioners(self, *, purpose: Purpose = Purpose.SWEEP) -> tuple[Practitioner, ...]:
        """List the account's practitioners, which IntakeQ does not page."""
        rows = rows_of(await self._get("practitioners", {}, purpose), "Practitioner")
        return tuple(practitioner(row) for row in rows)

    def pages(
        self, listing: Listing, *, read_began_ms: int, purpose: Purpose
    ) -> AsyncGenerator[Page[RecordChange], None]:
        """List records whose lists tell all of them: appointments, clients, invoices. Raises ValueError for others."""
        wanted = ListFilter(
            start_date=listing.first_day,
            end_date=listing.last_day,
            updated_since=listing.changed_since,
            deleted_only=listing.deleted,
            search=listing.of_client,
        )
        match listing.kind:
            case RecordKind.APPOINTMENT:
                read = self.appointments
            case RecordKind.PATIENT:
                read = self.clients
            case RecordKind.INVOICE:
                read = self.invoices
            case _:
                raise ValueError(f"IntakeQ's list of {listing.kind.value}s holds summaries only")
        return read(wanted, read_began_ms=read_began_ms, purpose=purpose, first_page=listing.first_page)

    def summaries(self, listing: Listing, *, purpose: Purpose) -> AsyncGenerator[Page[Summary], None]:
        """List what lists only summarize: intakes and notes. Raises ValueError for others."""
        wanted = ListFilter(updated_since=listing.changed_since, deleted_only=listing.deleted)
        match listing.kind:
            case RecordKind.INTAKE:
                return self.intakes(wanted, purpose=purpose)
            case RecordKind.NOTE:
                return self.notes(wanted, purpose=purpose)
            case _:
                raise ValueError(f"IntakeQ's list of {listing.kind.value}s tells them whole: read its pages")

    def appointments(
        self,
        wanted: ListFilter = EVERYTHING,
        *,
        read_began_ms: int,
        purpose: Purpose = Purpose.SWEEP,
        first_page: int = 1,
    ) -> AsyncGenerator[Page[RecordChange], None]:
        """List appointments, latest first, each with a mention of its client; deleted ones as Deletes."""
        reading = Reading(self._connection_id, Source.API, read_began_ms)
        params = query(RecordKind.APPOINTMENT, wanted)
        pages = self._pages("appointments", params, "Appointment", purpose, first_page)
        return understand(pages, _id_of, lambda row: appointment_changes(reading, row, deleted=wanted.deleted_only))

    def clients(
        self,
        wanted: ListFilter = EVERYTHING,
        *,
        read_began_ms: int,
        purpose: Purpose = Purpose.SWEEP,
        first_page: int = 1,
    ) -> AsyncGenerator[Page[RecordChange], None]:
        """List clients with their profiles, by name; deleted ones as Deletes."""
        reading = Reading(self._connection_id, Source.API, read_began_ms)
        params = query(RecordKind.PATIENT, wanted)
        pages = walk(
            lambda number: self._client_page(params, number, purpose), "Client", client_id_of, first_page=first_page
        )
        return understand(pages, client_id_of, lambda row: (patient_change(reading, row, deleted=wanted.deleted_only),))

    def invoices(
        self,
        wanted: ListFilter = EVERYTHING,
        *,
        read_began_ms: int,
        purpose: Purpose = Purpose.SWEEP,
        first_page: int = 1,
    ) -> AsyncGenerator[Page[RecordChange], None]:
        """List whole invoices."""
        reading = Reading(self._connection_id, Source.API, read_began_ms)
        pages = self._pages("invoices", query(RecordKind.INVOICE, wanted), "Invoice", purpose, first_page)
        return understand(pages, _id_of, lambda row: (invoice_change(reading, row),))

    def intakes(
        self, wanted: ListFilter = EVERYTHING, *, purpose: Purpose = Purpose.SWEEP
    ) -> AsyncGenerator[Page[Summary], None]:
        """List the summaries of intakes, those not yet submitted included."""
        params = query(RecordKind.INTAKE, wanted) | {"all": "true"}
        pages = self._pages("intakes/summary", params, "Intake", purpose)
        return understand(pages, _id_of, lambda row: (document_summary(self._connection_id, RecordKind.INTAKE, row),))

    def notes(
        self, wanted: ListFilter = EVERYTHING, *, purpose: Purpose = Purpose.SWEEP
    ) -> AsyncGenerator[Page[Summary], None]:
        """List the summaries of notes, locked or not."""
        pages = self._pages("notes/summary", query(RecordKind.NOTE, wanted), "Note", purpose)
        return understand(pages, _id_of, lambda row: (document_summary(self._connection_id, RecordKind.NOTE, row),))

    async def _record(self, entity: EntityRef, purpose: Purpose) -> Fields:
        if entity.kind is RecordKind.PATIENT:
            return await self._client(entity.external_id, purpose)
        if not _ID_IN_PATH.fullmatch(entity.external_id):
            raise Rejected("invalid_id", "IntakeQ gives no record an id like this one.")
        answer = await self._get(f"{_PATHS[entity.kind]}/{entity.external_id}", {}, purpose)
        if not isinstance(answer, dict):
            raise Transient("IntakeQ did not answer with a record.")
        return Fields(entity.kind.value.capitalize(), answer)

    async def _client(self, client_id: str, purpose: Purpose) -> Fields:
        """Find a client, who has no address of their own: a search for the number matches it exactly."""
        rows = rows_of(await self._client_page({"search": client_id}, 1, purpose), "Client")
        for row in rows:
            if client_id_of(row) == client_id:
                return row
        raise NotFound

    async def _client_page(self, params: dict[str, str], number: int, purpose: Purpose) -> Any:
        """Read one page of clients; where it comes without profiles, again with the parameter's other spelling."""
        params = params | {"page": str(number)}
        answer = await self._get("clients", params | {self._profile_parameter: "true"}, purpose)
        if not _lacks_profiles(answer):
            return answer
        answer = await self._get("clients", params | {self._other_profile_parameter: "true"}, purpose)
        if _lacks_profiles(answer):
            raise Transient("IntakeQ lists clients without their profiles, whichever way they are asked for.")
        used, other = self._other_profile_parameter, self._profile_parameter
        self._profile_parameter, self._other_profile_parameter = used, other
        return answer

    def _pages(
        self, path: str, params: dict[str, str], name: str, purpose: Purpose, first_page: int = 1
    ) -> AsyncGenerator[Rows, None]:
        return walk(
            lambda number: self._get(path, params | {"page": str(number)}, purpose),
            name,
            _id_of,
            first_page=first_page,
        )

    async def _get(self, path: str, params: dict[str, str], purpose: Purpose) -> Any:
        return await self._http.get_json(
            f"{self._base_url}/{path}", params=params, headers=self._headers, purpose=purpose
        )


def _changes(reading: Reading, kind: RecordKind, fields: Fields, sequence: int) -> tuple[RecordChange, ...]:
    match kind:
        case RecordKind.APPOINTMENT:
            return appointment_changes(reading, fields)
        case RecordKind.PATIENT:
            return (patient_change(reading, fields),)
        case RecordKind.INVOICE:
            return (invoice_change(reading, fields),)
        case RecordKind.INTAKE:
            return (intake_change(reading, fields, sequence=sequence),)
        case RecordKind.NOTE:
            return (note_change(reading, fields, sequence=sequence),)
        case _:
            assert_never(kind)


def _gone(reading: Reading, entity: EntityRef, sequence: int) -> RecordChange:
    if entity.kind in (RecordKind.INTAKE, RecordKind.NOTE):
        return deleted_document(reading, entity, sequence=sequence)
    return Absence(entity, reading.began_ms, _FIRST_TIME, _LAST_TIME)


def _lacks_profiles(answer: Any) -> bool:
    rows = answer if isinstance(answer, list) else []
    return bool(rows) and not any(isinstance(row, dict) and "LastUpdateDate" in row for row in rows)


def _id_of(fields: Fields) -> str | None:
    return fields.identifier("Id")
