"""Tables that a user has already: what is attached to them, what is refused, and whose right the triggers act by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.postgres.database import Database
from eventsync.postgres.migrations import migrate
from eventsync.postgres.outbound_sources import EntityType, OutboundSources, Source
from postgres.plenura_tables import ATTACH_ALL, RIVAL_TRIGGERS, TABLES, actions, items, take_items, triggers
from servers.eventually import eventually

PRACTICES = Source(EntityType.PRACTICE, "app.practices")
THERAPISTS = Source(EntityType.THERAPIST, "app.therapists", "app.users")
STRANGER = (
    "pg_signal_backend"  # a role without rights to tables, which the tests' user can take without being superuser
)
PERSON = UUID("0c6f5c0a-2f3e-4a58-8a0b-6a9f1f6d2e11")


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
    await attached.execute("INSERT INTO app.users VALUES ($1, 'Test Person 1', 'person1@example.test')", PERSON)
    await attached.execute(
        "INSERT INTO app.therapists (id, user_id, is_independent, vetting_status) VALUES ($1, $1, true, 'approved')",
        PERSON,
    )
    (item,) = await take_items(attached)
    assert item.told == ("register", "Test Person 1 (Independent Therapist)", "person1@example.test", None, True)
    return PERSON


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another session of the same database."""
    connection = await asyncpg.connect(database_url, timeout=10)
    yield connection
    await connection.close(timeout=10)


@pytest.fixture
async def writer(attached: asyncpg.Connection, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session that may write to the application's tables, and make objects in its schema and temporary ones."""
    await attached.execute(
        f"GRANT ALL ON SCHEMA app TO {STRANGER}; GRANT ALL ON ALL TABLES IN SCHEMA app TO {STRANGER};"
        f"DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO {STRANGER}', current_database()); END $$"
    )
    connection = await asyncpg.connect(database_url, timeout=10, server_settings={"role": STRANGER})
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


async def test_who_may_only_write_to_the_application_fills_the_queue_and_cannot_reach_it(
    attached: asyncpg.Connection, writer: asyncpg.Connection, person: UUID
) -> None:
    await writer.execute("SET search_path = app")
    await writer.execute("INSERT INTO practices (name) VALUES ('Test Clinic 1')")
    await writer.execute("UPDATE users SET full_name = 'Test Person 2'")
    await writer.execute("UPDATE therapists SET is_available = false")
    await writer.execute("CREATE TABLE mine (id uuid, name text, email text)")
    for statement in (
        "SELECT FROM public.ecosystem_sync_queue",
        "SELECT public.eventsync_queue_registration('practice', gen_random_uuid(), 'register')",
        "SELECT public.eventsync_sources()",
        "SELECT public.eventsync_attach('practice', 'mine')",
        "SELECT public.eventsync_detach('practices')",
        "CREATE TRIGGER mine AFTER DELETE ON mine EXECUTE FUNCTION public.eventsync_organization_changed('practice')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute(statement)
    assert await actions(attached) == ["register", "update", "deactivate"]


async def test_objects_of_the_writers_own_are_never_taken_for_eventsyncs(
    attached: asyncpg.Connection, writer: asyncpg.Connection, person: UUID
) -> None:
    trapped = "LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;"
    for schema in ("app", "pg_temp"):
        await writer.execute(
            f"CREATE TABLE {schema}.ecosystem_sync_queue (id int); CREATE TABLE {schema}.outbound_turns (id int);"
            f"CREATE FUNCTION {schema}.eventsync_practice(jsonb) RETURNS jsonb {trapped}"
            f"CREATE FUNCTION {schema}.eventsync_take_turn(uuid) RETURNS void {trapped}"
            f"CREATE FUNCTION {schema}.eventsync_queue_change(text, jsonb, jsonb) RETURNS void {trapped}"
            f"CREATE FUNCTION {schema}.to_jsonb(app.practices) RETURNS jsonb {trapped}"
        )
    await writer.execute("CREATE TEMP TABLE pg_trigger (id int)")
    await writer.execute("SET search_path = pg_temp, app, pg_catalog, public")
    await writer.execute("INSERT INTO app.practices (name) VALUES ('Test Clinic 1')")
    await writer.execute("UPDATE app.users SET full_name = 'Test Person 2'")
    await writer.execute("TRUNCATE app.practices")
    assert await actions(attached) == ["register", "update", "deactivate"]


async def test_an_installation_in_a_schema_of_its_own_is_filled_from_any_search_path(empty_database_url: str) -> None:
    database = await asyncpg.connect(empty_database_url, timeout=10)
    try:
        name = await database.fetchval("SELECT current_database()")
        await database.execute(
            f'CREATE SCHEMA "Sync"; ALTER DATABASE {name} SET search_path = "Sync", public; {TABLES}'
        )
        await migrate(empty_database_url)
        await database.execute(f'SET search_path = "Sync"; {ATTACH_ALL} SET search_path = app')
        await database.execute("INSERT INTO practices (name) VALUES ('Test Clinic 1')")
        assert await database.fetchval('SELECT action FROM "Sync".ecosystem_sync_queue') == "register"
    finally:
        await database.close(timeout=10)


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


async def test_tables_that_eventsyncs_user_may_not_touch_or_see_in_full_are_refused(
    app: asyncpg.Connection, database_url: str
) -> None:
    await app.execute(
        f"GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO {STRANGER}; GRANT USAGE ON SCHEMA app TO {STRANGER};"
        f"GRANT SELECT ON ecosystem_sync_queue TO {STRANGER};"
    )
    pool = Database(f"{database_url}&role={STRANGER}")
    await pool.open()
    sources = OutboundSources(pool)
    try:
        with pytest.raises(Rejected, match=r"may not read app\.practices and add triggers: GRANT SELECT, TRIGGER"):
            await sources.attach([PRACTICES], replaces=False)
        await app.execute(f"GRANT SELECT, TRIGGER ON app.practices TO {STRANGER}")
        await app.execute("ALTER TABLE app.practices ENABLE ROW LEVEL SECURITY")
        with pytest.raises(Rejected, match=r"row security hides rows of app\.practices"):
            await sources.attach([PRACTICES], replaces=False)
        await app.execute("ALTER TABLE app.practices DISABLE ROW LEVEL SECURITY")
        (found,) = await sources.attach([PRACTICES], replaces=False)
        assert found.is_new
        with pytest.raises(Misconfigured, match="must be owner of relation practices"):
            await sources.detach(["app.practices"])
    finally:
        await pool.close()


async def test_the_usual_tables_are_those_that_the_search_path_has(
    database: asyncpg.Connection, sources: OutboundSources
) -> None:
    await database.execute("DROP TABLE therapists")
    assert await sources.existing(["practices", "therapists"]) == ["practices"]


async def waits_for_a_lock(watcher: asyncpg.Connection, waiting: asyncpg.Connection) -> None:
    """Go on once the session `waiting` waits for somebody's lock."""
    pid = waiting.get_server_pid()

    async def is_waiting() -> bool:
        return bool(await watcher.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid))

    await eventually(is_waiting)
