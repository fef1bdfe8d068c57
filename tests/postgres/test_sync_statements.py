"""What runs count, note and keep of a connection: its own patients, who follows them today, what was really read."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsync.domain.changes import EntityRef, Summary
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.reads import Cursor
from eventsync.domain.records import RecordKind
from eventsync.postgres.coverage import Coverage, advance_cursor
from eventsync.postgres.database import Database
from eventsync.postgres.run_patients import Audience, PatientCounts, RunPatients
from eventsync.postgres.summaries import Summaries, remember
from postgres.covered_copy import CoveredCopy

NOW = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)  # in New York it is still the day before
TODAY = date(2026, 3, 1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
async def practice(database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> Audience:
    """The first connection, in New York, whose owner has the second one as well."""
    mine, other = connection_ids[:2]
    await database.execute("UPDATE connections SET timezone = 'America/New_York' WHERE id = $1", mine)
    owner: OrganizationId = await database.fetchval("SELECT organization_id FROM connections WHERE id = $1", mine)
    await database.execute("UPDATE connections SET organization_id = $1 WHERE id = $2", owner, other)
    return Audience(mine, owner, None)


@pytest.fixture
def patients(pool: Database) -> RunPatients:
    return RunPatients(pool)


async def client(database: asyncpg.Connection, practice: Audience, connection_id: ConnectionId, name: str) -> UUID:
    """Put a client, who is a patient of the practice."""
    patient_id = uuid4()
    await CoveredCopy(database).client(connection_id, name, patient_id=patient_id)
    await database.execute(
        "INSERT INTO patients (id, organization_id, first_name, last_name, intakeq_client_id, origin)"
        " VALUES ($1, $2, 'Test', $3, $3, 'vendor')",
        *(patient_id, practice.owner_id, name),
    )
    return patient_id


async def follow(
    database: asyncpg.Connection,
    patient_id: UUID,
    *,
    since: date = TODAY - DAY,
    until: date | None = None,
    consent_until: date | None = None,
) -> UUID:
    """Let a partner of its own follow a patient; answers the affiliation."""
    partner = await database.fetchval("INSERT INTO organizations (name) VALUES ('Test Partner') RETURNING id")
    affiliation: UUID = await database.fetchval(
        "INSERT INTO patient_organization_affiliations"
        " (patient_id, organization_id, start_date, end_date, consent_expires_on) VALUES ($1, $2, $3, $4, $5)"
        " RETURNING id",
        *(patient_id, partner, since, until, consent_until),
    )
    return affiliation


async def synced(database: asyncpg.Connection) -> dict[UUID, datetime | None]:
    """Tell when each affiliation's patient was last read."""
    rows = await database.fetch("SELECT id, last_practiceq_sync_at AS at FROM patient_organization_affiliations")
    return {row["id"]: row["at"] for row in rows}


async def test_clients_of_the_owners_other_connection_are_that_ones_to_count(
    patients: RunPatients, practice: Audience, connection_ids: list[ConnectionId], database: asyncpg.Connection
) -> None:
    mine, other = connection_ids[:2]
    for connection_id, name in ((mine, "1"), (other, "2"), (other, "3")):
        await follow(database, await client(database, practice, connection_id, name))
    counts = await patients.count(practice, TODAY, read=None, spoiled=())
    assert counts == PatientCounts(affiliated=1, processed=1, failed=0, unaffiliated=0, unreachable=(), organizations=1)
    theirs = await patients.count(Audience(other, practice.owner_id, None), TODAY, read=None, spoiled=())
    assert (theirs.affiliated, theirs.processed, theirs.organizations) == (2, 2, 2)


async def test_a_patient_whom_both_connections_know_is_counted_by_both(
    patients: RunPatients, practice: Audience, connection_ids: list[ConnectionId], database: asyncpg.Connection
) -> None:
    mine, other = connection_ids[:2]
    both = await client(database, practice, mine, "1")
    await CoveredCopy(database).client(other, "2", patient_id=both)
    await follow(database, both)
    for connection_id in (mine, other):
        counts = await patients.count(Audience(connection_id, practice.owner_id, None), TODAY, read=None, spoiled=())
        assert (counts.affiliated, counts.processed) == (1, 1)


async def test_an_appointment_of_nobody_known_hides_no_other_patient(
    patients: RunPatients, practice: Audience, database: asyncpg.Connection
) -> None:
    copy, followed = CoveredCopy(database), await client(database, practice, practice.connection_id, "1")
    await follow(database, followed)
    await copy.appointment(practice.connection_id, "a", patient_id=followed)
    await copy.appointment(practice.connection_id, "b", patient_id=None)
    counts = await patients.count(practice, TODAY, read=["a", "b"], spoiled=["b"])
    assert (counts.affiliated, counts.processed, counts.failed) == (1, 1, 0)


async def test_a_run_that_ends_late_takes_no_later_time_of_a_sync_back(
    patients: RunPatients, practice: Audience, database: asyncpg.Connection
) -> None:
    affiliation = await follow(database, await client(database, practice, practice.connection_id, "1"))
    await patients.mark_synced(practice, NOW, read=None)
    await patients.mark_synced(practice, NOW - HOUR, read=None)
    assert await synced(database) == {affiliation: NOW}


async def test_nobody_is_told_of_a_sync_who_does_not_follow_the_patient_on_the_practices_day(
    patients: RunPatients, practice: Audience, database: asyncpg.Connection
) -> None:
    followed = await client(database, practice, practice.connection_id, "1")
    await CoveredCopy(database).appointment(practice.connection_id, "a", patient_id=followed)
    follows = {
        await follow(database, followed),
        await follow(database, followed, since=TODAY),
        await follow(database, followed, until=TODAY),
        await follow(database, followed, consent_until=TODAY),
    }
    await follow(database, followed, since=TODAY + DAY)
    await follow(database, followed, until=TODAY - DAY)
    await follow(database, followed, consent_until=TODAY - DAY)
    for at, read in ((NOW, ["a"]), (NOW + HOUR, None)):
        await patients.mark_synced(practice, at, read=read)
        assert {each: when for each, when in (await synced(database)).items() if when} == dict.fromkeys(follows, at)


async def test_a_list_that_is_written_late_closes_no_gap_before_the_chain(pool: Database, practice: Audience) -> None:
    for since, until in ((NOW - HOUR, NOW), (NOW - 5 * HOUR, NOW - 2 * HOUR)):
        async with pool.transaction() as session:
            await advance_cursor(
                session, practice.connection_id, RecordKind.APPOINTMENT,
                deleted=False, since=since, until=until, last_modified=None,
            )  # fmt: skip
    followed = await Coverage(pool).changes_followed(practice.connection_id)
    assert followed == {RecordKind.APPOINTMENT: Cursor(NOW - HOUR, NOW, None)}


async def test_a_page_that_names_a_record_twice_is_remembered_as_it_names_it_last(
    pool: Database, practice: Audience
) -> None:
    entity = EntityRef(practice.connection_id, RecordKind.NOTE, "7")
    first, last = (Summary(entity, "Locked", NOW, is_finished=True, fingerprint=bytes([n]) * 16) for n in (1, 2))
    async with pool.transaction() as session:
        await remember(session, practice.connection_id, RecordKind.NOTE, [first, last])
    summaries = Summaries(pool)
    assert await summaries.unlike(practice.connection_id, RecordKind.NOTE, [first]) == [first]
    assert await summaries.unlike(practice.connection_id, RecordKind.NOTE, [last]) == []
