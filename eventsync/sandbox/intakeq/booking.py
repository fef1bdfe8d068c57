"""Makes a new appointment out of a client, a practitioner, a service and a place."""

from dataclasses import dataclass
from typing import Any

from eventsync.sandbox.intakeq.invention import TELEHEALTH_LOCATION
from eventsync.sandbox.intakeq.practice import Practice
from eventsync.sandbox.intakeq.records import (
    Appointment,
    AppointmentStatus,
    Client,
    Location,
    Practitioner,
    Service,
)

DAY_MS = 86_400_000
_SLOT_MS = 900_000
_PACKAGE_ID = "00000000-0000-4000-8000-000000000010"  # names the kind of package, not the purchase
_REMINDERS = ("Sms", "Email", "Voice", "OptOut")


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """What was agreed: who (None: nobody yet), with whom, for what, where and when."""

    client: Client | None
    practitioner: Practitioner
    service: Service
    location: Location
    start_ms: int
    by_client: bool
    series: str | None = None


def slot_ms(practice: Practice, now_ms: int, first_day: int, last_day: int) -> int:
    """A quarter of an hour in the practice's day, between so many days from now."""
    day_ms = now_ms - now_ms % DAY_MS + practice.rng.randint(first_day, last_day) * DAY_MS
    return day_ms + practice.rng.randrange(13 * 4, 23 * 4) * _SLOT_MS  # 9 to 19 o'clock in New York's winter


def choose_booking(practice: Practice, start_ms: int, *, by_client: bool, client: Client | None = None) -> Booking:
    """A booking with everything but the time left to chance, and the client where none is given."""
    return Booking(
        client=practice.client_or_any(None) if client is None else client,
        practitioner=practice.one_of(practice.practitioners, None),
        service=practice.one_of(practice.services, None),
        location=practice.one_of(practice.locations, None),
        start_ms=start_ms,
        by_client=by_client,
    )


def new_appointment(practice: Practice, booking: Booking, created_ms: int, modified_ms: int) -> Appointment:
    """The appointment of a booking: Confirmed when staff made it, WaitingConfirmation when the client did."""
    rng = practice.rng
    client, practitioner, service = booking.client, booking.practitioner, booking.service
    remote = booking.location.id == TELEHEALTH_LOCATION
    packaged = rng.random() < 0.1
    return Appointment(
        id=practice.object_id(created_ms),
        **client_copies(client),
        status=AppointmentStatus.WAITING if booking.by_client else AppointmentStatus.CONFIRMED,
        start_ms=booking.start_ms,
        duration_min=service.duration_min,
        service_id=service.id,
        service_name=service.name,
        location_id=booking.location.id,
        location_name=booking.location.name,
        price=service.price,
        practitioner_id=practitioner.id,
        practitioner_name=practitioner.name,
        practitioner_email=practitioner.email,
        created_ms=created_ms,
        modified_ms=modified_ms,
        created_by=(client.name if client is not None and booking.by_client else None) or practitioner.name,
        booked_by_client=booking.by_client,
        reminder_type=rng.choice(_REMINDERS),
        client_note="Sample note by the client" if booking.by_client and rng.random() < 0.3 else None,
        custom_fields=[{"Name": "Sample field", "Answer": "yes"}] if rng.random() < 0.03 else [],
        telehealth=_telehealth(practice) if remote else None,
        place_of_service="02" if remote else rng.choice(("11", None)),
        additional_clients=_companions(practice, client),
        external_client_id=None if client is None else client.external_id,
        package_id=_PACKAGE_ID if packaged else None,
        package_name="Package of ten" if packaged else None,
        procedures=[{"ProcedureCode": service.procedure_code, "Price": service.price, "Units": 1, "Modifiers": []}],
        floating_numbers=rng.random() < practice.profile.float_share,
        series=booking.series,
    )


def _telehealth(practice: Practice) -> dict[str, Any] | None:
    """The meeting of a remote visit; None for Google Meet, whose link is never in the API."""
    provider = practice.rng.choice(("IntakeQ", "IntakeQ", "Zoom", "GoogleMeet"))
    if provider == "GoogleMeet":
        return None
    meeting_id = practice.guid()
    return {
        "Id": meeting_id,
        "StartUrl": f"https://telehealth.example.test/start/{meeting_id}",
        "Invitation": f"Join at https://telehealth.example.test/join/{meeting_id}",
        "Provider": provider,
        "InvitationCode": meeting_id[:8],
    }


def client_copies(client: Client | None) -> dict[str, Any]:
    """What an appointment repeats of its client's details; all null for one without a client."""
    return {
        "client_id": None if client is None else client.id,
        "client_name": None if client is None else client.name,
        "client_email": None if client is None else client.email,
        "client_phone": None if client is None else client.phone,
        "client_date_of_birth": None if client is None else client.date_of_birth,
    }


def _companions(practice: Practice, client: Client | None) -> list[dict[str, Any]]:
    if practice.rng.random() >= 0.04 or client is None:
        return []
    other = practice.client_or_any(None)
    if other.id == client.id:
        return []
    return [
        {
            "ClientId": other.id,
            "ClientName": other.name,
            "ClientEmail": other.email,
            "ClientPhone": other.phone,
            "IntakeId": None,
        }
    ]
