from itertools import pairwise
from typing import Any

import pytest

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.errors import BadArgumentError, NotPossibleError
from eventsync.sandbox.intakeq.practice import PracticeProfile
from eventsync.sandbox.intakeq.vendor import IntakeQVendor, open_intakeq
from eventsync.sandbox.vendor import Effect
from sandbox.sandbox_receiver import START_MS, Received, small

ENVELOPE = [
    "EventType",
    "Appointment",
    "ActionPerformedByClient",
    "ClientId",
    "ExternalClientId",
    "PracticeId",
    "ExternalPracticeId",
]
DAY_MS = 86_400_000


@pytest.fixture
def vendor() -> IntakeQVendor:
    return open_intakeq(small(), START_MS)


def do(vendor: IntakeQVendor, name: str, **arguments: Any) -> Effect:
    return vendor.actions[name].do(START_MS, Arguments(arguments))


def bodies(effect: Effect) -> list[dict[str, Any]]:
    return [Received(hook.kind, {}, hook.body).body for hook in effect.webhooks]


def booked(vendor: IntakeQVendor, by: str = "staff") -> str:
    return do(vendor, "book", by=by, start_ms=START_MS + DAY_MS).record_id


def test_a_booking_by_staff_is_created_confirmed_and_owes_one_webhook(vendor: IntakeQVendor) -> None:
    (body,) = bodies(do(vendor, "book", by="staff"))
    assert list(body) == ENVELOPE
    assert body["EventType"] == "AppointmentCreated"
    assert body["Appointment"]["Status"] == "Confirmed"
    assert body["ActionPerformedByClient"] is False
    assert body["PracticeId"] == vendor.account_id
    created, modified = body["Appointment"]["DateCreated"], body["Appointment"]["LastModified"]
    assert 20 <= modified - created <= 1_700


def test_a_booking_by_the_client_waits_and_is_confirmed_later(vendor: IntakeQVendor) -> None:
    effect = do(vendor, "book", by="client")
    (body,) = bodies(effect)
    assert (body["Appointment"]["Status"], body["ActionPerformedByClient"]) == ("WaitingConfirmation", True)
    (later,) = bodies(do(vendor, "confirm", id=effect.record_id))
    assert (later["EventType"], later["Appointment"]["Status"]) == ("AppointmentConfirmed", "Confirmed")
    with pytest.raises(NotPossibleError):
        do(vendor, "confirm", id=effect.record_id)


def test_decline_reschedule_and_miss_say_so(vendor: IntakeQVendor) -> None:
    (body,) = bodies(do(vendor, "decline", id=booked(vendor, "client")))
    assert (body["EventType"], body["Appointment"]["Status"]) == ("AppointmentDeclined", "Declined")
    (body,) = bodies(do(vendor, "reschedule", id=booked(vendor), start_ms=START_MS + 5 * DAY_MS))
    assert (body["EventType"], body["Appointment"]["StartDate"]) == ("AppointmentRescheduled", START_MS + 5 * DAY_MS)
    (body,) = bodies(do(vendor, "miss", id=booked(vendor)))
    assert (body["EventType"], body["Appointment"]["Status"]) == ("AppointmentMissed", "Missed")


def test_a_cancellation_has_one_l_a_reason_and_a_date(vendor: IntakeQVendor) -> None:
    (body,) = bodies(do(vendor, "cancel", id=booked(vendor), reason="illness", by="client"))
    form = body["Appointment"]
    assert (body["EventType"], form["Status"]) == ("AppointmentCanceled", "Canceled")
    assert form["FullCancellationReason"] == "illness"
    assert form["CancellationDate"] == "2026-09-21T14:13:20.0000000Z"
    assert body["ActionPerformedByClient"] is True


def test_a_deletion_carries_the_old_status_and_a_later_last_modified(vendor: IntakeQVendor) -> None:
    record_id = booked(vendor)
    before = vendor.practice.appointments[record_id]
    (body,) = bodies(do(vendor, "delete", id=record_id))
    assert (body["EventType"], body["Appointment"]["Status"]) == ("AppointmentDeleted", "Confirmed")
    assert body["Appointment"]["LastModified"] > before.modified_ms
    with pytest.raises(NotPossibleError):
        do(vendor, "delete", id=record_id)


def test_a_series_is_a_burst_of_created_and_its_end_a_burst_of_deleted(vendor: IntakeQVendor) -> None:
    effect = do(vendor, "book_series", count=6, start_ms=START_MS + DAY_MS)
    created = bodies(effect)
    assert [body["EventType"] for body in created] == ["AppointmentCreated"] * 6
    starts = [body["Appointment"]["StartDate"] for body in created]
    assert {late - early for early, late in pairwise(starts)} == {7 * DAY_MS}
    do(vendor, "delete", id=created[0]["Appointment"]["Id"])
    deleted = bodies(do(vendor, "stop_series", id=created[3]["Appointment"]["Id"]))
    assert [body["EventType"] for body in deleted] == ["AppointmentDeleted"] * 5


@pytest.mark.parametrize(
    "field", ["price", "location", "client_note", "practitioner_note", "practitioner", "attendance", "session"]
)
def test_an_edit_changes_the_appointment_in_silence(vendor: IntakeQVendor, field: str) -> None:
    record_id = booked(vendor)
    before = vendor.practice.appointments[record_id]
    effect = do(vendor, "edit", id=record_id, field=field)
    assert effect.webhooks == ()
    assert vendor.practice.appointments[record_id].modified_ms > before.modified_ms


def test_a_profile_edit_is_silent_and_reaches_an_appointment_only_with_its_next_change(vendor: IntakeQVendor) -> None:
    record_id = booked(vendor)
    before = vendor.practice.appointments[record_id]
    effect = do(vendor, "edit_client", client_id=before.client_id, email="new@example.test")
    assert effect.webhooks == ()
    assert vendor.practice.appointments[record_id] == before
    (body,) = bodies(do(vendor, "cancel", id=record_id))
    assert body["Appointment"]["ClientEmail"] == "new@example.test"


def test_each_lock_of_a_note_fires_with_exactly_three_members(vendor: IntakeQVendor) -> None:
    effect = do(vendor, "lock_note", client_id=1000)
    assert bodies(effect) == [{"NoteId": effect.record_id, "Type": "Note Locked", "ClientId": 1000}]
    assert bodies(do(vendor, "lock_note", id=effect.record_id)) == bodies(effect)


def test_a_submitted_intake_names_itself_by_type_and_carries_ids_only(vendor: IntakeQVendor) -> None:
    sent = do(vendor, "send_intake", client_id=1001)
    assert sent.webhooks == ()
    (body,) = bodies(do(vendor, "submit_intake", id=sent.record_id))
    assert body == {
        "IntakeId": sent.record_id,
        "Type": "Intake Submitted",
        "ClientId": 1001,
        "ExternalPracticeId": None,
        "ExternalClientId": None,
    }


def test_invoices_go_through_their_events_with_a_guid_as_client_id(vendor: IntakeQVendor) -> None:
    issued = do(vendor, "issue_invoice", client_id=1002)
    (body,) = bodies(issued)
    assert list(body) == ["EventType", "ActionPerformedByClient", "Invoice"]
    assert body["Invoice"]["ClientIdNumber"] == 1002
    assert body["Invoice"]["ClientId"] == vendor.practice.clients[1002].guid
    events = []
    for name, more in (("fail_charge", {"plan": True}), ("pay_invoice", {}), ("refund_invoice", {})):
        (later,) = bodies(do(vendor, name, id=issued.record_id, **more))
        assert later["Invoice"]["LastModified"] > body["Invoice"]["LastModified"]
        body = later
        events.append((later["EventType"], later["Invoice"]["Status"]))
    assert events == [
        ("InvoicePaymentPlanChargeFailed", "PastDue"),
        ("InvoicePaid", "Paid"),
        ("InvoicePaymentRefunded", "Refunded"),
    ]
    (body,) = bodies(do(vendor, "cancel_invoice", id=do(vendor, "issue_invoice").record_id))
    assert (body["EventType"], body["Invoice"]["Status"]) == ("InvoiceCancelled", "Canceled")


def test_a_misspelt_or_mistyped_argument_is_refused_before_anything_changes(vendor: IntakeQVendor) -> None:
    before = vendor.revision
    with pytest.raises(BadArgumentError, match="unknown members"):
        do(vendor, "book", clientid=1000)
    with pytest.raises(BadArgumentError, match="whole number"):
        do(vendor, "book", client_id="1000")
    with pytest.raises(NotPossibleError):
        do(vendor, "cancel", id="nobody")
    assert vendor.revision == before


def test_an_unknown_time_zone_is_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match="tzdata"):
        open_intakeq(small(time_zone="Nowhere/Never"), START_MS)
    assert PracticeProfile(seed=1, practice_id="x").time_zone == "America/New_York"
