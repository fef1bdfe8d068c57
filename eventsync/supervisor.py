"""Runs the workers of the chosen roles: starts them again when they fail, and drains them when told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from eventsync.domain.errors import EventsyncError, Misconfigured, Transient
from eventsync.telemetry import Metrics, origin_of

_log = structlog.get_logger(__name__)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_LONGEST_PAUSE_AWAY_S = 1.0  # while a neighbour is away: asking costs little, and its return is felt the sooner
_STEADY_AFTER_S = 10.0
_LEAST_TO_END_S = 0.1  # for each worker, when the deadline is over


class Worker(Protocol):
    """A long-running part: `run` goes on until it is cancelled, and may be run again after it failed."""

    name: str

    async def run(self) -> None:
        """Work for ever."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """How a worker is: `reason` is empty while it runs, else why it does not."""

    name: str
    reason: str
    restarts: int


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a worker ended, how that is logged, and how long its pauses may grow."""

    reason: str
    level: int
    fields: Mapping[str, str]
    longest_pause_s: float = _LONGEST_PAUSE_S


class Supervisor:
    """Owns one task per worker. `workers` are in the order in which they are stopped: the door comes first."""

    def __init__(self, workers: Sequence[Worker], metrics: Metrics, *, stop_deadline_s: float = 25.0) -> None:
        self._workers = tuple(workers)
        self._metrics = metrics
        self._stop_deadline_s = stop_deadline_s
        self._states = {worker.name: WorkerState(worker.name, "not started", 0) for worker in workers}

    @property
    def states(self) -> Sequence[WorkerState]:
        """How each worker is now."""
        return tuple(self._states.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Run all workers until `stop` is set, then end them one by one within the deadline."""
        tasks = {worker.name: asyncio.create_task(self._keep(worker), name=worker.name) for worker in self._workers}
        try:
            await stop.wait()
        finally:
            await self._end(tasks)

    async def _keep(self, worker: Worker) -> None:
        try:
            await self._run_again_and_again(worker)
        finally:
            self._tell(worker, "stopped")

    async def _run_again_and_again(self, worker: Worker) -> None:
        pause_s, logged = _FIRST_PAUSE_S, ""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            self._tell(worker, "")
            failure = await _run_once(worker)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                return  # it failed while it was being ended, and must not begin again
            if loop.time() - started > _STEADY_AFTER_S:
                pause_s, logged = _FIRST_PAUSE_S, ""
            if failure.reason != logged:  # once, and not each second of an outage
                _log.log(failure.level, "worker_failed", worker=worker.name, **failure.fields)
                logged = failure.reason
            self._tell(worker, failure.reason, restarted=True)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, failure.longest_pause_s)

    def _tell(self, worker: Worker, reason: str, *, restarted: bool = False) -> None:
        before = self._states[worker.name]
        self._states[worker.name] = WorkerState(worker.name, reason, before.restarts + restarted)
        if restarted:
            self._metrics.worker_restarts.labels(worker=worker.name).inc()

    async def _end(self, tasks: dict[str, asyncio.Task[None]]) -> None:
        deadline = asyncio.get_running_loop().time() + self._stop_deadline_s
        late: set[asyncio.Task[None]] = set()
        for task in tasks.values():
            task.cancel()
            left_s = max(_LEAST_TO_END_S, deadline - asyncio.get_running_loop().time())
            late |= (await asyncio.wait({task}, timeout=left_s))[1]
        for task in late:
            _log.error("worker_did_not_end_in_time", worker=task.get_name())
            task.cancel()  # once more: the first may have been taken for the end of a wait
        if late:
            await asyncio.wait(late, timeout=_LEAST_TO_END_S)
        _log.info("stopped")


async def _run_once(worker: Worker) -> _Failure:
    """Run a worker until it fails, and tell why it did."""
    try:
        await worker.run()
    except Transient as error:
        return _Failure(str(error), logging.WARNING, {"error": str(error)}, _LONGEST_PAUSE_AWAY_S)
    except EventsyncError as error:
        level = logging.ERROR if isinstance(error, Misconfigured) else logging.WARNING
        return _Failure(str(error), level, {"error": str(error)})
    except Exception as error:  # noqa: BLE001  # a fault of ours must not stop the other workers
        name = type(error).__name__
        return _Failure(f"internal error ({name})", logging.ERROR, {"exception": name, "where": origin_of(error)})
    reason = "it ended by itself"
    return _Failure(reason, logging.WARNING, {"error": reason})
