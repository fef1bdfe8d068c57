"""What the pretend IntakeQ practice keeps: plain values, times in Unix milliseconds UTC.

An appointment carries copies of its client's and practitioner's names, taken when it was last changed, so that its API
form changes only when `modified_ms` advances.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class RecordKind(StrEnum):
    """What there is; all but clients have webhooks of the same name."""

    APPOINTMENT = "appointment"
    CLIENT = "client"
    INTAKE = "intake"
    NOTE = "note"
    INVOICE = "invoice"


class AppointmentStatus(StrEnum):
    """The five statuses (IntakeQ Appointments API, article 204); there is no "Completed"."""

    CONFIRMED = "Confirmed"
    WAITING = "WaitingConfirmation"
    DECLINED = "Declined"
    CANCELED = "Canceled"
    MISSED = "Missed"


OPEN_STATUSES = (AppointmentStatus.CONFIRMED, AppointmentStatus.WAITING)


class InvoiceStatus(StrEnum):
    """The invoice statuses that the API filters by (IntakeQ Invoice API, article 385)."""

    DRAFT = "Draft"
    SCHEDULED = "Scheduled"
    UNPAID = "Unpaid"
    PAID = "Paid"
    PAST_DUE = "PastDue"
    REFUNDED = "Refunded"
    FORGIVEN = "Forgiven"
    CANCELED = "Canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Practitioner:
    """A person who gives appointments."""

    id: str
    first_name: str
    last_name: str
    email: str

    @property
    def name(self) -> str:
        """The complete name."""
        return f"{self.first_name} {self.last_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What can be booked; the price is in whole or fractional dollars."""

    id: str
    name: str
    duration_min: int
    price: float
    procedure_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where; the id is text, as on the wire."""

    id: str
    name: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client; names, e-mail and phone may be missing, and an e-mail may be shared with another client."""

    id: int
    guid: str
    first_name: str | None
    last_name: str | None
    email: str | None
    phone: str | None
    date_of_birth: str | None  # YYYY-MM-DD
    practitioner_id: str
    city: str
    tags: list[str] = field(default_factory=list)
    archived: bool = False
    external_id: str | None = None
    created_ms: int
    modified_ms: int
    deleted_ms: int | None = None

    @property
    def name(self) -> str | None:
        """The complete name, None for a client without any."""
        if self.first_name is None and self.last_name is None:
            return None
        return " ".join(part for part in (self.first_name, self.last_name) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Appointment:
    """One appointment; dict-valued fields hold the wire form. It may be without a client."""

    id: str
    client_id: int | None
    client_name: str | None
    client_email: str | None
    client_phone: str | None
    client_date_of_birth: str | None
    status: AppointmentStatus
    start_ms: int
    duration_min: int
    service_id: str
    service_name: str
    location_id: str
    location_name: str
    price: float
    practitioner_id: str
    practitioner_name: str
    practitioner_email: str
    created_ms: int
    modified_ms: int
    created_by: str
    booked_by_client: bool
    reminder_type: str
    intake_id: str | None = None
    attendance: str = "None"
    invoice_id: str | None = None
    invoice_number: int | None = None
    client_note: str | None = None
    practitioner_note: str | None = None
    custom_fields: list[dict[str, Any]] = field(default_factory=list)
    telehealth: dict[str, Any] | None = None
    session_start_ms: int | None = None
    session_end_ms: int | None = None
    place_of_service: str | None = None
    additional_clients: list[dict[str, Any]] = field(default_factory=list)
    cancellation_reason: str = ""
    cancellation_note: str | None = None
    cancelled_ms: int | None = None
    external_client_id: str | None = None
    package_id: str | None = None
    package_name: str | None = None
    procedures: list[dict[str, Any]] = field(default_factory=list)
    floating_numbers: bool = False  # its times go over the wire as 1458526480368.0
    series: str | None = None  # known inside only: no series id is exposed
    deleted_ms: int | None = None

    @property
    def end_ms(self) -> int:
        """When it ends."""
        return self.start_ms + self.duration_min * 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """A questionnaire sent to a client; status Sent, Partial, Completed or Offline."""

    id: str
    client_id: int
    client_name: str | None
    client_email: str | None
    status: str
    questionnaire_id: str
    questionnaire_name: str
    practitioner_id: str
    answers: list[str]
    created_ms: int
    submitted_ms: int | None
    modified_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A treatment note; it may be unlocked, edited and locked again."""

    id: str
    client_id: int
    client_name: str | None
    client_email: str | None
    locked: bool
    name: str
    practitioner_id: str
    appointment_id: str | None
    text: str
    date_ms: int
    modified_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """An invoice; on the wire its ClientId is the client's GUID and ClientIdNumber the number."""

    id: str
    number: int
    client_id: int
    client_guid: str
    client_name: str | None
    client_email: str | None
    appointment_id: str | None
    practitioner_id: str
    description: str
    status: InvoiceStatus
    total: float
    paid: float
    issued_ms: int
    due_ms: int
    created_ms: int
    modified_ms: int
    payments: list[dict[str, Any]] = field(default_factory=list)
