"""Asks for runs on someone's behalf, and waits for them to end as long as the asker does: workers carry them out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from eventsync.domain.clock import Clock
from eventsync.domain.connections import OrganizationId
from eventsync.domain.errors import Transient
from eventsync.domain.runs import Run, RunRequest, SyncType
from eventsync.postgres.listener import Channel, Listener, Signal
from eventsync.postgres.runs import Runs
from eventsync.postgres.sync_targets import SyncTarget, SyncTargets

_PAUSES_S = (0.05, 1.0)
_LAST_LOOK_S = 2.0


class Asker:
    """Asks for a run of each connection that a wish concerns; one that goes on already answers a like wish.

    Every method answers the runs, those that others asked for included, in the order of their connections' numbers:
    none where no living connection is concerned.
    """

    def __init__(self, runs: Runs, targets: SyncTargets, clock: Clock) -> None:
        self._runs = runs
        self._targets = targets
        self._clock = clock

    async def daily(self, organization_id: OrganizationId | None, asked_by: str) -> list[Run]:
        """Ask for the daily run, in full, of the organization's own connections (None: of everyone's)."""
        targets = await self._targets.owned(organization_id)
        return [
            await self._ask(RunRequest(SyncType.AUTOMATED_DAILY, each.connection_id, each.owner_id, asked_by))
            for each in targets
        ]

    async def bulk(self, organization_id: OrganizationId, asked_by: str) -> list[Run]:
        """Ask for what changed of all patients that the organization owns or follows."""
        targets = await self._targets.owned_or_followed(organization_id, self._clock().date())
        return [
            await self._ask(
                RunRequest(
                    SyncType.MANUAL_ORG_BULK,
                    each.connection_id,
                    organization_id,
                    asked_by,
                    options={"mode": "changes"},
                )
            )
            for each in targets
        ]

    async def patient(
        self,
        patient_id: UUID,
        organization_id: OrganizationId | None,
        asked_by: str,
        options: Mapping[str, Any],
    ) -> list[Run]:
        """Ask for one patient, for an organization that may see them (None: for the owner).

        `options` are `from` and `to`, days as YYYY-MM-DD, or nothing for the usual ones. A run that goes on already
        keeps its own.
        """
        targets = await self._targets.of_patient(patient_id)
        return [
            await self._ask(_patient_request(each, patient_id, organization_id, asked_by, options)) for each in targets
        ]

    async def _ask(self, request: RunRequest) -> Run:
        run, _ = await self._runs.request(request, self._clock())
        return run


def _patient_request(
    target: SyncTarget,
    patient_id: UUID,
    organization_id: OrganizationId | None,
    asked_by: str,
    options: Mapping[str, Any],
) -> RunRequest:
    return RunRequest(
        SyncType.MANUAL_PATIENT,
        target.connection_id,
        target.owner_id if organization_id is None else organization_id,
        asked_by,
        patient_id=patient_id,
        options=options,
    )


class EndWatch:
    """Waits for runs to end. A notification wakes it where there is a listener; looking again is what guarantees.

    `pauses_s` are the first and the longest pause between two looks: each is twice the one before.
    """

    def __init__(self, runs: Runs, listener: Listener | None, *, pauses_s: tuple[float, float] = _PAUSES_S) -> None:
        self._runs = runs
        self._bell = Signal() if listener is None else listener.signal(Channel.RUNS)
        self._first_pause_s, self._longest_pause_s = pauses_s
        self._stopped = False

    def stop(self) -> None:
        """Let everyone who waits have what is known: the process ends."""
        self._stopped = True
        self._bell.ring()

    async def wait(self, runs: Sequence[Run], timeout_s: float) -> list[Run]:
        """Wait until all of them have ended, at most `timeout_s` seconds; answer them as they were last seen.

        A database that is away meanwhile costs a look, not the answer: the runs go on without us.
        """
        clock = asyncio.get_running_loop().time
        deadline, pause_s, seen = clock() + timeout_s, self._first_pause_s, list(runs)
        while any(run.status.is_active for run in seen) and not self._stopped:
            left_s = deadline - clock()
            if left_s <= 0:
                break
            # The bell is shared: whoever looks while it rings may miss it, and looks again after a short pause.
            await self._bell.wait(min(pause_s, left_s))
            pause_s = min(2 * pause_s, self._longest_pause_s)
            seen = await self._look(seen, deadline - clock() + _LAST_LOOK_S)
        return seen

    async def _look(self, known: Sequence[Run], limit_s: float) -> list[Run]:
        try:
            async with asyncio.timeout(limit_s):
                return [await self._latest(run) if run.status.is_active else run for run in known]
        except (TimeoutError, Transient):
            return list(known)

    async def _latest(self, run: Run) -> Run:
        return await self._runs.find(run.id) or run
