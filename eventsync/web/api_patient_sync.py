"""The refresh of one patient that a person asks for, and what it found: a partner's too, as long as it may see them.

What is answered is personal data: it is read from the tables when it is, and noted in the access log before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from eventsync.domain.clock import Clock
from eventsync.domain.runs import Run, RunStatus
from eventsync.postgres.access import Access, AccessLog
from eventsync.postgres.listings import ListedPatient, Listings, PatientFilter
from eventsync.postgres.sync_reports import ReadAppointment, SyncReports
from eventsync.stages.asking import Asker
from eventsync.web.api_calls import CHANGING_ROLES, Answer, Body, Call, Endpoint
from eventsync.web.api_errors import ApiError
from eventsync.web.api_parameters import uuid_parameter
from eventsync.web.sync_answers import PatientSyncDone, SyncedAppointment, SyncUnderWay, summary_of, total_of
from eventsync.web.sync_wait import ASKING_ERRORS, SyncWait

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_FIRST_DAY, _LAST_DAY = date(2000, 1, 1), date(2099, 12, 31)
_LONGEST_DAYS = 731
_EXAMPLE = {"dateRange": {"startDate": "2026-03-01", "endDate": "2026-05-31"}}
_EXPECTED = 'send {"dateRange": {"startDate": "2026-03-01", "endDate": "2026-05-31"}}, or no body for the usual days'
_DATE_RANGE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "examples": [_EXAMPLE, {}],
    "properties": {
        "dateRange": {
            "type": ["object", "null"],
            "required": ["startDate", "endDate"],
            "additionalProperties": False,
            "properties": {
                "startDate": {"type": "string", "format": "date", "description": "The first day."},
                "endDate": {"type": "string", "format": "date", "description": "The last day, included."},
            },
        },
    },
}


def read_date_range(body: Mapping[str, Any]) -> dict[str, str]:
    """Read the body into a run's options: `from` and `to`, or none. Raises ValueError."""
    if set(body) - {"dateRange"}:
        raise ValueError(_EXPECTED)
    given = body.get("dateRange")
    if given is None:
        return {}
    if not isinstance(given, dict) or set(given) != {"startDate", "endDate"}:
        raise ValueError(_EXPECTED)
    first, last = _day("startDate", given["startDate"]), _day("endDate", given["endDate"])
    if last < first:
        raise ValueError("endDate is before startDate")
    if (last - first).days >= _LONGEST_DAYS:
        raise ValueError(f"dateRange spans more than {_LONGEST_DAYS} days: ask for a shorter one, or for several")
    return {"from": first.isoformat(), "to": last.isoformat()}


def _day(name: str, text: object) -> date:
    expected = f"{name} is not a day from {_FIRST_DAY} to {_LAST_DAY}, written as 2026-03-31"
    if not (isinstance(text, str) and _DAY.fullmatch(text)):
        raise ValueError(expected)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ValueError(expected) from None
    if not _FIRST_DAY <= day <= _LAST_DAY:
        raise ValueError(expected)
    return day


class PatientSyncApi:
    """The endpoint."""

    def __init__(
        self,
        asker: Asker,
        wait: SyncWait,
        reports: SyncReports,
        listings: Listings,
        access_log: AccessLog,
        clock: Clock,
    ) -> None:
        self._asker = asker
        self._wait = wait
        self._reports = reports
        self._listings = listings
        self._access_log = access_log
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Describe the endpoint."""
        return (
            Endpoint(
                "POST",
                "/api/partner-dashboard/patients/{id}/sync",
                self.refresh,
                PatientSyncDone,
                "Refresh one patient",
                (uuid_parameter("id", "The patient's id.", in_path=True),),
                roles=CHANGING_ROLES,
                errors=ASKING_ERRORS,
                body=Body("The days whose appointments are read.", read_date_range, _DATE_RANGE_SCHEMA),
                also_answers={202: SyncUnderWay},
            ),
        )

    async def refresh(self, call: Call) -> PatientSyncDone | Answer:
        """Ask for one patient's client record and appointments, and wait for them up to 25 seconds.

        Without days in the body, those of 90 days before and after today are read.
        """
        patient = await self._patient(call)
        caller = call.caller
        asked = await self._asker.patient(patient.id, caller.organization_id, caller.actor, call.body)
        ended = await self._wait.ended(asked)
        return ended if isinstance(ended, Answer) else await self._done(call, ended)

    async def _patient(self, call: Call) -> ListedPatient:
        wanted = PatientFilter(patient_id=call["id"])
        found = await self._listings.patients(call.caller.organization_id, wanted, self._clock(), limit=1)
        if not found:
            raise ApiError(404, "unknown_patient", "the organization sees no such patient")
        return found[0]

    async def _done(self, call: Call, runs: Sequence[Run]) -> PatientSyncDone:
        patient, now = await self._patient(call), self._clock()  # they may have been let go meanwhile
        told = {UUID(each["id"]): each for run in runs for each in run.metadata.get("appointments", ())}
        rows = await self._reports.appointments(told, now)
        await self._access_log.write(Access(now, call.caller.actor, "sync_patient", f"patient:{patient.id}"))
        summary = summary_of(total_of(runs))
        return PatientSyncDone(
            success=not summary.errors and all(run.status is not RunStatus.FAILED for run in runs),
            patientId=patient.id,
            patientName=f"{patient.first_name} {patient.last_name}",
            patientEmail=patient.email,
            syncedAt=_ended_at(runs, now),
            summary=summary,
            appointments=_appointments(told, rows, patient.id),
            warnings=_warnings(runs, call.body),
            syncLogId=runs[0].id,
        )


def _ended_at(runs: Sequence[Run], now: datetime) -> datetime:
    return max(run.completed_at or now for run in runs)


def _appointments(
    told: Mapping[UUID, Mapping[str, Any]], rows: Sequence[ReadAppointment], patient_id: UUID
) -> tuple[SyncedAppointment, ...]:
    """Join what a run did with how the patient's appointments stand; those of whom no row is held come last.

    One that is another patient's by now is left out.
    """
    shown = [
        SyncedAppointment(
            id=row.id,
            pqAppointmentId=row.external_id,
            startTime=row.start_time,
            providerName=row.provider_name,
            status=row.status,
            syncAction=told[row.id]["syncAction"],
            errorMessage=told[row.id].get("errorMessage"),
        )
        for row in rows
        if row.patient_id == patient_id
    ]
    for missing in told.keys() - {row.id for row in rows}:
        did = told[missing]
        shown.append(SyncedAppointment(missing, None, None, None, None, did["syncAction"], did.get("errorMessage")))
    return tuple(shown)


def _warnings(runs: Sequence[Run], options: Mapping[str, str]) -> tuple[str, ...]:
    warnings = [text for run in runs for text in (*run.metadata.get("warnings", ()), run.error_message) if text]
    if any(dict(run.options) != options for run in runs):
        warnings.append("A refresh of this patient went on already, of other days: ask again for these.")
    return tuple(dict.fromkeys(warnings))
