"""Carries out the runs that were asked for: leased one at a time per connection, kept by a heartbeat, ended once.

Whoever loses the lease of a run stops and writes nothing more, since another worker may have it by then; whoever is
being stopped gives it back, so that another worker goes on with it at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.errors import EventsyncError, Misconfigured, Rejected, Transient
from eventsync.domain.runs import Run, RunEnd, RunId, RunStatus, SyncType
from eventsync.postgres.listener import Channel, Listener, Signal
from eventsync.postgres.runs import RunLease, RunLost, Runs
from eventsync.stages.cancellation import finish_before_cancel
from eventsync.stages.heartbeat import Heartbeat, Stopped
from eventsync.stages.holding import hold_while_away
from eventsync.telemetry import Metrics, origin_of

T = TypeVar("T")

_RESCUE_INTERVAL_S = 10.0
_TO_END_S = 5.0  # what a run that is over may take to be written while its worker is being stopped
_TO_GIVE_BACK_S = 2.0
_log = structlog.get_logger(__name__)


class Carrier(Protocol):
    """Carries out runs of some sync types."""

    async def run(self, lease: RunLease) -> RunEnd:
        """Carry out a run, writing through `Runs.hold`. Raises RunLost; every other failure is told in the end."""


class SyncWorker:
    """Carries out `at_once` runs at a time, each by the carrier of its sync type.

    A run is leased for `lease_s` seconds, and again every `heartbeat_s`.
    """

    name = "worker:sync"

    def __init__(
        self,
        runs: Runs,
        carriers: Mapping[SyncType, Carrier],
        listener: Listener,
        clock: Clock,
        *,
        metrics: Metrics | None = None,
        at_once: int = 2,
        lease_s: float = 60.0,
        heartbeat_s: float = 10.0,
    ) -> None:
        self._runs = runs
        self._carriers = carriers
        self._listener = listener
        self._clock = clock
        self._metrics = metrics
        self._at_once = at_once
        self._lease = timedelta(seconds=lease_s)
        self._heartbeat = Heartbeat(runs, clock, lease_s=lease_s, interval_s=heartbeat_s)
        self._news = listener.signal(Channel.RUNS)
        self._claim_bell = Signal()
        self._heart_bells: set[Signal] = set()
        self._ends_to_write = 0

    async def run(self) -> None:
        """Work for ever, whatever PostgreSQL does."""
        places = asyncio.Semaphore(self._at_once)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                while True:
                    await places.acquire()
                    tasks.create_task(self._carry_out_in(places, await self._next()))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # the supervisor needs its kind

    async def run_once(self, run_id: RunId | None = None) -> Run | None:
        """Carry out the next run, or `run_id` alone, and answer it as it ended; cancelled, it is given back.

        None where there is none that may begin now, or where another worker has taken it meanwhile. Raises Transient
        where PostgreSQL is away at the beginning.
        """
        lease = await self._claim(run_id)
        if lease is None:
            return None
        run = await self._carry_out(lease)
        return None if run.status.is_active else run

    async def _claim(self, run_id: RunId | None = None) -> RunLease | None:
        # An id for each claim: what is left of a lost one must not pass the fence of this worker's next one.
        now = self._clock()
        return await self._runs.claim(uuid4(), now, now + self._lease, run_id=run_id)

    async def _next(self) -> RunLease:
        while (lease := await hold_while_away(self._claim)) is None:
            await self._claim_bell.wait(self._listener.poll_interval_s)
        return lease

    async def _watch(self) -> None:
        """Pass the listener's news on to everyone who waits for them, and take back the runs of workers that died."""
        loop = asyncio.get_running_loop()
        rescue_at = loop.time()
        while True:
            # While an end waits for PostgreSQL, its lease may run out: what is over must not be begun again.
            if loop.time() >= rescue_at and not self._ends_to_write and await self._rescue():
                rescue_at = loop.time() + _RESCUE_INTERVAL_S
            if await self._news.wait(min(_RESCUE_INTERVAL_S, self._listener.poll_interval_s)):
                for bell in (self._claim_bell, *self._heart_bells):
                    bell.ring()

    async def _rescue(self) -> bool:
        try:
            rescued = await _or_cancelled(lambda: self._runs.rescue(self._clock()))
        except (Transient, Misconfigured) as error:
            _log.warning("runs_not_rescued", error=str(error))
            return False
        for run in rescued:
            _log.warning("run_rescued", **_named(run), status=run.status.value, attempts=run.attempts)
            self._count(run)
        return True

    async def _carry_out_in(self, places: asyncio.Semaphore, lease: RunLease) -> None:
        try:
            await self._carry_out(lease)
        except Exception as error:  # noqa: BLE001  # a fault of ours in one run must not end those beside it
            _log.error("run_left", **_named(lease.run), exception=type(error).__name__, where=origin_of(error))
        finally:
            places.release()

    async def _carry_out(self, lease: RunLease) -> Run:
        _log.info("run_started", **_named(lease.run), attempt=lease.run.attempts)
        try:
            end = await self._worked(lease)
            if end is Stopped.LEASE_OVER:
                _log.warning("run_let_go", **_named(lease.run))
                await hold_while_away(partial(self._give_back, lease))
                return await self._found(lease)
            return await finish_before_cancel(self._end(lease, end), grace_s=_TO_END_S)
        except RunLost:
            _log.warning("run_lost", **_named(lease.run))
            return await self._found(lease)
        except asyncio.CancelledError:
            await self._give_back_in_time(lease)
            raise

    async def _worked(self, lease: RunLease) -> RunEnd | Stopped:
        bell = Signal()
        self._heart_bells.add(bell)
        try:
            return await self._heartbeat.beside(lease, self._work(lease), bell)
        finally:
            self._heart_bells.discard(bell)

    async def _work(self, lease: RunLease) -> RunEnd | Stopped:
        carrier = self._carriers.get(lease.run.sync_type)
        if carrier is None:
            return RunEnd(
                RunStatus.FAILED, error_message="This release cannot carry out runs of this type: upgrade it."
            )
        try:
            return await _or_cancelled(partial(carrier.run, lease))
        except RunLost:
            return Stopped.LOST
        except Exception as error:  # noqa: BLE001  # a fault of ours: the run must end all the same
            name = type(error).__name__
            _log.error("run_broke_off", **_named(lease.run), exception=name, where=origin_of(error))
            return await self._broken_off(lease, f"internal error ({name})")

    async def _broken_off(self, lease: RunLease, error_message: str) -> RunEnd:
        return RunEnd(RunStatus.FAILED, (await self._found(lease)).counts, error_message)

    async def _found(self, lease: RunLease) -> Run:
        """Read the run as it stands, with what has been counted in the transactions of what was written."""
        return await hold_while_away(partial(self._runs.find, lease.run.id)) or lease.run

    async def _end(self, lease: RunLease, end: RunEnd | Stopped) -> Run:
        """Write the run's end, however long PostgreSQL is away: it has cost calls. Raises RunLost."""
        self._ends_to_write += 1
        try:
            ended = await self._ended(lease, await self._told(lease, end))
        finally:
            self._ends_to_write -= 1
        self._count(ended)
        _log.info(
            "run_ended",
            **_named(ended),
            status=ended.status.value,
            duration_ms=ended.duration_ms,
            **asdict(ended.counts),
        )
        return ended

    def _count(self, run: Run) -> None:
        if self._metrics is not None and not run.status.is_active:
            self._metrics.runs_ended.labels(sync_type=run.sync_type.value, status=run.status.value).inc()

    async def _told(self, lease: RunLease, end: RunEnd | Stopped) -> RunEnd:
        match end:
            case RunEnd():
                return end
            case Stopped.CANCELLED:
                metadata = {"stopped_because": "it was cancelled"}
                return RunEnd(RunStatus.CANCELLED, (await self._found(lease)).counts, metadata=metadata)
            case Stopped.BY_ITSELF:
                return await self._broken_off(lease, "internal error (CancelledError)")
            case Stopped.LOST | Stopped.LEASE_OVER:
                raise RunLost("the run may be another worker's by now")

    async def _ended(self, lease: RunLease, end: RunEnd) -> Run:
        try:
            return await hold_while_away(lambda: self._runs.end(lease, end, self._clock()))
        except Rejected:  # a text in it that PostgreSQL cannot hold; without an end the run would be done again
            bare = replace(end, error_message="PostgreSQL refused the account of this run.", metadata={})
            return await hold_while_away(lambda: self._runs.end(lease, bare, self._clock()))

    async def _give_back(self, lease: RunLease) -> bool:
        return await self._runs.give_back(lease, self._clock())

    async def _give_back_in_time(self, lease: RunLease) -> None:
        """Let another worker go on with the run at once; where that fails, it does once the lease is over."""
        with suppress(EventsyncError, TimeoutError):
            async with asyncio.timeout(_TO_GIVE_BACK_S):
                if await self._give_back(lease):
                    _log.info("run_given_back", **_named(lease.run))


async def _or_cancelled(work: Callable[[], Awaitable[T]]) -> T:
    """Do `work`. A link that breaks while we are cancelled raises its own error instead: it must not hide that."""
    try:
        return await work()
    except EventsyncError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from error
        raise


def _named(run: Run) -> dict[str, Any]:
    return {"run_id": str(run.id), "sync_type": run.sync_type.value, "connection_id": str(run.connection_id)}
