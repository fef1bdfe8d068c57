"""Whose right the triggers of attached tables act by, and what eventsync's own user must be allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from eventsync.domain.errors import Misconfigured, Rejected
from eventsync.postgres.database import Database
from eventsync.postgres.migrations import migrate
from eventsync.postgres.outbound_sources import EntityType, OutboundSources, Source
from postgres.plenura_tables import ATTACH_ALL, TABLES, actions, add_person

PRACTICES = Source(EntityType.PRACTICE, "app.practices")
STRANGER = (
    "pg_signal_backend"  # a role without rights to tables, which the tests' user can take without being superuser
)


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
