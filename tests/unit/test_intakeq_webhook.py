from __future__ import annotations

import gzip
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest

from eventsync.domain.changes import Authority, Delete, EntityRef, Refetch, Source, Upsert
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Rejected
from eventsync.domain.records import (
    Appointment,
    AppointmentStatus,
    Document,
    LocationType,
    Patient,
    RecordKind,
    content_hash,
)
from eventsync.domain.webhooks import WebhookContext
from eventsync.vendors.intakeq.mapping import MAPPING_VERSION
from eventsync.vendors.intakeq.webhook import read_webhook
from unit.intakeq_samples import CONTEXT, read, record_changes, sample, with_appointment, without_appointment_field

APPOINTMENT_ID = "65f0c0ffee65f0c0ffee0001"


def rejection(envelope: Any, context: WebhookContext = CONTEXT) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read(envelope, context)
    return caught.value


def appointment_of(envelope: Any) -> Appointment:
    content = record_changes(read(envelope))[0].content
    assert isinstance(content, Appointment)
    return content


def patient_of(envelope: Any) -> Patient:
    content = record_changes(read(envelope))[1].content
    assert isinstance(content, Patient)
    return content


def test_a_booking_is_an_upsert_of_the_appointment_and_a_mention_of_its_client() -> None:
    reading = read(sample("appointment_created"))
    appointment, patient = record_changes(reading)
    assert reading.event_type == "AppointmentCreated"
    assert reading.subject == appointment.entity
    assert appointment.entity == EntityRef(CONTEXT.connection_id, RecordKind.APPOINTMENT, APPOINTMENT_ID)
    assert patient.entity == EntityRef(CONTEXT.connection_id, RecordKind.PATIENT, "1122")
    assert isinstance(appointment, Upsert)
    assert appointment.extras is None
    assert appointment.content == Appointment(
        status=AppointmentStatus.CONFIRMED,
        vendor_status="Confirmed",
        start_time=datetime(2025, 4, 17, 22, 30, tzinfo=UTC),
        end_time=datetime(2025, 4, 17, 23, 20, tzinfo=UTC),
        duration_minutes=50,
        client_external_id="1122",
        practitioner_external_id="65f0c0ffee65f0c0ffee0002",
        practitioner_name="Pat Doe",
        service_external_id="3f2a0000-0000-4000-8000-000000000001",
        service_name="Individual Therapy",
        location_external_id="1",
        location_name="Main",
        location_type=LocationType.OFFICE,
        price=Decimal("150.00"),
        booked_by_client=False,
        vendor_created_at=datetime(2025, 4, 15, 13, 50, 28, 330_000, tzinfo=UTC),
        details={
            "PractitionerEmail": "pat.doe@example.test",
            "ReminderType": "Sms",
            "AttendanceConfirmationResponse": "None",
            "PlaceOfService": "11",
            "CreatedBy": "Pat Doe",
        },
    )
    assert patient.content == Patient(
        first_name="Test",
        last_name="Client 12",
        email="client12@example.test",
        phone="2025550112",
        date_of_birth=date(1990, 1, 12),
    )


def test_a_webhook_is_ordered_by_the_vendors_time_alone() -> None:
    appointment, patient = (change.version for change in record_changes(read(sample("appointment_created"))))
    assert appointment.position == patient.position == 1744725029020
    assert appointment.source is patient.source is Source.WEBHOOK
    assert appointment.read_began_ms == patient.read_began_ms == 0
    assert appointment.mapping_version == patient.mapping_version == MAPPING_VERSION
    assert (appointment.authority, patient.authority) == (Authority.RECORD, Authority.MENTION)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("appointment_created", AppointmentStatus.CONFIRMED),
        ("appointment_created_telehealth", AppointmentStatus.SCHEDULED),
        ("appointment_confirmed", AppointmentStatus.CONFIRMED),
        ("appointment_rescheduled", AppointmentStatus.CONFIRMED),
        ("appointment_canceled", AppointmentStatus.CANCELLED),
        ("appointment_declined", AppointmentStatus.CANCELLED),
        ("appointment_missed", AppointmentStatus.NO_SHOW),
    ],
)
def test_each_event_is_an_upsert_with_the_objects_status(name: str, status: AppointmentStatus) -> None:
    change = record_changes(read(sample(name)))[0]
    assert isinstance(change, Upsert)
    assert not change.version.deleted
    assert isinstance(change.content, Appointment)
    assert change.content.status is status
    assert change.version.content_hash == content_hash(change.content)


def test_only_the_events_name_tells_a_delete_whose_object_still_says_confirmed() -> None:
    change, mention = record_changes(read(sample("appointment_deleted")))
    assert isinstance(change, Delete)
    assert change.version.deleted
    assert isinstance(change.content, Appointment)
    assert change.content.status is AppointmentStatus.CONFIRMED
    assert isinstance(mention, Upsert)


def test_a_delete_outranks_an_upsert_of_the_same_moment() -> None:
    deleted = sample("appointment_deleted")
    upserted = deleted | {"EventType": "AppointmentRescheduled"}
    assert record_changes(read(deleted))[0].version > record_changes(read(upserted))[0].version


@pytest.mark.parametrize("name", ["AppointmentArchived", "Appointment Updated", "SomethingElse"])
def test_an_unknown_event_with_an_appointment_is_an_upsert(name: str) -> None:
    reading = read(sample("appointment_created") | {"EventType": name})
    assert reading.event_type == name
    assert isinstance(reading.changes[0], Upsert)


def test_an_unknown_event_without_an_object_changes_nothing() -> None:
    reading = read({"EventType": "PracticeRenamed", "PracticeId": "65f0c0ffee65f0c0ffee0003"})
    assert (reading.event_type, reading.subject, reading.changes) == ("PracticeRenamed", None, ())


@pytest.mark.parametrize("name", ["InvoiceIssued", "InvoicePaid", "InvoiceCancelled", "InvoicePaymentRefunded", "New"])
def test_every_invoice_event_is_an_upsert_of_the_invoice_by_the_numeric_client_id(name: str) -> None:
    reading = read(sample("invoice_issued") | {"EventType": name})
    (change,) = record_changes(reading)
    assert reading.subject == change.entity
    assert change.entity.kind is RecordKind.INVOICE
    assert change.version.position == 1744932600450
    assert isinstance(change.content, Document)
    assert (change.content.status, change.content.title) == ("Unpaid", "Invoice 1043")
    assert change.content.client_external_id == "1122"
    assert change.content.document_time == datetime(2025, 4, 17, 23, 30, tzinfo=UTC)
    assert orjson.loads(change.content.content)["TotalAmount"] == 150


@pytest.mark.parametrize(
    ("name", "kind", "external_id"),
    [
        ("intake_submitted", RecordKind.INTAKE, "5c1b0000-0000-4000-8000-000000000001"),
        ("note_locked", RecordKind.NOTE, "6e2b0000-0000-4000-8000-000000000001"),
    ],
)
def test_an_event_of_ids_only_asks_for_the_record_to_be_read(name: str, kind: RecordKind, external_id: str) -> None:
    reading = read(sample(name))
    entity = EntityRef(CONTEXT.connection_id, kind, external_id)
    assert reading.subject == entity
    assert reading.changes == (Refetch(entity),)


def test_an_object_without_its_modification_time_is_read_again_from_the_api() -> None:
    entity = EntityRef(CONTEXT.connection_id, RecordKind.APPOINTMENT, APPOINTMENT_ID)
    for envelope in (without_appointment_field("LastModified"), with_appointment(LastModified=None)):
        assert read(envelope).changes == (Refetch(entity),)
    invoice = sample("invoice_issued")
    del invoice["Invoice"]["LastModified"]
    assert isinstance(read(invoice).changes[0], Refetch)


@pytest.mark.parametrize("event_type", ["AppointmentCreated", "InvoicePaid", "Intake Submitted", "Note Locked"])
def test_a_known_event_without_its_object_is_rejected(event_type: str) -> None:
    assert rejection({"EventType": event_type}).reason == "missing_field"
    assert rejection({"Type": event_type, "Appointment": None}).reason == "missing_field"


def test_an_envelope_without_an_events_name_is_rejected() -> None:
    envelope = sample("appointment_created")
    del envelope["EventType"]
    assert rejection(envelope).reason == "missing_field"


class TestPractice:
    context = replace(CONTEXT, practice_id="65F0C0FFEE65f0c0ffee0003 ")

    def test_the_connections_own_is_accepted_in_either_case(self) -> None:
        assert read(sample("appointment_created"), self.context).changes

    def test_another_one_is_a_mismatch(self) -> None:
        envelope = sample("appointment_created") | {"PracticeId": "65f0c0ffee65f0c0ffee9999"}
        assert rejection(envelope, self.context).reason == "practice_mismatch"

    def test_events_that_carry_none_are_accepted(self) -> None:
        assert read(sample("note_locked"), self.context).changes
        assert read(sample("appointment_created") | {"PracticeId": None}, self.context).changes

    def test_a_connection_that_has_none_accepts_any(self) -> None:
        assert read(sample("appointment_created") | {"PracticeId": "another"}, CONTEXT).changes


def test_two_connections_never_share_a_record() -> None:
    other = WebhookContext(ConnectionId(UUID(int=8)))
    ours, theirs = read(sample("appointment_created")), read(sample("appointment_created"), other)
    assert not {c.entity for c in record_changes(ours)} & {c.entity for c in record_changes(theirs)}


def test_a_compressed_body_is_read_like_a_plain_one() -> None:
    body = orjson.dumps(sample("appointment_created"))
    assert read_webhook(gzip.compress(body), {"content-encoding": "gzip"}, CONTEXT) == read_webhook(body, {}, CONTEXT)


@pytest.mark.parametrize("value", ["1122", 1122, 1122.0, {"Id": "1122"}, {"Id": 1122}, " 1122 "])
def test_a_client_id_is_the_same_text_however_it_is_written(value: Any) -> None:
    envelope = with_appointment(ClientId=value)
    assert appointment_of(envelope).client_external_id == "1122"
    assert record_changes(read(envelope))[1].entity.external_id == "1122"


def test_the_envelopes_client_id_serves_where_the_object_has_none() -> None:
    assert appointment_of(without_appointment_field("ClientId")).client_external_id == "1122"


@pytest.mark.parametrize("value", [None, 0, ""])
def test_an_appointment_without_a_client_mentions_nobody(value: Any) -> None:
    envelope = with_appointment(ClientId=value) | {"ClientId": value}
    assert len(read(envelope).changes) == 1


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("Test Client 12", "Test", "Client 12"),
        ("  Test   Middle  Client ", "Test", "Middle Client"),
        ("Test", "Test", "Unknown"),
        ("", "Unknown", "Unknown"),
        (None, "Unknown", "Unknown"),
    ],
)
def test_a_clients_name_is_its_first_word_and_the_rest(name: str | None, first: str, last: str) -> None:
    patient = patient_of(with_appointment(ClientName=name))
    assert (patient.first_name, patient.last_name) == (first, last)


def test_a_client_without_email_phone_and_birth_date_is_mentioned_all_the_same() -> None:
    patient = patient_of(with_appointment(ClientEmail=None, ClientPhone="", ClientDateOfBirth=None))
    assert (patient.email, patient.phone, patient.date_of_birth) == (None, None, None)


def test_a_birth_year_typed_wrong_does_not_cost_the_appointment() -> None:
    assert patient_of(with_appointment(ClientDateOfBirth="0085-03-01")).date_of_birth == date(85, 3, 1)


@pytest.mark.parametrize("key", ["StartDate", "EndDate", "LastModified", "DateCreated", "CancellationDate"])
@pytest.mark.parametrize(
    "value", [-62135596800000, 253402300799000, 1e300, "0001-01-01T00:00:00.0000000Z", "9999-12-31T23:59:59.9999999Z"]
)
def test_a_date_out_of_range_is_rejected(key: str, value: Any) -> None:
    error = rejection(with_appointment(**{key: value}))
    assert error.reason == "date_out_of_range"
    assert key in str(error)


def test_nothing_is_ordered_before_1970() -> None:
    assert rejection(with_appointment(LastModified=-1)).reason == "date_out_of_range"


def test_a_nul_character_in_any_text_is_replaced() -> None:
    envelope = with_appointment(ClientNote="a\0b", ClientName="Te\0st Client")
    assert appointment_of(envelope).details["ClientNote"] == "a\ufffdb"
    assert patient_of(envelope).first_name == "Te\ufffdst"


@pytest.mark.parametrize("key", ["Id", "ClientId", "PractitionerId", "ServiceId", "LocationId", "ClientEmail"])
def test_a_text_that_no_index_could_hold_is_rejected(key: str) -> None:
    assert rejection(with_appointment(**{key: "x" * 1_000})).reason == "invalid_field"


def test_an_error_names_the_field_and_never_its_value() -> None:
    error = rejection(with_appointment(ClientEmail=["client12@example.test"]))
    assert "body.Appointment.ClientEmail" in str(error)
    assert "client12" not in str(error)
