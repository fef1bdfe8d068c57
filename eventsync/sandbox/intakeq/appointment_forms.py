"""The three forms of an appointment on the wire: 46 members in a webhook, 44 in a list, 49 on its own.

Names, order and formats of the 46 are those of real webhooks; the list's and the single form's sizes were measured in
one practice (IntakeQ Appointments API, article 204, for the three that only the single form has). Which two the list
lacks is not published; here it is the session times.
"""

from datetime import tzinfo
from typing import Any

from eventsync.sandbox.intakeq.records import Appointment
from eventsync.sandbox.intakeq.wire import in_zone, iso_local, iso_utc, spoken_local

_NOT_IN_LISTS = ("SessionStart", "SessionEnd")


def webhook_form(a: Appointment, zone: tzinfo) -> dict[str, Any]:
    """The 46 members that webhooks carry."""
    start, end = in_zone(a.start_ms, zone), in_zone(a.end_ms, zone)
    number = float if a.floating_numbers else int
    return {
        "Id": a.id,
        "ClientName": a.client_name,
        "ClientEmail": a.client_email,
        "ClientPhone": a.client_phone,
        "ClientDateOfBirth": a.client_date_of_birth,
        "ClientId": a.client_id,
        "Status": a.status,
        "StartDate": number(a.start_ms),
        "EndDate": number(a.end_ms),
        "Duration": a.duration_min,
        "ServiceName": a.service_name,
        "ServiceId": a.service_id,
        "LocationName": a.location_name,
        "LocationId": a.location_id,
        "Price": a.price,
        "PractitionerName": a.practitioner_name,
        "PractitionerEmail": a.practitioner_email,
        "IntakeId": a.intake_id,
        "DateCreated": number(a.created_ms),
        "CreatedBy": a.created_by,
        "BookedByClient": a.booked_by_client,
        "StartDateIso": iso_utc(a.start_ms),
        "EndDateIso": iso_utc(a.end_ms),
        "StartDateLocal": iso_local(start),
        "EndDateLocal": iso_local(end),
        "StartDateLocalFormatted": spoken_local(start),
        "PractitionerId": a.practitioner_id,
        "InvoiceId": a.invoice_id,
        "InvoiceNumber": a.invoice_number,
        "ClientNote": a.client_note,
        "PractitionerNote": a.practitioner_note,
        "TelehealthInfo": a.telehealth,
        "AttendanceConfirmationResponse": a.attendance,
        "ReminderType": a.reminder_type,
        "CustomFields": a.custom_fields,
        "SessionStart": a.session_start_ms,
        "SessionEnd": a.session_end_ms,
        "ExternalClientId": a.external_client_id,
        "ExternalPractitionerId": None,
        "ExternalServiceId": None,
        "LastModified": number(a.modified_ms),
        "AdditionalClients": a.additional_clients,
        "PlaceOfService": a.place_of_service,
        "FullCancellationReason": a.cancellation_reason,
        "CancellationReasonNote": a.cancellation_note,
        "CancellationDate": "" if a.cancelled_ms is None else iso_utc(a.cancelled_ms),
    }


def list_form(a: Appointment, zone: tzinfo) -> dict[str, Any]:
    """The 44 members of `GET /appointments`."""
    form = webhook_form(a, zone)
    for name in _NOT_IN_LISTS:
        del form[name]
    return form


def single_form(a: Appointment, zone: tzinfo) -> dict[str, Any]:
    """The 49 members of `GET /appointments/{id}`."""
    form = webhook_form(a, zone)
    form["AppointmentPackageId"] = a.package_id
    form["AppointmentPackageName"] = a.package_name
    form["Procedures"] = a.procedures
    return form
