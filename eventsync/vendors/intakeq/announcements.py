"""Which of IntakeQ's webhooks tells of a change, so that a sweep can say which of them never came. Pure.

Sources: the events of the IntakeQ Appointments API (article 204) and of its Invoice API (385). Edits of price, place,
notes, service, practitioner or length are announced by none, nor is anything about clients.
"""

from __future__ import annotations

from collections.abc import Collection

from eventsync.domain.records import Appointment, Content, Document, RecordKind

_BY_APPOINTMENT_STATUS = {
    "confirmed": "AppointmentConfirmed",
    "canceled": "AppointmentCanceled",
    "cancelled": "AppointmentCanceled",
    "declined": "AppointmentDeclined",
    "missed": "AppointmentMissed",
}
_STATUSES_OF_A_BOOKING = ("confirmed", "waitingconfirmation")  # staff book appointments that are confirmed at once
_BY_INVOICE_STATUS = {
    "paid": "InvoicePaid",
    "canceled": "InvoiceCancelled",
    "cancelled": "InvoiceCancelled",
    "refunded": "InvoicePaymentRefunded",
}


def announcement_of(
    kind: RecordKind, changed_fields: Collection[str], content: Content | None, *, is_new: bool
) -> str | None:
    """Name the event that tells of the last of these changes; None where IntakeQ sends no webhook for any of them.

    `deleted_at` among the fields says that the record was deleted: that one came back is announced by nothing.
    """
    match kind:
        case RecordKind.APPOINTMENT:
            return _of_appointment(changed_fields, content, is_new=is_new)
        case RecordKind.INVOICE:
            return _of_invoice(changed_fields, content, is_new=is_new)
        case RecordKind.INTAKE:
            return "Intake Submitted" if is_new or "status" in changed_fields else None
        case RecordKind.NOTE:
            return "Note Locked" if is_new or "status" in changed_fields else None
        case RecordKind.PATIENT:
            return None


def _of_appointment(changed_fields: Collection[str], content: Content | None, *, is_new: bool) -> str | None:
    if "deleted_at" in changed_fields:
        return "AppointmentDeleted"
    status = content.vendor_status.lower() if isinstance(content, Appointment) else ""
    if is_new:
        is_booking = status in _STATUSES_OF_A_BOOKING
        return "AppointmentCreated" if is_booking else _BY_APPOINTMENT_STATUS.get(status, "AppointmentCreated")
    if "vendor_status" in changed_fields and status in _BY_APPOINTMENT_STATUS:
        return _BY_APPOINTMENT_STATUS[status]
    # A client who moves an appointment may set it back to WaitingConfirmation, which no event is named after.
    return "AppointmentRescheduled" if "start_time" in changed_fields else None


def _of_invoice(changed_fields: Collection[str], content: Content | None, *, is_new: bool) -> str | None:
    if not is_new and "status" not in changed_fields:
        return None
    status = (content.status or "").lower() if isinstance(content, Document) else ""
    return _BY_INVOICE_STATUS.get(status, "InvoiceIssued" if is_new else None)
