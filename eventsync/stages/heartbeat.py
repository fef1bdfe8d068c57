"""Keeps a run's lease while its work goes on beside, and stops the work once the run is not to be gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from enum import Enum, auto

import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.domain.runs import RunEnd
from eventsync.postgres.listener import Signal
from eventsync.postgres.runs import RunLease, RunLost, Runs

_log = structlog.get_logger(__name__)


class Stopped(Enum):
    """Why a run's work was stopped before it had ended."""

    CANCELLED = auto()  # a person asked for it
    LOST = auto()  # another worker has the run, or someone has ended it
    LEASE_OVER = auto()  # PostgreSQL was away for so long that another worker may have it
    BY_ITSELF = auto()  # the work was cancelled from within


class Heartbeat:
    """Writes a lease of `lease_s` seconds anew every `interval_s`, or sooner when a bell rings."""

    def __init__(self, runs: Runs, clock: Clock, *, lease_s: float, interval_s: float) -> None:
        self._runs = runs
        self._clock = clock
        self._lease_s = lease_s
        self._interval_s = interval_s

    async def beside(
        self, lease: RunLease, work: Coroutine[object, object, RunEnd | Stopped], bell: Signal
    ) -> RunEnd | Stopped:
        """Await `work` on a run that has just been leased; answers its end, or why it was stopped.

        `bell` rings when a person may have cancelled a run.
        """
        async with asyncio.TaskGroup() as both:
            working = both.create_task(work)
            beating = both.create_task(self._beat(lease, working, bell))
            working.add_done_callback(lambda _: beating.cancel())
        if not working.cancelled():
            return working.result()
        return Stopped.BY_ITSELF if beating.cancelled() else beating.result()

    async def _beat(self, lease: RunLease, working: asyncio.Task[RunEnd | Stopped], bell: Signal) -> Stopped:
        stopped = await self._until_stopped(lease, working, bell)
        working.cancel()
        return stopped

    async def _until_stopped(self, lease: RunLease, working: asyncio.Task[RunEnd | Stopped], bell: Signal) -> Stopped:
        """Keep the lease by the monotonic clock: one that is set back must not make it seem longer than it is."""
        loop = asyncio.get_running_loop()
        over_at = loop.time() + self._lease_s
        while not working.done():  # a link that breaks while we are cancelled may hide that we were
            await bell.wait(min(self._interval_s, over_at - loop.time()))
            began_at = loop.time()
            try:
                async with asyncio.timeout_at(over_at):
                    is_wanted = await self._write(lease)
            except RunLost:
                return Stopped.LOST
            except (Transient, Misconfigured, TimeoutError) as error:
                if loop.time() >= over_at:
                    return Stopped.LEASE_OVER
                _log.warning("heartbeat_not_written", run_id=str(lease.run.id), exception=type(error).__name__)
                continue
            if not is_wanted:
                return Stopped.CANCELLED
            over_at = began_at + self._lease_s
        return Stopped.BY_ITSELF

    async def _write(self, lease: RunLease) -> bool:
        now = self._clock()
        return await self._runs.heartbeat(lease, now, now + timedelta(seconds=self._lease_s))
