"""The webhooks that benchmarks send: IntakeQ's appointments of about 1.5 kB with invented data. Pure.

They have the shape of the vendor's samples (IntakeQ Appointments API, article 204), so that the whole mapping runs.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any

import orjson

CLIENTS = 2_000  # a practice's clients, who all have several appointments
_FIRST_INVENTED_CLIENT = 980_000_000
_ID_PREFIX = "be"  # the ids are 24 hexadecimal digits, as IntakeQ's, and none of its own
_FIRST_START = datetime(2030, 1, 1, tzinfo=UTC)
_START_TIMES = 1_000_000  # minutes
_DURATION = timedelta(minutes=50)
_CREATED, _RESCHEDULED = "AppointmentCreated", "AppointmentRescheduled"


def appointment_webhook(
    number: int, *, version_ms: int, practice_id: str | None = None, is_update: bool = False
) -> bytes:
    """Make the webhook of appointment `number`, last modified at `version_ms` (Unix milliseconds).

    Another number is another appointment, of one of CLIENTS clients. Another version (by less than a million) has
    another start, so that it changes the row. Without `practice_id` the body carries none.
    """
    start = _FIRST_START + timedelta(minutes=(number * 10 + version_ms) % _START_TIMES)
    client = number % CLIENTS
    client_id = _FIRST_INVENTED_CLIENT + client
    envelope, sample = _sample()
    appointment = (
        sample
        | _when(start)
        | {
            "Id": appointment_id(number),
            "ClientName": f"Test Client {client}",
            "ClientEmail": f"client{client}@example.test",
            "ClientPhone": f"202555{client:04d}",
            "ClientId": client_id,
            "Price": 100 + number % 100,
            "LastModified": version_ms,
        }
    )
    changes = {
        "EventType": _RESCHEDULED if is_update else _CREATED,
        "Appointment": appointment,
        "ClientId": client_id,
        "PracticeId": practice_id,
    }
    return orjson.dumps(envelope | changes)


def appointment_webhooks(
    count: int, *, first_number: int = 0, version_ms: int, practice_id: str | None = None
) -> list[bytes]:
    """Make the webhooks of `count` new appointments with the numbers from `first_number` on."""
    numbers = range(first_number, first_number + count)
    return [appointment_webhook(number, version_ms=version_ms, practice_id=practice_id) for number in numbers]


def mixed_webhooks(
    count: int, *, version_ms: int, practice_id: str | None = None, updates_every: int = 5, first_number: int = 0
) -> list[bytes]:
    """Make `count` webhooks of which one in `updates_every` reschedules an appointment of an earlier one, each once.

    The appointment that is rescheduled was made about halfway back; its new version is up to `count` ms newer.
    """
    bodies: list[bytes] = []
    made = 0
    for position in range(count):
        is_update = position % updates_every == updates_every - 1
        number = made // 2 if is_update else made
        version = version_ms + position + 1 if is_update else version_ms
        bodies.append(
            appointment_webhook(first_number + number, version_ms=version, practice_id=practice_id, is_update=is_update)
        )
        made += not is_update
    return bodies


def appointment_id(number: int) -> str:
    """Name appointment `number` as the vendor would."""
    return f"{_ID_PREFIX}{number:022x}"


def _when(start: datetime) -> dict[str, Any]:
    end = start + _DURATION
    local = start.strftime("%Y-%m-%dT%H:%M:%S.0000000")  # the invented practice's zone is UTC
    local_end = end.strftime("%Y-%m-%dT%H:%M:%S.0000000")
    return {
        "StartDate": int(start.timestamp() * 1000),
        "EndDate": int(end.timestamp() * 1000),
        "StartDateIso": f"{local}Z",
        "EndDateIso": f"{local_end}Z",
        "StartDateLocal": local,
        "EndDateLocal": local_end,
        "StartDateLocalFormatted": start.strftime("%m/%d/%Y at %I:%M:%S %p"),
    }


@cache
def _sample() -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the vendor's sample: its envelope and its appointment."""
    path = resources.files("eventsync.vendors.intakeq").joinpath("samples", "appointment_created.json")
    envelope: dict[str, Any] = orjson.loads(path.read_bytes())
    return envelope, envelope["Appointment"]
