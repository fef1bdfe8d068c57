"""Tells what came of a run: the counts and words of its row, and when its connection is read next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from eventsync.domain.clock import Clock
from eventsync.domain.day_plan import next_sweep_at, plan_of_day
from eventsync.domain.runs import RunCounts, RunEnd, RunStatus, SyncType
from eventsync.postgres.coverage import Coverage
from eventsync.postgres.database import Database
from eventsync.postgres.run_patients import Audience, PatientCounts, RunPatients
from eventsync.postgres.schedules import Schedules
from eventsync.stages.course import Course, is_full_run
from eventsync.stages.practitioners import unknown_practitioner, unknown_practitioners
from eventsync.stages.reading import RunReads
from eventsync.stages.tally import Finding

_MOST_ERRORS = 10
_MOST_UNKNOWN = 5
_NO_ADDRESS = "Patient has no email"


class RunReport:
    """Makes the end of a run out of what it has read."""

    def __init__(
        self, database: Database, patients: RunPatients, coverage: Coverage, schedules: Schedules, clock: Clock
    ) -> None:
        self._database = database
        self._patients = patients
        self._coverage = coverage
        self._schedules = schedules
        self._clock = clock

    async def end(self, reads: RunReads, course: Course) -> RunEnd:
        """Count the patients, say what people should know, and plan the next sweep. Raises DatabaseAway."""
        today = self._clock().astimezone(ZoneInfo(reads.connection.timezone)).date()
        audience = _audience(reads)
        read = None if course.is_whole and _answers_for_all(reads) else sorted(reads.tally.found)
        patients = await self._patients.count(audience, today, read=read, spoiled=sorted(reads.tally.rejected))
        if not course.is_refused:
            await self._patients.mark_synced(audience, reads.lease.run.started_at, read=read)
        counts, deleted = await self._counts(reads, audience, patients, today)
        warnings = course.warnings + await self._unknown_practitioners(reads)
        await self._plan_next_sweep(reads, today)
        errors = _errors(reads, course, patients)
        status = _status(reads, course, has_errors=bool(errors) or counts.appointments_errors > 0)
        why = course.stopped_because or (errors[0]["error"] if errors else None)
        metadata = {
            "totalPatients": patients.affiliated,
            "newPatientsDiscovered": 0 if audience.partner_id else len(reads.tally.new_patients),
            "unaffiliatedPatientsSynced": patients.unaffiliated,
            "organizations_processed": patients.organizations,
            "duration_ms": (self._clock() - reads.lease.run.started_at) // timedelta(milliseconds=1),
            "errors": errors[:_MOST_ERRORS],
            "warnings": warnings,
            "date_range": _date_range(reads, today),
            "intakeq_api_calls": reads.calls,
            "rate_limit_hit": reads.account.spent.rate_limit_hits > 0,
            "budget_left": await reads.account.calls_left(),
            "appointments_deleted": deleted,
            "lists_read": course.lists_read,
            "stopped_because": course.stopped_because,
        }
        return RunEnd(status, counts, why, metadata)

    async def _counts(
        self, reads: RunReads, audience: Audience, patients: PatientCounts, today: date
    ) -> tuple[RunCounts, int]:
        """Tell the run's counts, and how many of the updated appointments were deletions."""
        tally = reads.tally
        counts = replace(tally.counts, patients_processed=patients.processed, patients_failed=patients.failed)
        if reads.lease.run.sync_type is not SyncType.MANUAL_ORG_BULK:
            return counts, len(tally.deleted)
        window = _midnight(reads.rules.first_day(today)), _midnight(reads.rules.last_day(today) + timedelta(days=1))
        new, updated = tally.ids(Finding.NEW), tally.ids(Finding.UPDATED)
        theirs = await self._patients.count_appointments(
            audience, today, window, new=new, updated=updated, deleted=sorted(tally.deleted)
        )
        counts = replace(
            counts,
            appointments_new=theirs.new,
            appointments_updated=theirs.updated,
            appointments_unchanged=theirs.unchanged,
        )
        return counts, theirs.deleted

    async def _unknown_practitioners(self, reads: RunReads) -> list[str]:
        unknown = await unknown_practitioners(self._database, reads.connection.id, self._clock())
        shown = [unknown_practitioner(practitioner_id) for practitioner_id in unknown[:_MOST_UNKNOWN]]
        more = len(unknown) - len(shown)
        return [*shown, f"and {more} more unknown practitioners"] if more else shown

    async def _plan_next_sweep(self, reads: RunReads, today: date) -> None:
        now = self._clock()
        window = reads.rules.first_day(today), reads.rules.last_day(today)
        knowledge = await self._coverage.knowledge(reads.connection.id, now, *window)
        plan = plan_of_day(knowledge.size, reads.connection.calls_per_day, today, rules=reads.rules)
        due_at = next_sweep_at(plan, now, ZoneInfo(reads.connection.timezone))
        await self._schedules.plan_sweep(reads.connection.id, due_at)


def _audience(reads: RunReads) -> Audience:
    owner_id, asked_for = reads.connection.organization_id, reads.lease.run.organization_id
    return Audience(reads.connection.id, owner_id, None if asked_for == owner_id else asked_for)


def _answers_for_all(reads: RunReads) -> bool:
    """Whether the run, being whole, says of every patient's appointments that they stand as they are held."""
    return is_full_run(reads.lease.run) or reads.lease.run.sync_type is SyncType.MANUAL_ORG_BULK


def _errors(reads: RunReads, course: Course, patients: PatientCounts) -> list[Mapping[str, Any]]:
    texts = [*course.failed.values(), *reads.tally.errors]
    unreachable = [{"patientId": patient_id, "error": _NO_ADDRESS} for patient_id in patients.unreachable]
    return [*unreachable, *({"patientId": None, "error": text} for text in texts)]


def _status(reads: RunReads, course: Course, *, has_errors: bool) -> RunStatus:
    if course.is_refused or (course.lists_read == 0 and not course.is_whole and not reads.tally.found):
        return RunStatus.FAILED
    return RunStatus.COMPLETED if course.is_whole and not has_errors else RunStatus.PARTIAL_SUCCESS


def _date_range(reads: RunReads, today: date) -> Mapping[str, str]:
    start, end = today - timedelta(days=reads.rules.days_back), today + timedelta(days=reads.rules.days_ahead)
    return {"startDate": start.isoformat(), "endDate": end.isoformat()}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
