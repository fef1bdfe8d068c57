"""The worker's part in tests of those who ask for runs: it leases, counts and ends them as a worker does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from eventsync.domain.runs import Run, RunCounts, RunEnd, RunStatus
from eventsync.postgres.database import Database
from eventsync.postgres.runs import RunLease, Runs
from servers.eventually import eventually

COUNTS = RunCounts(12, 1, 3, 5, 42, 2)


def now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


def completed(counts: RunCounts = COUNTS, **metadata: Any) -> RunEnd:
    """End well."""
    return RunEnd(RunStatus.COMPLETED, counts, metadata=metadata)


class PlayedWorker:
    """One worker."""

    def __init__(self, pool: Database) -> None:
        self._pool = pool
        self._id = uuid4()
        self.runs = Runs(pool)
        self.done: list[Run] = []

    async def lease(self) -> RunLease:
        """Take the next run, once there is one."""
        return await eventually(self._claim, deadline_s=20)

    async def tell(self, lease: RunLease, counts: RunCounts = COUNTS, **progress: Any) -> None:
        """Count, and tell how far it is."""
        async with self._pool.transaction() as session:
            await self.runs.hold(session, lease, counts, progress, now())

    async def end(self, lease: RunLease, end: RunEnd) -> Run:
        """End it."""
        run = await self.runs.end(lease, end, now())
        self.done.append(run)
        return run

    async def _claim(self) -> RunLease:
        lease = await self.runs.claim(self._id, now(), now() + timedelta(minutes=1))
        assert lease is not None
        return lease

    @asynccontextmanager
    async def working(self, ending: Callable[[Run], RunEnd]) -> AsyncIterator[list[Run]]:
        """Carry out every run that is asked for within the block, each ending as `ending` says; gives those done."""

        async def work() -> None:
            while True:
                lease = await self.lease()
                await self.tell(lease)
                await self.end(lease, ending(lease.run))

        task = asyncio.create_task(work())
        try:
            yield self.done
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled(), task.exception()
