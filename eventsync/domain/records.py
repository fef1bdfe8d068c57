"""What we keep of a vendor's records: the mapped fields of each kind, without their versions."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from hashlib import blake2b
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson

from eventsync.domain.connections import ConnectionId


class RecordKind(StrEnum):
    """The kinds of records that eventsync keeps true."""

    PATIENT = "patient"
    APPOINTMENT = "appointment"
    INVOICE = "invoice"
    INTAKE = "intake"
    NOTE = "note"

    @property
    def is_document(self) -> bool:
        """Whether its rows are kept, with sealed content, in `documents`."""
        return self in _DOCUMENT_KINDS


_DOCUMENT_KINDS = frozenset({RecordKind.INVOICE, RecordKind.INTAKE, RecordKind.NOTE})


class AppointmentStatus(StrEnum):
    """Our words for an appointment's state; `completed` is derived in the view, never stored."""

    SCHEDULED = "scheduled"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    NO_SHOW = "no_show"


class LocationType(StrEnum):
    """Where an appointment takes place, in kind."""

    TELEHEALTH = "telehealth"
    OFFICE = "office"
    HOME = "home"


@dataclass(frozen=True, slots=True)
class Appointment:
    """The fields that every source of an appointment carries. Times are aware UTC; lengths are minutes.

    `details` holds what has no column of its own, as text or JSON values, by the vendor's names.
    """

    status: AppointmentStatus
    vendor_status: str
    start_time: datetime
    end_time: datetime
    duration_minutes: int | None = None
    client_external_id: str | None = None
    practitioner_external_id: str | None = None
    practitioner_name: str | None = None
    service_external_id: str | None = None
    service_name: str | None = None
    location_external_id: str | None = None
    location_name: str | None = None
    location_type: LocationType | None = None
    meeting_url: str | None = None
    price: Decimal | None = None
    cancellation_reason: str | None = None
    booked_by_client: bool | None = None
    vendor_created_at: datetime | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppointmentExtras:
    """The fields that only the vendor's richest reading of one appointment carries."""

    package_external_id: str | None = None
    package_name: str | None = None
    procedures: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Patient:
    """Who a client of the practice is and how to reach them, as the vendor knows it."""

    first_name: str
    last_name: str
    email: str | None = None
    phone: str | None = None
    date_of_birth: date | None = None
    archived: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """An intake, a note or an invoice: what is needed to find it, and its content as JSON to be sealed."""

    status: str | None
    title: str | None
    client_external_id: str | None
    document_time: datetime | None
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Practitioner:
    """Who works at the practice, as the vendor knows them: not a record, but a name for one's appointments."""

    external_id: str
    name: str
    email: str | None


Content = Appointment | Patient | Document

_FIELD_NAMES: dict[type, tuple[str, ...]] = {
    kind: tuple(entry.name for entry in fields(kind)) for kind in (Appointment, AppointmentExtras, Patient, Document)
}


def field_names(kind: type[Content | AppointmentExtras]) -> tuple[str, ...]:
    """Name the fields of a content, in their order."""
    return _FIELD_NAMES[kind]


def content_hash(content: Content | AppointmentExtras | None) -> bytes:
    """Hash the mapped fields (16 bytes): equal content gives equal hashes in every process and version."""
    if content is None:
        return b""
    plain = {name: getattr(content, name) for name in field_names(type(content))}
    return blake2b(orjson.dumps(plain, default=_plain, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value.normalize())
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no place in a record's content")


def patient_id_of(connection_id: ConnectionId, client_external_id: str) -> UUID:
    """Derive the patient's id from its first identity, so that order of arrival does not matter."""
    return uuid5(NAMESPACE_URL, f"eventsync:patient:{connection_id}:{client_external_id}")


def record_id_of(connection_id: ConnectionId, kind: RecordKind, external_id: str) -> UUID:
    """Derive a record's id: the same in every process and after every rebuild of the copy."""
    return uuid5(NAMESPACE_URL, f"eventsync:{kind.value}:{connection_id}:{external_id}")
