"""A copy whose records, coverage and cursors a test chooses, written as rows, and the rule of what they prove."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from eventsync.domain.changes import Authority, Source, Version
from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import RunId
from eventsync.postgres.coverage import ALWAYS_FROM, ALWAYS_TO

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LONG_AGO = NOW - 300 * DAY
RecordKey = tuple[ConnectionId, str, str]
"""Connection, kind, external id."""


@dataclass(frozen=True, slots=True)
class CoveredCopy:
    """The database, with short ways to put rows into it."""

    database: asyncpg.Connection

    async def appointment(
        self,
        connection_id: ConnectionId,
        external_id: str,
        start: datetime = NOW + DAY,
        *,
        modified: datetime = LONG_AGO,
        seen: datetime | None = None,
        **columns: Any,
    ) -> None:
        """Put an appointment that the vendor changed at `modified`, and a read of its own saw at `seen`."""
        given = {
            "id": uuid4(), "connection_id": connection_id, "external_id": external_id, "status": "confirmed",
            "vendor_status": "Confirmed", "start_time": start, "end_time": start + HOUR,
        }  # fmt: skip
        await self._insert("appointments", given | _evidence(modified, seen) | columns)

    async def client(
        self, connection_id: ConnectionId, external_id: str, *, modified: datetime = LONG_AGO, **columns: Any
    ) -> None:
        """Put a client that the vendor changed at `modified`."""
        given = {"connection_id": connection_id, "external_id": external_id, "patient_id": uuid4()}
        await self._insert("patient_identities", given | _evidence(modified, None) | columns)

    async def document(self, connection_id: ConnectionId, kind: str, external_id: str, **columns: Any) -> None:
        """Put an intake, a note or an invoice."""
        given = {"id": uuid4(), "connection_id": connection_id, "kind": kind, "external_id": external_id}
        await self._insert("documents", given | _evidence(LONG_AGO, None) | columns)

    async def read(
        self,
        connection_id: ConnectionId,
        kind: str,
        began: datetime,
        window: tuple[datetime, datetime] = (ALWAYS_FROM, ALWAYS_TO),
        *,
        run_id: RunId | None = None,
    ) -> None:
        """Let a complete list have been read: of a window of days or, where none is given, of everything."""
        given = {
            "connection_id": connection_id, "kind": kind, "read_began_at": began, "window_from": window[0],
            "window_to": window[1], "run_id": run_id,
        }  # fmt: skip
        await self._insert("sync_coverage", given)

    async def follow(
        self, connection_id: ConnectionId, kind: str, since: datetime, until: datetime, *lists: str
    ) -> None:
        """Let the lists of changes and deletions, or those that are named, have been followed without a gap."""
        for name in lists or ("changed", "deleted"):
            given = {"connection_id": connection_id, "kind": kind, "list": name}
            await self._insert("sync_cursors", given | {"unbroken_since": since, "covered_until": until})

    async def miss(self, connection_id: ConnectionId, kind: str, external_id: str) -> None:
        """Let a complete list have lacked the record."""
        given = {"connection_id": connection_id, "kind": kind, "external_id": external_id}
        await self._insert("absence_candidates", given | {"first_missed_at": NOW})

    async def verified(self) -> dict[RecordKey, datetime]:
        """Tell when each living appointment and client was verified, by the way in which all are asked at once."""
        rows = await self.database.fetch("SELECT * FROM verified_records(NULL)")
        return {(row["connection_id"], row["kind"], row["external_id"]): row["verified_at"] for row in rows}

    async def verified_one_by_one(self) -> dict[RecordKey, datetime]:
        """Tell the same by the way in which one record is asked."""
        rows = await self.database.fetch(
            """SELECT connection_id, 'appointment' AS kind, external_id, verified_at FROM v_appointments
               WHERE deleted_at IS NULL
               UNION ALL
               SELECT i.connection_id, 'patient', i.external_id, v.verified_at FROM patient_identities i
               CROSS JOIN LATERAL verification(i.connection_id, 'patient', i.external_id, NULL,
                                               greatest(i.source_version, i.seen_at)) v
               WHERE i.deleted_at IS NULL"""
        )
        return {(row["connection_id"], row["kind"], row["external_id"]): row["verified_at"] for row in rows}

    async def windows(self, connection_id: ConnectionId) -> list[datetime]:
        """Tell when the reads began whose coverage is kept, the oldest first."""
        rows = await self.database.fetch(
            "SELECT read_began_at FROM sync_coverage WHERE connection_id = $1 ORDER BY read_began_at, id", connection_id
        )
        return [row["read_began_at"] for row in rows]

    async def _insert(self, table: str, columns: dict[str, Any]) -> None:
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        names = ", ".join(columns)
        statement = f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608  # names of this file
        await self.database.execute(statement, *columns.values())


def _evidence(modified: datetime, seen: datetime | None) -> dict[str, Any]:
    version = Version(Authority.RECORD, int(modified.timestamp() * 1000), False, Source.API, 1, 1, b"\x01")
    return {
        "version": version.to_bytes(), "source_version": modified, "seen_at": seen, "content_hash": b"\x01",
        "changed_at": NOW, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """The rule in Python, beside which the SQL must stand: who knows what of which records."""

    records: dict[RecordKey, tuple[datetime | None, datetime]] = field(default_factory=dict)  # start, last sighting
    reads: list[tuple[ConnectionId, str, datetime, datetime, datetime]] = field(default_factory=list)
    cursors: dict[tuple[ConnectionId, str], list[tuple[datetime, datetime]]] = field(default_factory=dict)
    missed: set[RecordKey] = field(default_factory=set)

    def verified_at(self, key: RecordKey) -> datetime:
        """Tell when the record was last known to be true."""
        start, sighted_at = self.records[key]
        if key in self.missed:
            return sighted_at
        covered = [began for *of, low, high, began in self.reads if tuple(of) == key[:2] and lies(start, low, high)]
        verified_at = max([sighted_at, *covered])
        cursors = self.cursors.get(key[:2], [])
        if len(cursors) == 2 and all(since <= verified_at for since, _ in cursors):
            verified_at = max(verified_at, min(until for _, until in cursors))
        return verified_at


def lies(start: datetime | None, window_from: datetime, window_to: datetime) -> bool:
    if start is None:
        return (window_from, window_to) == (ALWAYS_FROM, ALWAYS_TO)
    return window_from <= start < window_to


async def put_at_random(copy: CoveredCopy, connections: list[ConnectionId], dice: random.Random) -> Evidence:
    """Put whatever comes on a few hours of one day, so that edges meet and times are alike."""
    evidence = Evidence()

    def hour() -> datetime:
        return NOW + dice.randrange(12) * HOUR

    for connection_id in connections:
        for number in range(dice.randrange(25)):
            start, modified, seen = hour(), hour(), dice.choice([None, hour()])
            await copy.appointment(connection_id, str(number), start, modified=modified, seen=seen)
            evidence.records[connection_id, "appointment", str(number)] = start, max(modified, seen or modified)
        for number in range(dice.randrange(4)):
            modified = hour()
            await copy.client(connection_id, str(number), modified=modified)
            evidence.records[connection_id, "patient", str(number)] = None, modified
        for kind in ("appointment", "patient"):
            for _ in range(dice.choice([0, 0, 1, 3, 12])):
                low, high = dice.choice(
                    [(ALWAYS_FROM, ALWAYS_TO), (hour(), hour()), (NOW, ALWAYS_TO), (ALWAYS_FROM, hour())]
                )
                if low < high:
                    evidence.reads.append((connection_id, kind, low, high, began := hour()))
                    await copy.read(connection_id, kind, began, (low, high))
            for name in dice.choice([(), ("changed",), ("deleted",), ("changed", "deleted"), ("changed", "deleted")]):
                since, until = sorted((hour(), hour()))
                evidence.cursors.setdefault((connection_id, kind), []).append((since, until))
                await copy.follow(connection_id, kind, since, until, name)
    for key in dice.sample(sorted(evidence.records), len(evidence.records) // 5):
        evidence.missed.add(key)
        await copy.miss(*key)
    return evidence
