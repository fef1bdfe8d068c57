"""Syncs that people and schedulers ask for: the daily run by cron, and "refresh all" of an organization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from eventsync.domain.clock import Clock
from eventsync.domain.runs import Run
from eventsync.postgres.access import Role
from eventsync.postgres.sync_reports import PatientProblem, SyncReports
from eventsync.stages.asking import Asker
from eventsync.web.api_calls import CHANGING_ROLES, Answer, Call, Endpoint
from eventsync.web.api_errors import ApiError
from eventsync.web.sync_answers import (
    BulkSyncDone,
    SyncDone,
    SyncUnderWay,
    outcomes,
    stats_of,
    status_of,
    summary_of,
    total_of,
)
from eventsync.web.sync_wait import ASKING_ERRORS, SyncWait

_CRON_PATH = "/api/cron/sync-practiceq-appointments"


class SyncApi:
    """The endpoints."""

    def __init__(self, asker: Asker, wait: SyncWait, reports: SyncReports, clock: Clock) -> None:
        self._asker = asker
        self._wait = wait
        self._reports = reports
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Describe the endpoints."""
        return (
            *(self._cron(method) for method in ("POST", "GET")),
            Endpoint(
                "POST",
                "/api/partner-dashboard/patients/sync-all",
                self.refresh_all,
                BulkSyncDone,
                "Refresh all patients of the organization",
                roles=CHANGING_ROLES,
                errors=ASKING_ERRORS,
                also_answers={202: SyncUnderWay},
            ),
        )

    def _cron(self, method: str) -> Endpoint:
        return Endpoint(
            method,
            _CRON_PATH,
            self.daily,
            SyncDone,
            "Sync PracticeQ (IntakeQ) in full, as every night",
            roles=frozenset({Role.ADMIN}),
            errors=ASKING_ERRORS,
            also_answers={202: SyncUnderWay},
            takes_cron_secret=True,
        )

    async def daily(self, call: Call) -> SyncDone | Answer:
        """Ask for the daily run of every living IntakeQ connection, and wait for its end up to 25 seconds.

        A run that goes on already answers for itself: none is started beside it.
        """
        ended = await self._wait.ended(await self._asker.daily(call.caller.organization_id, call.caller.actor))
        return ended if isinstance(ended, Answer) else await self._done(call, ended)

    async def refresh_all(self, call: Call) -> BulkSyncDone | Answer:
        """Ask for what changed of all patients that the organization owns or follows; wait up to 25 seconds.

        An admin names the organization in a header.
        """
        organization_id = call.caller.organization_id
        if organization_id is None:
            raise ApiError(400, "missing_organization", "whose patients? Name the organization in X-Organization-ID")
        ended = await self._wait.ended(await self._asker.bulk(organization_id, call.caller.actor))
        if isinstance(ended, Answer):
            return ended
        done = await self._done(call, ended)
        told = {entry.name: getattr(done, entry.name) for entry in fields(done)}
        return BulkSyncDone(summary=summary_of(total_of(ended)), **told)

    async def _done(self, call: Call, runs: Sequence[Run]) -> SyncDone:
        now, problems = self._clock(), list[PatientProblem]()
        for run in runs:
            problems += await self._reports.problems(run, call.caller.organization_id, now.date())
        return SyncDone(
            success=True,
            syncLogId=runs[0].id,
            status=status_of(runs),
            stats=stats_of(runs, problems, now),
            runs=outcomes(runs),
        )
