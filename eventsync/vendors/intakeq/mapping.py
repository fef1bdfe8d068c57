"""IntakeQ's appointments and clients in our words: one object, from whichever source, becomes changes. Pure.

Equal truth must give equal hashes whether it came by webhook (46 fields), from a list (44) or alone (49): so nothing
is mapped here that only some of the three carry, except into AppointmentExtras, which have a version of their own.
The two fields that lists lack are not published. The likely ones are left out: SessionStart, SessionEnd and
CancellationReasonNote. Left out as well is what another field says already (StartDateIso, StartDateLocal, …) and
what a third person's record says better (names and addresses of additional clients).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from eventsync.domain.changes import Authority, Delete, EntityRef, RecordChange, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId
from eventsync.domain.fields import MAX_NAME_CHARS, Fields, canonical
from eventsync.domain.records import (
    Appointment,
    AppointmentExtras,
    AppointmentStatus,
    Content,
    LocationType,
    Patient,
    Practitioner,
    RecordKind,
    content_hash,
)

MAPPING_VERSION = 1  # raise it whenever the same object would map to other content

UNKNOWN_NAME = "Unknown"
MAX_EMAIL_CHARS = 320

_MAX_URL_CHARS = 2_000
_STATUSES = {
    "confirmed": AppointmentStatus.CONFIRMED,
    "canceled": AppointmentStatus.CANCELLED,
    "cancelled": AppointmentStatus.CANCELLED,
    "declined": AppointmentStatus.CANCELLED,
    "waitingconfirmation": AppointmentStatus.SCHEDULED,
    "missed": AppointmentStatus.NO_SHOW,
}
_PLACES_OF_SERVICE = {  # the two-digit codes of the Centers for Medicare & Medicaid Services
    "02": LocationType.TELEHEALTH,
    "10": LocationType.TELEHEALTH,
    "11": LocationType.OFFICE,
    "12": LocationType.HOME,
}
_DETAIL_TEXTS = (
    "ClientNote",
    "PractitionerNote",
    "PractitionerEmail",
    "ReminderType",
    "AttendanceConfirmationResponse",
    "PlaceOfService",
    "InvoiceNumber",
    "ExternalClientId",
    "ExternalPractitionerId",
    "ExternalServiceId",
)
_DETAIL_IDS = ("IntakeId", "InvoiceId")
_ONLY_IN_SINGLE_FORM = ("AppointmentPackageId", "AppointmentPackageName", "Procedures")
_URL = re.compile(r"https?://[^\s<>\"']+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """Where and when an object was read. `began_ms` is 0 for a webhook and Unix milliseconds for an API read."""

    connection_id: ConnectionId
    source: Source
    began_ms: int = 0

    def entity(self, kind: RecordKind, external_id: str) -> EntityRef:
        """Name a record of this connection."""
        return EntityRef(self.connection_id, kind, external_id)

    def version(
        self,
        position: int,
        content: Content | None,
        *,
        deleted: bool = False,
        authority: Authority = Authority.RECORD,
    ) -> Version:
        """Give `content` its place in the total order."""
        return Version(
            authority=authority,
            position=position,
            deleted=deleted,
            source=self.source,
            read_began_ms=self.began_ms,
            mapping_version=MAPPING_VERSION,
            content_hash=content_hash(content),
        )


def appointment_changes(
    reading: Reading, fields: Fields, *, deleted: bool = False, client_id: str | None = None
) -> tuple[RecordChange, ...]:
    """Read one appointment: its own change first, then a mention of the client it names.

    `client_id` is the envelope's, for an object without one. Raises Rejected (IntakeQ Appointments API, article 204).
    """
    entity = reading.entity(RecordKind.APPOINTMENT, required_id(fields))
    client_id = fields.identifier("ClientId") or client_id
    content = appointment(fields, client_id)
    position = required_position(fields, "LastModified")
    version = reading.version(position, content, deleted=deleted)
    change: RecordChange = (
        Delete(entity, version, content) if deleted else Upsert(entity, version, content, extras=_extras(fields))
    )
    return (change,) if client_id is None else (change, _mention(reading, fields, client_id, position))


def appointment(fields: Fields, client_id: str | None) -> Appointment:
    """Map the fields that all sources of an appointment share."""
    start, end = _start_and_end(fields)
    vendor_status = fields.text("Status", MAX_NAME_CHARS)
    if vendor_status is None:
        raise fields.missing("Status")
    telehealth = fields.object("TelehealthInfo")
    return Appointment(
        status=_STATUSES.get(vendor_status.lower(), AppointmentStatus.SCHEDULED),
        vendor_status=vendor_status,
        start_time=start,
        end_time=end,
        duration_minutes=fields.integer("Duration"),
        client_external_id=client_id,
        practitioner_external_id=fields.identifier("PractitionerId"),
        practitioner_name=fields.text("PractitionerName", MAX_NAME_CHARS),
        service_external_id=fields.identifier("ServiceId"),
        service_name=_name(fields, "ServiceName", "Service"),
        location_external_id=fields.identifier("LocationId"),
        location_name=_name(fields, "LocationName", "Location"),
        location_type=_location_type(fields, telehealth),
        meeting_url=None if telehealth is None else _meeting_url(telehealth),
        price=fields.amount("Price"),
        cancellation_reason=fields.text("FullCancellationReason"),
        booked_by_client=fields.flag("BookedByClient"),
        vendor_created_at=fields.moment("DateCreated"),
        details=_details(fields, telehealth),
    )


def patient_change(reading: Reading, fields: Fields, *, deleted: bool = False) -> Upsert | Delete:
    """Read one client with its profile (IntakeQ Client API, article 251). Raises Rejected."""
    client_id = client_id_of(fields)
    if client_id is None:
        raise fields.missing("ClientId")
    entity = reading.entity(RecordKind.PATIENT, client_id)
    content = _patient(fields)
    version = reading.version(required_position(fields, "LastUpdateDate"), content, deleted=deleted)
    return Delete(entity, version, content) if deleted else Upsert(entity, version, content)


def practitioner(fields: Fields) -> Practitioner:
    """Read one practitioner of `GET /practitioners`. Raises Rejected."""
    whole_name = " ".join(fields.text(key, MAX_NAME_CHARS) or "" for key in ("FirstName", "LastName")).strip()
    return Practitioner(
        external_id=required_id(fields),
        name=fields.text("CompleteName", MAX_NAME_CHARS) or whole_name or UNKNOWN_NAME,
        email=fields.text("Email", MAX_EMAIL_CHARS),
    )


def client_id_of(fields: Fields) -> str | None:
    """Read a client's number, which a list without profiles calls ClientNumber."""
    return fields.identifier("ClientId") or fields.identifier("ClientNumber")


def required_id(fields: Fields) -> str:
    """Read the object's own id, without which nothing can be kept."""
    external_id = fields.identifier("Id")
    if external_id is None:
        raise fields.missing("Id")
    return external_id


def required_position(fields: Fields, key: str) -> int:
    """Read the vendor's modification time in Unix milliseconds, without which there is no order."""
    position = fields.time_ms(key)
    if position is None:
        raise fields.missing(key)
    if position < 0:  # versions are unsigned, and nothing was modified before 1970
        raise fields.out_of_range(key)
    return position


def _start_and_end(fields: Fields) -> tuple[datetime, datetime]:
    start = fields.moment("StartDate") or fields.moment("StartDateIso")
    if start is None:
        raise fields.missing("StartDate")
    end = fields.moment("EndDate") or fields.moment("EndDateIso")
    if end is None:
        end = start + timedelta(minutes=fields.integer("Duration", largest=527_040) or 0)  # at most a year
    if end < start:
        raise fields.invalid("EndDate", "after StartDate")
    return start, end


def _name(fields: Fields, key: str, key_in_documented_lists: str) -> str | None:
    return fields.text(key if fields.carries(key) else key_in_documented_lists, MAX_NAME_CHARS)


def _location_type(fields: Fields, telehealth: Fields | None) -> LocationType | None:
    """Say where it takes place: by the place of service that was billed, else by a video call being set up."""
    place = fields.text("PlaceOfService", MAX_NAME_CHARS)
    known = None if place is None else _PLACES_OF_SERVICE.get(place.zfill(2))
    return known or (LocationType.TELEHEALTH if telehealth is not None else None)


def _meeting_url(telehealth: Fields) -> str | None:
    """Find the link that a client joins by: JoinUrl, else the first link of the invitation text.

    StartUrl is never taken. It is the practitioner's: it opens the meeting as its host, and it is renewed without
    the appointment having changed. Google Meet links are never in the API.
    """
    for key in ("JoinUrl", "Invitation"):
        link = _URL.search(telehealth.text(key) or "")
        if link is not None and len(link.group()) <= _MAX_URL_CHARS:
            return link.group().rstrip(".,;:!?)]}")
    return None


def _details(fields: Fields, telehealth: Fields | None) -> dict[str, Any]:
    booked_by_staff = fields.flag("BookedByClient") is False
    custom_fields = canonical(list(fields.array("CustomFields")))
    details = {
        **{key: fields.text(key) for key in _DETAIL_TEXTS},
        **{key: fields.identifier(key) for key in _DETAIL_IDS},
        # Who booked is the client's name where the client did.
        "CreatedBy": fields.text("CreatedBy") if booked_by_staff else None,
        "CancellationDate": _iso(fields.moment("CancellationDate")),
        "CustomFields": custom_fields,
        "AdditionalClients": _additional_clients(fields),
        "TelehealthProvider": None if telehealth is None else telehealth.text("Provider"),
        "TelehealthInvitationCode": None if telehealth is None else telehealth.text("InvitationCode"),
    }
    return {key: value for key, value in details.items() if value not in (None, [])}


def _additional_clients(fields: Fields) -> list[dict[str, str]]:
    """List who else takes part, by id only, in an order of our own: lists and webhooks may differ in theirs."""
    ids = (
        (client.identifier("ClientId"), client.identifier("IntakeId")) for client in fields.objects("AdditionalClients")
    )
    clients = {client_id: intake_id for client_id, intake_id in ids if client_id is not None}
    return [
        {"ClientId": client_id} | ({} if intake_id is None else {"IntakeId": intake_id})
        for client_id, intake_id in sorted(clients.items())
    ]


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _extras(fields: Fields) -> AppointmentExtras | None:
    """Read what only the single form carries; where any of it is absent, nothing is said about the rest."""
    if not fields.carries(*_ONLY_IN_SINGLE_FORM):
        return None
    return AppointmentExtras(
        package_external_id=fields.identifier("AppointmentPackageId"),
        package_name=fields.text("AppointmentPackageName", MAX_NAME_CHARS),
        procedures=tuple(canonical(procedure.values) for procedure in fields.objects("Procedures")),
    )


def _mention(reading: Reading, fields: Fields, client_id: str, position: int) -> Upsert:
    first_name, last_name = split_name(fields.text("ClientName", MAX_NAME_CHARS))
    content = Patient(
        first_name=first_name,
        last_name=last_name,
        email=fields.text("ClientEmail", MAX_EMAIL_CHARS),
        phone=fields.text("ClientPhone", MAX_NAME_CHARS),
        date_of_birth=fields.day("ClientDateOfBirth"),
    )
    version = reading.version(position, content, authority=Authority.MENTION)
    return Upsert(reading.entity(RecordKind.PATIENT, client_id), version, content)


def _patient(fields: Fields) -> Patient:
    first_name, last_name = split_name(fields.text("Name", MAX_NAME_CHARS))
    phones = (fields.text(key, MAX_NAME_CHARS) for key in ("Phone", "MobilePhone", "HomePhone", "WorkPhone"))
    return Patient(
        first_name=fields.text("FirstName", MAX_NAME_CHARS) or first_name,
        last_name=fields.text("LastName", MAX_NAME_CHARS) or last_name,
        email=fields.text("Email", MAX_EMAIL_CHARS),
        phone=next((phone for phone in phones if phone is not None), None),
        date_of_birth=fields.day("DateOfBirth"),
        archived=fields.flag("Archived") or False,
    )


def split_name(name: str | None) -> tuple[str, str]:
    """Split a full name into its first word and the rest; what is missing is `Unknown`."""
    words = (name or "").split()
    return (words[0] if words else UNKNOWN_NAME), (" ".join(words[1:]) or UNKNOWN_NAME)
