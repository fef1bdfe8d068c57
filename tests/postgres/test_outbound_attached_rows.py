"""Tables that a user has already, once attached: what the queue is told of their rows, by a change or by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from postgres.plenura_tables import ATTACH_ALL, PERSON, TABLES, actions, add_person, items, take_items
from servers.eventually import eventually


@pytest.fixture
async def attached(database: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to a database that has an application's tables, with all of them attached."""
    await database.execute(TABLES)
    await database.execute(ATTACH_ALL)
    return database


@pytest.fixture
async def person(attached: asyncpg.Connection) -> UUID:
    """A registered therapist, whose user has the same id; the queue is empty."""
    return await add_person(attached)


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another session of the same database."""
    connection = await asyncpg.connect(database_url, timeout=10)
    yield connection
    await connection.close(timeout=10)


async def test_a_table_with_the_least_columns_fills_the_queue(database: asyncpg.Connection) -> None:
    await database.execute(
        'CREATE TABLE "Our Clinics" (id uuid, name text, email text);'
        """ SELECT eventsync_attach('practice', '"Our Clinics"')"""
    )
    await database.execute("""INSERT INTO "Our Clinics" VALUES ($1, 'Test Clinic 1', NULL)""", PERSON)
    (item,) = await items(database)
    assert item.ecosystem_org_id == f"plenura_{PERSON.hex}"
    assert item.told == ("register", "Test Clinic 1", None, None, True)


async def test_a_row_without_an_id_is_refused_with_what_to_do(database: asyncpg.Connection) -> None:
    await database.execute(
        "CREATE TABLE clinics (id uuid, name text, email text); SELECT eventsync_attach('practice', 'clinics')"
    )
    with pytest.raises(asyncpg.NotNullViolationError, match="practice without an id") as caught:
        await database.execute("INSERT INTO clinics VALUES (NULL, 'Test Clinic 1', NULL)")
    assert "Give the row an id" in caught.value.hint
    assert await database.fetch("SELECT FROM clinics") == []


async def test_an_id_of_the_rows_own_is_told_and_its_change_is_another_organization(
    attached: asyncpg.Connection,
) -> None:
    await attached.execute("INSERT INTO app.practices (id, name) VALUES ($1, 'Test Clinic 1')", PERSON)
    for own in ("plenura_north", "plenura_south", None):
        await attached.execute("UPDATE app.practices SET ecosystem_org_id = $1", own)
    derived = f"plenura_{PERSON.hex}"
    assert [(item.action, item.ecosystem_org_id, item.payload["is_active"]) for item in await items(attached)] == [
        ("register", derived, True),
        ("deactivate", derived, False), ("register", "plenura_north", True),
        ("deactivate", "plenura_north", False), ("register", "plenura_south", True),
        ("deactivate", "plenura_south", False), ("register", derived, True),
    ]  # fmt: skip


async def test_colectivas_own_id_kept_in_the_row_is_not_taken_for_the_organizations(
    attached: asyncpg.Connection,
) -> None:
    await attached.execute("INSERT INTO app.practices (id, name) VALUES ($1, 'Test Clinic 1')", PERSON)
    for written in (str(uuid4()), "", f"plenura_{PERSON.hex}"):
        await attached.execute("UPDATE app.practices SET ecosystem_org_id = $1", written)
    assert await actions(attached) == ["register"]


async def test_a_user_who_is_renamed_updates_the_registered_therapist(
    attached: asyncpg.Connection, person: UUID
) -> None:
    for change in ("full_name = 'Test Person 2'", "email = NULL", "email = NULL", "phone = '+00 2'"):
        await attached.execute(f"UPDATE app.users SET {change}")  # noqa: S608 - the test's own words
    assert [item.told[:3] for item in await items(attached)] == [
        ("update", "Test Person 2 (Independent Therapist)", "person1@example.test"),
        ("update", "Test Person 2 (Independent Therapist)", None),
    ]


async def test_users_who_are_no_registered_therapists_queue_nothing(attached: asyncpg.Connection, person: UUID) -> None:
    await attached.execute("UPDATE app.therapists SET vetting_status = 'rejected'")
    assert await actions(attached) == ["deactivate"]
    await attached.execute("UPDATE app.users SET full_name = 'Test Person 2'")
    await attached.execute("INSERT INTO app.users (full_name) VALUES ('Test Person 3')")
    await attached.execute("UPDATE app.users SET full_name = full_name || '!'")
    assert await actions(attached) == []


async def test_a_therapist_who_gets_another_user_is_told_with_that_ones_name(
    attached: asyncpg.Connection, person: UUID
) -> None:
    user_id = await attached.fetchval("INSERT INTO app.users (full_name) VALUES ('Test Person 2') RETURNING id")
    await attached.execute("UPDATE app.therapists SET user_id = $1", user_id)
    assert [item.told[:3] for item in await items(attached)] == [
        ("update", "Test Person 2 (Independent Therapist)", None)
    ]


async def test_a_therapist_who_goes_with_the_user_is_deactivated_by_the_name_that_was_told_last(
    attached: asyncpg.Connection, person: UUID
) -> None:
    await attached.execute("UPDATE app.users SET full_name = 'Test Person 2'")
    await attached.execute("DELETE FROM app.users")
    assert [item.told for item in await items(attached)][1:] == [
        ("deactivate", "Test Person 2 (Independent Therapist)", "person1@example.test", None, False)
    ]


async def test_truncating_users_and_their_therapists_deactivates_them_by_name(
    attached: asyncpg.Connection, person: UUID
) -> None:
    await attached.execute("TRUNCATE app.users CASCADE")
    assert [item.told[:2] for item in await items(attached)] == [
        ("deactivate", "Test Person 1 (Independent Therapist)")
    ]


RENAME = "UPDATE app.users SET full_name = 'Test Person 2'"
UPGRADE = "UPDATE app.therapists SET subscription_tier = 'pro'"


@pytest.mark.parametrize(("first", "second"), [(RENAME, UPGRADE), (UPGRADE, RENAME)])
async def test_name_and_plan_changed_at_the_same_time_are_both_told_by_the_last_item(
    attached: asyncpg.Connection, other: asyncpg.Connection, person: UUID, first: str, second: str
) -> None:
    transaction = attached.transaction()
    await transaction.start()
    await attached.execute(first)
    later = asyncio.create_task(other.execute(second))
    await waits_for_a_lock(attached, other)
    await transaction.commit()
    async with asyncio.timeout(10):
        await later
    assert (await items(attached))[-1].told[:4] == (
        "update", "Test Person 2 (Independent Therapist)", "person1@example.test", "pro"
    )  # fmt: skip


async def test_a_row_that_moves_to_another_partition_stays_registered(database: asyncpg.Connection) -> None:
    await database.execute(
        "CREATE TABLE clinics (id uuid, name text, email text, state text NOT NULL) PARTITION BY LIST (state);"
        "CREATE TABLE clinics_north PARTITION OF clinics FOR VALUES IN ('N');"
        "CREATE TABLE clinics_south PARTITION OF clinics FOR VALUES IN ('S');"
        "SELECT eventsync_attach('practice', 'clinics')"
    )
    await database.execute("INSERT INTO clinics VALUES ($1, 'Test Clinic 1', NULL, 'N')", PERSON)
    await database.execute("UPDATE clinics SET state = 'S'")
    await database.execute("UPDATE clinics SET name = 'Test Clinic 2'")
    assert await actions(database) == ["register", "deactivate", "register", "update"]
    assert await database.fetchval("SELECT eventsync_attach('practice', 'clinics')") is False
    attached_tables = await database.fetch("SELECT source::text FROM eventsync_sources() ORDER BY 1")
    assert [row[0] for row in attached_tables] == ["clinics", "practices", "therapists"]
    await database.execute("SELECT eventsync_queue_registration('practice', $1, 'update')", PERSON)
    await database.execute("TRUNCATE clinics")
    assert await actions(database) == ["update", "deactivate"]


async def test_one_organization_is_queued_by_hand_as_it_is_now(attached: asyncpg.Connection, person: UUID) -> None:
    queue = "SELECT eventsync_queue_registration($1, $2, $3)"
    for action in ("register", "update", "deactivate"):
        item_id = await attached.fetchval(queue, "therapist", person, action)
        assert await attached.fetchval("SELECT action FROM ecosystem_sync_queue WHERE id = $1", item_id) == action
    assert [item.payload["is_active"] for item in await take_items(attached)] == [True, True, False]
    await attached.execute("UPDATE app.therapists SET is_independent = false")
    await attached.execute("DELETE FROM ecosystem_sync_queue")
    with pytest.raises(asyncpg.CheckViolationError, match="is not registered at Colectiva"):
        await attached.execute(queue, "therapist", person, "register")
    await attached.execute(queue, "therapist", person, "deactivate")
    with pytest.raises(asyncpg.NoDataFoundError, match="no attached table holds the practice"):
        await attached.execute(queue, "practice", person, "register")
    assert [item.told[:2] for item in await items(attached)] == [
        ("deactivate", "Test Person 1 (Independent Therapist)")
    ]


async def test_what_is_queued_by_hand_waits_for_a_change_that_is_about_to_commit(
    attached: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    await attached.execute("INSERT INTO app.practices (id, name) VALUES ($1, 'Test Clinic 1')", PERSON)
    transaction = attached.transaction()
    await transaction.start()
    await attached.execute("UPDATE app.practices SET name = 'Test Clinic 2'")
    by_hand = asyncio.create_task(
        other.execute("SELECT eventsync_queue_registration('practice', $1, 'register')", PERSON)
    )
    await waits_for_a_lock(attached, other)
    await transaction.commit()
    async with asyncio.timeout(10):
        await by_hand
    assert [item.payload["organization_name"][-1] for item in await items(attached)] == ["1", "2", "2"]


async def waits_for_a_lock(watcher: asyncpg.Connection, waiting: asyncpg.Connection) -> None:
    """Go on once the session `waiting` waits for somebody's lock."""
    pid = waiting.get_server_pid()

    async def is_waiting() -> bool:
        return bool(await watcher.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid))

    await eventually(is_waiting)
