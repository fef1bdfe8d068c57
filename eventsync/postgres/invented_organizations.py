"""The demo's practices and therapists: rows of our own tables, whose triggers fill the outbound queue."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from eventsync.postgres.database import Database
from eventsync.postgres.outbound_sources import EntityType
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    are_tables_ours: str
    list_existing: str
    add_practice: str
    add_therapist: str
    change_practice: str
    change_therapist: str


SQL = load_statements(_Sql, "invented_organizations.sql")


@dataclass(frozen=True, slots=True)
class OrganizationState:
    """What changes of an invented organization, in the table's own words."""

    email: str | None
    plan: str | None
    is_active: bool


class InventedOrganizations:
    """Rows of `practices` and `therapists`. Every method raises Transient while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def may_be_added(self) -> bool:
        """Whether the queue is filled from our own tables alone: in a user's own nothing is ever invented."""
        async with self._database.session() as session:
            return bool(await session.fetchval(SQL.are_tables_ours))

    async def existing(self, ids: Collection[UUID]) -> dict[UUID, OrganizationState]:
        """Tell how those of `ids` are that exist."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.list_existing, list(ids))
        return {row["id"]: OrganizationState(row["email"], row["plan"], row["is_active"]) for row in rows}

    async def add(self, entity_type: EntityType, row_id: UUID, name: str, state: OrganizationState) -> None:
        """Let one come into being, unless it exists already."""
        statement = SQL.add_practice if entity_type is EntityType.PRACTICE else SQL.add_therapist
        async with self._database.session() as session:
            await session.execute(statement, row_id, name, state.email, state.plan, state.is_active)

    async def change(self, entity_type: EntityType, row_id: UUID, state: OrganizationState) -> None:
        """Let one become so; nothing happens where it is gone."""
        statement = SQL.change_practice if entity_type is EntityType.PRACTICE else SQL.change_therapist
        async with self._database.session() as session:
            await session.execute(statement, row_id, state.email, state.plan, state.is_active)
