"""Drift over the management API: page by page, for the owner and admins only, without anything personal."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from eventsync.postgres.affiliation_rows import AffiliationTerms
from postgres.drifting import HOUR, MINUTE, NOW, STARTS, SWEEP, Change, Drifting
from web.api_site import Practice, Site

BOOKED = Change("a1", SWEEP - 5 * HOUR, "AppointmentCreated")


@pytest.fixture
def practice(site: Site) -> Drifting:
    return drifting(site, site.practice)


def drifting(site: Site, practice: Practice) -> Drifting:
    return Drifting(site.pool, site.keyring, practice.connection_id)


async def test_a_finding_names_fields_times_and_the_webhook(site: Site, practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    moved = replace(BOOKED, at=SWEEP - 2 * HOUR, told_by="AppointmentRescheduled", start=STARTS + HOUR)
    await practice.sweep(moved)
    late = await practice.webhook(moved, after=2 * HOUR + 2 * MINUTE)
    answer = await site.get("/api/v1/drift", site.practice.viewer)
    (item,) = answer.json["items"]
    assert isinstance(item.pop("id"), int)
    assert item == {
        "connection_id": str(practice.connection_id),
        "connection": 1,
        "kind": "appointment",
        "external_id": "a1",
        "run_id": None,
        "found_at": iso(SWEEP + MINUTE),
        "since": iso(moved.at),
        "changed_fields": ["end_time", "start_time"],
        "is_new": False,
        "expected_event": "AppointmentRescheduled",
        "verdict": "late",
        "webhook_event_id": str(late),
        "webhook_received_at": iso(SWEEP + 2 * MINUTE),
    }
    assert answer.json["next_cursor"] is None
    assert await site.accesses() == []  # nothing personal was read


async def test_findings_are_counted_by_event_and_verdict(site: Site, practice: Drifting) -> None:
    await practice.sweep(BOOKED, replace(BOOKED, name="a2"))
    await practice.sweep(replace(BOOKED, at=SWEEP, price=7))
    await practice.receive(NOW)
    answer = await site.get("/api/v1/drift/summary", site.practice.viewer)
    assert answer.json == {
        "counts": [
            {"expected_event": "AppointmentCreated", "verdict": "never_came", "count": 2},
            {"expected_event": None, "verdict": "unannounced", "count": 1},
        ],
        "parked_unread": 0,
    }
    filtered = await site.get("/api/v1/drift/summary", site.practice.viewer, verdict="unannounced")
    assert [row["count"] for row in filtered.json["counts"]] == [1]


async def test_pages_give_every_finding_once_while_sweeps_go_on(site: Site, practice: Drifting) -> None:
    names = [f"a{number}" for number in range(9)]
    await practice.sweep(*(replace(BOOKED, name=name) for name in names))  # all at the same time
    page = await site.get("/api/v1/drift", site.practice.viewer, limit="4")
    await practice.sweep(replace(BOOKED, name="new"), began=SWEEP + HOUR)
    seen = externals(page.json)
    while page.json["next_cursor"] is not None:
        page = await site.get("/api/v1/drift", site.practice.viewer, limit="4", cursor=page.json["next_cursor"])
        seen += externals(page.json)
    assert seen == names[::-1]


async def test_a_cursor_opens_for_its_own_organization_only(site: Site, practice: Drifting) -> None:
    await practice.sweep(BOOKED, replace(BOOKED, name="a2"))
    page = await site.get("/api/v1/drift", site.practice.viewer, limit="1")
    answer = await site.get("/api/v1/drift", site.other.viewer, cursor=page.json["next_cursor"])
    assert (answer.status, answer.code) == (400, "invalid_cursor")


async def test_findings_are_filtered(site: Site, practice: Drifting) -> None:
    await practice.sweep(BOOKED)
    await practice.sweep(replace(BOOKED, name="a2"), began=SWEEP + 10 * MINUTE)
    await practice.sweep(replace(BOOKED, at=SWEEP, price=7), began=SWEEP + 20 * MINUTE)
    cases: list[tuple[dict[str, str], list[str]]] = [
        ({}, ["a1", "a2", "a1"]),
        ({"external_id": "a2", "kind": "appointment"}, ["a2"]),
        ({"kind": "patient"}, []),
        ({"verdict": "never_came"}, ["a2", "a1"]),
        ({"verdict": "unannounced"}, ["a1"]),
        ({"since": iso(SWEEP + 5 * MINUTE)}, ["a1", "a2"]),
        ({"until": iso(SWEEP + 5 * MINUTE)}, ["a1"]),
        ({"connection_id": str(site.other.connection_id)}, []),
        ({"run_id": "0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12"}, []),
    ]
    for query, expected in cases:
        assert externals((await site.get("/api/v1/drift", site.practice.viewer, **query)).json) == expected, query
    refused = await site.get("/api/v1/drift", site.practice.viewer, verdict="lost")
    assert (refused.status, refused.code) == (400, "invalid_parameter")


async def test_drift_is_the_owners_and_the_admins_and_no_partners(site: Site, practice: Drifting) -> None:
    patient_id = await site.client(site.practice, "12")
    await site.follow(patient_id, site.practice, site.other, AffiliationTerms(start_date=(NOW - timedelta(9)).date()))
    await practice.sweep(BOOKED)
    await drifting(site, site.other).sweep(replace(BOOKED, name="theirs"))
    for path in ("/api/v1/drift", "/api/v1/drift/summary"):
        assert (await site.get(path, None)).status == 401

    async def seen(token: str, org: str | None = None) -> tuple[list[str], int]:
        listed = (await site.get("/api/v1/drift", token, org=org)).json
        summary = (await site.get("/api/v1/drift/summary", token, org=org)).json
        return externals(listed), sum(row["count"] for row in summary["counts"])

    assert await seen(site.practice.operator) == (["a1"], 1)
    assert await seen(site.other.viewer) == (["theirs"], 1)
    assert await seen(site.admin) == (["theirs", "a1"], 2)
    assert await seen(site.admin, site.practice.external_id) == (["a1"], 1)


def externals(page: Any) -> list[str]:
    return [item["external_id"] for item in page["items"]]


def iso(moment: Any) -> str:
    return str(moment.isoformat().replace("+00:00", "Z"))
