"""Refreshes one patient because a person asked for it: carries out a `manual_patient` run, with at most three calls.

Stands beside the reconciler, which carries out all other runs; the calls themselves are `patient_reading`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import structlog

from eventsync.domain.errors import EventsyncError, Transient
from eventsync.domain.records import RecordKind, record_id_of
from eventsync.domain.runs import Run, RunCounts, RunEnd, RunStatus
from eventsync.postgres.coverage import Coverage
from eventsync.postgres.patient_refreshes import HeldPatient, load_patient, mark_synced
from eventsync.postgres.providers import without_name
from eventsync.postgres.runs import RunLease, RunLost
from eventsync.stages.accounts import OpenAccount
from eventsync.stages.course import FETCH_FAILED, rules_of
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.holding import hold_while_away
from eventsync.stages.patient_reading import MAX_CALLS, CannotAsk, Days, PatientReading
from eventsync.stages.practitioners import unknown_practitioner
from eventsync.stages.reading import RunReads, Store
from eventsync.stages.tally import Finding, Tally
from eventsync.telemetry import origin_of
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.vendor import RecordVendor

_log = structlog.get_logger(__name__)

_ACTIONS = {Finding.NEW: "created", Finding.UPDATED: "updated", Finding.UNCHANGED: "unchanged"}


class PatientRefresher:
    """Carries out `manual_patient` runs."""

    def __init__(
        self,
        store: Store,
        coverage: Coverage,
        directory: ConnectionDirectory,
        vendors: Mapping[str, RecordVendor],
        open_account: OpenAccount,
    ) -> None:
        self._store = store
        self._coverage = coverage
        self._directory = directory
        self._vendors = vendors
        self._open_account = open_account

    async def run(self, lease: RunLease) -> RunEnd:
        """Carry out the run; one that a dead worker left begins anew, counts included.

        Raises RunLost where it is another worker's by now. Every other failure is told in the answer, without personal
        data; while PostgreSQL is away the run waits.
        """
        try:
            return await self._run(lease)
        except RunLost:
            raise
        except CannotAsk as error:
            failure = str(error)
        except EventsyncError as error:
            failure = _fetch_failed(error)
        except Exception as error:  # noqa: BLE001  # a fault of ours must end the run with a word, not hang it
            origin = origin_of(error)
            _log.error("patient_not_refreshed", run_id=str(lease.run.id), exception=type(error).__name__, origin=origin)
            failure = f"eventsync failed ({type(error).__name__} at {origin}): see the log of the worker."
        return RunEnd(RunStatus.FAILED, RunCounts(patients_failed=1), failure, _metadata(lease.run, [failure]))

    async def _run(self, lease: RunLease) -> RunEnd:
        run, began_at = lease.run, self._store.clock()
        connection = await hold_while_away(partial(self._directory.get, run.connection_id))
        vendor, today = self._vendors[connection.vendor], began_at.astimezone(ZoneInfo(connection.timezone)).date()
        rules = rules_of(run, connection, vendor)
        days = _days(run.options, rules.first_day(today), rules.last_day(today))
        patient = await self._patient(run, today)
        account = self._open_account(connection, run.sync_type)
        account.spent.most_calls = MAX_CALLS  # repeated tries included
        reads = RunReads(
            lease=lease,
            connection=connection,
            vendor=vendor,
            rules=rules,
            account=account,
            purpose=Purpose.MANUAL,
            watched_since=await hold_while_away(partial(self._coverage.watched_since, connection.id)),
            tally=Tally(),
        )
        reading = PatientReading(self._store, reads, patient, days)
        failure = await _failure_of(reading)
        if failure is None or reading.lists_read:
            await hold_while_away(partial(self._note_success, reading, reads, patient, began_at))
        budget_left = await hold_while_away(reads.account.calls_left)
        return _end(reading, reads, failure, {"date_range": _range(days), "budget_left": budget_left})

    async def _patient(self, run: Run, today: date) -> HeldPatient:
        """Load the patient. Raises CannotAsk where the run is not theirs to read who asked for it."""
        if run.patient_id is None:
            raise ValueError("a manual_patient run is about a patient")
        database = self._store.database
        patient = await hold_while_away(
            partial(load_patient, database, run.connection_id, run.patient_id, run.organization_id, today)
        )
        if patient is None:
            raise CannotAsk(
                "The patient is none of this connection's practice, or of nobody whom the organization follows"
            )
        return patient

    async def _note_success(
        self, reading: PatientReading, reads: RunReads, patient: HeldPatient, began_at: datetime
    ) -> None:
        """Tell followers as of when the patient is true, and warn of practitioners whom nobody has named."""
        connection_id = reads.connection.id
        async with self._store.database.transaction() as session:
            unknown = await without_name(session, connection_id, sorted(reading.practitioner_ids))
            today = began_at.astimezone(ZoneInfo(reads.connection.timezone)).date()
            await mark_synced(session, patient.id, began_at, today, self._store.clock())
            await reading.hold(session)
        reading.warnings += map(unknown_practitioner, unknown)


async def _failure_of(reading: PatientReading) -> str | None:
    """Read, and say what ended it early. Raises RunLost."""
    try:
        await reading.read()
    except RunLost:
        raise
    except CannotAsk as error:
        return str(error)
    except EventsyncError as error:
        return _fetch_failed(error)
    return None


def _end(reading: PatientReading, reads: RunReads, failure: str | None, told: Mapping[str, Any]) -> RunEnd:
    """Put together what the run's row will say."""
    tally, spent = reads.tally, reads.account.spent
    errors = [*tally.errors, *([] if failure is None else [failure])]
    is_failed = failure is not None and not reading.lists_read
    if is_failed:
        status = RunStatus.FAILED
    else:
        status = RunStatus.PARTIAL_SUCCESS if errors or not reading.is_whole else RunStatus.COMPLETED
    counts = tally.counts + RunCounts(patients_processed=int(not is_failed), patients_failed=int(is_failed))
    metadata = _metadata(reads.lease.run, errors) | {
        "appointments": list(_appointments(reading, reads)),
        "warnings": reading.warnings,
        "intakeq_api_calls": spent.calls,
        "rate_limit_hit": spent.rate_limit_hits > 0,
        "appointments_deleted": len(tally.deleted),
        "stopped_because": failure,
    }
    return RunEnd(status, counts, failure, metadata | dict(told))


def _metadata(run: Run, errors: Iterable[str]) -> dict[str, Any]:
    """Say what every end says, whatever was read."""
    return {
        "totalPatients": 1,
        "appointments": [],
        "warnings": [],
        "intakeq_api_calls": 0,
        "rate_limit_hit": False,
        "errors": [{"patientId": str(run.patient_id), "error": error} for error in errors],
    }


def _appointments(reading: PatientReading, reads: RunReads) -> Iterable[dict[str, str]]:
    """Say what became of each appointment, by our own ids."""
    connection_id, tally = reads.connection.id, reads.tally
    for external_id, finding in tally.found.items():
        record_id = record_id_of(connection_id, RecordKind.APPOINTMENT, external_id)
        yield {"id": str(record_id), "syncAction": _ACTIONS[finding]}
    for external_id in sorted(tally.rejected - tally.found.keys()):
        reason = reading.reasons.get(external_id)
        yield {
            "id": str(record_id_of(connection_id, RecordKind.APPOINTMENT, external_id)),
            "syncAction": "error",
            "errorMessage": "PostgreSQL refused it" if reason is None else f"It could not be understood ({reason})",
        }


def _days(options: Mapping[str, Any], first: date, last: date) -> Days:
    """Read the run's options `from` and `to`, where it has them. Raises CannotAsk."""
    try:
        days = Days(_day(options.get("from"), first), _day(options.get("to"), last))
        days.listing("")  # there must be a day more on either side
    except (ValueError, TypeError, OverflowError):
        raise CannotAsk("The run's dates are none: give from and to as YYYY-MM-DD") from None
    if days.first > days.last:
        raise CannotAsk("The run's dates are in the wrong order: give a from that is not after to")
    return days


def _day(text: Any, otherwise: date) -> date:
    return otherwise if text is None else date.fromisoformat(text)


def _range(days: Days) -> dict[str, str]:
    return {"startDate": days.first.isoformat(), "endDate": days.last.isoformat()}


def _fetch_failed(error: EventsyncError) -> str:
    """Say that the vendor could not be read, why, and when another try makes sense."""
    wait_s = error.retry_after_s if isinstance(error, Transient) else None
    again = "" if wait_s is None else f" Try again in about {_span(wait_s)}."
    return f"{FETCH_FAILED}: {str(error).rstrip('.')}.{again}"


def _span(seconds: float) -> str:
    """Round up a wait to what people say."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = -(-seconds // 60)
    return f"{minutes:.0f} min" if minutes < 120 else f"{-(-minutes // 60):.0f} h"
