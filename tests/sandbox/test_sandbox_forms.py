import re
from typing import Any

import orjson
import pytest

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.errors import NotPossibleError
from eventsync.sandbox.intakeq.appointment_forms import list_form, single_form, webhook_form
from eventsync.sandbox.intakeq.population import PracticeSize, populate
from eventsync.sandbox.intakeq.practice import Practice, PracticeProfile
from eventsync.sandbox.intakeq.vendor import intakeq_actions
from sandbox.sandbox_receiver import START_MS

_KEYS_TEXT = """
Id ClientName ClientEmail ClientPhone ClientDateOfBirth ClientId Status StartDate EndDate Duration ServiceName ServiceId
LocationName LocationId Price PractitionerName PractitionerEmail IntakeId DateCreated CreatedBy BookedByClient
StartDateIso EndDateIso StartDateLocal EndDateLocal StartDateLocalFormatted PractitionerId InvoiceId InvoiceNumber
ClientNote PractitionerNote TelehealthInfo AttendanceConfirmationResponse ReminderType CustomFields SessionStart
SessionEnd ExternalClientId ExternalPractitionerId ExternalServiceId LastModified AdditionalClients PlaceOfService
FullCancellationReason CancellationReasonNote CancellationDate
"""
WEBHOOK_KEYS = _KEYS_TEXT.split()


def practice_of(size: int = 400, seed: int = 7, **profile: Any) -> Practice:
    made = PracticeProfile(seed=seed, practice_id="a" * 24, **profile)
    return populate(made, PracticeSize(clients=80, appointments=size), START_MS)


def test_the_three_forms_have_46_and_44_and_49_members_in_the_known_order() -> None:
    practice = practice_of()
    for a in practice.appointments.values():
        assert list(webhook_form(a, practice.zone)) == WEBHOOK_KEYS
        listed = list_form(a, practice.zone)
        assert len(listed) == 44
        assert set(listed) < set(WEBHOOK_KEYS)
        single = single_form(a, practice.zone)
        assert set(single) - set(WEBHOOK_KEYS) == {"AppointmentPackageId", "AppointmentPackageName", "Procedures"}
        assert len(single) == 49


def test_times_and_numbers_are_written_as_the_vendor_writes_them() -> None:
    practice = practice_of()
    for a in practice.appointments.values():
        form = webhook_form(a, practice.zone)
        assert re.fullmatch(r"[0-9a-f]{24}", form["Id"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", form["StartDateIso"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}", form["StartDateLocal"])
        assert re.fullmatch(
            r"\d{1,2}/\d{1,2}/\d{4} at (0[1-9]|1[0-2]):\d\d:\d\d [AP]M", form["StartDateLocalFormatted"]
        )
        assert isinstance(form["LocationId"], str)
        assert isinstance(form["ClientId"], int)
        canceled = form["Status"] == "Canceled"
        assert bool(form["CancellationDate"]) == canceled
        assert canceled or form["FullCancellationReason"] == ""


def test_a_known_moment_is_written_exactly() -> None:
    practice = practice_of()
    desk_args = Arguments({"start_ms": 1_744_929_000_000, "by": "staff"})
    record_id = intakeq_actions(practice)["book"].do(START_MS, desk_args).record_id
    form = webhook_form(practice.appointments[record_id], practice.zone)
    assert form["StartDateIso"] == "2025-04-17T22:30:00.0000000Z"
    assert form["StartDateLocal"] == "2025-04-17T18:30:00.0000000"
    assert form["StartDateLocalFormatted"] == "4/17/2025 at 06:30:00 PM"


def test_a_practice_has_the_gaps_and_oddities_of_real_records() -> None:
    practice = practice_of(size=1_500)
    forms = [webhook_form(a, practice.zone) for a in practice.appointments.values()]
    for member in ("ClientEmail", "ClientPhone", "ClientDateOfBirth", "TelehealthInfo", "PlaceOfService", "InvoiceId"):
        assert any(form[member] is None for form in forms), member
        assert any(form[member] is not None for form in forms), member
    assert any(form["AdditionalClients"] for form in forms)
    assert {form["Status"] for form in forms} >= {"Confirmed", "WaitingConfirmation", "Canceled", "Missed", "Declined"}
    emails = [client.email for client in practice.clients.values() if client.email]
    assert len(set(emails)) < len(emails)
    remote = [form for form in forms if form["LocationName"] == "Telehealth"]
    assert any(form["TelehealthInfo"] is None for form in remote)  # Google Meet


def test_some_times_go_over_the_wire_as_floats_and_still_mean_the_same() -> None:
    practice = practice_of(float_share=1.0)
    a = next(iter(practice.appointments.values()))
    raw = orjson.dumps(webhook_form(a, practice.zone))
    assert f'"LastModified":{a.modified_ms}.0'.encode() in raw
    none = practice_of(float_share=0.0)
    assert not any(a.floating_numbers for a in none.appointments.values())


def test_the_same_seed_invents_the_same_practice_and_another_seed_another() -> None:
    first, again, other = (orjson.dumps(practice_of(seed=seed).to_state()) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_two_practices_share_client_numbers_and_emails_but_no_appointment_ids() -> None:
    one, two = practice_of(seed=1), practice_of(seed=2)
    assert set(one.clients) == set(two.clients)
    assert {c.email for c in one.clients.values()} & {c.email for c in two.clients.values()} - {None}
    assert not set(one.appointments) & set(two.appointments)


@pytest.mark.parametrize("seed", range(3))
def test_an_appointment_changes_its_form_only_when_last_modified_advances(seed: int) -> None:
    practice = practice_of(seed=seed)
    actions = list(intakeq_actions(practice).values())
    for step in range(3_000):
        before = practice.appointments | practice.deleted_appointments
        action = practice.rng.choice(actions)
        try:
            action.do(START_MS + step // 50, Arguments())  # many changes in one millisecond
        except NotPossibleError:
            continue
        after = practice.appointments | practice.deleted_appointments
        for key, a in after.items():
            old = before.get(key)
            if old is not None and old is not a:
                assert a.modified_ms > old.modified_ms
        assert before.keys() <= after.keys()


def test_ties_are_made_when_they_are_asked_for() -> None:
    practice = practice_of(tie_share=1.0)
    desk = intakeq_actions(practice)
    old = next(a for a in practice.appointments.values() if a.status == "Confirmed")
    desk["delete"].do(START_MS, Arguments({"id": old.id}))
    assert practice.deleted_appointments[old.id].modified_ms == old.modified_ms


def test_everything_is_obviously_invented() -> None:
    practice = practice_of()
    for client in practice.clients.values():
        assert "Test Client" in (client.name or "")
        assert client.email is None or client.email.endswith("@example.test")
        assert client.phone is None or re.fullmatch(r"\d{3}55501\d\d", client.phone)
