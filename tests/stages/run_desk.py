"""Where runs are asked for, and workers that carry them out with one carrier, as a test lets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import Run, RunCounts, RunEnd, RunRequest, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.runs import RunLease, Runs
from eventsync.stages.sync_worker import SyncWorker
from eventsync.supervisor import Supervisor
from eventsync.telemetry import Metrics
from servers.eventually import eventually
from stages.spine import DEADLINE_S, NOW, ManualClock

LONG, SHORT, BULK = SyncType.AUTOMATED_DAILY, SyncType.AUTOMATED_SWEEP, SyncType.MANUAL_ORG_BULK
COUNTS = RunCounts(1, 0, 2, 0, 5, 0)
NEVER_S = 600.0


class Carrying:
    """A carrier that counts one page, then does what the test lets it. `stopped` is set when it is cancelled."""

    def __init__(self, runs: Runs, database: Database, clock: ManualClock) -> None:
        self._runs = runs
        self._database = database
        self._clock = clock
        self.leases: list[RunLease] = []
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.metadata: dict[str, Any] = {"totalPatients": 7}

    async def run(self, lease: RunLease) -> RunEnd:
        counts = lease.run.counts + COUNTS
        async with self._database.transaction() as session:
            await self._runs.hold(session, lease, counts, {"step": "Reading"}, self._clock())
        self.leases.append(lease)
        self.begun.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        if self.error is not None:
            raise self.error
        return RunEnd(RunStatus.COMPLETED, counts, metadata=self.metadata)


class Desk:
    """Where runs are asked for, and workers that carry them out with one carrier."""

    def __init__(self, pool: Database, connection_ids: list[ConnectionId], url: str) -> None:
        self.pool = pool
        self.connection_ids = connection_ids
        self.metrics = Metrics()
        self.clock = ManualClock(NOW)
        self.runs = Runs(pool)
        self.carrier = Carrying(self.runs, pool, self.clock)
        self.listener = Listener(url, self.metrics)

    def worker(self, *, lease_s: float = 60.0, heartbeat_s: float = NEVER_S, at_once: int = 2) -> SyncWorker:
        carriers = dict.fromkeys((LONG, SHORT, BULK), self.carrier)
        return SyncWorker(
            self.runs,
            carriers,
            self.listener,
            self.clock,
            metrics=self.metrics,
            at_once=at_once,
            lease_s=lease_s,
            heartbeat_s=heartbeat_s,
        )

    async def ask(self, sync_type: SyncType = SHORT, connection: int = 0) -> Run:
        request = RunRequest(sync_type, self.connection_ids[connection], None, "test")
        return (await self.runs.request(request, self.clock()))[0]

    async def found(self, run: Run) -> Run:
        found = await self.runs.find(run.id)
        assert found is not None
        return found

    async def ended(self, run: Run) -> Run:
        """Wait until the run has ended."""

        async def look() -> Run | None:
            found = await self.found(run)
            return None if found.status.is_active else found

        ended = await eventually(look)
        assert ended is not None
        return ended

    @asynccontextmanager
    async def running(self, *workers: SyncWorker) -> AsyncIterator[None]:
        """Keep workers and the listener going as a process does, until everyone hears what happens."""
        stop = asyncio.Event()
        supervising = asyncio.create_task(Supervisor([*workers, self.listener], self.metrics).run(stop))
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self.listener.proven.wait()
            yield
        finally:
            stop.set()
            await supervising


async def within_deadline(event: asyncio.Event) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await event.wait()
