"""Carries out one run over one connection: plans its lists by what is known, reads them, and tells what came of it.

The daily run and a backfill read in full; sweeps and a person's refresh read what changed. One list's failure does not
stop the others, a spent budget ends the run where it is, refused credentials end it as failed; whatever was read before
stays, and nothing is concluded from a list that did not come to its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.domain.reads import Covered, Covers, PlannedRead
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import Run, RunEnd, RunStatus, SyncType
from eventsync.domain.windows import DaysRead, Proved, is_proved
from eventsync.postgres.absences import Absences
from eventsync.postgres.coverage import Coverage
from eventsync.postgres.database import DatabaseAway
from eventsync.postgres.runs import RunLease
from eventsync.stages.accounts import OpenAccount
from eventsync.stages.course import (
    FETCH_FAILED,
    OUT_OF_CALLS,
    Course,
    daily_allowance,
    is_full_run,
    plan_lists,
    rules_of,
    told,
)
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.holding import hold_while_away
from eventsync.stages.practitioners import learn_practitioners
from eventsync.stages.reading import ListReader, RunReads, Store
from eventsync.stages.run_report import RunReport
from eventsync.stages.second_look import SecondLook
from eventsync.stages.summary_reading import KINDS as SUMMARIZED
from eventsync.stages.summary_reading import SummaryReader
from eventsync.stages.tally import Tally
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.vendor import RecordVendor

T = TypeVar("T")

_MOST_FAILURES_IN_A_ROW = 3
_LONGEST_WALK = timedelta(days=3)  # a walk that was left longer ago begins anew
_SUMMARIES = tuple(PlannedRead(kind=kind, covers=Covers.CHANGES) for kind in SUMMARIZED)
PURPOSES = {
    SyncType.BACKFILL: Purpose.BACKFILL,
    SyncType.MANUAL_ORG_BULK: Purpose.MANUAL,
    SyncType.MANUAL_PATIENT: Purpose.MANUAL,
}


class Reconciler:
    """Carries out the runs of every sync type but a single patient's."""

    def __init__(
        self,
        store: Store,
        coverage: Coverage,
        absences: Absences,
        report: RunReport,
        directory: ConnectionDirectory,
        vendors: Mapping[str, RecordVendor],
        open_account: OpenAccount,
    ) -> None:
        self._store = store
        self._coverage = coverage
        self._absences = absences
        self._report = report
        self._directory = directory
        self._vendors = vendors
        self._open_account = open_account

    async def run(self, lease: RunLease) -> RunEnd:
        """Carry out the run, however long PostgreSQL is away. Raises RunLost where it is another worker's by now."""
        try:
            reads = await self._while_held(lambda: self._begun(lease))
        except (Rejected, Misconfigured) as error:
            return RunEnd(RunStatus.FAILED, lease.run.counts, str(error))
        course = await self._read(reads)
        return await self._while_held(lambda: self._report.end(reads, course))

    async def _begun(self, lease: RunLease) -> RunReads:
        """Open the account, and take up the run where it stands. Raises Rejected, Misconfigured or DatabaseAway."""
        connection = await self._directory.get(lease.run.connection_id)
        vendor = self._vendors[connection.vendor]
        return RunReads(
            lease=lease,
            connection=connection,
            vendor=vendor,
            rules=rules_of(lease.run, connection, vendor),
            account=self._open_account(connection, lease.run.sync_type),
            purpose=PURPOSES.get(lease.run.sync_type, Purpose.SWEEP),
            watched_since=await self._coverage.watched_since(connection.id),
            tally=await self._tally(lease.run, connection.id),
        )

    async def _tally(self, run: Run, connection_id: ConnectionId) -> Tally:
        if not run.progress:  # nobody has written anything for it yet
            return Tally(run.counts)
        return Tally.resumed(run.counts, await self._coverage.found_by(connection_id, run.id, run.started_at))

    async def _read(self, reads: RunReads) -> Course:
        """Read what the run is for, as far as vendor and budget let it."""
        course = Course()
        reader = ListReader(self._store, reads)
        is_full = is_full_run(reads.lease.run)
        try:
            if is_full:
                await self._learn_practitioners(reads, course)
            plan = await self._while_held(lambda: self._plan(reads, is_full=is_full))
            await self._read_all(reader, reads, course, plan)
            if course.failed and course.stopped_because is None:  # maintenance passes: once more, at the end
                again, course.failed = list(course.failed), {}
                await self._read_all(reader, reads, course, again)
            is_bounded = _grant_what_is_beside(reads)
            course.warnings += await self._while_held(self._second_look(reader, reads).settle)
            if is_full and (course.stopped_because is None or is_bounded):
                await self._read_summaries(reader, reads, course)
        except Misconfigured as error:
            course.is_refused, course.stopped_because = True, f"{FETCH_FAILED}: {error}"
        except OUT_OF_CALLS as error:
            course.stopped_because = course.stopped_because or str(error)
        except (Transient, Rejected) as error:
            course.stopped_because = f"{FETCH_FAILED}: {error}"
        return course

    def _second_look(self, reader: ListReader, reads: RunReads) -> SecondLook:
        allowed = reads.lease.run.options.get("allow_mass_delete") is True
        return SecondLook(self._absences, self._coverage, reader, reads, allow_mass_delete=allowed)

    async def _plan(self, reads: RunReads, *, is_full: bool) -> tuple[PlannedRead, ...]:
        """Choose the lists; those that an earlier attempt of the same run has read are done."""
        run, connection = reads.lease.run, reads.connection
        with_near = run.sync_type is SyncType.AUTOMATED_SWEEP
        plan = await plan_lists(
            self._coverage, connection, reads.rules, self._store.clock(), is_full=is_full, with_near=with_near
        )
        if is_full and run.progress:  # its last worker died, or gave it back
            done = await self._coverage.covered_by(connection.id, run.id)
            plan = tuple(planned for planned in plan if not _is_done(planned, done))
        if is_full and run.due_at is not None:
            now = self._store.clock()
            reads.allowance = await daily_allowance(self._coverage, connection, reads.rules, now)
        if reads.allowance is not None:
            reads.account.spent.most_calls = reads.allowance[0]
        reads.progress["expected_calls"] = sum(planned.expected_calls for planned in plan)
        reads.progress["total_steps"] = len(plan)
        return plan

    async def _read_all(self, reader: ListReader, reads: RunReads, course: Course, plan: Sequence[PlannedRead]) -> None:
        """Read the lists one after the other. Raises Misconfigured where the vendor refuses us."""
        in_a_row = 0
        for place, planned in enumerate(plan):
            reads.progress |= {"step": told(planned), "step_number": place + 1}
            try:
                await self._read_one(reader, reads, planned)
            except OUT_OF_CALLS as error:
                course.left += plan[place:]
                course.stopped_because = f"{error}; {len(course.left)} lists are left, which the next run reads first"
                return
            except (Transient, Rejected) as error:
                course.failed[planned] = f"{FETCH_FAILED}: {told(planned)}: {error}"
                in_a_row += 1
                if in_a_row == _MOST_FAILURES_IN_A_ROW:
                    course.left += plan[place + 1 :]
                    course.stopped_because = f"{FETCH_FAILED}: {in_a_row} lists in a row failed; the last: {error}"
                    return
            else:
                in_a_row = 0
                course.lists_read += 1

    async def _read_one(self, reader: ListReader, reads: RunReads, planned: PlannedRead) -> None:
        await self._while_held(lambda: self._read_from_its_place(reader, reads, planned))

    async def _read_from_its_place(self, reader: ListReader, reads: RunReads, planned: PlannedRead) -> None:
        walk = None
        if planned.covers is Covers.EVERYTHING:
            walk = await self._coverage.walk(reads.connection.id, planned.kind)
            if walk is not None and walk.began_at < self._store.clock() - _LONGEST_WALK:
                walk = None
        await reader.read(planned, walk)

    async def _read_summaries(self, reader: ListReader, reads: RunReads, course: Course) -> None:
        """Read the kinds that lists only name; where one fails, once more at the end, as with the other lists."""
        summaries = SummaryReader(self._store, reader, reads)
        failed = await self._read_kinds(summaries, reads, course, _SUMMARIES)
        course.failed |= await self._read_kinds(summaries, reads, course, tuple(failed))

    async def _read_kinds(
        self, summaries: SummaryReader, reads: RunReads, course: Course, wanted: Sequence[PlannedRead]
    ) -> dict[PlannedRead, str]:
        failed = {}
        for planned in wanted:
            try:
                waiting = await self._while_held(partial(self._read_kind, summaries, reads, planned.kind))
            except OUT_OF_CALLS:
                raise
            except (Transient, Rejected) as error:
                failed[planned] = f"{FETCH_FAILED}: {told(planned)}: {error}"
            else:
                if waiting:
                    course.warnings.append(f"{waiting} {planned.kind.value}s wait for the next full run to be read")
        return failed

    async def _read_kind(self, summaries: SummaryReader, reads: RunReads, kind: RecordKind) -> int:
        cursors = await self._coverage.changes_followed(reads.connection.id)
        return await summaries.read(kind, cursors.get(kind))

    async def _learn_practitioners(self, reads: RunReads, course: Course) -> None:
        """Learn their names by one call, without which the run is as good but for the names."""
        database, client = self._store.database, reads.account.client
        learning = partial(learn_practitioners, database, client, reads.connection.id, reads.purpose)
        try:
            await self._while_held(lambda: learning(self._store.clock()))
        except OUT_OF_CALLS:
            raise
        except (Transient, Rejected) as error:
            course.warnings.append(f"the practitioners' names could not be read: {error}")

    async def _while_held(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, anew where PostgreSQL went away in the middle of it, once it is back."""
        while True:
            try:
                return await work()
            except DatabaseAway:
                await hold_while_away(self._store.database.ping)


def _grant_what_is_beside(reads: RunReads) -> bool:
    """Let a scheduled run whose lists have used up their part of the day go on with what is beside them."""
    spent, allowance = reads.account.spent, reads.allowance
    if allowance is None or spent.calls < allowance[0]:
        return False
    spent.most_calls = sum(allowance)
    return True


def _is_done(planned: PlannedRead, done: Sequence[Covered]) -> bool:
    mine = [entry for entry in done if entry.kind is planned.kind]
    match planned.covers:
        case Covers.WINDOW:
            if planned.first_day is None or planned.last_day is None:
                return False
            days = DaysRead(planned.first_day, planned.last_day, datetime.min.replace(tzinfo=UTC))
            return is_proved(days, [Proved(entry.window_from, entry.window_to, entry.read_began_at) for entry in mine])
        case Covers.EVERYTHING:
            return bool(mine)
        case Covers.CHANGES | Covers.DELETIONS:
            return False
