"""What an IntakeQ webhook says (pure): the step between a stored event and the changes that are applied.

IntakeQ posts one kind of envelope per record kind (Appointments API, article 204; Questionnaire API, article 31).
Appointment and invoice envelopes hold the whole object; intake and note envelopes only name one by its id.
"""

from __future__ import annotations

from collections.abc import Mapping

from eventsync.domain.changes import Refetch, Source
from eventsync.domain.errors import Rejected
from eventsync.domain.fields import Fields
from eventsync.domain.payloads import read_object
from eventsync.domain.records import RecordKind
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.vendors.intakeq.documents import invoice_change
from eventsync.vendors.intakeq.mapping import Reading, appointment_changes, required_id

_DELETED = "AppointmentDeleted"
_MAX_EVENT_TYPE_CHARS = 100
_CARRIER = {  # the events whose envelope must hold an object or id, and the member that holds it
    "AppointmentCreated": "Appointment",
    "AppointmentConfirmed": "Appointment",
    "AppointmentRescheduled": "Appointment",
    "AppointmentCanceled": "Appointment",
    "AppointmentDeclined": "Appointment",
    "AppointmentMissed": "Appointment",
    _DELETED: "Appointment",
    "InvoiceIssued": "Invoice",
    "InvoicePaid": "Invoice",
    "InvoiceCancelled": "Invoice",
    "InvoicePaymentRefunded": "Invoice",
    "InvoicePaymentPlanChargeFailed": "Invoice",
    "InvoiceAutoChargeFailed": "Invoice",
    "Intake Submitted": "IntakeId",
    "Note Locked": "NoteId",
}


def read_webhook(body: bytes, headers: Mapping[str, str], context: WebhookContext) -> WebhookReading:
    """Understand one webhook.

    The event's name matters for a delete only: any other envelope with an object tells what the object looks like, so
    that names which we do not know are applied as well. Raises Rejected with a reason of domain/payloads or
    domain/fields, or practice_mismatch.
    """
    envelope = Fields("body", read_object(body, headers))
    event_type = _event_type(envelope)
    _check_practice(envelope, context)
    reading = Reading(context.connection_id, Source.WEBHOOK)
    if (appointment := envelope.object("Appointment")) is not None:
        return _appointment(event_type, reading, appointment, envelope.identifier("ClientId"))
    if (invoice := envelope.object("Invoice")) is not None:
        return _invoice(event_type, reading, invoice)
    for key, kind in (("NoteId", RecordKind.NOTE), ("IntakeId", RecordKind.INTAKE)):
        if (external_id := envelope.identifier(key)) is not None:
            return _refetch(event_type, reading, kind, external_id)
    if event_type in _CARRIER:
        raise envelope.missing(_CARRIER[event_type])
    return WebhookReading(event_type)


def _event_type(envelope: Fields) -> str:
    name = envelope.text("EventType", _MAX_EVENT_TYPE_CHARS) or envelope.text("Type", _MAX_EVENT_TYPE_CHARS)
    if name is None:
        raise envelope.missing("EventType")
    return name


def _check_practice(envelope: Fields, context: WebhookContext) -> None:
    practice_id = envelope.identifier("PracticeId")
    if context.practice_id is None or practice_id is None:
        return
    if practice_id.lower() != context.practice_id.strip().lower():
        raise Rejected(
            "practice_mismatch",
            "body.PracticeId is not the practice of this connection: the webhook URL was pasted into another account, "
            "or the connection's practice id is wrong.",
        )


def _appointment(event_type: str, reading: Reading, fields: Fields, client_id: str | None) -> WebhookReading:
    external_id = required_id(fields)
    if not fields.text("LastModified"):
        return _refetch(event_type, reading, RecordKind.APPOINTMENT, external_id)  # an object without its place in time
    # A deleted appointment still carries its old status: only the event's name tells.
    changes = appointment_changes(reading, fields, deleted=event_type == _DELETED, client_id=client_id)
    return WebhookReading(event_type, reading.entity(RecordKind.APPOINTMENT, external_id), changes)


def _invoice(event_type: str, reading: Reading, fields: Fields) -> WebhookReading:
    external_id = required_id(fields)
    if not fields.text("LastModified"):
        return _refetch(event_type, reading, RecordKind.INVOICE, external_id)
    change = invoice_change(reading, fields)
    return WebhookReading(event_type, change.entity, (change,))


def _refetch(event_type: str, reading: Reading, kind: RecordKind, external_id: str) -> WebhookReading:
    entity = reading.entity(kind, external_id)
    return WebhookReading(event_type, entity, (Refetch(entity),))
