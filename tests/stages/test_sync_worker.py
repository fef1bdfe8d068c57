"""The worker that carries out runs: each once, kept by a heartbeat, ended as its carrier says or as it failed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import RunStatus, SyncType
from eventsync.postgres.database import Database
from servers.eventually import eventually
from stages.run_desk import BULK, COUNTS, LONG, SHORT, Desk, within_deadline
from stages.spine import DEADLINE_S


@pytest.fixture
def desk(pool: Database, connection_ids: list[ConnectionId], database_url: str) -> Desk:
    return Desk(pool, connection_ids, database_url)


async def test_a_run_is_carried_out_and_ended_as_its_carrier_says(desk: Desk) -> None:
    asked = await desk.ask()
    desk.clock.advance(2)
    with capture_logs() as logs:
        ended = await desk.worker().run_once()
    assert ended == await desk.found(asked)
    assert ended is not None
    assert (ended.status, ended.counts, ended.metadata) == (RunStatus.COMPLETED, COUNTS, {"totalPatients": 7})
    told = [(entry["event"], entry["run_id"], entry["sync_type"], entry["connection_id"]) for entry in logs]
    named = (str(asked.id), SHORT.value, str(asked.connection_id))
    assert told == [("run_started", *named), ("run_ended", *named)]
    assert (logs[1]["status"], logs[1]["appointments_new"], logs[1]["duration_ms"]) == ("completed", 2, 0)


async def test_ended_runs_are_counted_by_type_and_status(desk: Desk) -> None:
    await desk.ask(SHORT)
    await desk.worker().run_once()
    labels = {"sync_type": SHORT.value, "status": "completed"}
    assert desk.metrics.registry.get_sample_value("eventsync_runs_ended_total", labels) == 1


async def test_where_no_run_waits_nothing_is_done(desk: Desk) -> None:
    assert await desk.worker().run_once() is None
    assert desk.carrier.leases == []


async def test_a_named_run_is_carried_out_alone(desk: Desk) -> None:
    first, second = await desk.ask(LONG), await desk.ask(SHORT)
    ended = await desk.worker().run_once(second.id)
    assert ended is not None
    assert ended.id == second.id
    assert (await desk.found(first)).status is RunStatus.STARTING
    assert await desk.worker().run_once(second.id) is None


async def test_a_fault_of_ours_fails_the_run_with_its_counts_and_says_nothing_personal(desk: Desk) -> None:
    asked = await desk.ask()
    desk.carrier.error = LookupError("client1@example.test")
    with capture_logs() as logs:
        await desk.worker().run_once()
    ended = await desk.found(asked)
    assert (ended.status, ended.counts) == (RunStatus.FAILED, COUNTS)
    assert ended.error_message == "internal error (LookupError)"
    assert [entry["exception"] for entry in logs if entry["event"] == "run_broke_off"] == ["LookupError"]
    assert "example.test" not in str(logs)


async def test_a_carrier_that_is_cancelled_from_within_fails_its_run(desk: Desk) -> None:
    asked = await desk.ask()
    desk.carrier.error = asyncio.CancelledError()
    async with asyncio.timeout(DEADLINE_S):
        await desk.worker().run_once()
    ended = await desk.found(asked)
    assert (ended.status, ended.error_message) == (RunStatus.FAILED, "internal error (CancelledError)")


async def test_a_run_that_nobody_here_can_carry_out_fails_with_what_to_do(desk: Desk) -> None:
    asked = await desk.ask(SyncType.BACKFILL)
    await desk.worker().run_once()
    assert "upgrade" in ((await desk.found(asked)).error_message or "")


async def test_an_account_of_a_run_that_postgres_refuses_is_left_out_and_the_run_ends_all_the_same(desk: Desk) -> None:
    asked = await desk.ask()
    desk.carrier.metadata = {"warnings": ["a text with \0 in it"]}
    await desk.worker().run_once()
    ended = await desk.found(asked)
    assert (ended.status, ended.counts, ended.metadata) == (RunStatus.COMPLETED, COUNTS, {})
    assert "refused" in (ended.error_message or "")


async def test_workers_take_runs_as_they_are_asked_for_and_each_run_once(desk: Desk) -> None:
    workers = [desk.worker(), desk.worker()]
    workers[1].name = "worker:sync:2"
    async with desk.running(*workers):
        asked = [await desk.ask(sync_type, connection) for sync_type in (SHORT, BULK, LONG) for connection in (0, 1)]
        ended = [await desk.ended(run) for run in asked]
    assert {run.status for run in ended} == {RunStatus.COMPLETED}
    assert len(desk.carrier.leases) == 6
    assert {run.attempts for run in ended} == {1}


async def test_no_more_runs_go_on_at_once_than_the_worker_may(desk: Desk) -> None:
    desk.carrier.gate.clear()
    asked = [await desk.ask(sync_type, connection) for sync_type in (SHORT, LONG) for connection in (0, 1)]
    async with desk.running(desk.worker(at_once=3)):
        await eventually(lambda: len(desk.carrier.leases) == 3)
        statuses = [(await desk.found(run)).status for run in asked]
        assert sorted(statuses) == ["running", "running", "running", "starting"]
        desk.carrier.gate.set()
        for run in asked:
            await desk.ended(run)


async def test_a_heartbeat_keeps_the_lease_of_a_run_that_goes_on(desk: Desk, database: asyncpg.Connection) -> None:
    desk.carrier.gate.clear()
    asked = await desk.ask()

    async def is_kept() -> bool:
        until = await database.fetchval("SELECT leased_until FROM sync_logs WHERE id = $1", asked.id)
        return bool(until == desk.clock() + timedelta(seconds=60))

    async with desk.running(desk.worker(heartbeat_s=0.02)):
        await within_deadline(desk.carrier.begun)
        for _ in range(3):
            desk.clock.advance(50)
            await eventually(is_kept)
        assert await desk.runs.rescue(desk.clock()) == []
        desk.carrier.gate.set()
        assert (await desk.ended(asked)).status is RunStatus.COMPLETED
