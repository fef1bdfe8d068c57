"""`sync_schedules`, and what else the scheduler asks of connections: nothing of it opens their credentials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    begin_sweeps: str
    list_connections: str
    put_off_sweep: str
    plan_sweep: str


SQL = load_statements(_Sql, "schedules.sql")


@dataclass(frozen=True, slots=True)
class ScheduledConnection:
    """A living connection, as its schedule needs it. `daily_answered_at`: the latest of its daily times with a run."""

    id: ConnectionId
    number: int
    organization_id: OrganizationId
    timezone: str
    settings: Mapping[str, str]
    created_at: datetime
    next_sweep_at: datetime
    daily_answered_at: datetime | None


class Schedules:
    """When connections of some vendors are read of themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def connections(self, vendors: Sequence[str], first_sweep_at: datetime) -> list[ScheduledConnection]:
        """List the living connections to these vendors; one that is new is swept first at `first_sweep_at`."""
        async with self._database.transaction() as session:
            await session.execute(SQL.begin_sweeps, list(vendors), first_sweep_at)
            rows = await session.fetch(SQL.list_connections, list(vendors))
        return [_scheduled(row) for row in rows]

    async def put_off_sweep(self, connection_id: ConnectionId, seen: datetime, until: datetime) -> bool:
        """Put the next sweep off; False where it is planned for another time than was `seen`."""
        async with self._database.session() as session:
            return await session.fetchval(SQL.put_off_sweep, connection_id, seen, until) is not None

    async def plan_sweep(self, connection_id: ConnectionId, next_sweep_at: datetime) -> None:
        """Say when the connection is swept next, whatever was planned before."""
        async with self._database.session() as session:
            await session.execute(SQL.plan_sweep, connection_id, next_sweep_at)


def _scheduled(row: Mapping[str, Any]) -> ScheduledConnection:
    return ScheduledConnection(**{**dict(row), "settings": orjson.loads(row["settings"])})
