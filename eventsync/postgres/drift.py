"""What sweeps found wrong (`drift_findings`), and what became of the webhooks that should have told of it.

Findings are written in the transaction of the page that repaired their records, and read by the drift report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.drift import (
    DriftCount,
    DriftCursor,
    DriftFinding,
    DriftSummary,
    DriftVerdict,
    ReportedDrift,
    WebhookSigns,
)
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import RunId
from eventsync.postgres.database import Database, Session
from eventsync.postgres.json_rows import json_rows
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    insert_findings: str
    plan_for_values: str
    list_findings: str
    count_findings: str
    count_parked_unread: str
    signs_of_silence: str
    prune_findings: str


SQL = load_statements(_Sql, "drift.sql")


@dataclass(frozen=True, slots=True)
class DriftFilter:
    """Which findings are wanted: None asks for all. `organization_id` is the owner's; only an admin asks without.

    The time at which they were found lies in [since, until).
    """

    organization_id: OrganizationId | None = None
    connection_id: ConnectionId | None = None
    run_id: RunId | None = None
    kind: RecordKind | None = None
    external_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    verdict: DriftVerdict | None = None


async def record_findings(session: Session, findings: Sequence[DriftFinding]) -> None:
    """Write findings, inside the transaction of the page that brought them."""
    if findings:
        await session.execute(SQL.insert_findings, json_rows(findings))


class DriftReport:
    """Findings, each with what is known of its webhook at the moment one asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def findings(
        self, wanted: DriftFilter, now: datetime, *, after: DriftCursor | None = None, limit: int = 100
    ) -> list[ReportedDrift]:
        """List a page of findings, the latest first, as they stand at `now`."""
        place = (None, None) if after is None else (after.found_at, after.id)
        async with self._database.transaction() as session:
            await session.execute(SQL.plan_for_values)
            rows = await session.fetch(SQL.list_findings, now, *_arguments(wanted), *place, limit)
        return [_reported(row) for row in rows]

    async def summary(self, wanted: DriftFilter, now: datetime) -> DriftSummary:
        """Count findings by expected event and verdict, as they stand at `now`."""
        parked = (wanted.organization_id, wanted.connection_id, wanted.since, wanted.until)
        async with self._database.transaction() as session:
            await session.execute(SQL.plan_for_values)
            rows = await session.fetch(SQL.count_findings, now, *_arguments(wanted))
            parked_unread = await session.fetchval(SQL.count_parked_unread, *parked)
        counts = (DriftCount(row["expected_event"], DriftVerdict(row["verdict"]), row["count"]) for row in rows)
        return DriftSummary(tuple(counts), parked_unread)

    async def signs_of_silence(
        self, since: datetime, until: datetime, *, least_missed: int, connection_id: ConnectionId | None = None
    ) -> list[WebhookSigns]:
        """Tell of each connection with a webhook (or of one) when it was heard, and what it missed in (since, until).

        Where fewer than `least_missed` such changes are known, nobody looks when a webhook came last.
        """
        async with self._database.transaction() as session:
            await session.execute(SQL.plan_for_values)
            rows = await session.fetch(SQL.signs_of_silence, connection_id, since, until, least_missed)
        return [WebhookSigns(**dict(row)) for row in rows]

    async def prune(self, before: datetime) -> None:
        """Remove what was found earlier: what became of its webhook is not kept either."""
        async with self._database.session() as session:
            await session.execute(SQL.prune_findings, before)


def _arguments(wanted: DriftFilter) -> tuple[object, ...]:
    return (
        wanted.organization_id,
        wanted.connection_id,
        wanted.run_id,
        wanted.kind,
        wanted.external_id,
        wanted.since,
        wanted.until,
        wanted.verdict,
    )


def _reported(row: Mapping[str, Any]) -> ReportedDrift:
    read = {"kind": RecordKind(row["kind"]), "verdict": DriftVerdict(row["verdict"])}
    return ReportedDrift(**dict(row) | read | {"changed_fields": tuple(row["changed_fields"])})
