"""Appointments and patients over the management API: the owner's, and a partner's as long as it may follow them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from eventsync.postgres.access import Role
from eventsync.postgres.affiliation_rows import AffiliationTerms
from eventsync.postgres.affiliations import Affiliations
from web.api_site import DAY, NOW, Site

TODAY = NOW.date()
ONGOING = AffiliationTerms(start_date=TODAY - DAY)
ENDED = [
    AffiliationTerms(start_date=TODAY - 9 * DAY, consent_expires_on=TODAY - 2 * DAY),
    AffiliationTerms(start_date=TODAY - 9 * DAY, end_date=TODAY - 2 * DAY),
    AffiliationTerms(start_date=TODAY + 3 * DAY),
]


def timeline_of(patient_id: object) -> str:
    return f"/api/v1/patients/{patient_id}/timeline"


async def test_two_organizations_see_their_own_rows_only(site: Site) -> None:
    mine, theirs = await site.client(site.practice, "12"), await site.client(site.other, "12")
    await site.appointment(site.practice, "a1", "12")
    await site.appointment(site.other, "a1", "12")
    for practice, patient in ((site.practice, mine), (site.other, theirs)):
        assert (await site.get("/api/v1/patients", practice.viewer)).ids == [str(patient)]
        shown = (await site.get("/api/v1/appointments", practice.viewer)).json["items"]
        assert [(item["connection_id"], item["external_id"]) for item in shown] == [(str(practice.connection_id), "a1")]
    assert len((await site.get("/api/v1/appointments", site.admin)).ids) == 2


async def test_naming_anothers_patient_or_connection_shows_nothing(site: Site) -> None:
    theirs = await site.client(site.other, "12")
    await site.appointment(site.other, "a1", "12")
    for query in ({"patient_id": str(theirs)}, {"connection_id": str(site.other.connection_id)}):
        assert (await site.get("/api/v1/appointments", site.practice.operator, **query)).ids == []
    strange = await site.get(timeline_of(theirs), site.practice.operator)
    never = await site.get(timeline_of(uuid4()), site.practice.operator)
    assert (strange.status, strange.code) == (never.status, never.code) == (404, "unknown_patient")
    assert await site.accesses() == []


async def test_a_partner_sees_whom_it_follows_and_nothing_of_the_events(site: Site) -> None:
    followed, unseen = await site.client(site.practice, "12"), await site.client(site.practice, "13")
    await site.appointment(site.practice, "a1", "12")
    await site.appointment(site.practice, "a2", "13")
    event_id = await site.finished_event(site.practice, entity="appointment:a1")
    await site.follow(followed, site.practice, site.other, ONGOING)
    partner = site.other.operator
    assert (await site.get("/api/v1/patients", partner)).ids == [str(followed)]
    assert [a["external_id"] for a in (await site.get("/api/v1/appointments", partner)).json["items"]] == ["a1"]
    shared = await site.get(timeline_of(followed), partner)
    assert [a["external_id"] for a in shared.json["appointments"]] == ["a1"]
    assert shared.json["events"] == []
    assert (await site.get(timeline_of(unseen), partner)).status == 404
    assert (await site.get("/api/v1/events", partner)).ids == []
    assert (await site.get(f"/api/v1/events/{event_id}", partner)).status == 404
    assert [item["connection"] for item in (await site.get("/api/v1/budget", partner)).json["items"]] == [2]


async def test_an_admin_who_stands_for_a_partner_sees_what_the_partner_sees(site: Site) -> None:
    patient = await site.client(site.practice, "12")
    await site.finished_event(site.practice, entity="patient:12")
    await site.follow(patient, site.practice, site.other, ONGOING)
    assert (await site.get(timeline_of(patient), site.admin, org="practice-2")).json["events"] == []
    assert len((await site.get(timeline_of(patient), site.admin, org="practice-1")).json["events"]) == 1
    assert len((await site.get(timeline_of(patient), site.admin)).json["events"]) == 1


@pytest.mark.parametrize("terms", ENDED, ids=["consent expired", "ended", "not begun"])
async def test_a_partner_without_affiliation_or_consent_sees_nothing(site: Site, terms: AffiliationTerms) -> None:
    patient = await site.client(site.practice, "12")
    await site.appointment(site.practice, "a1", "12")
    await site.follow(patient, site.practice, site.other, terms)
    partner = site.other.operator
    assert (await site.get("/api/v1/patients", partner)).ids == []
    assert (await site.get("/api/v1/appointments", partner, patient_id=str(patient))).ids == []
    assert (await site.get(timeline_of(patient), partner)).status == 404
    assert (await site.get(timeline_of(patient), site.practice.viewer)).status == 200


async def test_a_cursor_outlives_no_affiliation(site: Site) -> None:
    patient = await site.client(site.practice, "12")
    for number in range(3):
        await site.appointment(site.practice, f"a{number}", "12", NOW + number * DAY)
    affiliation = await site.follow(patient, site.practice, site.other, ONGOING)
    first = await site.get("/api/v1/appointments", site.other.viewer, limit="1")
    await Affiliations(site.pool).end(affiliation, None, TODAY - DAY, NOW)
    rest = await site.get("/api/v1/appointments", site.other.viewer, cursor=first.json["next_cursor"])
    assert (len(first.ids), rest.ids, rest.json["next_cursor"]) == (1, [], None)


async def test_a_timeline_holds_the_appointments_and_events_of_the_patient_alone(site: Site) -> None:
    patient = await site.client(site.practice, "12")
    await site.client(site.practice, "13")
    await site.appointment(site.practice, "a1", "12")
    await site.appointment(site.practice, "a2", "13")
    expected = [
        str(await site.finished_event(site.practice, 1, entity="patient:12")),
        str(await site.finished_event(site.practice, 2, entity="appointment:a1")),
    ]
    await site.finished_event(site.practice, 3, entity="appointment:a2")
    await site.finished_event(site.other, 4, entity="appointment:a1")
    shown = await site.get(timeline_of(patient), site.practice.viewer)
    assert shown.json["patient"]["id"] == str(patient)
    assert [a["external_id"] for a in shown.json["appointments"]] == ["a1"]
    assert [event["event_id"] for event in shown.json["events"]] == expected
    assert shown.json["has_more"] is False


async def test_pages_give_every_appointment_once_while_new_ones_are_written(site: Site) -> None:
    await site.client(site.practice, "12")
    for number in range(12):
        await site.appointment(site.practice, f"a{number}", "12", NOW + DAY * (number // 4))
    before = set((await site.get("/api/v1/appointments", site.practice.viewer)).ids)
    writing = asyncio.create_task(_write(site, 20))
    try:
        seen = await site.read_all("/api/v1/appointments", site.practice.viewer, limit="2")
    finally:
        await writing
    assert len(seen) == len(set(seen))
    assert before <= set(seen)


async def _write(site: Site, count: int) -> None:
    for number in range(count):
        start = NOW + timedelta(hours=5 * number)
        await site.appointment(site.practice, f"new{number}", "12", start)


async def test_pages_give_every_patient_once_whatever_the_names(site: Site) -> None:
    names = ["Client", "Client", "client", "Äpfel", 'O\'Neil, "x"', "Client \N{GRINNING FACE}", "L" * 500]
    clients = [await site.client(site.practice, str(number), name) for number, name in enumerate(names)]
    seen = await site.read_all("/api/v1/patients", site.practice.viewer, limit="1")
    assert sorted(seen) == sorted(map(str, clients))


async def test_a_cursor_tells_nobody_a_name(site: Site) -> None:
    for number in range(2):
        await site.client(site.practice, str(number), "Secretname")
    page = await site.get("/api/v1/patients", site.practice.viewer, limit="1")
    other = await site.get("/api/v1/patients", site.practice.viewer, limit="1")
    cursor = page.json["next_cursor"]
    assert "Secret" not in cursor
    assert cursor != other.json["next_cursor"]  # sealed, not encoded: equal names do not look alike


async def test_appointments_are_filtered(site: Site) -> None:
    first = await site.client(site.practice, "12")
    await site.appointment(site.practice, "a1", "12", NOW + DAY)
    await site.appointment(site.practice, "a2", "13", NOW + 2 * DAY)
    cases = [
        ({"patient_id": str(first)}, ["a1"]),
        ({"since": (NOW + 2 * DAY).isoformat()}, ["a2"]),
        ({"until": (NOW + 2 * DAY).isoformat()}, ["a1"]),
        ({"connection_id": str(site.practice.connection_id), "with_deleted": "true"}, ["a1", "a2"]),
    ]
    for query, expected in cases:
        shown = (await site.get("/api/v1/appointments", site.practice.viewer, **query)).json["items"]
        assert [item["external_id"] for item in shown] == expected, query


async def test_patients_are_filtered_by_their_status(site: Site) -> None:
    await site.client(site.practice, "12")
    assert len((await site.get("/api/v1/patients", site.practice.viewer, status="active")).ids) == 1
    assert (await site.get("/api/v1/patients", site.practice.viewer, status="archived")).ids == []


async def test_every_reading_of_personal_data_is_noted_with_the_patients_in_it(site: Site) -> None:
    patient = await site.client(site.practice, "12")
    await site.appointment(site.practice, "a1", "12")
    await site.appointment(site.practice, "a2", "12", NOW + 2 * DAY)
    made = await site.token(Role.VIEWER, site.practice.organization_id)
    for path in ("/api/v1/patients", "/api/v1/appointments", timeline_of(patient)):
        assert (await site.get(path, made.token)).status == 200
    subject = f"patient:{patient}"
    assert await site.accesses() == [
        (f"token:{made.id}", action, subject) for action in ("list_patients", "list_appointments", "read_timeline")
    ]


async def test_an_empty_page_is_no_reading(site: Site) -> None:
    assert (await site.get("/api/v1/patients", site.practice.viewer)).json == {"items": [], "next_cursor": None}
    assert await site.accesses() == []
