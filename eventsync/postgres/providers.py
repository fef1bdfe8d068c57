"""Practitioners as an organization knows them: the vendor's id mapped to a name and an e-mail."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.records import Practitioner
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements
from eventsync.postgres.webhook_tokens import unknown_connection


@dataclass(frozen=True, slots=True)
class _Sql:
    map: str
    list: str
    learn: str
    without_name: str
    unknown: str


SQL = load_statements(_Sql, "providers.sql")


@dataclass(frozen=True, slots=True)
class Provider:
    """One practitioner of one connection."""

    id: UUID
    connection_id: ConnectionId
    practitioner_id: str
    provider_name: str
    email: str | None


class Providers:
    """`provider_intakeq_settings`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def map(
        self,
        connection_id: ConnectionId,
        practitioner_id: str,
        provider_name: str,
        email: str | None,
        now: datetime,
        organization_id: OrganizationId | None,
    ) -> UUID:
        """Name a practitioner, anew where it has a name.

        Raises Rejected("unknown_connection") where the organization (None: any) has no such connection.
        """
        row = (connection_id, practitioner_id, provider_name, email, now, organization_id)
        async with self._database.session() as session:
            found: UUID | None = await session.fetchval(SQL.map, *row)
        if found is None:
            raise unknown_connection()
        return found

    async def mapped(
        self, organization_id: OrganizationId | None, connection_id: ConnectionId | None = None
    ) -> list[Provider]:
        """List the named practitioners of the organization (None: everyone's)."""
        async with self._database.session() as session:
            return [Provider(**dict(row)) for row in await session.fetch(SQL.list, organization_id, connection_id)]

    async def learn(self, connection_id: ConnectionId, practitioners: Collection[Practitioner], now: datetime) -> int:
        """Name those practitioners who have no name yet as the vendor does; tell how many they were."""
        named = {entry.external_id: entry for entry in practitioners}
        columns = (
            list(named),
            [entry.name for entry in named.values()],
            [entry.email for entry in named.values()],
        )
        async with self._database.session() as session:
            return len(await session.fetch(SQL.learn, connection_id, *columns, now))

    async def unknown(self, connection_id: ConnectionId, since: datetime, until: datetime) -> tuple[str, ...]:
        """Tell which practitioners of living appointments that begin in [since, until) have no name."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.unknown, connection_id, since, until)
        return tuple(row["practitioner_id"] for row in rows)


async def without_name(
    session: Session, connection_id: ConnectionId, practitioner_ids: Collection[str]
) -> tuple[str, ...]:
    """Tell which of these practitioners have no name, inside a transaction of the caller's."""
    rows = await session.fetch(SQL.without_name, connection_id, list(practitioner_ids))
    return tuple(row["practitioner_id"] for row in rows)
