"""Says what a run would change and cost without changing anything: beside the reconciler, which carries runs out.

The run's lists are read as it would read them, and each page is written by the one write path, in a transaction that is
always taken back. So what is told of a page is exact; what an earlier page of the same run would have changed before it
is not in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from eventsync.domain.changes import RecordChange
from eventsync.domain.connections import Connection
from eventsync.domain.errors import Rejected, Transient
from eventsync.domain.merging import Merged
from eventsync.domain.reads import Covers, PlannedRead
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import Run, RunCounts, RunId, RunRequest, RunStatus
from eventsync.domain.windows import DaysRead, Proved, joined
from eventsync.postgres.absences import Absences
from eventsync.postgres.coverage import ALWAYS_FROM, ALWAYS_TO, Coverage
from eventsync.postgres.database import Database, Session
from eventsync.postgres.record_rows import milliseconds
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.stages.accounts import Account, OpenAccount
from eventsync.stages.course import FETCH_FAILED, OUT_OF_CALLS, Course, is_full_run, plan_lists, rules_of, told
from eventsync.stages.holding import hold_while_away
from eventsync.stages.proposals import Proposals, ProposedChange
from eventsync.stages.reading import Store, listing_of
from eventsync.stages.reconcile import PURPOSES
from eventsync.stages.summary_reading import KINDS as SUMMARIZED
from eventsync.stages.tally import Tally, Written
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.listing import Page, RejectedRow
from eventsync.vendorkit.vendor import RecordVendor

_MOST_FAILURES = 3
CALLS_BESIDE_LISTS = 1 + len(SUMMARIZED)  # of a full run: who works there, and which intakes and notes have changed

OnList = Callable[[str, int, int], None]
"""Is told of each list that is begun, by its name, with the calls made so far and those expected in all."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """A run's lists in the order of reading, and what it costs in API calls.

    `other_calls` are those that are no list's. Without `is_size_known` nothing has been read of the practice yet, so
    that every list costs at least what is told. `calls_left` is the day's, None without a daily cap.
    """

    lists: tuple[PlannedRead, ...]
    other_calls: int
    is_size_known: bool
    calls_left: int | None

    @property
    def calls(self) -> int:
        """All calls of the run."""
        return self.other_calls + sum(planned.expected_calls for planned in self.lists)


@dataclass(frozen=True, slots=True)
class DryRunReport:
    """What the run would do, as far as `course` says that it was read, and the API calls that it took to find out.

    `not_listed` are records that complete lists lacked, by kind: whether they are gone only runs decide.
    """

    course: Course
    counts: RunCounts
    new_patients: int
    appointments_deleted: int
    changes: tuple[ProposedChange, ...]
    not_listed: Mapping[RecordKind, int]
    errors: tuple[str, ...]
    calls: int

    @property
    def has_failed(self) -> bool:
        """Whether nothing could be read."""
        return not self.course.is_whole and self.course.lists_read == 0


@dataclass(slots=True)
class _Reading:
    """A dry run while it reads."""

    connection: Connection
    account: Account
    purpose: Purpose
    tally: Tally = field(default_factory=Tally)
    course: Course = field(default_factory=Course)
    proposals: Proposals = field(default_factory=Proposals)
    windows: list[DaysRead] = field(default_factory=list)
    walked: dict[RecordKind, datetime] = field(default_factory=dict)


class DryRun:
    """Looks ahead of runs of every type but a single patient's."""

    def __init__(
        self,
        store: Store,
        coverage: Coverage,
        absences: Absences,
        vendors: Mapping[str, RecordVendor],
        open_account: OpenAccount,
    ) -> None:
        self._store = store
        self._coverage = coverage
        self._absences = absences
        self._vendors = vendors
        self._open_account = open_account

    async def cost(self, connection: Connection, request: RunRequest) -> RunCost:
        """Plan the run, without any call. Raises Transient while PostgreSQL is away."""
        now = self._store.clock()
        run = run_of(request, now)
        rules, is_full = rules_of(run, connection, self._vendors[connection.vendor]), is_full_run(run)
        lists = await plan_lists(self._coverage, connection, rules, now, is_full=is_full)
        today = now.astimezone(ZoneInfo(connection.timezone)).date()
        known = await self._coverage.knowledge(connection.id, now, rules.first_day(today), rules.last_day(today))
        account = self._open_account(connection, request.sync_type)
        return RunCost(
            lists,
            other_calls=CALLS_BESIDE_LISTS if is_full else 0,
            is_size_known=known.size.clients > 0 or bool(known.covered),
            calls_left=await account.calls_left(),
        )

    async def read(
        self, connection: Connection, request: RunRequest, cost: RunCost, on_list: OnList = lambda *_: None
    ) -> DryRunReport:
        """Read the lists of `cost`, and tell what would change. It makes calls; nothing that it writes stays.

        A spent budget and failing lists are told in the report's course. Raises Misconfigured where the vendor refuses
        the credentials.
        """
        account = self._open_account(connection, request.sync_type)
        reading = _Reading(connection, account, PURPOSES.get(request.sync_type, Purpose.SWEEP))
        for place, planned in enumerate(cost.lists):
            on_list(told(planned), account.spent.calls, max(cost.calls, account.spent.calls))
            if not await self._read_one(reading, planned):
                reading.course.left += cost.lists[place + 1 :]
                break
        return await self._report(reading)

    async def _read_one(self, reading: _Reading, planned: PlannedRead) -> bool:
        """Read a list to its end; False where the others are not to be read."""
        course = reading.course
        try:
            await self._walk(reading, planned)
        except OUT_OF_CALLS as error:
            course.left.append(planned)
            course.stopped_because = str(error)
            return False
        except (Transient, Rejected) as error:
            course.failed[planned] = f"{FETCH_FAILED}: {told(planned)}: {error}"
            if len(course.failed) == _MOST_FAILURES:
                course.stopped_because = f"{_MOST_FAILURES} lists failed; the last: {error}"
                return False
        else:
            course.lists_read += 1
        return True

    async def _walk(self, reading: _Reading, planned: PlannedRead) -> None:
        began_at = self._store.clock()
        pages = reading.account.client.pages(
            listing_of(planned, reading.connection.timezone),
            read_began_ms=milliseconds(began_at),
            purpose=reading.purpose,
        )
        async with aclosing(pages):
            async for page in pages:
                await self._try_page(reading, planned.kind, page)
        if planned.first_day is not None and planned.last_day is not None:
            reading.windows.append(DaysRead(planned.first_day, planned.last_day, began_at))
        if planned.covers is Covers.EVERYTHING:
            reading.walked[planned.kind] = began_at

    async def _try_page(self, reading: _Reading, kind: RecordKind, page: Page[RecordChange]) -> None:
        """Write a page and take it back; where PostgreSQL refuses it, each of its records by itself."""
        try:
            self._note(reading, Written(await self._try(page.items), page.rejected, kind))
        except Rejected:
            for change in page.items:
                self._note(reading, await self._try_alone(change))
            self._note(reading, Written((), page.rejected, kind))

    async def _try_alone(self, change: RecordChange) -> Written:
        try:
            return Written(await self._try((change,)))
        except Rejected as error:
            refused = RejectedRow(change.entity.external_id, error.reason)
            return Written((), (refused,), change.entity.kind)

    async def _try(self, changes: Sequence[RecordChange]) -> Sequence[tuple[RecordChange, Merged]]:
        merged = await hold_while_away(
            partial(_tried, self._store.database, self._store.writer, changes, self._store.clock())
        )
        return tuple(zip(changes, merged, strict=True))

    def _note(self, reading: _Reading, written: Written) -> None:
        reading.tally.add(written)
        reading.proposals.add(written.results)

    async def _report(self, reading: _Reading) -> DryRunReport:
        tally = reading.tally
        return DryRunReport(
            course=reading.course,
            counts=tally.counts,
            new_patients=len(tally.new_patients),
            appointments_deleted=len(tally.deleted),
            changes=reading.proposals.in_order(),
            not_listed={} if tally.rejected_without_id else await self._not_listed(reading),
            errors=(*reading.course.failed.values(), *tally.errors),
            calls=reading.account.spent.calls,
        )

    async def _not_listed(self, reading: _Reading) -> dict[RecordKind, int]:
        """Count what complete lists lacked, but for what the lists of deletions have told."""
        connection_id, counted = reading.connection.id, dict[RecordKind, int]()
        appointments, clients = (_accounted_for(reading, kind) for kind in (RecordKind.APPOINTMENT, RecordKind.PATIENT))
        for window in joined(reading.windows):
            found = await self._absences.missing_appointments(connection_id, window, appointments)
            counted[found.kind] = counted.get(found.kind, 0) + len(found.missing)
        if RecordKind.PATIENT in reading.walked:
            window = Proved(ALWAYS_FROM, ALWAYS_TO, reading.walked[RecordKind.PATIENT])
            found = await self._absences.missing_clients(connection_id, window, clients)
            counted[found.kind] = len(found.missing)
        return {kind: count for kind, count in counted.items() if count}


def run_of(request: RunRequest, now: datetime) -> Run:
    """Draw the run as it would stand if it were asked for, which it is not."""
    nothing: dict[str, Any] = {}
    return Run(
        id=RunId(uuid4()),
        sync_type=request.sync_type,
        status=RunStatus.STARTING,
        connection_id=request.connection_id,
        organization_id=request.organization_id,
        patient_id=request.patient_id,
        triggered_by=request.triggered_by,
        due_at=request.due_at,
        options=request.options,
        started_at=now,
        completed_at=None,
        duration_ms=None,
        counts=RunCounts(),
        error_message=None,
        metadata=nothing,
        progress=nothing,
        attempts=0,
        cancel_requested_at=None,
        created_at=now,
    )


@asynccontextmanager
async def _taken_back(database: Database) -> AsyncIterator[Session]:
    """Borrow a connection within a transaction that ends, well or badly, as if it had never been."""
    async with database.session() as session:
        transaction = session.transaction()
        await transaction.start()
        try:
            yield session
        finally:
            await transaction.rollback()


async def _tried(
    database: Database, writer: RecordWriter, changes: Sequence[RecordChange], now: datetime
) -> list[Merged]:
    async with _taken_back(database) as session:
        # What is found as it stands need not be written: no later read relies on what is taken back.
        return await writer.write(session, [EventChange(None, change) for change in changes], now, reads_in_order=True)


def _accounted_for(reading: _Reading, kind: RecordKind) -> set[str]:
    told_of = reading.tally.listed.get(kind, set()) | reading.tally.rejected
    return told_of | reading.proposals.deleted(kind)
