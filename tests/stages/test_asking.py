"""Asking for runs and waiting for their end: woken where there is a listener, never later than looking again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import Run, RunEnd, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.runs import RunLease, Runs
from eventsync.postgres.sync_targets import SyncTargets
from eventsync.stages.asking import Asker, EndWatch
from eventsync.telemetry import Metrics

DONE = RunEnd(RunStatus.COMPLETED)
FOR_EVER_S = 60.0
SOON_S = 5.0


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def runs(pool: Database) -> Runs:
    return Runs(pool)


@pytest.fixture
def asker(pool: Database, runs: Runs, connection_ids: list[ConnectionId]) -> Asker:
    """Asks in a database of two organizations with a connection each."""
    assert len(connection_ids) == 2
    return Asker(runs, SyncTargets(pool, "intakeq"), now)


@pytest.fixture
async def listener(database_url: str) -> AsyncIterator[Listener]:
    """A listener that hears."""
    listener = Listener(database_url, Metrics())
    task = asyncio.create_task(listener.run())
    async with asyncio.timeout(SOON_S):
        await listener.proven.wait()
    yield listener
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def lease(runs: Runs, run: Run) -> RunLease:
    """Take a run as a worker does."""
    taken = await runs.claim(uuid4(), now(), now() + timedelta(minutes=1), run_id=run.id)
    assert taken is not None
    return taken


async def waiting(watch: EndWatch, asked: list[Run], timeout_s: float = FOR_EVER_S) -> asyncio.Task[list[Run]]:
    """Wait for runs, beside the test."""
    task = asyncio.create_task(watch.wait(asked, timeout_s))
    await asyncio.sleep(0)
    return task


async def test_the_daily_run_is_asked_for_once_a_connection_whoever_asks(asker: Asker, runs: Runs) -> None:
    first = await asker.daily(None, "cron")
    assert [run.sync_type for run in first] == [SyncType.AUTOMATED_DAILY] * 2
    await lease(runs, first[0])
    asked = await asyncio.gather(*(asker.daily(None, f"token:{number}") for number in range(5)))
    assert {tuple(run.id for run in again) for again in asked} == {tuple(run.id for run in first)}
    await runs.cancel(first[1].id, now())
    again = await asker.daily(None, "cron")
    assert [run.id == old.id for run, old in zip(again, first, strict=True)] == [True, False]


async def test_a_disabled_connection_is_left_out(
    asker: Asker, pool: Database, connection_ids: list[ConnectionId]
) -> None:
    async with pool.session() as session:
        await session.execute("UPDATE connections SET disabled_at = now() WHERE id = $1", connection_ids[0])
    assert [run.connection_id for run in await asker.daily(None, "cron")] == [connection_ids[1]]


async def test_who_asks_for_an_organization_gets_its_connections_alone(
    asker: Asker, pool: Database, connection_ids: list[ConnectionId]
) -> None:
    async with pool.session() as session:
        owner = await session.fetchval("SELECT organization_id FROM connections WHERE id = $1", connection_ids[1])
    for asked in (await asker.daily(owner, "cron"), await asker.bulk(owner, "token:1")):
        assert [(run.connection_id, run.organization_id) for run in asked] == [(connection_ids[1], owner)]


async def test_the_end_is_heard_where_there_is_a_listener(asker: Asker, runs: Runs, listener: Listener) -> None:
    asked = await asker.daily(None, "cron")
    leases = [await lease(runs, run) for run in asked]
    task = await waiting(EndWatch(runs, listener, pauses_s=(FOR_EVER_S, FOR_EVER_S)), asked)
    async with asyncio.timeout(SOON_S):
        for each in leases:
            await runs.end(each, DONE, now())
        ended = await task
    assert [(run.id, run.status) for run in ended] == [(run.id, RunStatus.COMPLETED) for run in asked]


async def test_the_end_is_seen_where_nothing_is_heard(asker: Asker, runs: Runs) -> None:
    asked = await asker.daily(None, "cron")
    tasks = [await waiting(EndWatch(runs, None), asked) for _ in range(3)]
    async with asyncio.timeout(SOON_S):
        for run in asked:
            await runs.end(await lease(runs, run), DONE, now())
        for ended in await asyncio.gather(*tasks):
            assert {run.status for run in ended} == {RunStatus.COMPLETED}


async def test_all_who_wait_on_one_bell_are_answered(asker: Asker, runs: Runs, listener: Listener) -> None:
    watch = EndWatch(runs, listener)
    asked = await asker.daily(None, "cron")
    leases = [await lease(runs, run) for run in asked]
    tasks = [await waiting(watch, [asked[number % 2]]) for number in range(10)]
    async with asyncio.timeout(SOON_S):
        for each in leases:
            await runs.end(each, DONE, now())
        assert {run.status for ended in await asyncio.gather(*tasks) for run in ended} == {RunStatus.COMPLETED}


async def test_nobody_waits_longer_than_they_may(asker: Asker, runs: Runs) -> None:
    asked = await asker.daily(None, "cron")
    taken = await lease(runs, asked[0])
    async with asyncio.timeout(SOON_S):
        seen = await EndWatch(runs, None).wait(asked, 0.2)
    assert [run.status for run in seen] == [RunStatus.RUNNING, RunStatus.STARTING]
    await runs.end(taken, DONE, now())
    assert (await EndWatch(runs, None).wait(asked[:1], 0.0))[0].status is RunStatus.STARTING


async def test_ended_runs_are_not_waited_for(asker: Asker, runs: Runs) -> None:
    (run, _) = await asker.daily(None, "cron")
    ended = await runs.end(await lease(runs, run), DONE, now())
    async with asyncio.timeout(SOON_S):
        assert await EndWatch(runs, None).wait([ended], FOR_EVER_S) == [ended]


async def test_who_waits_when_the_process_stops_gets_what_is_known(
    asker: Asker, runs: Runs, listener: Listener
) -> None:
    asked = await asker.daily(None, "cron")
    for watch in (
        EndWatch(runs, listener, pauses_s=(FOR_EVER_S, FOR_EVER_S)),
        EndWatch(runs, None, pauses_s=(FOR_EVER_S, FOR_EVER_S)),
    ):
        task = await waiting(watch, asked)
        watch.stop()
        async with asyncio.timeout(SOON_S):
            assert [run.status for run in await task] == [RunStatus.STARTING] * 2
            await watch.wait(asked, FOR_EVER_S)


async def test_a_database_that_is_away_costs_a_look_and_not_the_answer(
    asker: Asker, runs: Runs, pool: Database
) -> None:
    asked = await asker.daily(None, "cron")
    leases = [await lease(runs, run) for run in asked]
    await pool.close()
    async with asyncio.timeout(SOON_S):
        assert [run.id for run in await EndWatch(runs, None).wait(asked, 0.3)] == [run.id for run in asked]
    task = await waiting(EndWatch(runs, None), asked)
    await pool.open()
    for each in leases:
        await runs.end(each, DONE, now())
    async with asyncio.timeout(SOON_S):
        assert {run.status for run in await task} == {RunStatus.COMPLETED}


async def test_waiting_can_be_cancelled(asker: Asker, runs: Runs) -> None:
    task = await waiting(EndWatch(runs, None), await asker.daily(None, "cron"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
