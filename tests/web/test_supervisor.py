"""Workers that fail begin again, those that are told to stop end, and the door ends first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from eventsync.domain.errors import Misconfigured, Transient
from eventsync.supervisor import Supervisor, Worker
from eventsync.telemetry import Metrics
from servers.eventually import eventually


class Steady:
    """Works until it is ended, and takes `ends_in_s` for that."""

    def __init__(self, name: str, ended: list[str], ends_in_s: float = 0.0) -> None:
        self.name = name
        self._ended = ended
        self._ends_in_s = ends_in_s

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(self._ends_in_s)
            self._ended.append(self.name)


class Failing:
    """Fails at every start, at once."""

    name = "failing"

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self.started_at: list[float] = []

    async def run(self) -> None:
        self.started_at.append(time.monotonic())
        if self._error is not None:
            raise self._error


class FailsAtItsEnd:
    """Turns its cancellation into an error, as a clean-up that needs a lost server does."""

    name = "fails-at-its-end"
    starts = 0

    async def run(self) -> None:
        self.starts += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise Transient("the clean-up failed")


class Stubborn:
    """Takes the first cancellation for something else."""

    name = "stubborn"

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()


@asynccontextmanager
async def supervised(workers: Sequence[Worker], stop_deadline_s: float = 5.0) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(workers, Metrics(), stop_deadline_s=stop_deadline_s)
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    try:
        yield supervisor
    finally:
        stop.set()
        await running


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Transient("PostgreSQL is away"), "PostgreSQL is away"),
        (Misconfigured("set EVENTSYNC_AMQP_URL"), "set EVENTSYNC_AMQP_URL"),
        (LookupError("Test Client 12"), "internal error (LookupError)"),
        (None, "it ended by itself"),
    ],
)
async def test_a_failing_worker_begins_again_after_growing_pauses_and_its_reason_is_seen(
    error: Exception | None, reason: str
) -> None:
    failing = Failing(error)
    ended: list[str] = []
    with capture_logs() as lines:
        async with supervised([failing, Steady("steady", ended)]) as supervisor:
            await eventually(lambda: len(failing.started_at) == 4)
            await eventually(lambda: supervisor.states[0].reason == reason)
            assert supervisor.states[0].restarts >= 3
            assert supervisor.states[1].reason == ""
    first, second, third, fourth = failing.started_at[:4]
    assert fourth - third > third - second > second - first >= 0.1
    assert "Test Client" not in repr(lines)


async def test_workers_end_one_after_the_other_in_their_order() -> None:
    ended: list[str] = []
    workers = [Steady("door", ended, ends_in_s=0.1), Steady("receiver", ended), Steady("listener", ended)]
    async with supervised(workers) as supervisor:
        await eventually(lambda: not any(state.reason for state in supervisor.states))
    assert ended == ["door", "receiver", "listener"]
    assert {state.reason for state in supervisor.states} == {"stopped"}


async def test_a_worker_that_fails_while_it_is_ended_does_not_begin_again() -> None:
    worker = FailsAtItsEnd()
    began = time.monotonic()
    async with supervised([worker]) as supervisor:
        await eventually(lambda: supervisor.states[0].reason == "")
    assert worker.starts == 1
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("late", [Stubborn, lambda: Steady("stubborn", [], ends_in_s=60.0)])
async def test_a_worker_that_does_not_end_is_named_and_left_when_the_deadline_is_over(
    late: Callable[[], Worker],
) -> None:
    ended: list[str] = []
    began = time.monotonic()
    with capture_logs() as lines:
        async with supervised([late(), Steady("listener", ended)], stop_deadline_s=0.2) as supervisor:
            await eventually(lambda: not any(state.reason for state in supervisor.states))
    assert time.monotonic() - began < 2.0
    assert ended == ["listener"]
    assert [line["worker"] for line in lines if line["event"] == "worker_did_not_end_in_time"] == ["stubborn"]
    assert {state.reason for state in supervisor.states} == {"stopped"}
