"""How old the truth is: how long ago the records of an organization were last known to stand as their rows say.

What verifies a record is told in SQL (migration 0004): a sighting of its own, the vendor's time of its version, the
newest complete list in whose window it lies, and the lists of changes and deletions as far as they were followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements

_NONE = timedelta(0)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class _Sql:
    measure: str
    prune_coverage: str


SQL = load_statements(_Sql, "freshness.sql")


class FreshnessKind(StrEnum):
    """Whose truth is measured."""

    APPOINTMENT = "appointment"  # every living one, however long ago
    APPOINTMENT_UPCOMING = "appointment_upcoming"  # those of them that have not begun
    PATIENT = "patient"


@dataclass(frozen=True, slots=True)
class FreshnessRow:
    """The age of truth of an organization's living records of a kind, in whole seconds.

    Of half of them it is at most `p50_s`, of 95 and 99 in a hundred `p95_s` and `p99_s`, of all `oldest_s`.
    `connection` (its number) is null for the organization as a whole; its connections are told apart where it has
    several. Disabled ones are left out.
    """

    organization_id: OrganizationId
    organization: int
    connection_id: ConnectionId | None
    connection: int | None
    kind: FreshnessKind
    records: int
    p50_s: int
    p95_s: int
    p99_s: int
    oldest_s: int


class Freshness:
    """Measures the age of truth."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, organization_id: OrganizationId | None, now: datetime) -> list[FreshnessRow]:
        """Measure what the organization owns (None: of every organization) at `now`."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.measure, organization_id, now)
        return [_measured(row, now) for row in rows]


async def prune_coverage(database: Database, connection_id: ConnectionId | None = None) -> None:
    """Remove the coverage (of one connection, None: of all) that newer coverage contains; no record's age changes."""
    async with database.session() as session:
        await session.execute(SQL.prune_coverage, connection_id)


def _measured(row: Any, now: datetime) -> FreshnessRow:
    # A vendor whose clock is ahead of ours has changed nothing in the future.
    p50_s, p95_s, p99_s, oldest_s = (max(now - verified_at, _NONE) // _SECOND for verified_at in row["verified"])
    return FreshnessRow(
        organization_id=row["organization_id"],
        organization=row["organization"],
        connection_id=row["connection_id"],
        connection=row["connection"],
        kind=FreshnessKind(row["kind"]),
        records=row["records"],
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        oldest_s=oldest_s,
    )
