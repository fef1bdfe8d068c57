"""Runs in the management API: how far one is, how an organization's went, and stopping one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from eventsync.domain.clock import Clock
from eventsync.domain.connections import OrganizationId
from eventsync.domain.runs import Run, RunId
from eventsync.postgres.access import Principal
from eventsync.postgres.runs import Runs
from eventsync.postgres.sync_reports import SyncReports
from eventsync.web.api_calls import CHANGING_ROLES, Call, Endpoint, Parameter
from eventsync.web.api_errors import ApiError
from eventsync.web.api_parameters import uuid_parameter
from eventsync.web.sync_progress import SyncHistory, SyncProgress, history_of, progress_of

_MOST_LISTED = 100
_LONGEST_NAME = 200
_SYNC_ID = uuid_parameter("sync_id", "The sync's id.", in_path=True)
_UNKNOWN_RUN = {404: "The organization sees no such sync."}

FindOrganization = Callable[[Principal, str], Awaitable[OrganizationId]]


@dataclass(frozen=True, slots=True)
class SyncStopped:
    """A sync that was cancelled: at once where it had not begun (`cancelled`), else by its worker (`running`)."""

    success: bool
    message: str
    sync_id: RunId
    status: str
    timestamp: datetime


def _organization_name(text: str) -> str:
    if not (len(text) <= _LONGEST_NAME and text.isprintable()):
        raise ValueError("an organization's UUID or external id")
    return text


def _limit(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else 0
    if not 1 <= number <= _MOST_LISTED:
        raise ValueError(f"a whole number from 1 to {_MOST_LISTED}")
    return number


_ORGANIZATION = Parameter(
    "organization_id",
    "The organization (its UUID or external id): any for an admin, otherwise the token's.",
    _organization_name,
    {"type": "string", "maxLength": _LONGEST_NAME, "examples": ["0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12"]},
    in_path=True,
)
_LIMIT_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": _MOST_LISTED, "default": 10}
_LIMIT = Parameter("limit", "How many of the latest are listed.", _limit, _LIMIT_SCHEMA, default=10)


class SyncRunsApi:
    """The endpoints. What an organization may not see is answered as if it were not there."""

    def __init__(self, runs: Runs, reports: SyncReports, find_organization: FindOrganization, clock: Clock) -> None:
        self._runs = runs
        self._reports = reports
        self._find_organization = find_organization
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Describe the endpoints."""
        return (
            Endpoint(
                "GET",
                "/api/v1/sync/progress/{sync_id}",
                self.progress,
                SyncProgress,
                "Show how far a sync is",
                (_SYNC_ID,),
                errors=_UNKNOWN_RUN,
            ),
            Endpoint(
                "GET",
                "/api/v1/sync/history/{organization_id}",
                self.history,
                SyncHistory,
                "Show how an organization's syncs went",
                (_ORGANIZATION, _LIMIT),
            ),
            Endpoint(
                "POST",
                "/api/v1/sync/cancel/{sync_id}",
                self.cancel,
                SyncStopped,
                "Stop a sync",
                (_SYNC_ID,),
                roles=CHANGING_ROLES,
                errors={**_UNKNOWN_RUN, 409: "It has ended already."},
            ),
        )

    async def progress(self, call: Call) -> SyncProgress:
        """Show a sync that the organization asked for, or one of its own connections, as its worker last told."""
        organization_id, now = call.caller.organization_id, self._clock()
        rights = await self._reports.rights(call["sync_id"], organization_id, now.date())
        run = await self._found(call["sync_id"], allowed=rights.sees)
        return progress_of(run, await self._reports.problems(run, organization_id, now.date()), now)

    async def history(self, call: Call) -> SyncHistory:
        """Show the syncs that the organization asked for and those of its own connections, latest first."""
        organization_id = await self._find_organization(call.caller.principal, call["organization_id"])
        figures = await self._reports.figures(organization_id)
        return history_of(call["organization_id"], figures, await self._reports.latest(organization_id, call["limit"]))

    async def cancel(self, call: Call) -> SyncStopped:
        """Stop a sync that the organization asked for, or one of its own connections. What it wrote stays."""
        organization_id, now = call.caller.organization_id, self._clock()
        rights = await self._reports.rights(call["sync_id"], organization_id, now.date())
        run = await self._found(call["sync_id"], allowed=rights.sees)
        if not (rights.owns or run.organization_id == organization_id):
            raise ApiError(403, "other_organization", "another organization asked for this sync: it may stop it")
        if not await self._runs.cancel(run.id, now):
            raise ApiError(409, "already_ended", f"the sync has ended already: see /api/v1/sync/progress/{run.id}")
        status = (await self._found(run.id, allowed=True)).status
        message = "The sync is being stopped by its worker." if status.is_active else "The sync was cancelled."
        return SyncStopped(success=True, message=message, sync_id=run.id, status=status.value, timestamp=now)

    async def _found(self, run_id: RunId, *, allowed: bool) -> Run:
        run = await self._runs.find(run_id) if allowed else None
        if run is None:
            raise ApiError(404, "unknown_sync", "the organization sees no such sync")
        return run
