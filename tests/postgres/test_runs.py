"""Runs in `sync_logs`, asked for and taken: one for like requests, one worker to each, one at a time a connection."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.runs import RunId, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.runs import Runs
from postgres.asked_runs import DONE, LONG, NOW, SHORT, a_patient, after, ask, asks, claim, lease_of


@pytest.fixture
def runs(pool: Database) -> Runs:
    return Runs(pool)


@pytest.fixture
def connection_id(connection_ids: list[ConnectionId]) -> ConnectionId:
    return connection_ids[0]


@pytest.fixture
async def owner_id(database: asyncpg.Connection, connection_id: ConnectionId) -> OrganizationId:
    owner: OrganizationId = await database.fetchval(
        "SELECT organization_id FROM connections WHERE id = $1", connection_id
    )
    return owner


async def test_a_run_is_told_as_it_was_asked_for(
    runs: Runs, connection_id: ConnectionId, owner_id: OrganizationId
) -> None:
    options = {"days_back": 30, "allow_mass_delete": True}
    run = await ask(runs, asks(connection_id, LONG, organization_id=owner_id, due_at=NOW, options=options))
    assert await runs.find(run.id) == run
    assert (run.status, run.sync_type, run.organization_id, run.due_at) == (RunStatus.STARTING, LONG, owner_id, NOW)
    assert run.options == options
    assert await runs.find(RunId(uuid4())) is None


async def test_two_workers_never_get_the_same_run(
    runs: Runs, connection_id: ConnectionId, owner_id: OrganizationId, database: asyncpg.Connection
) -> None:
    for _ in range(6):
        patient_id = await a_patient(database, owner_id)
        await ask(runs, asks(connection_id, SyncType.MANUAL_PATIENT, patient_id=patient_id))
    leases = [lease for lease in await asyncio.gather(*(claim(runs) for _ in range(12))) if lease is not None]
    assert len({lease.run.id for lease in leases}) == len(leases) == 6
    assert {lease.run.status for lease in leases} == {RunStatus.RUNNING}


async def test_of_one_lane_and_connection_one_run_goes_on_at_a_time(
    runs: Runs, connection_ids: list[ConnectionId]
) -> None:
    for sync_type in (SHORT, SyncType.MANUAL_ORG_BULK):
        for connection_id in connection_ids:
            await ask(runs, asks(connection_id, sync_type))
    leases = [lease for lease in await asyncio.gather(*(claim(runs) for _ in range(8))) if lease is not None]
    assert sorted(lease.run.connection_id for lease in leases) == sorted(connection_ids)
    await runs.end(leases[0], DONE, NOW)
    following = await claim(runs)
    assert following is not None
    assert following.run.connection_id == leases[0].run.connection_id
    assert await claim(runs) is None


async def test_a_long_and_a_short_run_of_one_connection_go_side_by_side(
    runs: Runs, connection_id: ConnectionId
) -> None:
    for second, sync_type in enumerate((LONG, SyncType.BACKFILL, SHORT, SyncType.MANUAL_ORG_BULK)):
        await ask(runs, asks(connection_id, sync_type), after(seconds=second))
    leases = [await claim(runs), await claim(runs)]
    assert {lease.run.sync_type for lease in leases if lease} == {SyncType.MANUAL_ORG_BULK, LONG}
    assert await claim(runs) is None


async def test_what_a_person_asked_for_goes_first(
    runs: Runs, connection_ids: list[ConnectionId], owner_id: OrganizationId, database: asyncpg.Connection
) -> None:
    one, other = connection_ids
    patient_id = await a_patient(database, owner_id)
    await ask(runs, asks(one, LONG), after(seconds=-9))
    await ask(runs, asks(one, SHORT), after(seconds=-8))
    await ask(runs, asks(other, SyncType.MANUAL_ORG_BULK), after(seconds=-7))
    await ask(runs, asks(one, SyncType.MANUAL_PATIENT, patient_id=patient_id), after(seconds=-6))
    types = [lease.run.sync_type for lease in [await claim(runs) for _ in range(4)] if lease is not None]
    assert types == [SyncType.MANUAL_PATIENT, SyncType.MANUAL_ORG_BULK, LONG, SHORT]


async def test_a_named_run_is_claimed_alone_and_only_while_it_waits(runs: Runs, connection_id: ConnectionId) -> None:
    await ask(runs, asks(connection_id, LONG))
    wanted = await ask(runs, asks(connection_id, SHORT))
    lease = await claim(runs, NOW, wanted)
    assert lease is not None
    assert lease.run.id == wanted.id
    assert await claim(runs, NOW, wanted) is None


async def test_a_second_like_request_answers_the_first_ones_run_until_that_has_ended(
    runs: Runs, connection_id: ConnectionId, owner_id: OrganizationId
) -> None:
    request = asks(connection_id, SyncType.MANUAL_ORG_BULK, organization_id=owner_id)
    answers = await asyncio.gather(*(runs.request(request, NOW) for _ in range(6)))
    assert len({run.id for run, _ in answers}) == 1
    assert sorted(is_new for _, is_new in answers) == [False] * 5 + [True]
    lease = await claim(runs)
    assert lease is not None
    assert await runs.request(request, NOW) == (await runs.find(lease.run.id), False)
    await runs.end(lease, DONE, NOW)
    assert (await ask(runs, request)).id != lease.run.id


async def test_requests_that_differ_are_runs_of_their_own(
    runs: Runs, connection_ids: list[ConnectionId], owner_id: OrganizationId, database: asyncpg.Connection
) -> None:
    one, other = connection_ids
    patients = [await a_patient(database, owner_id) for _ in range(2)]
    for request in (
        asks(one),
        asks(one, organization_id=owner_id),
        asks(one, LONG),
        asks(other),
        *(asks(one, SyncType.MANUAL_PATIENT, patient_id=patient_id) for patient_id in patients),
    ):
        await ask(runs, request)


async def test_a_patient_is_read_once_whichever_organization_asks(
    runs: Runs, connection_id: ConnectionId, owner_id: OrganizationId, database: asyncpg.Connection
) -> None:
    patient_id = await a_patient(database, owner_id)
    first = await ask(
        runs, asks(connection_id, SyncType.MANUAL_PATIENT, patient_id=patient_id, organization_id=owner_id)
    )
    partner_id = await database.fetchval("SELECT id FROM organizations WHERE id <> $1", owner_id)
    again = asks(connection_id, SyncType.MANUAL_PATIENT, patient_id=patient_id, organization_id=partner_id)
    assert await runs.request(again, NOW) == (first, False)


async def test_the_schedules_time_is_answered_once_by_several_schedulers_and_after_the_run_has_ended(
    runs: Runs, connection_id: ConnectionId
) -> None:
    request = asks(connection_id, LONG, due_at=NOW)
    answers = await asyncio.gather(*(runs.request(request, NOW) for _ in range(6)))
    assert [is_new for _, is_new in answers].count(True) == 1
    lease = await claim(runs)
    assert lease is not None
    ended = await runs.end(lease, DONE, after(seconds=5))
    assert await runs.request(request, after(hours=1)) == (ended, False)
    tomorrow, is_new = await runs.request(asks(connection_id, LONG, due_at=after(days=1)), after(days=1))
    assert is_new
    assert tomorrow.id != ended.id


async def test_a_run_that_a_person_began_shortly_before_answers_the_schedule_too(
    runs: Runs, connection_id: ConnectionId
) -> None:
    by_hand = await lease_of(runs, asks(connection_id, LONG), after(minutes=-1))
    scheduled = asks(connection_id, LONG, due_at=NOW)
    found, is_new = await runs.request(scheduled, NOW)
    assert (found.id, is_new) == (by_hand.run.id, False)
    await runs.end(by_hand, DONE, after(minutes=1))
    found, is_new = await runs.request(scheduled, after(minutes=2))
    assert (found.id, is_new) == (by_hand.run.id, False)


async def test_yesterdays_run_that_is_still_on_its_way_does_not_answer_todays_time(
    runs: Runs, connection_id: ConnectionId
) -> None:
    late = await lease_of(runs, asks(connection_id, LONG, due_at=after(days=-1)))
    today = asks(connection_id, LONG, due_at=NOW)
    assert (await runs.request(today, NOW))[0].id == late.run.id
    await runs.end(late, DONE, after(minutes=1))
    assert (await ask(runs, today, after(minutes=2))).due_at == NOW


async def test_runs_are_listed_latest_first_by_connection_organization_and_type(
    runs: Runs, connection_ids: list[ConnectionId], owner_id: OrganizationId
) -> None:
    one, other = connection_ids
    first = await ask(runs, asks(one, organization_id=owner_id), after(seconds=1))
    second = await ask(runs, asks(other), after(seconds=2))
    third = await ask(runs, asks(one, LONG), after(seconds=3))
    assert await runs.recent() == [third, second, first]
    assert await runs.recent(at_most=1) == [third]
    assert await runs.recent(connection_id=one) == [third, first]
    assert await runs.recent(organization_id=owner_id) == [first]
    assert await runs.recent(sync_type=SHORT) == [second, first]
