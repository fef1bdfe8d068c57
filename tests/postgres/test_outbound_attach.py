"""Attaching the tables that a user has already, and detaching them: what is installed, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from eventsync.domain.errors import Rejected, Transient
from eventsync.postgres.database import Database
from eventsync.postgres.outbound_sources import EntityType, OutboundSources, Source
from postgres.plenura_tables import ATTACH_ALL, PERSON, RIVAL_TRIGGERS, TABLES, actions, add_person, items, triggers

PRACTICES = Source(EntityType.PRACTICE, "app.practices")
THERAPISTS = Source(EntityType.THERAPIST, "app.therapists", "app.users")


@pytest.fixture
def sources(pool: Database) -> OutboundSources:
    return OutboundSources(pool)


@pytest.fixture
async def app(database: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to a database that has an application's tables, with nothing attached to them."""
    await database.execute(TABLES)
    return database


@pytest.fixture
async def attached(app: asyncpg.Connection) -> asyncpg.Connection:
    """The same with all of them attached."""
    await app.execute(ATTACH_ALL)
    return app


@pytest.fixture
async def person(attached: asyncpg.Connection) -> UUID:
    """A registered therapist, whose user has the same id; the queue is empty."""
    return await add_person(attached)


async def test_rows_that_were_there_before_are_queued_by_the_sql_that_is_given(
    app: asyncpg.Connection, sources: OutboundSources
) -> None:
    await app.execute("INSERT INTO app.practices (name) VALUES ('Test Clinic 1'), ('Test Clinic 2')")
    await app.execute("INSERT INTO app.users VALUES ($1, 'Test Person 1', NULL)", PERSON)
    await app.execute(
        "INSERT INTO app.therapists (id, user_id, is_independent, vetting_status)"
        " VALUES ($1, $1, true, 'approved'), (gen_random_uuid(), $1, false, 'approved')", PERSON
    )  # fmt: skip
    practices, therapists = await sources.attach([PRACTICES, THERAPISTS], replaces=False)
    assert [(found.is_new, found.organizations, found.never_queued) for found in (practices, therapists)] == [
        (True, 2, 2), (True, 1, 1)
    ]  # fmt: skip
    assert await items(app) == []
    await app.execute(practices.queue_them)
    await app.execute(therapists.queue_them)
    assert sorted(item.payload["organization_name"] for item in await items(app)) == [
        "Test Clinic 1", "Test Clinic 2", "Test Person 1 (Independent Therapist)"
    ]  # fmt: skip
    again = await sources.attach([PRACTICES, THERAPISTS], replaces=False)
    assert [(found.is_new, found.never_queued) for found in again] == [(False, 0), (False, 0)]
    await app.execute(practices.queue_them)
    assert len(await items(app)) == 3


async def test_attaching_twice_makes_no_trigger_anew(app: asyncpg.Connection, sources: OutboundSources) -> None:
    await sources.attach([PRACTICES, THERAPISTS], replaces=False)
    first = await triggers(app)
    assert [line.rpartition(" ")[0] for line in first] == [
        "app.practices eventsync_organization_changed", "app.practices eventsync_organizations_truncated",
        "app.therapists eventsync_organization_changed", "app.therapists eventsync_organizations_truncated",
        "app.users eventsync_user_renamed",
    ]  # fmt: skip
    await sources.attach([PRACTICES, THERAPISTS], replaces=True)
    assert await triggers(app) == first


async def test_a_trigger_that_was_disabled_works_again_once_attached(
    attached: asyncpg.Connection, sources: OutboundSources
) -> None:
    await attached.execute("ALTER TABLE app.practices DISABLE TRIGGER eventsync_organization_changed")
    (found,) = await sources.attach([PRACTICES], replaces=False)
    assert found.is_new
    await attached.execute("INSERT INTO app.practices (name) VALUES ('Test Clinic 1')")
    assert await actions(attached) == ["register"]


async def test_therapists_whose_names_move_to_another_table_are_told_by_that_one(
    attached: asyncpg.Connection, sources: OutboundSources, person: UUID
) -> None:
    await attached.execute('CREATE TABLE app."Accounts" AS SELECT id, full_name AS name, email FROM app.users')
    await sources.attach([replace(THERAPISTS, users='app."Accounts"')], replaces=False)
    await attached.execute("UPDATE app.users SET full_name = 'Test Person 2'")
    assert await actions(attached) == []
    await attached.execute("""UPDATE app."Accounts" SET name = 'Test Person 3'""")
    assert [item.told[1] for item in await items(attached)] == ["Test Person 3 (Independent Therapist)"]
    await attached.execute('DROP TABLE app."Accounts"')
    with pytest.raises(asyncpg.UndefinedTableError, match="which has the names of therapists, is gone"):
        await attached.execute("UPDATE app.therapists SET is_available = false")


async def test_what_is_detached_queues_nothing_and_leaves_no_trigger(
    attached: asyncpg.Connection, sources: OutboundSources
) -> None:
    found = await sources.detach(["app.practices", "app.therapists"])
    assert [(entry.table, entry.was_attached) for entry in found] == [("app.practices", True), ("app.therapists", True)]
    assert await triggers(attached) == []
    assert [entry.was_attached for entry in await sources.detach(["app.practices"])] == [False]


async def test_triggers_of_others_are_refused_unless_they_are_replaced(
    app: asyncpg.Connection, sources: OutboundSources
) -> None:
    await app.execute(RIVAL_TRIGGERS)
    with pytest.raises(Rejected, match=r"app\.practices: Queue practice.*--replace"):
        await sources.attach([THERAPISTS, PRACTICES], replaces=False)
    assert [line.rpartition(" ")[0] for line in await triggers(app)] == [
        "app.practices Queue practice", "app.practices set_ecosystem_org_id"
    ]  # fmt: skip
    (found,) = await sources.attach([PRACTICES], replaces=True)
    assert found.dropped == ("Queue practice",)
    await app.execute("INSERT INTO app.practices (name) VALUES ('Test Clinic 1')")
    (item,) = await items(app)
    assert item.payload["organization_name"] == "Test Clinic 1"


async def test_a_disabled_trigger_of_others_is_no_hindrance(app: asyncpg.Connection, sources: OutboundSources) -> None:
    await app.execute(RIVAL_TRIGGERS)
    await app.execute('ALTER TABLE app.practices DISABLE TRIGGER "Queue practice"')
    (found,) = await sources.attach([PRACTICES], replaces=False)
    assert found.dropped == ()


@pytest.mark.parametrize(
    ("prepare", "source", "told"),
    [
        ("", Source(EntityType.PRACTICE, "app.nothing"), r"no table app\.nothing .*schema"),
        ("", Source(EntityType.PRACTICE, "no.such.place.at.all"), "is no table that can be seen"),
        ("", Source(EntityType.PRACTICE, "practices; DROP TABLE practices"), "no table"),
        ("CREATE VIEW app.seen AS TABLE app.practices", Source(EntityType.PRACTICE, "app.seen"), "no table that lasts"),
        ("ALTER TABLE app.practices DROP name, DROP email", PRACTICES, "no column name: .*; .*no column email: add it"),
        ("ALTER TABLE app.practices ALTER id TYPE text", PRACTICES, r"practices\.id must be uuid, and is text"),
        ("", replace(THERAPISTS, users=None), r"no columns full_name \(or name\) and email: say with --users"),
        ("ALTER TABLE app.therapists DROP user_id", THERAPISTS, "no column user_id"),
        ("ALTER TABLE app.users DROP full_name", THERAPISTS, r"app\.users has no column full_name"),
        ("ALTER TABLE app.therapists DROP vetting_status", THERAPISTS, "no column vetting_status"),
        (
            "",
            replace(THERAPISTS, users="app.therapists"),
            r"app\.therapists has no column email: .*no column full_name",
        ),
        (
            "CREATE TABLE app.all (id uuid) PARTITION BY LIST (id); CREATE TABLE app.part PARTITION OF app.all DEFAULT",
            Source(EntityType.PRACTICE, "app.part"),
            "is a partition: name the table that it is a partition of",
        ),
    ],
)
async def test_what_cannot_fill_the_queue_is_refused_with_what_is_missing(
    app: asyncpg.Connection, sources: OutboundSources, prepare: str, source: Source, told: str
) -> None:
    await app.execute(prepare or "SELECT 1")
    with pytest.raises(Rejected, match=told):
        await sources.attach([source], replaces=False)
    assert await triggers(app) == []


async def test_either_all_tables_are_attached_or_none(app: asyncpg.Connection, sources: OutboundSources) -> None:
    with pytest.raises(Rejected):
        await sources.attach([PRACTICES, replace(THERAPISTS, users=None)], replaces=False)
    assert await triggers(app) == []


async def test_a_table_that_stays_in_use_is_told_and_nothing_is_changed(
    app: asyncpg.Connection, sources: OutboundSources
) -> None:
    async with app.transaction():
        await app.execute("INSERT INTO app.therapists (is_independent) VALUES (false)")
        with pytest.raises(Transient, match="another session has held a table for 5 s, nothing was changed"):
            await sources.attach([PRACTICES, THERAPISTS], replaces=False)
    assert await triggers(app) == []


async def test_the_usual_tables_are_those_that_the_search_path_has(
    database: asyncpg.Connection, sources: OutboundSources
) -> None:
    await database.execute("DROP TABLE therapists")
    assert await sources.existing(["practices", "therapists"]) == ["practices"]
