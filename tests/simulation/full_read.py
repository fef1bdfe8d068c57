"""A re-read of the practice by its own lists: what they show, what they show as deleted, and what they lack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from eventsync.domain.changes import Absence, EntityRef, RecordChange
from eventsync.domain.clock import Clock
from eventsync.domain.connections import ConnectionId
from eventsync.domain.records import RecordKind
from eventsync.postgres.database import Database
from eventsync.postgres.record_rows import milliseconds
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.vendorkit.listing import Page
from eventsync.vendors.intakeq.client import IntakeQClient
from eventsync.vendors.intakeq.lists import EVERYTHING, ListFilter

_LIVE_APPOINTMENTS = """
    SELECT external_id FROM appointments
    WHERE connection_id = $1 AND deleted_at IS NULL AND start_time >= $2 AND start_time < $3 ORDER BY 1
"""
_LIVE_CLIENTS = "SELECT external_id FROM patient_identities WHERE connection_id = $1 AND deleted_at IS NULL ORDER BY 1"
_DELETED = ListFilter(deleted_only=True)


@dataclass(frozen=True, slots=True)
class Window:
    """The days of appointments that are read, the last one included."""

    first: date
    last: date

    @property
    def begins(self) -> datetime:
        """The first moment within."""
        return datetime.combine(self.first, time.min, UTC)

    @property
    def ends(self) -> datetime:
        """The first moment after."""
        return datetime.combine(self.last, time.min, UTC) + timedelta(days=1)


ALL_DAYS = Window(date(1990, 1, 1), date(2190, 1, 1))


class FullRead:
    """One complete read; a failure anywhere ends it, and then it says nothing about what it has not seen."""

    def __init__(
        self,
        client: IntakeQClient,
        database: Database,
        writer: RecordWriter,
        connection_id: ConnectionId,
        clock: Clock,
    ) -> None:
        self._client = client
        self._database = database
        self._writer = writer
        self._connection_id = connection_id
        self._clock = clock

    async def run(self, window: Window = ALL_DAYS) -> None:
        """Read all lists, write what they show, then what they lack."""
        await self._appointments(window)
        await self._clients()
        await self._take(self._client.invoices(read_began_ms=milliseconds(self._clock())))

    async def single(self, external_id: str) -> None:
        """Read one appointment alone, which shows more of it than a list does."""
        entity = EntityRef(self._connection_id, RecordKind.APPOINTMENT, external_id)
        read_began_ms = milliseconds(self._clock())
        await self._write(await self._client.refetch(entity, sequence=0, read_began_ms=read_began_ms))

    async def _appointments(self, window: Window) -> None:
        began_ms = milliseconds(self._clock())
        days = EVERYTHING if window is ALL_DAYS else ListFilter(start_date=window.first, end_date=window.last)
        seen = await self._take(self._client.appointments(days, read_began_ms=began_ms))
        await self._take(self._client.appointments(_DELETED, read_began_ms=began_ms))
        known = await self._ids(_LIVE_APPOINTMENTS, window.begins, window.ends)
        await self._write(self._absences(RecordKind.APPOINTMENT, known - seen, began_ms, window))

    async def _clients(self) -> None:
        began_ms = milliseconds(self._clock())
        seen = await self._take(self._client.clients(read_began_ms=began_ms))
        await self._take(self._client.clients(_DELETED, read_began_ms=began_ms))
        known = await self._ids(_LIVE_CLIENTS)
        await self._write(self._absences(RecordKind.PATIENT, known - seen, began_ms, ALL_DAYS))

    def _absences(self, kind: RecordKind, missing: Iterable[str], began_ms: int, window: Window) -> list[RecordChange]:
        return [
            Absence(EntityRef(self._connection_id, kind, external_id), began_ms, window.begins, window.ends)
            for external_id in sorted(missing)
        ]

    async def _take(self, pages: AsyncIterator[Page[RecordChange]]) -> set[str]:
        """Write each page as it comes; answer the ids of the records that were listed."""
        seen: set[str] = set()
        async for page in pages:
            assert not page.rejected, "the mapping refuses a row of the practice's"
            await self._write(page.items)
            seen |= {change.entity.external_id for change in page.items}
        return seen

    async def _ids(self, statement: str, *args: object) -> set[str]:
        async with self._database.session() as session:
            return {row["external_id"] for row in await session.fetch(statement, self._connection_id, *args)}

    async def _write(self, changes: Iterable[RecordChange]) -> None:
        async with self._database.transaction() as session:
            entries = [EventChange(None, change) for change in changes]
            await self._writer.write(session, entries, self._clock())
