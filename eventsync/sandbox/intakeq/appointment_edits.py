"""The edits of an appointment that IntakeQ announces by no webhook (its documented events name none of them)."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from eventsync.sandbox.intakeq.practice import Practice
from eventsync.sandbox.intakeq.records import Appointment

K = TypeVar("K")
V = TypeVar("V")

_LONGER_MIN = (5, 10, 15, 30)


def _other(practice: Practice, records: Mapping[K, V], present: K) -> V:
    """Another record than the present one, by chance; the same where there is no other."""
    others = [record for key, record in records.items() if key != present]
    return practice.rng.choice(others) if others else records[present]


def _price(practice: Practice, a: Appointment) -> dict[str, Any]:
    price = 20 + practice.rng.randrange(40_000) / 100
    return {"price": price if price != a.price else price + 1}


def _length(practice: Practice, a: Appointment) -> dict[str, Any]:
    """It ends later and begins as before: no event tells of that."""
    return {"duration_min": a.duration_min + practice.rng.choice(_LONGER_MIN)}


def _location(practice: Practice, a: Appointment) -> dict[str, Any]:
    place = _other(practice, practice.locations, a.location_id)
    return {"location_id": place.id, "location_name": place.name}


def _service(practice: Practice, a: Appointment) -> dict[str, Any]:
    """Another service; the price and the length that were agreed stay."""
    service = _other(practice, practice.services, a.service_id)
    return {"service_id": service.id, "service_name": service.name}


def _practitioner(practice: Practice, a: Appointment) -> dict[str, Any]:
    other = _other(practice, practice.practitioners, a.practitioner_id)
    return {"practitioner_id": other.id, "practitioner_name": other.name, "practitioner_email": other.email}


def _client_note(practice: Practice, _a: Appointment) -> dict[str, Any]:
    return {"client_note": f"Sample note {practice.serial}-{practice.revision}"}


def _practitioner_note(practice: Practice, _a: Appointment) -> dict[str, Any]:
    return {"practitioner_note": f"Sample note {practice.serial}-{practice.revision}"}


def _attendance(practice: Practice, a: Appointment) -> dict[str, Any]:
    answers = [answer for answer in ("Confirmed", "Cancelled") if answer != a.attendance]
    return {"attendance": practice.rng.choice(answers)}


def _session(_practice: Practice, a: Appointment) -> dict[str, Any]:
    """The session was held; lists do not show it, only LastModified tells."""
    return {"session_start_ms": a.start_ms, "session_end_ms": a.end_ms}


EDITS: Mapping[str, Callable[[Practice, Appointment], dict[str, Any]]] = {
    "price": _price,
    "length": _length,
    "location": _location,
    "service": _service,
    "practitioner": _practitioner,
    "client_note": _client_note,
    "practitioner_note": _practitioner_note,
    "attendance": _attendance,
    "session": _session,
}
