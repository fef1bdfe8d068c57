"""Brings intakes and notes up to date in a full run: lists name them only, so what differs is read one by one.

A list of changes is walked from where the last one ended; the connection's own beginning is the earliest, since before
it nobody could have told us of them. What more calls than a run may spend on them would be needed for waits for the
next run, which lists it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from eventsync.domain.call_plan import changed_since_day
from eventsync.domain.changes import Summary
from eventsync.domain.reads import Cursor
from eventsync.domain.records import RecordKind
from eventsync.postgres.coverage import advance_cursor
from eventsync.postgres.database import Session
from eventsync.postgres.record_rows import milliseconds
from eventsync.postgres.summaries import Summaries, end_read, remember
from eventsync.stages.reading import ListReader, RunReads, Store
from eventsync.vendorkit.listing import Listing

KINDS = (RecordKind.INTAKE, RecordKind.NOTE)
MOST_READS = 40  # of a run, for both kinds together
_LEASE = timedelta(minutes=5)


class SummaryReader:
    """Reads what lists of summaries say has changed."""

    def __init__(self, store: Store, reader: ListReader, run: RunReads) -> None:
        self._store = store
        self._reader = reader
        self._run = run
        self._summaries = Summaries(store.database)
        self._reads_left = MOST_READS

    async def read(self, kind: RecordKind, cursor: Cursor | None) -> int:
        """Walk the list of what changed, and read what differs. Answers how many records still wait.

        Raises what the vendor's client raises.
        """
        began_at = self._store.clock()
        since = self._run.watched_since if cursor is None else cursor.covered_until
        waiting = 0
        listing = Listing(kind=kind, changed_since=changed_since_day(since, ZoneInfo(self._run.connection.timezone)))
        pages = self._run.account.client.summaries(listing, purpose=self._run.purpose)
        async with aclosing(pages):
            async for page in pages:
                waiting += await self._settle(kind, page.items, is_first=cursor is None)
        if not waiting:
            await self._reader.write((), began_at, also=partial(self._advance, kind, since, began_at))
        return waiting

    async def _settle(self, kind: RecordKind, summaries: Sequence[Summary], *, is_first: bool) -> int:
        """Read what differs; a first walk also lists, by whole days, what is older than the connection."""
        unlike = await self._summaries.unlike(self._run.connection.id, kind, summaries)
        if is_first:
            unlike = [summary for summary in unlike if summary.at is None or summary.at >= self._run.watched_since]
        alike = [summary for summary in summaries if summary not in unlike]
        await self._reader.write((), self._store.clock(), also=partial(self._remember, kind, alike))
        read = [summary for summary in unlike if await self._read_one(summary)]
        return len(unlike) - len(read)

    async def _read_one(self, summary: Summary) -> bool:
        """Read one record; False where it must wait: for the next run, or for a read that is on its way."""
        if self._reads_left == 0:
            return False
        began_at = self._store.clock()
        sequence = await self._summaries.lease_read(summary.entity, began_at, began_at + _LEASE)
        if sequence is None:
            return False
        self._reads_left -= 1
        changes = await self._run.account.client.refetch(
            summary.entity, sequence=sequence, read_began_ms=milliseconds(began_at), purpose=self._run.purpose
        )
        await self._reader.write(changes, began_at, also=partial(self._end_read, summary, sequence))
        return True

    async def _remember(self, kind: RecordKind, alike: Sequence[Summary], session: Session) -> None:
        await remember(session, self._run.connection.id, kind, alike)

    async def _end_read(self, summary: Summary, sequence: int, session: Session) -> None:
        await remember(session, self._run.connection.id, summary.entity.kind, [summary])
        await end_read(session, summary.entity, sequence)

    async def _advance(self, kind: RecordKind, since: datetime, began_at: datetime, session: Session) -> None:
        await advance_cursor(
            session, self._run.connection.id, kind, deleted=False, since=since, until=began_at, last_modified=None
        )
