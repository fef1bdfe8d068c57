"""What fills the outbound queue: each change of an organization that Colectiva sees is told once, and none is lost."""

from __future__ import annotations

import time
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsync.postgres.migrations import migrate
from postgres.plenura_tables import actions, items, take_items

CLINIC = UUID("5b0c1f6e-7d3a-4e55-9a51-0d7a4b1f2c01")
CLINIC_ORG = "plenura_5b0c1f6e7d3a4e559a510d7a4b1f2c01"
THERAPIST_ORG = "plenura_therapist_5b0c1f6e7d3a4e559a510d7a4b1f2c01"


@pytest.fixture
async def clinic(database: asyncpg.Connection) -> UUID:
    """A practice that has been registered; the queue is empty."""
    await database.execute(
        "INSERT INTO practices (id, name, email, tax_id, business_type, city, website)"
        " VALUES ($1, 'Test Clinic 1', 'clinic1@example.test', 'TST010101AA1', 'clinic', 'Testville', 'example.test')",
        CLINIC,
    )
    await database.execute("DELETE FROM ecosystem_sync_queue")
    return CLINIC


@pytest.fixture
async def therapist(database: asyncpg.Connection) -> UUID:
    """An independent therapist who has been approved; the queue is empty."""
    await database.execute(
        "INSERT INTO therapists (id, full_name, email, is_independent, vetting_status)"
        " VALUES ($1, 'Test Person 1', 'person1@example.test', true, 'approved')",
        CLINIC,
    )
    await database.execute("DELETE FROM ecosystem_sync_queue")
    return CLINIC


async def test_a_new_practice_is_registered_with_all_that_colectiva_is_told(database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO practices (id, name, email, tax_id, business_type, city, state, phone, website, rating_avg,"
        " subscription_tier, created_at) VALUES ($1, 'Test Clinic 1', 'clinic1@example.test', 'TST010101AA1', 'clinic',"
        " 'Testville', 'TS', '+00 1', 'example.test', 4.5, 'pro', '2026-02-01T10:00:00Z')",
        CLINIC,
    )
    (item,) = await items(database)
    assert (item.entity_type, item.entity_id, item.action) == ("practice", CLINIC, "register")
    assert item.ecosystem_org_id == CLINIC_ORG
    assert item.payload == {
        "ecosystem_org_id": CLINIC_ORG,
        "app_name": "plenura",
        "organization_name": "Test Clinic 1",
        "email": "clinic1@example.test",
        "tax_id": "TST010101AA1",
        "business_type": "clinic",
        "subscription_tier": "pro",
        "verification_status": "pending",
        "is_active": True,
        "created_at": item.payload["created_at"],
        "metadata": {
            "practice_id": str(CLINIC),
            "city": "Testville",
            "state": "TS",
            "phone": "+00 1",
            "website": "example.test",
            "rating_avg": 4.5,
            "total_bookings": 0,
        },
    }


async def test_an_independent_therapist_is_registered_with_all_that_colectiva_is_told(
    database: asyncpg.Connection,
) -> None:
    user_id = uuid4()
    await database.execute(
        "INSERT INTO therapists (id, user_id, full_name, email, is_independent, vetting_status, years_of_experience,"
        " rating_avg, trust_level) VALUES ($1, $2, 'Test Person 1', 'person1@example.test', true, 'approved', 7, 4, 2)",
        CLINIC, user_id,
    )  # fmt: skip
    (item,) = await items(database)
    assert (item.entity_type, item.entity_id, item.ecosystem_org_id) == ("therapist", CLINIC, THERAPIST_ORG)
    assert item.payload == {
        "ecosystem_org_id": THERAPIST_ORG,
        "app_name": "plenura",
        "organization_name": "Test Person 1 (Independent Therapist)",
        "email": "person1@example.test",
        "tax_id": None,
        "business_type": "solo",
        "subscription_tier": "free",
        "verification_status": "pending",
        "is_active": True,
        "created_at": item.payload["created_at"],
        "metadata": {
            "therapist_id": str(CLINIC),
            "user_id": str(user_id),
            "is_independent": True,
            "years_of_experience": 7,
            "rating_avg": 4.0,
            "trust_level": 2,
        },
    }


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "'Test Clinic 2'"),
        ("email", "'clinic2@example.test'"),
        ("email", "NULL"),
        ("tax_id", "'TST020202BB2'"),
        ("tax_id", "NULL"),
        ("business_type", "'solo'"),
        ("business_type", "NULL"),
        ("subscription_tier", "'pro'"),
    ],
)
async def test_what_colectiva_sees_is_updated_once_a_statement_also_to_null_and_back(
    database: asyncpg.Connection, clinic: UUID, column: str, value: str
) -> None:
    before = (await database.fetchrow("SELECT * FROM practices"))[column]
    await database.execute(f"UPDATE practices SET {column} = {value}")  # noqa: S608 - the test's own words
    assert await actions(database) == ["update"]
    await database.execute(f"UPDATE practices SET {column} = {value}")  # noqa: S608 - the test's own words
    assert await actions(database) == []
    await database.execute(f"UPDATE practices SET {column} = $1", before)  # noqa: S608 - the test's own words
    assert await actions(database) == ["update"]


@pytest.mark.parametrize(
    "change",
    [
        "total_bookings = total_bookings + 1, rating_avg = 4.9, updated_at = now()",
        "city = 'Elsewhere', phone = NULL, website = 'www.example.test', verification_status = 'verified'",
        "name = name, email = email",
        "subscription_tier = NULL",  # without a plan, it is told the one it has: free
    ],
)
async def test_what_colectiva_does_not_see_queues_nothing(
    database: asyncpg.Connection, clinic: UUID, change: str
) -> None:
    await database.execute(f"UPDATE practices SET {change}")  # noqa: S608 - the test's own words
    assert await actions(database) == []


async def test_several_changes_of_one_statement_are_one_item(database: asyncpg.Connection, clinic: UUID) -> None:
    await database.execute("UPDATE practices SET name = 'Test Clinic 2', email = NULL, subscription_tier = 'pro'")
    (item,) = await items(database)
    assert item.told == ("update", "Test Clinic 2", None, "pro", True)


async def test_a_practice_that_ends_is_deactivated_whatever_else_changes_with_it(
    database: asyncpg.Connection, clinic: UUID
) -> None:
    await database.execute("UPDATE practices SET subscription_status = 'cancelled', subscription_tier = 'pro'")
    await database.execute("UPDATE practices SET subscription_status = 'past_due'")
    await database.execute("UPDATE practices SET name = 'Test Clinic 2'")
    await database.execute("UPDATE practices SET subscription_status = NULL")
    await database.execute("DELETE FROM practices")
    assert [item.told for item in await items(database)] == [
        ("deactivate", "Test Clinic 1", "clinic1@example.test", "pro", False),
        ("update", "Test Clinic 2", "clinic1@example.test", "pro", False),
        ("update", "Test Clinic 2", "clinic1@example.test", "pro", True),
        ("deactivate", "Test Clinic 2", "clinic1@example.test", "pro", False),
    ]


async def test_a_practice_that_comes_inactive_is_registered_as_such(database: asyncpg.Connection) -> None:
    await database.execute("INSERT INTO practices (name, subscription_status) VALUES ('Test Clinic 1', 'cancelled')")
    assert [item.told for item in await items(database)] == [("register", "Test Clinic 1", None, "free", False)]


async def test_truncating_deactivates_each(database: asyncpg.Connection, clinic: UUID, therapist: UUID) -> None:
    await database.execute("INSERT INTO therapists (full_name) VALUES ('Test Person 2')")
    await database.execute("TRUNCATE practices, therapists")
    found = {(item.ecosystem_org_id, *item.told) for item in await items(database)}
    assert found == {
        (CLINIC_ORG, "deactivate", "Test Clinic 1", "clinic1@example.test", "free", False),
        (THERAPIST_ORG, "deactivate", "Test Person 1 (Independent Therapist)", "person1@example.test", "free", False),
    }


@pytest.mark.parametrize(
    "steps",
    [
        ["is_independent = true", "vetting_status = 'approved'"],
        ["vetting_status = 'approved'", "is_independent = true"],
        ["vetting_status = 'approved', is_independent = true"],
        ["is_independent = true", "vetting_status = 'rejected'", "vetting_status = 'approved'"],
    ],
)
async def test_a_therapist_is_registered_once_independent_and_approved_in_whatever_order(
    database: asyncpg.Connection, steps: list[str]
) -> None:
    await database.execute("INSERT INTO therapists (full_name, subscription_tier) VALUES ('Test Person 1', 'pro')")
    for step in steps:
        assert await actions(database) == []
        await database.execute(f"UPDATE therapists SET {step}")  # noqa: S608 - the test's own words
    assert await actions(database) == ["register"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("is_independent = false", ["deactivate"]),
        ("vetting_status = 'suspended'", ["deactivate"]),
        ("is_available = false", ["deactivate"]),
        ("is_available = false, subscription_tier = 'pro'", ["deactivate"]),
        ("subscription_tier = 'pro'", ["update"]),
        ("full_name = 'Test Person 2'", ["update"]),
        ("email = NULL", ["update"]),
        ("trust_level = 5, rating_avg = 3, user_id = gen_random_uuid()", []),
    ],
)
async def test_all_that_is_seen_of_a_registered_therapist_counts(
    database: asyncpg.Connection, therapist: UUID, change: str, expected: list[str]
) -> None:
    await database.execute(f"UPDATE therapists SET {change}")  # noqa: S608 - the test's own words
    found = await items(database)
    assert [item.action for item in found] == expected
    assert [item.payload["is_active"] for item in found] == [action == "update" for action in expected]


async def test_a_therapist_who_is_away_for_a_while_is_updated_on_coming_back(
    database: asyncpg.Connection, therapist: UUID
) -> None:
    await database.execute("UPDATE therapists SET is_available = false")
    await database.execute("UPDATE therapists SET is_available = true")
    found = await take_items(database)
    assert [(item.action, item.payload["is_active"]) for item in found] == [("deactivate", False), ("update", True)]
    await database.execute("DELETE FROM therapists")
    (item,) = await items(database)
    assert (item.action, item.payload["is_active"]) == ("deactivate", False)


async def test_a_therapist_who_was_never_registered_is_deleted_without_a_word(database: asyncpg.Connection) -> None:
    await database.execute("INSERT INTO therapists (full_name, is_independent) VALUES ('Test Person 1', true)")
    await database.execute("UPDATE therapists SET full_name = 'Test Person 2'")
    await database.execute("DELETE FROM therapists")
    assert await items(database) == []


async def test_an_insert_that_meets_its_row_updates_it_once(database: asyncpg.Connection, clinic: UUID) -> None:
    upsert = (
        "INSERT INTO practices (id, name, email, tax_id, business_type) VALUES ($1, $2, 'clinic1@example.test',"
        " 'TST010101AA1', 'clinic') ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email"
    )
    await database.execute(upsert, clinic, "Test Clinic 2")
    await database.execute(upsert, clinic, "Test Clinic 2")
    assert [item.told[:2] for item in await items(database)] == [("update", "Test Clinic 2")]


async def test_what_is_rolled_back_was_never_queued(database: asyncpg.Connection, clinic: UUID) -> None:
    transaction = database.transaction()
    await transaction.start()
    await database.execute("UPDATE practices SET name = 'Test Clinic 2'")
    assert len(await items(database)) == 1
    await transaction.rollback()
    assert await items(database) == []


async def test_what_cannot_be_queued_is_not_written_either(database: asyncpg.Connection, clinic: UUID) -> None:
    await database.execute("ALTER TABLE ecosystem_sync_queue ADD CHECK (payload ->> 'organization_name' <> 'Bad')")
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute("UPDATE practices SET name = 'Bad'")
    assert await database.fetchval("SELECT name FROM practices") == "Test Clinic 1"


async def test_the_stats_count_by_status(database: asyncpg.Connection, clinic: UUID) -> None:
    await database.execute("INSERT INTO practices (name) SELECT 'Test Clinic ' || n FROM generate_series(1, 3) n")
    await database.execute(
        "UPDATE ecosystem_sync_queue SET status = 'failed', attempts = 3"
        " WHERE payload ->> 'organization_name' = 'Test Clinic 3'"
    )
    rows = await database.fetch("SELECT status, count, avg_attempts FROM ecosystem_sync_stats ORDER BY status")
    assert [tuple(row) for row in rows] == [("failed", 1, 3), ("pending", 2, 0)]
    columns = (await database.fetchrow("SELECT * FROM ecosystem_sync_stats")).keys()
    assert list(columns) == ["status", "count", "oldest_item", "newest_item", "avg_attempts"]


async def test_ten_thousand_rows_of_one_statement_are_queued_fast(database: asyncpg.Connection) -> None:
    async def seconds(statement: str) -> float:
        began = time.monotonic()
        await database.execute(statement)
        return time.monotonic() - began

    insert = "INSERT INTO practices (name) SELECT 'Test Clinic ' || n FROM generate_series(1, 10000) n"
    took = [await seconds(statement) for statement in (
        insert,
        "UPDATE practices SET subscription_tier = 'pro'",
        "UPDATE practices SET total_bookings = 1",
        "DELETE FROM practices",
    )]  # fmt: skip
    assert await database.fetchval("SELECT count(*) FROM ecosystem_sync_queue") == 30_000
    assert max(took) < 10, took  # usually below one second


async def test_tables_and_views_that_were_there_stay_as_they_are(empty_database_url: str) -> None:
    database = await asyncpg.connect(empty_database_url, timeout=10)
    try:
        await database.execute(
            "CREATE TABLE practices (id uuid, title text); CREATE TABLE therapists (id uuid);"
            "CREATE VIEW ecosystem_sync_stats AS SELECT 'mine' AS status;"
            "CREATE FUNCTION queue_ecosystem_sync(text, uuid, text) RETURNS uuid LANGUAGE sql AS 'SELECT $2'"
        )
        await migrate(empty_database_url)
        await database.execute("INSERT INTO practices VALUES (NULL, 'Test Clinic 1')")
        assert await database.fetchval("SELECT status FROM ecosystem_sync_stats") == "mine"
        assert await database.fetch("SELECT FROM ecosystem_sync_queue") == []
        assert await database.fetch("SELECT FROM eventsync_sources()") == []
    finally:
        await database.close(timeout=10)
