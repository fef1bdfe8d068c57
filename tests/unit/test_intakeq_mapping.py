from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.changes import Delete, EntityRef, Source, Upsert
from eventsync.domain.errors import Rejected
from eventsync.domain.fields import Fields
from eventsync.domain.records import (
    Appointment,
    AppointmentExtras,
    AppointmentStatus,
    Document,
    LocationType,
    Patient,
    Practitioner,
    RecordKind,
)
from eventsync.vendors.intakeq.documents import document_summary, intake_change, invoice_change, note_change
from eventsync.vendors.intakeq.mapping import (
    Reading,
    appointment_changes,
    patient_change,
    practitioner,
)
from unit.intakeq_samples import CONTEXT, sample

WEBHOOK = Reading(CONTEXT.connection_id, Source.WEBHOOK)
API = Reading(CONTEXT.connection_id, Source.API, began_ms=1_800_000_000_000)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "Status": st.sampled_from(["Confirmed", "Canceled", "WaitingConfirmation", "Declined", "Missed", "New"]),
    "Price": st.integers(0, 10_000) | st.decimals(0, 500, places=2).map(float),
    "ClientNote": st.none() | st.text(st.characters(codec="utf-8")),
    "PlaceOfService": st.sampled_from([None, "02", "10", "11", "12", "99"]),
    "FullCancellationReason": st.sampled_from(["", "client request"]),
    "SessionStart": st.none() | st.just(1744929000000),
    "CancellationReasonNote": st.none() | st.just("a note"),
    "ClientId": st.integers(1, 10**9),
}


def appointment_from(
    reading: Reading, values: Mapping[str, Any], *, deleted: bool = False
) -> tuple[Upsert | Delete, Appointment]:
    change = appointment_changes(reading, Fields("Appointment", values), deleted=deleted)[0]
    assert isinstance(change, Upsert | Delete)
    assert isinstance(change.content, Appointment)
    return change, change.content


def booked(**fields: Any) -> Appointment:
    return appointment_from(WEBHOOK, sample("appointment_created")["Appointment"] | fields)[1]


def telehealth(**fields: Any) -> dict[str, Any]:
    info: dict[str, Any] = sample("appointment_created_telehealth")["Appointment"]["TelehealthInfo"]
    return info | fields


@given(st.fixed_dictionaries(VALUES))
def test_equal_truth_has_equal_hashes_in_webhook_list_and_single_form(values: dict[str, Any]) -> None:
    webhook = sample("appointment_created_telehealth")["Appointment"] | values
    listed = {key: value for key, value in webhook.items() if key not in ("SessionStart", "SessionEnd")}
    single = webhook | {"AppointmentPackageId": "p1", "AppointmentPackageName": "Ten", "Procedures": []}
    hashes = {
        appointment_from(reading, form)[0].version.content_hash
        for reading, form in ((WEBHOOK, webhook), (API, listed), (API, single))
    }
    assert len(hashes) == 1


def test_the_measured_forms_differ_in_nothing_that_is_hashed() -> None:
    webhook = sample("appointment_created")["Appointment"]
    listed, single = sample("api_appointment_list")[0], sample("api_appointment_single")
    assert (len(webhook), len(listed), len(single)) == (46, 44, 49)
    contents = [appointment_from(API, form)[1] for form in (webhook, listed, single)]
    assert contents[0] == contents[1] == contents[2]


def test_the_same_number_or_nothing_has_the_same_hash_however_it_is_written() -> None:
    plain = sample("appointment_created")["Appointment"]
    other = {key: float(value) if type(value) is int else value for key, value in plain.items()}
    other |= {"LocationId": 1, "ClientNote": "", "CancellationDate": None, "AdditionalClients": None, "Price": "150.00"}
    other |= {"ClientId": {"Id": "1122"}, "Duration": "50", "PlaceOfService": 11, "BookedByClient": "False"}
    other |= {"FullCancellationReason": None, "StartDate": "1744929000000", "TelehealthInfo": ""}
    assert appointment_from(WEBHOOK, plain)[0].version == appointment_from(WEBHOOK, other)[0].version


@pytest.mark.parametrize("key", ["ClientName", "ClientEmail", "ClientPhone", "ClientDateOfBirth"])
def test_what_the_clients_own_record_says_does_not_change_the_appointment(key: str) -> None:
    assert booked(**{key: None}) == booked()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Status", "Missed"),
        ("StartDate", 1744928000000),
        ("Price", 151),
        ("PractitionerName", "Sam Doe"),
        ("LocationName", "Annex"),
        ("ClientNote", "Bring the form"),
        ("AttendanceConfirmationResponse", "Confirmed"),
        ("CustomFields", [{"Name": "Room", "Answer": "2"}]),
    ],
)
def test_what_changed_at_the_vendor_changes_the_hash(key: str, value: Any) -> None:
    plain = sample("appointment_created")["Appointment"]
    changed = plain | {key: value}
    assert (
        appointment_from(WEBHOOK, plain)[0].version.content_hash
        != appointment_from(WEBHOOK, changed)[0].version.content_hash
    )


@pytest.mark.parametrize(
    ("vendor_status", "status"),
    [
        ("Confirmed", AppointmentStatus.CONFIRMED),
        ("WaitingConfirmation", AppointmentStatus.SCHEDULED),
        ("Canceled", AppointmentStatus.CANCELLED),
        ("Cancelled", AppointmentStatus.CANCELLED),
        ("Declined", AppointmentStatus.CANCELLED),
        ("Missed", AppointmentStatus.NO_SHOW),
        ("Postponed", AppointmentStatus.SCHEDULED),
    ],
)
def test_a_vendors_status_is_kept_beside_ours(vendor_status: str, status: AppointmentStatus) -> None:
    appointment = booked(Status=vendor_status)
    assert (appointment.vendor_status, appointment.status) == (vendor_status, status)


@pytest.mark.parametrize(
    ("place", "info", "location_type"),
    [
        ("02", None, LocationType.TELEHEALTH),
        ("10", None, LocationType.TELEHEALTH),
        ("11", None, LocationType.OFFICE),
        ("12", None, LocationType.HOME),
        (2, None, LocationType.TELEHEALTH),
        ("99", None, None),
        (None, None, None),
        (None, telehealth(), LocationType.TELEHEALTH),
        ("99", telehealth(), LocationType.TELEHEALTH),
        ("11", telehealth(), LocationType.OFFICE),
    ],
)
def test_where_it_takes_place_is_told_by_the_place_of_service_else_by_the_call(
    place: Any, info: Any, location_type: LocationType | None
) -> None:
    assert booked(PlaceOfService=place, TelehealthInfo=info).location_type is location_type


@pytest.mark.parametrize(
    ("info", "url"),
    [
        (telehealth(), "https://video.example.test/j/900800700?pwd=invented"),
        (telehealth(JoinUrl="https://video.example.test/join/1"), "https://video.example.test/join/1"),
        (telehealth(Invitation="Join at (https://video.example.test/j/1)."), "https://video.example.test/j/1"),
        (telehealth(Invitation='<a href="https://video.example.test/j/1">join</a>'), "https://video.example.test/j/1"),
        (telehealth(Invitation="Call the office"), None),
        (telehealth(Invitation=None, JoinUrl="javascript:alert(1)"), None),
        (telehealth(Invitation=None), None),
        (telehealth(Invitation="https://" + "x" * 3_000), None),
        (None, None),
    ],
)
def test_the_link_is_the_clients_and_never_the_practitioners(info: Any, url: str | None) -> None:
    assert booked(TelehealthInfo=info).meeting_url == url


def test_a_renewed_start_link_is_no_change() -> None:
    renewed = telehealth(StartUrl="https://video.example.test/s/900800700?zak=renewed")
    assert booked(TelehealthInfo=renewed) == booked(TelehealthInfo=telehealth())


def test_further_clients_are_kept_by_id_in_an_order_of_our_own() -> None:
    people = sample("appointment_created_telehealth")["Appointment"]["AdditionalClients"]
    expected = [{"ClientId": "1123"}, {"ClientId": "1124"}]
    assert booked(AdditionalClients=people).details["AdditionalClients"] == expected
    assert booked(AdditionalClients=people[::-1]).details["AdditionalClients"] == expected


@pytest.mark.parametrize(("by_client", "created_by"), [(True, None), (False, "Pat Doe"), (None, None)])
def test_who_booked_is_kept_only_where_it_is_not_the_client(by_client: bool | None, created_by: str | None) -> None:
    assert booked(BookedByClient=by_client).details.get("CreatedBy") == created_by


def test_lists_may_call_service_and_location_as_the_documentation_does() -> None:
    values = sample("appointment_created")["Appointment"]
    values["Service"], values["Location"] = values.pop("ServiceName"), values.pop("LocationName")
    appointment = appointment_from(API, values)[1]
    assert (appointment.service_name, appointment.location_name) == ("Individual Therapy", "Main")


def test_times_may_come_as_text_and_the_end_by_the_duration() -> None:
    values = sample("appointment_created")["Appointment"]
    for key in ("StartDate", "EndDate", "EndDateIso"):
        del values[key]
    appointment = appointment_from(API, values)[1]
    assert appointment.start_time == datetime(2025, 4, 17, 22, 30, tzinfo=UTC)
    assert appointment.end_time == datetime(2025, 4, 17, 23, 20, tzinfo=UTC)


def test_an_end_before_the_start_is_rejected() -> None:
    with pytest.raises(Rejected, match="EndDate"):
        booked(EndDate=1744928999999)


def test_a_price_is_kept_to_the_cent() -> None:
    prices = [booked(Price=price).price for price in (150.1, "0.1", 33.335, -0.0, 0)]
    assert [str(price) for price in prices] == ["150.10", "0.10", "33.34", "0.00", "0.00"]
    for price in (1e10, "NaN", "150 USD", float("1e308"), [150]):
        with pytest.raises(Rejected):
            booked(Price=price)


def test_only_the_whole_single_form_says_anything_about_packages_and_procedures() -> None:
    single = sample("api_appointment_single")
    change = appointment_from(API, single)[0]
    assert isinstance(change, Upsert)
    assert change.extras == AppointmentExtras(
        package_external_id="7d1c0000-0000-4000-8000-000000000001",
        package_name="Ten sessions",
        procedures=({"ProcedureCode": "90834", "Price": 150, "Units": 1, "Modifiers": ["95"]},),
    )
    del single["Procedures"]
    partial = appointment_from(API, single)[0]
    assert isinstance(partial, Upsert)
    assert partial.extras is None


def test_a_row_from_the_list_of_deleted_ones_is_a_delete() -> None:
    change = appointment_from(API, sample("api_appointment_list")[0], deleted=True)[0]
    assert isinstance(change, Delete)
    assert change.version.deleted
    assert change.version.read_began_ms == API.began_ms


def test_a_client_record_is_a_patient_with_the_records_authority() -> None:
    change = patient_change(API, Fields("Client", sample("api_client_profile")[0]))
    mention = appointment_changes(WEBHOOK, Fields("Appointment", sample("appointment_created")["Appointment"]))[1]
    assert isinstance(change, Upsert)
    assert isinstance(mention, Upsert)
    assert change.entity == mention.entity
    assert change.version.position == 1744725028330
    assert change.version > mention.version
    assert change.content == Patient(
        first_name="Test",
        last_name="Client 12",
        email="client12@example.test",
        phone="2025550112",
        date_of_birth=date(1990, 1, 12),
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"FirstName": None, "LastName": None}, Patient("Test", "Client 12")),
        ({"FirstName": "", "LastName": "", "Name": None}, Patient("Unknown", "Unknown")),
        ({"Phone": None, "MobilePhone": "2"}, Patient("Test", "Client 12", phone="2")),
        ({"Archived": True}, Patient("Test", "Client 12", archived=True)),
        ({"DateOfBirth": -2208988800000}, Patient("Test", "Client 12", date_of_birth=date(1900, 1, 1))),
        ({"DateOfBirth": -86400000.0}, Patient("Test", "Client 12", date_of_birth=date(1969, 12, 31))),
    ],
)
def test_a_client_record_is_read_with_what_it_has(fields: dict[str, Any], expected: Patient) -> None:
    bare = {"ClientId": 1122, "Name": "Test Client 12", "FirstName": "Test", "LastName": "Client 12"}
    change = patient_change(API, Fields("Client", bare | {"LastUpdateDate": 1744725028330} | fields))
    assert change.content == expected


def test_a_client_without_its_modification_time_is_rejected() -> None:
    with pytest.raises(Rejected) as caught:
        patient_change(API, Fields("Client", {"ClientNumber": "1122", "Name": "Test Client 12"}))
    assert caught.value.reason == "missing_field"


def test_a_date_of_birth_that_no_calendar_holds_is_rejected() -> None:
    with pytest.raises(Rejected) as caught:
        patient_change(API, Fields("Client", sample("api_client_profile")[0] | {"DateOfBirth": 1e300}))
    assert caught.value.reason == "date_out_of_range"


def test_an_intake_is_kept_whole_but_for_its_password() -> None:
    change = intake_change(API, Fields("Intake", sample("api_intake")), sequence=5)
    assert change.version.position == 5
    assert isinstance(change.content, Document)
    assert (change.content.status, change.content.title) == ("Completed", "New client")
    assert change.content.client_external_id == "1122"
    assert change.content.document_time == datetime(2025, 4, 15, 12, 26, 40, tzinfo=UTC)
    kept = orjson.loads(change.content.content)
    assert kept["Questions"][0]["Answer"] == "Sample answer 1"
    assert "Password" not in kept


def test_a_note_is_kept_whole() -> None:
    change = note_change(API, Fields("Note", sample("api_note")), sequence=6)
    assert isinstance(change.content, Document)
    assert (change.content.status, change.content.title) == ("locked", "Progress note")
    assert orjson.loads(change.content.content)["Practitioner"]["Name"] == "Pat Doe"


def test_a_documents_content_does_not_depend_on_order_nulls_or_the_form_of_numbers() -> None:
    invoice = sample("invoice_issued")["Invoice"]
    other = {key: float(value) if type(value) is int else value for key, value in reversed(invoice.items())}
    del other["ClientPaymentPlanId"]
    versions = {invoice_change(API, Fields("Invoice", form)).version for form in (invoice, other)}
    assert len(versions) == 1


def test_a_summary_has_a_fingerprint_of_all_that_it_says() -> None:
    row = {key: value for key, value in sample("api_intake").items() if key not in ("Questions", "ConsentForms")}
    first = document_summary(CONTEXT.connection_id, RecordKind.INTAKE, Fields("Intake", row))
    same = document_summary(CONTEXT.connection_id, RecordKind.INTAKE, Fields("Intake", dict(reversed(row.items()))))
    changed = document_summary(CONTEXT.connection_id, RecordKind.INTAKE, Fields("Intake", row | {"Status": "Partial"}))
    assert first == same
    assert first.entity == EntityRef(CONTEXT.connection_id, RecordKind.INTAKE, row["Id"])
    assert first.fingerprint != changed.fingerprint


def test_a_practitioner_has_an_id_a_name_and_perhaps_an_email() -> None:
    whole = {"Id": "p1", "CompleteName": "Pat Doe, LMFT", "FirstName": "Pat", "LastName": "Doe", "Email": ""}
    assert practitioner(Fields("Practitioner", whole)) == Practitioner("p1", "Pat Doe, LMFT", None)
    assert practitioner(Fields("Practitioner", whole | {"CompleteName": None})).name == "Pat Doe"


def test_amounts_are_decimals() -> None:
    assert booked(Price=99.99).price == Decimal("99.99")
