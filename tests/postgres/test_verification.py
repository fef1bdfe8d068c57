"""When records were last known to be true, by all the evidence there is: the SQL beside the rule in Python."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.records import RecordKind, patient_id_of
from eventsync.postgres.database import Database
from eventsync.postgres.explain import explain
from eventsync.postgres.freshness import prune_coverage
from eventsync.postgres.listings import AppointmentFilter, Listings, PatientFilter
from postgres.covered_copy import DAY, HOUR, LONG_AGO, NOW, CoveredCopy, put_at_random

WEEK = (NOW - 3 * DAY, NOW + 4 * DAY)


@pytest.fixture
def copy(database: asyncpg.Connection) -> CoveredCopy:
    return CoveredCopy(database)


@pytest.fixture
async def owner_id(database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> OrganizationId:
    owner = await database.fetchval("SELECT organization_id FROM connections WHERE id = $1", connection_ids[0])
    return OrganizationId(owner)


@pytest.mark.parametrize("seed", range(30))
async def test_records_are_verified_by_the_rule_however_they_are_asked(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId], seed: int
) -> None:
    evidence = await put_at_random(copy, connection_ids, random.Random(seed))
    expected = {key: evidence.verified_at(key) for key in evidence.records}
    assert await copy.verified() == expected
    assert await copy.verified_one_by_one() == expected
    await prune_coverage(pool)
    assert await copy.verified() == expected
    assert await copy.verified_one_by_one() == expected


async def test_a_window_verifies_what_begins_in_it_and_nothing_else(
    copy: CoveredCopy, connection_ids: list[ConnectionId]
) -> None:
    mine = connection_ids[0]
    starts = {"before": WEEK[0] - HOUR, "first": WEEK[0], "last": WEEK[1] - HOUR, "after": WEEK[1]}
    for name, start in starts.items():
        await copy.appointment(mine, name, start)
    await copy.read(mine, "appointment", NOW, WEEK)
    found = {external_id: at for (_, _, external_id), at in (await copy.verified()).items()}
    assert found == {"before": LONG_AGO, "first": NOW, "last": NOW, "after": LONG_AGO}


async def test_coverage_and_cursors_of_one_connection_never_count_for_another(
    copy: CoveredCopy, connection_ids: list[ConnectionId]
) -> None:
    mine, other = connection_ids
    await copy.appointment(mine, "a1")
    await copy.client(mine, "12")
    for kind in ("appointment", "patient"):
        await copy.read(other, kind, NOW)
        await copy.follow(other, kind, LONG_AGO - DAY, NOW)
    assert set((await copy.verified()).values()) == {LONG_AGO}
    assert await copy.verified() == await copy.verified_one_by_one()


async def test_a_read_of_one_kind_never_counts_for_another(
    copy: CoveredCopy, connection_ids: list[ConnectionId]
) -> None:
    mine = connection_ids[0]
    await copy.appointment(mine, "a1")
    await copy.client(mine, "12")
    await copy.read(mine, "patient", NOW)
    assert await copy.verified() == {(mine, "appointment", "a1"): LONG_AGO, (mine, "patient", "12"): NOW}


async def test_a_candidate_for_absence_is_not_verified_by_the_list_that_lacked_it(
    copy: CoveredCopy, connection_ids: list[ConnectionId]
) -> None:
    mine = connection_ids[0]
    for external_id in ("lacked", "listed"):
        await copy.appointment(mine, external_id)
    await copy.read(mine, "appointment", NOW, WEEK)
    await copy.follow(mine, "appointment", LONG_AGO, NOW + HOUR)
    await copy.miss(mine, "appointment", "lacked")
    found = await copy.verified()
    assert found == {(mine, "appointment", "lacked"): LONG_AGO, (mine, "appointment", "listed"): NOW + HOUR}
    assert found == await copy.verified_one_by_one()


@pytest.mark.parametrize(
    ("since", "lists", "extends"),
    [
        (NOW, ("changed", "deleted"), True),
        (NOW + timedelta(milliseconds=1), ("changed", "deleted"), False),
        (NOW, ("changed",), False),
        (NOW, ("deleted",), False),
    ],
    ids=["unbroken", "broken since", "without deletions", "without changes"],
)
async def test_only_two_unbroken_cursors_extend_what_was_verified(
    copy: CoveredCopy, connection_ids: list[ConnectionId], since: datetime, lists: tuple[str, ...], *, extends: bool
) -> None:
    mine = connection_ids[0]
    await copy.appointment(mine, "a1")
    await copy.read(mine, "appointment", NOW, WEEK)
    await copy.follow(mine, "appointment", since, NOW + HOUR, *lists)
    (verified_at,) = (await copy.verified()).values()
    assert verified_at == (NOW + HOUR if extends else NOW)


async def test_listings_and_explanations_show_when_a_record_was_verified(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId], owner_id: OrganizationId
) -> None:
    mine = connection_ids[0]
    patient_id = patient_id_of(mine, "12")
    await copy.database.execute(
        "INSERT INTO patients (id, organization_id, first_name, last_name, origin)"
        " VALUES ($1, $2, 'Test', 'Client 12', 'vendor')", patient_id, owner_id,
    )  # fmt: skip
    await copy.client(mine, "12", patient_id=patient_id)
    await copy.appointment(mine, "a1", patient_id=patient_id)
    await copy.read(mine, "appointment", NOW - HOUR, WEEK)
    await copy.read(mine, "patient", NOW - DAY)
    (appointment,) = await Listings(pool).appointments(owner_id, AppointmentFilter(), NOW)
    (patient,) = await Listings(pool).patients(owner_id, PatientFilter(), NOW)
    assert (appointment.verified_at, patient.verified_at) == (NOW - HOUR, NOW - DAY)
    for kind, reference, verified_at in (("appointment", "a1", NOW - HOUR), ("patient", "12", NOW - DAY)):
        (facts,) = (await explain(pool, RecordKind(kind), reference, owner_id)).records
        assert facts.verified_at == verified_at


async def test_a_patient_whom_no_vendor_knows_was_never_verified(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId], owner_id: OrganizationId
) -> None:
    await copy.database.execute(
        "INSERT INTO patients (id, organization_id, first_name, last_name, origin)"
        " VALUES (gen_random_uuid(), $1, 'Test', 'Client 12', 'local')", owner_id,
    )  # fmt: skip
    await copy.read(connection_ids[0], "patient", NOW)
    (patient,) = await Listings(pool).patients(owner_id, PatientFilter(), NOW)
    assert patient.verified_at is None


@pytest.mark.parametrize(
    ("kind", "seen", "verified_at"),
    [("invoice", None, LONG_AGO), ("invoice", NOW, NOW), ("note", None, None), ("note", NOW, NOW)],
)
async def test_a_document_is_verified_by_its_own_sightings(
    copy: CoveredCopy,
    pool: Database,
    connection_ids: list[ConnectionId],
    owner_id: OrganizationId,
    kind: str,
    seen: datetime | None,
    verified_at: datetime | None,
) -> None:
    await copy.document(connection_ids[0], kind, "d1", seen_at=seen)
    await copy.read(connection_ids[0], "appointment", NOW + HOUR)
    (facts,) = (await explain(pool, RecordKind(kind), "d1", owner_id)).records
    assert facts.verified_at == verified_at


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({"meeting_url": "https://meet.example.test/1", "location_type": "telehealth"}, "available"),
        ({"meeting_url": "https://meet.example.test/1"}, "available"),
        ({"location_type": "telehealth"}, "not_in_api"),
        ({"location_type": "office"}, None),
        ({}, None),
    ],
)
async def test_a_visit_whose_link_the_api_does_not_carry_says_so(
    copy: CoveredCopy,
    pool: Database,
    connection_ids: list[ConnectionId],
    owner_id: OrganizationId,
    columns: dict[str, Any],
    status: str | None,
) -> None:
    await copy.appointment(connection_ids[0], "a1", **columns)
    assert await copy.database.fetchval("SELECT meeting_url_status FROM v_appointments") == status
    (shown,) = await Listings(pool).appointments(owner_id, AppointmentFilter(), NOW)
    assert shown.meeting_url_status == status
