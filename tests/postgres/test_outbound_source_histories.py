"""Whatever is done to rows: who is told the queue's items in order knows the last state of each organization."""

from __future__ import annotations

import os
from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postgres.plenura_tables import items

ORGANIZATIONS = [UUID(int=number) for number in range(1, 4)]
_CHANGES: dict[str, list[Any]] = {
    "name": ["Test Clinic 1", "Test Clinic 2"],
    "email": [None, "clinic1@example.test"],
    "subscription_tier": [None, "free", "pro"],
    "subscription_status": [None, "active", "cancelled"],
    "total_bookings": [1, 2],
    "id": [*ORGANIZATIONS],
}
_steps = st.tuples(
    st.sampled_from(ORGANIZATIONS),
    st.sampled_from(["insert", "delete", "update", "update", "update"]),
    st.lists(st.sampled_from([(name, value) for name, values in _CHANGES.items() for value in values]), max_size=3),
)


@settings(
    max_examples=1_000 if os.environ.get("EVENTSYNC_PROVE") else 100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(_steps, min_size=1, max_size=12))
async def test_who_is_told_the_items_in_their_order_knows_the_last_state_of_each_organization(
    database: asyncpg.Connection, steps: list[tuple[UUID, str, list[tuple[str, Any]]]]
) -> None:
    await database.execute("ALTER TABLE practices DISABLE TRIGGER USER; DELETE FROM practices;")
    await database.execute("ALTER TABLE practices ENABLE TRIGGER USER; DELETE FROM ecosystem_sync_queue;")
    for step in steps:
        await change(database, *step)
    told: dict[str, tuple[Any, ...]] = {}
    for item in await items(database):
        if item.action == "register":
            assert not told.get(item.ecosystem_org_id, (False,))[-1], "an active organization is registered once"
        told[item.ecosystem_org_id] = item.told[1:]
    rows = await database.fetch(
        "SELECT ecosystem_org_id, name, email, coalesce(subscription_tier, 'free'),"
        " coalesce(subscription_status, 'active') = 'active' FROM practices"
    )
    known = {org: (name, email, plan or "free", True) for org, (name, email, plan, active) in told.items() if active}
    assert known == {row[0]: tuple(row)[1:] for row in rows if row[4]}
    assert {row[0] for row in rows} <= told.keys()


async def change(database: asyncpg.Connection, practice_id: UUID, kind: str, values: list[tuple[str, Any]]) -> None:
    """Make one step of a history; what is there already is not inserted twice."""
    if kind == "insert":
        await database.execute(
            "INSERT INTO practices (id, name) VALUES ($1, 'Test Clinic 0') ON CONFLICT DO NOTHING", practice_id
        )
    elif kind == "delete":
        await database.execute("DELETE FROM practices WHERE id = $1", practice_id)
    else:
        given_values = dict(values)
        if await database.fetchval("SELECT true FROM practices WHERE id = $1", given_values.get("id")):
            del given_values["id"]
        if given_values:
            columns = ", ".join(f"{name} = ${number}" for number, name in enumerate(given_values, 2))
            await database.execute(
                f"UPDATE practices SET {columns} WHERE id = $1",  # noqa: S608 - the test's own words
                practice_id, *given_values.values(),
            )  # fmt: skip
