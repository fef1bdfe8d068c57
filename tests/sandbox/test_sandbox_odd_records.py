from typing import Any

import pytest

from eventsync.sandbox import BadArgumentError, NotPossibleError
from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.intakeq.appointment_edits import EDITS
from eventsync.sandbox.intakeq.appointment_forms import list_form
from eventsync.sandbox.intakeq.vendor import IntakeQVendor, open_intakeq
from eventsync.sandbox.vendor import Effect
from sandbox.sandbox_receiver import START_MS, Received, calling, receiving, small

DAY_MS = 86_400_000
MEMBERS = {
    "price": {"Price"},
    "length": {"EndDate", "EndDateIso", "EndDateLocal", "Duration"},
    "location": {"LocationId", "LocationName"},
    "service": {"ServiceId", "ServiceName"},
    "practitioner": {"PractitionerId", "PractitionerName", "PractitionerEmail"},
    "client_note": {"ClientNote"},
    "practitioner_note": {"PractitionerNote"},
    "attendance": {"AttendanceConfirmationResponse"},
    "session": set[str](),  # lists do not show it
}


@pytest.fixture
def vendor() -> IntakeQVendor:
    return open_intakeq(small(), START_MS)


def do(vendor: IntakeQVendor, name: str, **arguments: Any) -> Effect:
    return vendor.actions[name].do(START_MS, Arguments(arguments))


@pytest.mark.parametrize("field", EDITS)
def test_a_silent_edit_changes_just_what_it_names_each_time(vendor: IntakeQVendor, field: str) -> None:
    record_id = do(vendor, "book", by="staff").record_id
    practice = vendor.practice
    for _ in range(20):
        before = list_form(practice.appointments[record_id], practice.zone)
        assert do(vendor, "edit", id=record_id, field=field).webhooks == ()
        after = list_form(practice.appointments[record_id], practice.zone)
        assert {name for name in after if after[name] != before[name]} == MEMBERS[field] | {"LastModified"}


def test_an_edit_with_no_other_choice_still_advances_the_time_of_change() -> None:
    vendor = open_intakeq(small(practitioners=1), START_MS)
    record_id = do(vendor, "book", by="staff").record_id
    before = vendor.practice.appointments[record_id]
    do(vendor, "edit", id=record_id, field="practitioner")
    after = vendor.practice.appointments[record_id]
    assert (after.practitioner_id, after.modified_ms) == (before.practitioner_id, before.modified_ms + 1)


@pytest.mark.parametrize(
    ("name", "text", "member", "value"),
    [
        ("email", "new@example.test", "Email", "new@example.test"),
        ("phone", "2015550199", "Phone", "2015550199"),
        ("first_name", "Another", "FirstName", "Another"),
        ("last_name", "Renamed Client", "LastName", "Renamed Client"),
        ("date_of_birth", "1970-01-03", "DateOfBirth", 2 * DAY_MS),
        ("city", "Mockford", "City", "Mockford"),
    ],
)
async def test_each_part_of_a_profile_can_be_edited_in_silence(name: str, text: str, member: str, value: Any) -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        caller.running.sandbox.act("edit_client", client_id=1003, **{name: text})
        (row,) = (await caller.api("/clients?search=1003&includeProfile=true")).json
        assert row[member] == value
        assert await caller.running.sandbox.quiesce()
        assert receiver.posts == []


async def test_an_appointment_without_a_client_has_null_for_all_of_its_details() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        record_id = caller.running.sandbox.act("book", without_client=True, by="client").record_id
        (post,) = await receiver.wait_for(1)
        assert post.body["ClientId"] is None
        form = (await caller.api(f"/appointments/{record_id}")).json
        for member in ("ClientId", "ClientName", "ClientEmail", "ClientPhone", "ClientDateOfBirth"):
            assert form[member] is None
            assert post.body["Appointment"][member] is None
        assert caller.running.sandbox.act("cancel", id=record_id).webhooks
        assert record_id not in {row["Id"] for row in await caller.pages("/appointments?client=test")}
        assert record_id in {row["Id"] for row in await caller.pages("/appointments")}


async def test_a_client_without_a_name_comes_first_in_the_list() -> None:
    async with calling(small()) as caller:
        added = caller.running.sandbox.act("add_client", nameless=True).record_id
        row = (await caller.api("/clients?includeProfile=true")).json[0]
        assert (str(row["ClientId"]), row["Name"], row["FirstName"], row["LastName"]) == (added, None, None, None)
        booked = caller.running.sandbox.act("book", client_id=int(added)).record_id
        form = (await caller.api(f"/appointments/{booked}")).json
        assert (form["ClientId"], form["ClientName"]) == (int(added), None)


def test_half_a_name_has_no_space_around_it(vendor: IntakeQVendor) -> None:
    client_id = int(do(vendor, "add_client", first_name="", last_name="Test Client 99").record_id)
    assert vendor.practice.clients[client_id].name == "Test Client 99"


async def test_two_clients_share_an_e_mail_and_one_changes_it() -> None:
    async with calling(small(appointments=0)) as caller:
        sandbox = caller.running.sandbox
        one, two = (int(sandbox.act("add_client", email="shared@example.test").record_id) for _ in range(2))
        found = (await caller.api("/clients?search=shared@example.test&includeProfile=true")).json
        assert {row["ClientId"] for row in found} == {one, two}
        booked = sandbox.act("book", client_id=one).record_id
        sandbox.act("edit_client", client_id=one, email="own@example.test")
        assert (await caller.api(f"/appointments/{booked}")).json["ClientEmail"] == "shared@example.test"
        sandbox.act("edit", id=booked, field="price")
        assert (await caller.api(f"/appointments/{booked}")).json["ClientEmail"] == "own@example.test"


async def test_a_practice_may_have_no_appointment_at_all() -> None:
    async with calling(small(appointments=0)) as caller:
        assert (await caller.api("/appointments")).json == []
        assert len((await caller.api("/clients")).json) == 30


async def test_many_bookings_are_spread_from_a_given_time_on_and_announced_each() -> None:
    async with receiving() as receiver, calling(small(appointments=0, webhook_targets=receiver.targets)) as caller:
        first_ms = START_MS + DAY_MS
        effect = caller.running.sandbox.act("book_many", count=250, start_ms=first_ms, every_ms=DAY_MS, client_id=1001)
        rows = await caller.pages("/appointments")
        assert [row["Id"] for row in rows] == list(reversed(effect.record_ids))
        assert [row["StartDate"] for row in reversed(rows)] == [first_ms + n * DAY_MS for n in range(250)]
        assert {row["ClientId"] for row in rows} == {1001}
        assert len(await receiver.wait_for(250)) == 250


async def test_many_bookings_can_be_kept_quiet() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        effect = caller.running.sandbox.act("book_many", count=20, announce=False)
        assert await caller.running.sandbox.quiesce()
        assert receiver.posts == []
        assert caller.running.sandbox.ledger.silent() == set(effect.record_ids)


async def test_many_appointments_are_deleted_at_once_by_number_or_by_name() -> None:
    async with receiving() as receiver, calling(small(appointments=300, webhook_targets=receiver.targets)) as caller:
        sandbox = caller.running.sandbox
        rows = await caller.pages("/appointments")
        latest = sandbox.act("delete_many", count=100)
        assert set(latest.record_ids) == {row["Id"] for row in rows[:100]}
        named = [rows[150]["Id"], rows[250]["Id"], rows[150]["Id"]]
        assert sandbox.act("delete_many", ids=named).record_ids == (named[0], named[1])
        assert len(await caller.pages("/appointments")) == 198
        assert len(await receiver.wait_for(102)) == 102
        with pytest.raises(NotPossibleError):
            sandbox.act("delete_many", ids=[rows[200]["Id"], "nobody"])
        assert len(await caller.pages("/appointments")) == 198


async def test_what_was_deleted_more_than_ten_days_ago_is_in_no_list() -> None:
    async with calling(small()) as caller:
        sandbox = caller.running.sandbox
        days_ago = {days: START_MS - days * DAY_MS for days in (9, 11)}
        young = sandbox.act("delete_many", count=3, deleted_ms=days_ago[9], announce=False).record_ids
        sandbox.act("delete_many", count=4, deleted_ms=days_ago[11], announce=False)
        sandbox.act("delete", deleted_ms=days_ago[11])
        assert {row["Id"] for row in (await caller.api("/appointments?deletedOnly=true")).json} == set(young)
        assert len(await caller.pages("/appointments")) == 112
        sandbox.act("delete_clients", count=5, deleted_ms=days_ago[11])
        sandbox.act("delete_client", client_id=1000, deleted_ms=days_ago[9])
        assert len((await caller.api("/clients?deletedOnly=true")).json) == 1
        assert len((await caller.api("/clients")).json) == 24
        with pytest.raises(BadArgumentError, match="ahead"):
            sandbox.act("delete", deleted_ms=START_MS + DAY_MS)


async def test_many_clients_are_added_as_of_a_day_in_the_past() -> None:
    async with calling(small()) as caller:
        created_ms = START_MS - 3 * DAY_MS
        effect = caller.running.sandbox.act("add_clients", count=120, created_ms=created_ms)
        added = await caller.pages("/clients?dateCreatedStart=2026-09-18&dateCreatedEnd=2026-09-18&includeProfile=true")
        assert {str(row["ClientId"]) for row in added} == set(effect.record_ids)
        assert len(effect.record_ids) == 120


async def test_a_deleted_appointment_can_come_back() -> None:
    async with calling(small()) as caller:
        sandbox = caller.running.sandbox
        deleted = sandbox.act("delete").record_id
        before = sandbox.ledger.latest()["appointment", deleted].modified_ms
        assert sandbox.act("restore").record_id == deleted
        assert (await caller.api("/appointments?deletedOnly=true")).json == []
        assert (await caller.api(f"/appointments/{deleted}")).json["LastModified"] > before
        with pytest.raises(NotPossibleError):
            sandbox.act("restore")


@pytest.mark.parametrize("arguments", [{"count": 0}, {"count": 20_001}, {"counts": 3}])
def test_a_bulk_that_cannot_be_is_refused_before_anything_changes(
    vendor: IntakeQVendor, arguments: dict[str, int]
) -> None:
    before = vendor.revision
    for name in ("book_many", "delete_many", "add_clients", "delete_clients"):
        with pytest.raises(BadArgumentError):
            do(vendor, name, **arguments)
    assert vendor.revision == before


async def test_the_control_api_names_all_records_of_a_bulk() -> None:
    async with calling(small()) as caller:
        answer = (await caller.control("/actions", {"action": "delete_many", "count": 7})).json
        assert len(set(answer["record_ids"])) == 7
        assert answer["webhooks"] == ["AppointmentDeleted"] * 7


def test_bulk_webhooks_carry_the_same_envelope_as_single_ones(vendor: IntakeQVendor) -> None:
    single, many = do(vendor, "book", by="staff"), do(vendor, "book_many", count=1)
    one, other = (Received("appointment", {}, effect.webhooks[0].body).body for effect in (single, many))
    assert list(one) == list(other)
    assert list(one["Appointment"]) == list(other["Appointment"])
