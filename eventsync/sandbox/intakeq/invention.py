"""Invents the people and things of a practice: obviously unreal, but with the gaps and oddities of real records."""

from dataclasses import replace
from typing import Any

from eventsync.sandbox.intakeq.practice import Practice
from eventsync.sandbox.intakeq.records import Client, Location, Practitioner, Service

_FIRST_NAMES = (
    "Willow", "Juniper", "Aspen", "Rowan", "Zoë", "Søren", "Łucja", "Maple", "River", "Indigo",
    "Clover", "Flint", "Ocean", "Saffron", "Noor", "Añil", "Wren", "Basil", "Hazel", "Cedar",
)  # fmt: skip
_CITIES = ("Sampleton", "Testville", "Example Falls", "Mockford")
_TAGS = ("newsletter", "sliding-scale", "waitlist", "couple")
_SERVICES = (
    ("Initial Consultation", 80, 220, "90791"),
    ("Individual Therapy", 50, 150, "90834"),
    ("Individual Therapy (long)", 60, 175.5, "90837"),
    ("Couples Session", 75, 240, "90847"),
    ("Follow-up", 25, 80, "90832"),
    ("Group Session", 90, 45.25, "90853"),
)
TELEHEALTH_LOCATION = "2"
_LOCATIONS = (
    ("1", "Main Office", "1 Sample Street, Sampleton"),
    (TELEHEALTH_LOCATION, "Telehealth", ""),
    ("3", "Riverside Room", "7 Example Road, Testville"),
)
FIRST_CLIENT_ID = 1_000  # the same in every practice: client numbers say nothing across practices


def invent_staff(practice: Practice, count: int, now_ms: int) -> None:
    """Fill in practitioners, services and locations."""
    for number in range(1, count + 1):
        practitioner = Practitioner(
            id=practice.object_id(now_ms),
            first_name=_FIRST_NAMES[(number * 7) % len(_FIRST_NAMES)],
            last_name=f"Practitioner {number}",
            email=f"practitioner{number}@example.test",
        )
        practice.practitioners[practitioner.id] = practitioner
    for name, duration_min, price, code in _SERVICES:
        service = Service(id=practice.guid(), name=name, duration_min=duration_min, price=price, procedure_code=code)
        practice.services[service.id] = service
    for location_id, name, address in _LOCATIONS:
        practice.locations[location_id] = Location(id=location_id, name=name, address=address)


def invent_client(practice: Practice, created_ms: int, modified_ms: int) -> Client:
    """A new client; some lack an e-mail, a phone or a birthday, some share the e-mail of an earlier one."""
    rng = practice.rng
    client_id = FIRST_CLIENT_ID + len(practice.clients)
    number = len(practice.clients) + 1
    email: str | None = f"client{number}@example.test"
    oddity = rng.random()
    if oddity < 0.06:
        email = None
    elif oddity < 0.14 and number > 1:  # a partner or a parent
        email = practice.clients[FIRST_CLIENT_ID + rng.randrange(number - 1)].email
    return Client(
        id=client_id,
        guid=practice.guid(),
        first_name=rng.choice(_FIRST_NAMES),
        last_name=f"Test Client {number}",
        email=email,
        phone=None if rng.random() < 0.08 else f"{201 + number // 100 % 700}55501{number % 100:02d}",
        date_of_birth=None if rng.random() < 0.05 else _birthday(rng.randrange(50, 105), rng.randrange(365)),
        practitioner_id=rng.choice(list(practice.practitioners)),
        city=rng.choice(_CITIES),
        tags=[rng.choice(_TAGS)] if rng.random() < 0.2 else [],
        external_id=f"ext-{number}" if rng.random() < 0.1 else None,
        created_ms=created_ms,
        modified_ms=modified_ms,
    )


def _birthday(years_since_1900: int, day: int) -> str:
    return f"{1900 + years_since_1900}-{day // 31 + 1:02d}-{day % 28 + 1:02d}"


def invent_profile_edit(practice: Practice, client: Client, modified_ms: int) -> Client:
    """The client with a changed e-mail, phone, name, birthday, city or tag; no webhook tells of it."""
    rng = practice.rng
    number = rng.randrange(10_000)
    changes: dict[str, Any]
    match rng.randrange(6):
        case 0:
            changes = {"email": f"client{client.id}.changed{number}@example.test"}
        case 1:
            changes = {"phone": f"{201 + number // 100 % 700}55501{number % 100:02d}"}
        case 2:
            changes = {"last_name": f"Renamed Client {client.id}-{number}"}
        case 3:
            changes = {"date_of_birth": _birthday(rng.randrange(50, 105), rng.randrange(365))}
        case 4:
            changes = {"city": rng.choice(_CITIES), "archived": rng.random() < 0.1}
        case _:
            changes = {"tags": sorted({*client.tags, rng.choice(_TAGS)})}
    return replace(client, modified_ms=modified_ms, **changes)
