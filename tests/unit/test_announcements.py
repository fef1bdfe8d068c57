"""Which of IntakeQ's webhooks tells of a change: named by what the change is, and none where IntakeQ sends none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from eventsync.domain.changes import Absence, Authority, Delete, EntityRef, RecordChange, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId
from eventsync.domain.drift import DriftFinding, finding_of
from eventsync.domain.merging import RecordState, merge, merge_all
from eventsync.domain.records import Appointment, AppointmentStatus, Content, Document, Patient, RecordKind, field_names
from eventsync.domain.records import content_hash as hash_of
from eventsync.vendors.intakeq import VENDOR
from eventsync.vendors.intakeq.webhook import _CARRIER as EVENTS

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SINCE_MS = 1_772_400_000_000
CONNECTION = ConnectionId(UUID(int=1))
BEGAN_MS = SINCE_MS + 3_600_000
WINDOW = NOW - timedelta(days=90), NOW + timedelta(days=90)


def appointment(vendor_status: str = "Confirmed") -> Appointment:
    return Appointment(AppointmentStatus.CONFIRMED, vendor_status, NOW, NOW + timedelta(minutes=50))


def invoice(status: str | None) -> Document:
    return Document(status, None, "12", NOW, b"{}")


def told(kind: RecordKind, *changed: str, content: Content | None, is_new: bool = False) -> str | None:
    name = VENDOR.announcement_of(kind, changed, content, is_new=is_new)
    assert name is None or name in EVENTS, "no such event is known"
    return name


@pytest.mark.parametrize(
    ("changed", "vendor_status", "event"),
    [
        (["vendor_status"], "Confirmed", "AppointmentConfirmed"),
        (["status", "vendor_status"], "Canceled", "AppointmentCanceled"),
        (["status", "vendor_status"], "Declined", "AppointmentDeclined"),
        (["status", "vendor_status"], "Missed", "AppointmentMissed"),
        (["start_time", "end_time"], "Confirmed", "AppointmentRescheduled"),
        (["start_time", "vendor_status"], "Canceled", "AppointmentCanceled"),
        (["start_time", "vendor_status"], "WaitingConfirmation", "AppointmentRescheduled"),
        (["vendor_status"], "WaitingConfirmation", None),
        (["vendor_status"], "Something new", None),
        (["deleted_at"], "Confirmed", "AppointmentDeleted"),
        (["deleted_at", "vendor_status"], "Canceled", "AppointmentDeleted"),
    ],
)
def test_a_changed_appointment_is_told_by_its_last_event(
    changed: list[str], vendor_status: str, event: str | None
) -> None:
    assert told(RecordKind.APPOINTMENT, *changed, content=appointment(vendor_status)) == event


ANNOUNCED = {"vendor_status", "start_time"}
SILENT = [name for name in field_names(Appointment) if name not in ANNOUNCED]


@pytest.mark.parametrize("name", [*SILENT, "package_name", "procedures"])
def test_no_other_edit_of_an_appointment_is_told_by_anything(name: str) -> None:
    assert told(RecordKind.APPOINTMENT, name, content=appointment()) is None


@pytest.mark.parametrize(
    ("vendor_status", "event"),
    [
        ("Confirmed", "AppointmentCreated"),
        ("WaitingConfirmation", "AppointmentCreated"),
        ("Canceled", "AppointmentCanceled"),
        ("Missed", "AppointmentMissed"),
        ("Something new", "AppointmentCreated"),
    ],
)
def test_an_appointment_that_is_new_to_us_was_booked_or_is_told_by_its_end(vendor_status: str, event: str) -> None:
    changed = field_names(Appointment)
    assert told(RecordKind.APPOINTMENT, *changed, content=appointment(vendor_status), is_new=True) == event


@pytest.mark.parametrize(
    ("status", "event"),
    [
        ("Paid", "InvoicePaid"),
        ("Canceled", "InvoiceCancelled"),
        ("Refunded", "InvoicePaymentRefunded"),
        ("PastDue", None),
        (None, None),
    ],
)
def test_an_invoice_is_told_by_its_status(status: str | None, event: str | None) -> None:
    assert told(RecordKind.INVOICE, "status", content=invoice(status)) == event
    assert told(RecordKind.INVOICE, "content", content=invoice(status)) is None
    assert told(RecordKind.INVOICE, "status", content=invoice(status), is_new=True) == (event or "InvoiceIssued")


@pytest.mark.parametrize(("kind", "event"), [(RecordKind.INTAKE, "Intake Submitted"), (RecordKind.NOTE, "Note Locked")])
def test_intakes_and_notes_are_told_where_they_end(kind: RecordKind, event: str) -> None:
    assert told(kind, "status", content=invoice("locked")) == event
    assert told(kind, content=invoice("locked"), is_new=True) == event
    assert told(kind, "content", content=invoice("locked")) is None


@pytest.mark.parametrize("is_new", [True, False])
def test_nothing_tells_of_a_client(*, is_new: bool) -> None:
    assert told(RecordKind.PATIENT, "phone", content=Patient("Test", "Client 12"), is_new=is_new) is None


def found(*held: RecordChange, by: RecordChange) -> DriftFinding | None:
    """Let a sweep bring `by` to what is held."""
    merged = merge(merge_all(RecordState(), held), by)
    return finding_of(VENDOR, by, merged, run_id=None, read_began_at=NOW, found_at=NOW)


def upsert(
    content: Content, *, later_ms: int = 0, source: Source = Source.WEBHOOK, kind: RecordKind = RecordKind.APPOINTMENT
) -> Upsert:
    began_ms = 0 if source is Source.WEBHOOK else BEGAN_MS
    version = Version(Authority.RECORD, SINCE_MS + later_ms, False, source, began_ms, 1, hash_of(content))
    return Upsert(EntityRef(CONNECTION, kind, "a1"), version, content)


def test_a_finding_names_the_fields_the_time_and_the_event() -> None:
    moved = replace(appointment(), start_time=NOW + timedelta(hours=1))
    finding = found(upsert(appointment()), by=upsert(moved, later_ms=500, source=Source.API))
    assert finding is not None
    assert (finding.changed_fields, finding.expected_event) == (("start_time",), "AppointmentRescheduled")
    assert finding.position == SINCE_MS + 500
    assert finding.since == datetime.fromtimestamp(SINCE_MS / 1000, UTC) + timedelta(milliseconds=500)
    assert not finding.is_new


def test_what_a_reader_would_not_see_is_no_finding() -> None:
    assert found(upsert(appointment()), by=upsert(appointment(), later_ms=500, source=Source.API)) is None


def test_a_record_that_is_absent_was_deleted_nobody_knows_when() -> None:
    finding = found(
        upsert(appointment()), by=Absence(EntityRef(CONNECTION, RecordKind.APPOINTMENT, "a1"), BEGAN_MS, *WINDOW)
    )
    assert finding is not None
    assert (finding.expected_event, finding.since, finding.position) == ("AppointmentDeleted", None, SINCE_MS)


def test_a_deletion_is_told_also_where_the_vendor_gives_the_record_with_it() -> None:
    version = upsert(appointment(), later_ms=9, source=Source.API).version._replace(deleted=True)
    finding = found(upsert(appointment()), by=Delete(upsert(appointment()).entity, version, appointment()))
    assert finding is not None
    assert (finding.expected_event, finding.position) == ("AppointmentDeleted", SINCE_MS + 9)


def test_that_a_record_came_back_is_told_by_nothing_but_what_changed_with_it_is() -> None:
    entity = upsert(appointment()).entity
    gone = Delete(entity, upsert(appointment(), later_ms=1).version._replace(deleted=True), appointment())
    back = found(gone, by=upsert(appointment(), later_ms=2, source=Source.API))
    assert back is not None
    assert (back.changed_fields, back.expected_event) == (("deleted_at",), None)
    cancelled = found(gone, by=upsert(appointment("Canceled"), later_ms=2, source=Source.API))
    assert cancelled is not None
    assert cancelled.changed_fields == ("deleted_at", "vendor_status")
    assert cancelled.expected_event == "AppointmentCanceled"


def test_the_position_of_a_kind_without_a_vendors_time_is_no_time() -> None:
    finding = found(by=upsert(invoice("locked"), kind=RecordKind.NOTE, source=Source.API))
    assert finding is not None
    assert (finding.since, finding.position, finding.expected_event) == (None, None, "Note Locked")
