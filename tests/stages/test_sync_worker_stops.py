"""Runs that are stopped in the middle: cancelled, lost to another worker, given back, gone on with after a death."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import EventsyncError, Rejected, Transient
from eventsync.domain.runs import Run, RunEnd, RunStatus
from eventsync.postgres.database import Database
from eventsync.postgres.runs import RunLease, RunLost, Runs
from servers.eventually import eventually
from stages.run_desk import COUNTS, LONG, NEVER_S, SHORT, Desk, within_deadline
from stages.spine import DEADLINE_S


@pytest.fixture
def desk(pool: Database, connection_ids: list[ConnectionId], database_url: str) -> Desk:
    return Desk(pool, connection_ids, database_url)


async def test_a_person_who_cancels_a_run_stops_it_at_once_and_keeps_what_was_done(desk: Desk) -> None:
    desk.carrier.gate.clear()
    asked = await desk.ask()
    async with desk.running(desk.worker(heartbeat_s=NEVER_S)):  # not by a heartbeat that happens to come
        await within_deadline(desk.carrier.begun)
        assert await desk.runs.cancel(asked.id, desk.clock())
        await within_deadline(desk.carrier.stopped)
        ended = await desk.ended(asked)
    assert (ended.status, ended.counts) == (RunStatus.CANCELLED, COUNTS)
    assert ended.metadata == {"stopped_because": "it was cancelled"}


async def test_where_nobody_listens_a_heartbeat_tells_that_a_run_was_cancelled(desk: Desk) -> None:
    desk.carrier.gate.clear()
    asked = await desk.ask()
    carrying = asyncio.create_task(desk.worker(heartbeat_s=0.05).run_once())
    await within_deadline(desk.carrier.begun)
    await desk.runs.cancel(asked.id, desk.clock())
    async with asyncio.timeout(DEADLINE_S):
        ended = await carrying
    assert ended is not None
    assert ended.status is RunStatus.CANCELLED


async def test_a_dead_workers_run_is_gone_on_with_from_its_counts(desk: Desk) -> None:
    asked = await desk.ask()
    dead = await desk.runs.claim(uuid4(), desk.clock(), desk.clock() + timedelta(seconds=60))
    assert dead is not None
    async with asyncio.timeout(DEADLINE_S):
        await desk.carrier.run(dead)  # and never another word
    desk.clock.advance(61)
    with capture_logs() as logs:
        async with desk.running(desk.worker()):
            ended = await desk.ended(asked)
    assert (ended.status, ended.counts, ended.attempts) == (RunStatus.COMPLETED, COUNTS + COUNTS, 2)
    assert [entry["run_id"] for entry in logs if entry["event"] == "run_rescued"] == [str(asked.id)]


async def test_a_worker_whose_run_was_given_to_another_lets_go_of_it(desk: Desk) -> None:
    desk.carrier.gate.clear()
    asked = await desk.ask()
    carrying = asyncio.create_task(desk.worker(heartbeat_s=0.05).run_once())
    await within_deadline(desk.carrier.begun)
    (requeued,) = await desk.runs.rescue(desk.clock() + timedelta(seconds=61))
    quick = await desk.runs.claim(uuid4(), desk.clock(), desk.clock() + timedelta(seconds=60))
    assert quick is not None
    assert quick.run.id == requeued.id == asked.id
    async with asyncio.timeout(DEADLINE_S):
        assert await carrying is None
    assert desk.carrier.stopped.is_set()
    found = await desk.found(asked)
    assert (found.status, found.attempts) == (RunStatus.RUNNING, 2)
    await desk.runs.end(quick, RunEnd(RunStatus.COMPLETED), desk.clock())


async def test_a_worker_that_takes_its_own_lost_run_again_stops_what_is_left_of_the_first_try(desk: Desk) -> None:
    desk.carrier.gate.clear()
    asked = await desk.ask()
    async with desk.running(desk.worker()):
        await within_deadline(desk.carrier.begun)
        await desk.runs.rescue(desk.clock() + timedelta(seconds=61))  # as a worker with another clock sees it
        await within_deadline(desk.carrier.stopped)
        await eventually(lambda: len(desk.carrier.leases) == 2)
        desk.carrier.gate.set()
        ended = await desk.ended(asked)
    assert (ended.status, ended.attempts) == (RunStatus.COMPLETED, 2)
    first, second = desk.carrier.leases
    assert first.worker_id != second.worker_id


async def test_a_carrier_that_finds_its_run_lost_writes_no_end(desk: Desk) -> None:
    asked = await desk.ask()
    desk.carrier.error = RunLost("another's")
    await desk.worker().run_once()
    assert (await desk.found(asked)).status is RunStatus.RUNNING


async def test_a_worker_that_is_stopped_gives_its_runs_back_and_another_goes_on_with_them(desk: Desk) -> None:
    desk.carrier.gate.clear()
    asked = [await desk.ask(SHORT), await desk.ask(LONG)]
    async with desk.running(desk.worker()):
        await eventually(lambda: len(desk.carrier.leases) == 2)
    for run in asked:
        found = await desk.found(run)
        assert (found.status, found.attempts, found.counts) == (RunStatus.STARTING, 0, COUNTS)
    desk.carrier.gate.set()
    async with desk.running(desk.worker()):
        for run in asked:
            ended = await desk.ended(run)
            assert (ended.status, ended.counts, ended.attempts) == (RunStatus.COMPLETED, COUNTS + COUNTS, 1)


async def test_a_run_in_the_foreground_that_is_interrupted_is_given_back(desk: Desk) -> None:
    desk.carrier.gate.clear()
    asked = await desk.ask()
    carrying = asyncio.create_task(desk.worker().run_once(asked.id))
    await within_deadline(desk.carrier.begun)
    carrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await carrying
    assert (await desk.found(asked)).status is RunStatus.STARTING


class SlowEnds(Runs):
    """A store that takes a while to write an end."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.ending = asyncio.Event()
        self.gate = asyncio.Event()

    async def end(self, *arguments: Any) -> Run:
        self.ending.set()
        await self.gate.wait()
        return await super().end(*arguments)


async def test_a_worker_that_is_stopped_while_it_ends_a_run_ends_it_first(desk: Desk, pool: Database) -> None:
    desk.runs = runs = SlowEnds(pool)
    asked = await desk.ask()
    carrying = asyncio.create_task(desk.worker().run_once())
    await within_deadline(runs.ending)
    carrying.cancel()
    await asyncio.wait({carrying}, timeout=0.05)
    runs.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await carrying
    assert (await desk.found(asked)).status is RunStatus.COMPLETED


class AnswerLosingRuns(Runs):
    """A store that writes the first end, while its answer is lost on the way."""

    ends = 0

    async def end(self, *arguments: Any) -> Run:
        self.ends += 1
        ended = await super().end(*arguments)
        if self.ends == 1:
            raise Transient("the link was cut")
        return ended


async def test_an_end_whose_answer_was_lost_is_found_out_to_have_been_written(desk: Desk, pool: Database) -> None:
    desk.runs = AnswerLosingRuns(pool)
    await desk.ask()
    ended = await desk.worker().run_once()
    assert ended is not None
    assert (ended.status, ended.counts) == (RunStatus.COMPLETED, COUNTS)


class FailingClaims(Runs):
    """A store whose claims fail in the way that a test chooses, as long as it does."""

    error: EventsyncError | None = None

    async def claim(self, *arguments: Any, **kwargs: Any) -> RunLease | None:
        if self.error is not None:
            raise self.error
        return await super().claim(*arguments, **kwargs)


async def test_a_fault_of_the_worker_itself_gives_its_runs_back_and_is_told_to_the_supervisor(
    desk: Desk, pool: Database
) -> None:
    desk.runs = runs = FailingClaims(pool)
    desk.carrier.gate.clear()
    asked = await desk.ask(LONG)
    working = asyncio.create_task(desk.worker().run())
    await within_deadline(desk.carrier.begun)
    runs.error = Rejected("database_refused", "refused")
    with pytest.raises(Rejected):
        async with asyncio.timeout(DEADLINE_S):
            await working
    assert (await desk.found(asked)).status is RunStatus.STARTING
