"""The bodies of IntakeQ's webhooks, envelope by envelope.

Appointment, intake and note envelopes have exactly the members seen in production or documented (IntakeQ Appointments
API and Questionnaire API); the invoice envelope is documented only.
"""

from datetime import tzinfo
from typing import Any

import orjson

from eventsync.sandbox.intakeq.appointment_forms import webhook_form
from eventsync.sandbox.intakeq.document_forms import invoice_form
from eventsync.sandbox.intakeq.records import Appointment, Intake, Invoice, Note, RecordKind
from eventsync.sandbox.vendor import Webhook


def appointment_webhook(event: str, a: Appointment, *, by_client: bool, practice_id: str, zone: tzinfo) -> Webhook:
    """`AppointmentCreated` and its six kin."""
    body = {
        "EventType": event,
        "Appointment": webhook_form(a, zone),
        "ActionPerformedByClient": by_client,
        "ClientId": a.client_id,
        "ExternalClientId": a.external_client_id,
        "PracticeId": practice_id,
        "ExternalPracticeId": None,
    }
    return Webhook(RecordKind.APPOINTMENT.value, event, orjson.dumps(body), a.id)


def intake_webhook(intake: Intake) -> Webhook:
    """`Intake Submitted`: ids only, and the member is `Type`, not `EventType`."""
    body: dict[str, Any] = {
        "IntakeId": intake.id,
        "Type": "Intake Submitted",
        "ClientId": intake.client_id,
        "ExternalPracticeId": None,
        "ExternalClientId": None,
    }
    return Webhook(RecordKind.INTAKE.value, "Intake Submitted", orjson.dumps(body), intake.id)


def note_webhook(note: Note) -> Webhook:
    """`Note Locked`: exactly three members."""
    body = {"NoteId": note.id, "Type": "Note Locked", "ClientId": note.client_id}
    return Webhook(RecordKind.NOTE.value, "Note Locked", orjson.dumps(body), note.id)


def invoice_webhook(event: str, invoice: Invoice, *, by_client: bool) -> Webhook:
    """`InvoiceIssued` and its kin, with the whole invoice."""
    body = {"EventType": event, "ActionPerformedByClient": by_client, "Invoice": invoice_form(invoice)}
    return Webhook(RecordKind.INVOICE.value, event, orjson.dumps(body), invoice.id)
