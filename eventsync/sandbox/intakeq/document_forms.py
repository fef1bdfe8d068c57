"""The wire forms of clients, practitioners, intakes, notes and invoices."""

from datetime import date
from typing import Any

from eventsync.sandbox.intakeq.records import (
    Client,
    Intake,
    Invoice,
    InvoiceStatus,
    Location,
    Note,
    Practitioner,
    Service,
)

_EPOCH_DAY = date(1970, 1, 1)
_DAY_MS = 86_400_000


def client_summary(client: Client) -> dict[str, Any]:
    """A client in a list without `includeProfile` (IntakeQ Client API, article 251): the number as text."""
    return {
        "Name": client.name,
        "Email": client.email,
        "Phone": client.phone,
        "ClientNumber": str(client.id),
    }


def client_profile(client: Client) -> dict[str, Any]:
    """A client with its profile; DateOfBirth is midnight UTC in Unix milliseconds."""
    born = client.date_of_birth
    return {
        "ClientId": client.id,
        "ClientNumber": str(client.id),
        "Guid": client.guid,
        "Name": client.name,
        "FirstName": client.first_name,
        "LastName": client.last_name,
        "MiddleName": None,
        "Email": client.email,
        "Phone": client.phone,
        "DateOfBirth": None if born is None else (date.fromisoformat(born) - _EPOCH_DAY).days * _DAY_MS,
        "MaritalStatus": None,
        "Gender": None,
        "Tags": client.tags,
        "Archived": client.archived,
        "HomePhone": None,
        "WorkPhone": None,
        "MobilePhone": client.phone,
        "Address": f"1 Sample Street, {client.city}",
        "UnitNumber": None,
        "StreetAddress": "1 Sample Street",
        "City": client.city,
        "StateShort": "NY",
        "Country": "USA",
        "PostalCode": "00000",
        "AdditionalInformation": None,
        "BillingType": 1,
        "DateCreated": client.created_ms,
        "LastActivityDate": client.modified_ms,
        "LastUpdateDate": client.modified_ms,
        "StripeCustomerId": None,
        "SquareCustomerId": None,
        "ExternalClientId": client.external_id,
        "CreditBalance": 0.0,
        "LastActivityName": "Profile updated",
        "ParentClientId": None,
        "LinkedClients": [],
        "PractitionerId": client.practitioner_id,
        "CustomFields": [],
    }


def practitioner_form(practitioner: Practitioner) -> dict[str, Any]:
    """A practitioner of `GET /practitioners`."""
    return {
        "Id": practitioner.id,
        "CompleteName": practitioner.name,
        "FirstName": practitioner.first_name,
        "LastName": practitioner.last_name,
        "Email": practitioner.email,
        "ExternalPractitionerId": None,
    }


def service_form(service: Service) -> dict[str, Any]:
    """A service of `GET /appointments/settings`."""
    return {
        "Id": service.id,
        "Name": service.name,
        "Duration": service.duration_min,
        "Price": service.price,
    }


def location_form(location: Location) -> dict[str, Any]:
    """A location of `GET /appointments/settings`."""
    return {"Id": location.id, "Name": location.name, "Address": location.address}


def intake_summary(intake: Intake, practitioner: Practitioner) -> dict[str, Any]:
    """An intake of `GET /intakes/summary` (IntakeQ Questionnaire API); Practitioner is the e-mail."""
    return {
        "Id": intake.id,
        "ClientName": intake.client_name,
        "ClientEmail": intake.client_email,
        "ClientId": intake.client_id,
        "Status": intake.status,
        "DateCreated": intake.created_ms,
        "DateSubmitted": intake.submitted_ms,
        "QuestionnaireName": intake.questionnaire_name,
        "QuestionnaireId": intake.questionnaire_id,
        "Practitioner": practitioner.email,
        "PractitionerName": practitioner.name,
        "PractitionerId": practitioner.id,
        "ExternalClientId": None,
    }


def _question(number: int, text: str, answer: str) -> dict[str, Any]:
    return {
        "Id": f"q{number}",
        "Text": text,
        "Answer": answer,
        "QuestionType": "OpenQuestion",
        "Rows": [],
        "ColumnNames": [],
        "OfficeUse": False,
        "OfficeNote": None,
        "ClientProfileFieldId": None,
        "Attachments": [],
    }


def intake_full(intake: Intake, practitioner: Practitioner) -> dict[str, Any]:
    """An intake of `GET /intakes/{id}`: the summary, the questions and the consent forms."""
    questions = [_question(n, f"Sample question {n}", answer) for n, answer in enumerate(intake.answers, 1)]
    return intake_summary(intake, practitioner) | {
        "Questions": questions,
        "AppointmentId": None,
        "ConsentForms": [],
        "Url": f"https://forms.example.test/{intake.id}",
    }


def note_summary(note: Note, practitioner: Practitioner) -> dict[str, Any]:
    """A note of `GET /notes/summary` (IntakeQ Notes API, article 342)."""
    return {
        "Id": note.id,
        "ClientName": note.client_name,
        "ClientEmail": note.client_email,
        "ClientId": note.client_id,
        "Status": "locked" if note.locked else "unlocked",
        "Date": note.date_ms,
        "NoteName": note.name,
        "Practitioner": {"Email": practitioner.email, "Name": practitioner.name, "Id": practitioner.id},
        "AppointmentId": note.appointment_id,
    }


def note_full(note: Note, practitioner: Practitioner) -> dict[str, Any]:
    """A note of `GET /notes/{id}`: the summary and the questions."""
    return note_summary(note, practitioner) | {"Questions": [_question(1, "Sample section", note.text)]}


def invoice_form(invoice: Invoice) -> dict[str, Any]:
    """An invoice, alike in lists, alone and in webhooks (IntakeQ Invoice API, article 385)."""
    closed = invoice.status in (InvoiceStatus.CANCELED, InvoiceStatus.FORGIVEN)
    item = {
        "AppointmentId": invoice.appointment_id,
        "ProductId": None,
        "Description": invoice.description,
        "Units": 1,
        "Price": invoice.total,
        "TotalAmount": invoice.total,
    }
    return {
        "Id": invoice.id,
        "Number": invoice.number,
        "ClientId": invoice.client_guid,
        "ClientIdNumber": invoice.client_id,
        "ClientName": invoice.client_name,
        "ClientEmail": invoice.client_email,
        "Status": invoice.status,
        "IssuedDate": invoice.issued_ms,
        "DueDate": invoice.due_ms,
        "DateCreated": invoice.created_ms,
        "LastModified": invoice.modified_ms,
        "CurrencyIso": "USD",
        "DiscountAmount": 0,
        "DiscountType": None,
        "SubTotal": invoice.total,
        "TotalAmount": invoice.total,
        "AmountDue": 0 if closed else invoice.total - invoice.paid,
        "AmountPaid": invoice.paid,
        "TipAmount": 0,
        "PractitionerId": invoice.practitioner_id,
        "Payments": invoice.payments,
        "Items": [item],
        "DiagnosisList": [],
        "ClientPaymentPlanId": None,
        "ClientPaymentPlanInterval": None,
    }
