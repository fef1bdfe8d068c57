"""Which connections a wish for a sync concerns: an organization's own, those of patients it follows, a patient's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from uuid import UUID

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    list_owned: str
    list_owned_or_followed: str
    list_of_patient: str


SQL = load_statements(_Sql, "sync_targets.sql")


@dataclass(frozen=True, slots=True)
class SyncTarget:
    """A living connection, and who owns it."""

    connection_id: ConnectionId
    owner_id: OrganizationId


class SyncTargets:
    """The living connections of one vendor, in the order of their numbers."""

    def __init__(self, database: Database, vendor: str) -> None:
        self._database = database
        self._vendor = vendor

    async def owned(self, organization_id: OrganizationId | None) -> list[SyncTarget]:
        """List the organization's own (None: everyone's)."""
        return await self._list(SQL.list_owned, organization_id)

    async def owned_or_followed(self, organization_id: OrganizationId, today: date) -> list[SyncTarget]:
        """List its own, and those of the patients whom it follows on `today` with their consent."""
        return await self._list(SQL.list_owned_or_followed, organization_id, today)

    async def of_patient(self, patient_id: UUID) -> list[SyncTarget]:
        """List those that may know the patient."""
        return await self._list(SQL.list_of_patient, patient_id)

    async def _list(self, statement: str, *arguments: object) -> list[SyncTarget]:
        async with self._database.session() as session:
            rows = await session.fetch(statement, self._vendor, *arguments)
        return [SyncTarget(row["id"], row["organization_id"]) for row in rows]
