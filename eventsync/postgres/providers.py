"""Practitioners as an organization knows them: the vendor's id mapped to a name and an e-mail."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements
from eventsync.postgres.webhook_tokens import unknown_connection


@dataclass(frozen=True, slots=True)
class _Sql:
    map: str
    list: str


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
