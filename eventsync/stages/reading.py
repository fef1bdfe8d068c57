"""Reads one of a run's planned lists into the records, page by page, each in a transaction of its own.

A page's records, the run's counts and place, what the page shows to have been wrong, and (with the last page) what the
whole list proves are committed together: a run can be killed anywhere, and nothing is claimed that was not written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from eventsync.domain.call_plan import changed_since_day
from eventsync.domain.changes import Absence, EntityRef, RecordChange
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection
from eventsync.domain.drift import DriftFinding, finding_of
from eventsync.domain.errors import Rejected
from eventsync.domain.reads import Covered, Covers, PlannedRead
from eventsync.domain.records import RecordKind
from eventsync.domain.slicing import ReadingRules
from eventsync.domain.windows import DaysRead, Proved, joined, proved_by
from eventsync.postgres.absences import remember_missing
from eventsync.postgres.coverage import (
    ALWAYS_FROM,
    ALWAYS_TO,
    Walk,
    advance_cursor,
    end_walk,
    keep_walk,
    record_coverage,
)
from eventsync.postgres.database import Database, DatabaseAway, Session
from eventsync.postgres.drift import record_findings
from eventsync.postgres.record_rows import milliseconds, moment
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.postgres.runs import RunLease, Runs
from eventsync.stages.accounts import Account
from eventsync.stages.holding import hold_while_away
from eventsync.stages.tally import Tally, Written, surprises
from eventsync.telemetry import Metrics
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.listing import Listing, Page, RejectedRow
from eventsync.vendorkit.vendor import RecordVendor

Also: TypeAlias = Callable[[Session], Awaitable[None]]
"""What is done in the transaction that writes a batch."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where what is read goes."""

    database: Database
    writer: RecordWriter
    runs: Runs
    metrics: Metrics
    clock: Clock


@dataclass(slots=True)
class RunReads:
    """One run's state while it reads. `progress` is what people are told; `windows` are the days read to their end."""

    lease: RunLease
    connection: Connection
    vendor: RecordVendor
    rules: ReadingRules
    account: Account
    purpose: Purpose
    watched_since: datetime
    tally: Tally
    progress: dict[str, Any] = field(default_factory=dict)
    windows: list[DaysRead] = field(default_factory=list)
    walks_begun: dict[RecordKind, datetime] = field(
        default_factory=dict
    )  # by this worker, who has seen all their pages
    allowance: tuple[int, int] | None = None  # of a practice too large for one day: calls for lists, and beside them
    walked: dict[RecordKind, datetime] = field(default_factory=dict)  # lists of everything, read in one go

    @property
    def calls(self) -> int:
        """How many calls the run has made, by its earlier workers as well."""
        return int(self.lease.run.progress.get("calls", 0)) + self.account.spent.calls


@dataclass(slots=True)
class _Read:
    """A list being read: `walk_began_at` is earlier where another run began it, `latest_ms` the vendor's last time."""

    planned: PlannedRead
    began_at: datetime
    walk_began_at: datetime
    in_one_go: bool
    latest_ms: int | None = None
    pages_kept: int = 0  # the number of the last one


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one transaction writes: a page of `kind`. `is_listed` where it is of a list that the run reads in order."""

    changes: Sequence[RecordChange]
    rejected: Sequence[RejectedRow]
    began_at: datetime
    also: Also | None = None
    is_listed: bool = False
    kind: RecordKind = RecordKind.APPOINTMENT


class ListReader:
    """Reads lists for one run."""

    def __init__(self, store: Store, run: RunReads) -> None:
        self._store = store
        self._run = run

    async def read(self, planned: PlannedRead, walk: Walk | None = None) -> None:
        """Walk the list to its end; `walk` says where an earlier run left it.

        Raises what the vendor's client raises, RunLost where the run is another's by now. What was committed stays.
        """
        began_at = self._store.clock()
        read = self._begun(planned, began_at, walk)
        listing = listing_of(planned, self._run.connection.timezone, walk)
        while True:
            try:
                await self._walk(read, listing)
            except DatabaseAway:  # while a call was booked; what the pages before have cost is not paid twice
                await hold_while_away(self._store.database.ping)
                listing = replace(listing, first_page=max(listing.first_page, read.pages_kept))
            else:
                break
        self._note_end(read)

    async def _walk(self, read: _Read, listing: Listing) -> None:
        kind, began_at = read.planned.kind, read.began_at
        client, purpose = self._run.account.client, self._run.purpose
        async with aclosing(client.pages(listing, read_began_ms=milliseconds(began_at), purpose=purpose)) as pages:
            async for page in pages:
                read.latest_ms = max([*_positions(page.items, kind), *_known(read.latest_ms)], default=None)
                place = partial(self._keep_place, read, page)
                await self._keep(_Batch(page.items, page.rejected, began_at, place, is_listed=True, kind=kind))
                read.pages_kept = page.number

    def _begun(self, planned: PlannedRead, began_at: datetime, walk: Walk | None) -> _Read:
        if walk is None:
            if planned.covers is Covers.EVERYTHING:
                self._run.walks_begun[planned.kind] = began_at
            return _Read(planned, began_at, began_at, in_one_go=True)
        in_one_go = self._run.walks_begun.get(planned.kind) == walk.began_at
        return _Read(planned, began_at, walk.began_at, in_one_go=in_one_go)

    async def look(self, entity: EntityRef) -> None:
        """Read one record by its id, and write what the vendor says of it. Raises what the vendor's client raises."""
        began_at = self._store.clock()
        client, purpose = self._run.account.client, self._run.purpose
        changes = await client.refetch(entity, sequence=0, read_began_ms=milliseconds(began_at), purpose=purpose)
        await self.write(changes, began_at)

    async def write(self, changes: Sequence[RecordChange], began_at: datetime, *, also: Also | None = None) -> None:
        """Write what single reads or absences say, outside of any list, and `also` in the same transaction."""
        await self._keep(_Batch(changes, (), began_at, also))

    async def _keep(self, batch: _Batch) -> None:
        """Write a batch; rows that PostgreSQL refuses are set apart, and the rest of it is written one by one."""
        try:
            await self._commit(batch)
        except Rejected:
            for change in batch.changes:
                await self._keep_one(change, batch.began_at)
            await self._commit(replace(batch, changes=()))

    async def _keep_one(self, change: RecordChange, began_at: datetime) -> None:
        try:
            await self._commit(_Batch((change,), (), began_at))
        except Rejected as error:
            refused = RejectedRow(change.entity.external_id, error.reason)
            await self._commit(_Batch((), (refused,), began_at, kind=change.entity.kind))

    async def _commit(self, batch: _Batch) -> None:
        """Commit once, however long PostgreSQL is away meanwhile: what was read was paid for."""
        written, findings = await hold_while_away(partial(self._commit_once, batch))
        self._run.tally.add(written)
        self._store.metrics.count_drift(findings)

    async def _commit_once(self, batch: _Batch) -> tuple[Written, Sequence[DriftFinding]]:
        run, now = self._run, self._store.clock()
        async with self._store.database.transaction() as session:
            in_order = batch.is_listed and await self._in_order(session, batch)
            entries = [EventChange(None, change) for change in batch.changes]
            merged = await self._store.writer.write(session, entries, now, reads_in_order=in_order)
            written = Written(tuple(zip(batch.changes, merged, strict=True)), batch.rejected, batch.kind)
            findings = list(self._findings(written, batch.began_at, now))
            await record_findings(session, findings)
            if batch.also is not None:
                await batch.also(session)
            await self._store.runs.hold(session, run.lease, run.tally.counts_with(written), self._progress(), now)
        return written, findings

    async def _in_order(self, session: Session, batch: _Batch) -> bool:
        ids = [change.entity.external_id for change in batch.changes]
        kinds = sorted({change.entity.kind for change in batch.changes})
        return await self._store.runs.reads_in_order(session, self._run.lease, kinds, ids, batch.began_at)

    def _findings(self, written: Written, began_at: datetime, now: datetime) -> Iterable[DriftFinding]:
        """Say what was wrong, but for what the vendor changed before anyone could have told us."""
        run = self._run
        for change, merged in surprises(written.results):
            finding = finding_of(
                run.vendor, change, merged, run_id=run.lease.run.id, read_began_at=began_at, found_at=now
            )
            if finding is not None and (finding.since is None or finding.since >= run.watched_since):
                yield finding

    async def _keep_place(self, read: _Read, page: Page[RecordChange], session: Session) -> None:
        """With the last page, keep what the list has proved; before, where a long walk is to be gone on with."""
        planned, connection_id = read.planned, self._run.connection.id
        if planned.covers is Covers.EVERYTHING and not page.is_last:
            await keep_walk(session, connection_id, planned.kind, Walk(page.number + 1, read.walk_began_at))
        if not page.is_last:
            return
        match planned.covers:
            case Covers.WINDOW:
                await self._record(session, planned.kind, self._proved(read), page)
            case Covers.EVERYTHING:
                await end_walk(session, connection_id, planned.kind)
                everything = Proved(ALWAYS_FROM, ALWAYS_TO, read.walk_began_at)
                await self._record(session, planned.kind, (everything,), page if read.in_one_go else None)
            case Covers.CHANGES | Covers.DELETIONS:
                await self._advance(session, read)

    async def _record(
        self, session: Session, kind: RecordKind, proved: Sequence[Proved], last: Page[RecordChange] | None
    ) -> None:
        """Keep what a list has proved, and let what it lacked wait; `last` is its last page, None for a part of it."""
        connection_id, run = self._run.connection.id, self._run
        covered = [Covered(kind, piece.start, piece.end, piece.began_at) for piece in proved]
        await record_coverage(session, connection_id, run.lease.run.id, kind, covered)
        if last is None or run.tally.rejected_without_id or any(row.external_id is None for row in last.rejected):
            return
        told = run.tally.listed.get(kind, set()) | run.tally.rejected
        told |= {change.entity.external_id for change in last.items if change.entity.kind is kind}
        told |= {row.external_id for row in last.rejected if row.external_id is not None}
        for piece in proved:
            await remember_missing(session, connection_id, kind, piece, told)

    async def _advance(self, session: Session, read: _Read) -> None:
        planned = read.planned
        told_since = read.began_at - self._run.vendor.listing_rules.deletions_told_for
        deleted = planned.covers is Covers.DELETIONS
        await advance_cursor(
            session,
            self._run.connection.id,
            planned.kind,
            deleted=deleted,
            since=told_since if deleted else planned.since or read.began_at,
            until=read.began_at,
            last_modified=None if read.latest_ms is None else moment(read.latest_ms),
        )

    def _proved(self, read: _Read) -> tuple[Proved, ...]:
        """Tell what the list proves alone, and what together with all of its neighbours that this run has read."""
        days = _days(read)
        alone = proved_by(days)
        together = joined([days, *self._run.windows])
        return (*alone, *(piece for piece in together if piece not in alone and _adjoins(piece, days)))

    def _note_end(self, read: _Read) -> None:
        if read.planned.covers is Covers.WINDOW:
            self._run.windows.append(_days(read))
        if read.planned.covers is Covers.EVERYTHING and read.in_one_go:
            self._run.walked[read.planned.kind] = read.walk_began_at

    def _progress(self) -> Mapping[str, Any]:
        run, calls = self._run, self._run.calls
        expected = max(run.progress.get("expected_calls", 0), calls, 1)
        listed = sum(map(len, run.tally.listed.values()))
        return run.progress | {"calls": calls, "percentage": min(99, 100 * calls // expected), "records_seen": listed}


def listing_of(planned: PlannedRead, zone: str, walk: Walk | None = None) -> Listing:
    """Say what to list. A walk goes on a page before its place, since rows move up where others were removed."""
    match planned.covers:
        case Covers.WINDOW:
            return Listing(kind=planned.kind, first_day=planned.first_day, last_day=planned.last_day)
        case Covers.EVERYTHING:
            return Listing(kind=planned.kind, first_page=1 if walk is None else max(1, walk.next_page - 1))
        case Covers.CHANGES:
            if planned.since is None:
                raise ValueError("a list of changes needs a moment to begin at")
            return Listing(kind=planned.kind, changed_since=changed_since_day(planned.since, ZoneInfo(zone)))
        case Covers.DELETIONS:
            return Listing(kind=planned.kind, deleted=True)


def _positions(changes: Iterable[RecordChange], kind: RecordKind) -> Iterable[int]:
    return (
        change.version.position for change in changes if change.entity.kind is kind and not isinstance(change, Absence)
    )


def _known(latest_ms: int | None) -> tuple[int, ...]:
    return () if latest_ms is None else (latest_ms,)


def _adjoins(piece: Proved, days: DaysRead) -> bool:
    """Whether these days are among those that prove a piece, which begins a day after the first of them."""
    return piece.start.date() - timedelta(days=1) <= days.first and days.last <= piece.end.date()


def _days(read: _Read) -> DaysRead:
    if read.planned.first_day is None or read.planned.last_day is None:
        raise ValueError("a window needs its days")
    return DaysRead(read.planned.first_day, read.planned.last_day, read.began_at)
