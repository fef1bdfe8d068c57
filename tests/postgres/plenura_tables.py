"""Tables as an application like Plenura has them, in a schema of their own: names of therapists stand with users."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

TABLES = """
CREATE SCHEMA app;
CREATE TYPE app.vetting AS ENUM ('pending', 'approved', 'rejected');
CREATE TABLE app.users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), full_name text, email text, phone text);
CREATE TABLE app.practices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, email text, tax_id text, business_type text,
    ecosystem_org_id text, subscription_tier text DEFAULT 'free', subscription_status text DEFAULT 'active',
    total_bookings int NOT NULL DEFAULT 0, gallery jsonb, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE app.therapists (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid REFERENCES app.users ON DELETE CASCADE,
    is_independent boolean, vetting_status app.vetting DEFAULT 'pending', is_available boolean DEFAULT true,
    subscription_tier text, ecosystem_org_id text, trust_level int, rating_avg numeric
);
"""
RIVAL_TRIGGERS = """
CREATE FUNCTION app.queue_ecosystem_sync(entity_type text, entity_id uuid, action text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload)
    VALUES (entity_type, entity_id, 'plenura_' || replace(entity_id::text, '-', ''), action, '{}')
$$;
CREATE FUNCTION app.queue_practice_ecosystem_sync() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM app.queue_ecosystem_sync('practice', NEW.id, 'register');
    RETURN NULL;
END $$;
CREATE FUNCTION app.set_ecosystem_org_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.ecosystem_org_id := coalesce(NEW.ecosystem_org_id, 'plenura_' || replace(NEW.id::text, '-', ''));
    RETURN NEW;
END $$;
CREATE TRIGGER set_ecosystem_org_id BEFORE INSERT ON app.practices
    FOR EACH ROW EXECUTE FUNCTION app.set_ecosystem_org_id();
CREATE TRIGGER "Queue practice" AFTER INSERT ON app.practices
    FOR EACH ROW EXECUTE FUNCTION app.queue_practice_ecosystem_sync();
"""
ATTACH_ALL = """
SELECT eventsync_attach('practice', 'app.practices');
SELECT eventsync_attach('therapist', 'app.therapists', 'app.users');
"""
PERSON = UUID("0c6f5c0a-2f3e-4a58-8a0b-6a9f1f6d2e11")


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the queue, as far as tests of what fills it look at it."""

    entity_type: str
    entity_id: UUID
    ecosystem_org_id: str
    action: str
    payload: dict[str, Any]

    @property
    def told(self) -> tuple[Any, ...]:
        """What was told, in short: action, name, e-mail, plan, whether it is active."""
        names = ("organization_name", "email", "subscription_tier", "is_active")
        return (self.action, *(self.payload[name] for name in names))


async def items(database: asyncpg.Connection) -> list[Item]:
    """List the queue in the order in which it is told."""
    rows = await database.fetch("SELECT * FROM ecosystem_sync_queue ORDER BY position")
    return [
        Item(row["entity_type"], row["entity_id"], row["ecosystem_org_id"], row["action"], json.loads(row["payload"]))
        for row in rows
    ]


async def take_items(database: asyncpg.Connection) -> list[Item]:
    """List the queue, and empty it."""
    found = await items(database)
    await database.execute("DELETE FROM ecosystem_sync_queue")
    return found


async def actions(database: asyncpg.Connection) -> list[str]:
    """Tell what is queued, in order, and empty the queue."""
    return [item.action for item in await take_items(database)]


async def triggers(database: asyncpg.Connection) -> list[str]:
    """List the triggers of all tables of `app`, with their identities: one that was made anew has another."""
    rows = await database.fetch(
        "SELECT tgrelid::regclass || ' ' || tgname || ' ' || oid FROM pg_trigger"
        " WHERE tgrelid::regclass::text LIKE 'app.%' AND NOT tgisinternal ORDER BY 1"
    )
    return [row[0] for row in rows]


async def add_person(attached: asyncpg.Connection) -> UUID:
    """Add a therapist who is registered at once, and whose user has the same id; empty the queue."""
    await attached.execute("INSERT INTO app.users VALUES ($1, 'Test Person 1', 'person1@example.test')", PERSON)
    await attached.execute(
        "INSERT INTO app.therapists (id, user_id, is_independent, vetting_status) VALUES ($1, $1, true, 'approved')",
        PERSON,
    )
    (item,) = await take_items(attached)
    assert item.told == ("register", "Test Person 1 (Independent Therapist)", "person1@example.test", None, True)
    return PERSON
