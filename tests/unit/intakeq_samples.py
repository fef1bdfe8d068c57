"""The invented IntakeQ bodies that lie beside the vendor's code, and a context to read them in."""

from __future__ import annotations

from importlib import resources
from typing import Any
from uuid import UUID

import orjson

from eventsync.domain.changes import Delete, Upsert
from eventsync.domain.connections import ConnectionId
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.vendors.intakeq.webhook import read_webhook

_SAMPLES = resources.files("eventsync.vendors.intakeq") / "samples"
CONTEXT = WebhookContext(ConnectionId(UUID(int=7)))
WEBHOOKS = tuple(
    sorted(entry.name.removesuffix(".json") for entry in _SAMPLES.iterdir() if not entry.name.startswith("api_"))
)


def sample(name: str) -> Any:
    """Parse a sample, afresh at every call."""
    return orjson.loads((_SAMPLES / f"{name}.json").read_bytes())


def read(envelope: Any, context: WebhookContext = CONTEXT) -> WebhookReading:
    """Read an envelope as the body of a webhook."""
    return read_webhook(orjson.dumps(envelope), {}, context)


def with_appointment(**fields: Any) -> Any:
    """Write the sample of a booking with some of the appointment's fields replaced."""
    envelope = sample("appointment_created")
    envelope["Appointment"] |= fields
    return envelope


def without_appointment_field(*keys: str) -> Any:
    """Write the sample of a booking without some of the appointment's fields."""
    envelope = sample("appointment_created")
    for key in keys:
        del envelope["Appointment"][key]
    return envelope


def record_changes(reading: WebhookReading) -> tuple[Upsert | Delete, ...]:
    """Give the changes, which must all be upserts or deletes."""
    changes = tuple(change for change in reading.changes if isinstance(change, Upsert | Delete))
    assert len(changes) == len(reading.changes)
    return changes
