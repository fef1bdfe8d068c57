"""Runs in `sync_logs` that somebody has: fenced, counted, kept, given back, taken back, cancelled, ended once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import Run, RunCounts, RunEnd, RunStatus
from eventsync.postgres.database import Database
from eventsync.postgres.runs import RunLease, RunLost, Runs
from postgres.asked_runs import COUNTS, DONE, LEASE, LONG, NOW, SHORT, after, ask, asks, claim, lease_of
from servers.eventually import eventually


@pytest.fixture
def runs(pool: Database) -> Runs:
    return Runs(pool)


@pytest.fixture
def connection_id(connection_ids: list[ConnectionId]) -> ConnectionId:
    return connection_ids[0]


async def row_of(database: asyncpg.Connection, run: Run) -> Mapping[str, Any]:
    row: Mapping[str, Any] = await database.fetchrow("SELECT * FROM sync_logs WHERE id = $1", run.id)
    return row


async def test_a_worker_that_was_replaced_can_neither_keep_hold_end_nor_give_back_its_run(
    runs: Runs, connection_id: ConnectionId, pool: Database, database: asyncpg.Connection
) -> None:
    slow = await lease_of(runs, asks(connection_id))

    async def write_too_late() -> None:
        async with pool.transaction() as session:
            await session.execute("INSERT INTO organizations (name) VALUES ('Written Too Late')")
            await runs.hold(session, slow, COUNTS, {}, after(seconds=62))

    (requeued,) = await runs.rescue(after(seconds=61))
    assert requeued.status is RunStatus.STARTING
    quick = await claim(runs, after(seconds=61))
    assert quick is not None
    assert quick.run.id == slow.run.id
    with pytest.raises(RunLost):
        await runs.heartbeat(slow, after(seconds=62), after(seconds=122))
    with pytest.raises(RunLost):
        await write_too_late()
    with pytest.raises(RunLost):
        await runs.end(slow, DONE, after(seconds=62))
    assert not await runs.give_back(slow, after(seconds=62))
    row = await row_of(database, quick.run)
    assert (row["worker_id"], row["status"], row["appointments_new"]) == (quick.worker_id, "running", 0)
    assert await database.fetchval("SELECT count(*) FROM organizations WHERE name = 'Written Too Late'") == 0


async def test_counts_and_progress_are_those_of_the_last_transaction_that_committed(
    runs: Runs, connection_id: ConnectionId, pool: Database
) -> None:
    lease = await lease_of(runs, asks(connection_id))
    async with pool.transaction() as session:
        await runs.hold(session, lease, COUNTS, {"step": "Reading", "percentage": 40}, after(seconds=1))
    with suppress(LookupError):
        async with pool.transaction() as session:
            await runs.hold(session, lease, COUNTS + COUNTS, {"step": "Never"}, after(seconds=2))
            raise LookupError
    run = await runs.find(lease.run.id)
    assert run is not None
    assert (run.counts, run.progress) == (COUNTS, {"step": "Reading", "percentage": 40})


async def test_a_run_ends_once_with_its_counts_and_its_duration_in_real_milliseconds(
    runs: Runs, connection_id: ConnectionId, database: asyncpg.Connection
) -> None:
    asked = await ask(runs, asks(connection_id), after(seconds=-30))  # waiting is no part of it
    lease = await claim(runs, NOW, asked)
    assert lease is not None
    end = RunEnd(RunStatus.PARTIAL_SUCCESS, COUNTS, "the budget is spent", {"errors": [{"patientId": "p1"}]})
    ended = await runs.end(lease, end, after(seconds=15, milliseconds=230))
    assert (ended.status, ended.counts, ended.error_message) == (end.status, end.counts, end.error_message)
    assert (ended.metadata, ended.duration_ms, ended.started_at) == (end.metadata, 15_230, NOW)
    assert ended.completed_at == after(seconds=15, milliseconds=230)
    row = await row_of(database, ended)
    assert row["worker_id"] is row["leased_until"] is None
    with pytest.raises(RunLost):
        await runs.end(lease, DONE, after(seconds=16))


async def test_a_clock_that_was_set_back_makes_no_duration_below_zero(runs: Runs, connection_id: ConnectionId) -> None:
    lease = await lease_of(runs, asks(connection_id))
    assert (await runs.end(lease, DONE, after(hours=-1))).duration_ms == 0


async def test_a_run_that_was_given_back_goes_on_at_once_with_its_counts_and_its_beginning(
    runs: Runs, connection_id: ConnectionId, pool: Database
) -> None:
    await ask(runs, asks(connection_id), after(seconds=-1))
    for attempt in range(5):  # however often: it is no attempt that failed
        lease = await claim(runs, after(seconds=10 * attempt))
        assert lease is not None
        assert lease.run.attempts == 1
        async with pool.transaction() as session:
            await runs.hold(session, lease, lease.run.counts + RunCounts(1), {}, after(seconds=10 * attempt))
        assert await runs.give_back(lease, after(seconds=10 * attempt))
    last = await claim(runs, after(minutes=2))
    assert last is not None
    assert (last.run.counts.patients_processed, last.run.started_at) == (5, NOW)
    assert (await runs.end(last, DONE, after(minutes=3))).duration_ms == 180_000


async def test_a_heartbeat_keeps_the_lease_beyond_its_first_end(runs: Runs, connection_id: ConnectionId) -> None:
    lease = await lease_of(runs, asks(connection_id))
    assert await runs.heartbeat(lease, after(seconds=50), after(seconds=110))
    assert await runs.rescue(after(seconds=100)) == []
    assert await claim(runs, after(seconds=100)) is None


async def test_a_dead_workers_run_is_gone_on_with_twice_and_failed_the_third_time(
    runs: Runs, connection_id: ConnectionId, pool: Database
) -> None:
    await ask(runs, asks(connection_id))
    ends: list[Run] = []
    for death in range(3):
        now = after(minutes=10 * death)
        lease = await claim(runs, now)
        assert lease is not None
        async with pool.transaction() as session:
            await runs.hold(session, lease, lease.run.counts + RunCounts(1), {}, now)
        assert await runs.rescue(now + LEASE) == []
        ends += await runs.rescue(now + LEASE + timedelta(seconds=1))
    assert [run.status for run in ends] == [RunStatus.STARTING, RunStatus.STARTING, RunStatus.FAILED]
    rescued = ends[-1]
    assert rescued.counts.patients_processed == 3
    assert rescued.duration_ms == 20 * 60_000 + 61_000
    assert "worker died" in (rescued.error_message or "")
    assert await claim(runs, after(hours=1)) is None
    assert await runs.rescue(after(days=1)) == []


async def test_a_run_whose_page_is_just_being_written_is_not_taken_from_its_worker(
    runs: Runs, connection_id: ConnectionId, pool: Database
) -> None:
    lease = await lease_of(runs, asks(connection_id))
    async with pool.transaction() as session:
        await runs.hold(session, lease, COUNTS, {}, after(seconds=70))
        assert await runs.rescue(after(seconds=70)) == []
    assert len(await runs.rescue(after(seconds=70))) == 1


async def test_looking_for_runs_in_vain_wakes_nobody(
    runs: Runs, connection_id: ConnectionId, database: asyncpg.Connection
) -> None:
    heard: list[object] = []
    await database.add_listener("eventsync_runs", lambda *news: heard.append(news))
    for _ in range(3):
        assert await claim(runs) is None
        assert await runs.rescue(NOW) == []
    await database.execute("SELECT 1")  # what was sent before has come by then
    assert heard == []
    await ask(runs, asks(connection_id))
    await eventually(lambda: heard)


async def test_a_dead_workers_run_that_was_to_be_cancelled_is_cancelled(
    runs: Runs, connection_id: ConnectionId
) -> None:
    lease = await lease_of(runs, asks(connection_id))
    assert await runs.cancel(lease.run.id, after(seconds=5))
    (rescued,) = await runs.rescue(after(minutes=5))
    assert (rescued.status, rescued.error_message) == (RunStatus.CANCELLED, None)


async def test_a_lease_that_a_clock_far_ahead_has_taken_does_not_hold_the_run_until_then(
    runs: Runs, connection_id: ConnectionId
) -> None:
    await lease_of(runs, asks(connection_id), after(days=30))
    (rescued,) = await runs.rescue(NOW)
    assert rescued.status is RunStatus.STARTING
    assert await claim(runs) is not None


async def test_a_lease_of_a_clock_a_little_ahead_is_left_alone(runs: Runs, connection_id: ConnectionId) -> None:
    await lease_of(runs, asks(connection_id), after(minutes=8))
    assert await runs.rescue(NOW) == []


async def test_runs_of_a_disabled_connection_are_failed_and_never_claimed(
    runs: Runs, connection_id: ConnectionId, database: asyncpg.Connection
) -> None:
    await lease_of(runs, asks(connection_id, SHORT))
    await ask(runs, asks(connection_id, LONG))
    await database.execute("UPDATE connections SET disabled_at = $2 WHERE id = $1", connection_id, NOW)
    assert await claim(runs) is None
    (waiting,) = await runs.rescue(after(seconds=1))
    assert (waiting.sync_type, waiting.status) == (LONG, RunStatus.FAILED)
    (running,) = await runs.rescue(after(minutes=5))
    assert (running.sync_type, running.status) == (SHORT, RunStatus.FAILED)
    assert "disabled" in (running.error_message or "")


async def test_a_run_that_waits_is_cancelled_at_once_and_one_that_runs_is_told_at_its_heartbeat(
    runs: Runs, connection_id: ConnectionId
) -> None:
    waiting = await ask(runs, asks(connection_id, LONG))
    running = await lease_of(runs, asks(connection_id, SHORT))
    assert await runs.heartbeat(running, NOW, NOW + LEASE)
    for run in (waiting, running.run):
        assert await runs.cancel(run.id, after(seconds=1))
    ended = await runs.find(waiting.id)
    assert ended is not None
    assert (ended.status, ended.completed_at) == (RunStatus.CANCELLED, after(seconds=1))
    assert not await runs.heartbeat(running, after(seconds=2), NOW + LEASE)
    assert await runs.cancel(running.run.id, after(seconds=3))
    await runs.end(running, RunEnd(RunStatus.CANCELLED), after(seconds=3))
    assert not await runs.cancel(waiting.id, after(seconds=4))
    assert not await runs.cancel(running.run.id, after(seconds=4))


async def test_a_run_to_be_cancelled_that_was_given_back_is_not_begun_again(
    runs: Runs, connection_id: ConnectionId
) -> None:
    lease = await lease_of(runs, asks(connection_id))
    await runs.cancel(lease.run.id, NOW)
    assert await runs.give_back(lease, NOW)
    assert await claim(runs) is None
    (ended,) = await runs.rescue(NOW)
    assert ended.status is RunStatus.CANCELLED


async def in_order(runs: Runs, pool: Database, lease: RunLease, began_at: datetime) -> bool:
    async with pool.session() as session:
        return await runs.reads_in_order(session, lease, [RecordKind.APPOINTMENT] * 2, ["a1", "a2"], began_at)


async def test_reads_are_in_order_unless_another_run_of_the_connection_began_before(
    runs: Runs, connection_ids: list[ConnectionId], pool: Database
) -> None:
    long = await lease_of(runs, asks(connection_ids[0], LONG))
    await lease_of(runs, asks(connection_ids[1], SHORT), after(seconds=1))
    assert await in_order(runs, pool, long, after(seconds=2))
    short = await lease_of(runs, asks(connection_ids[0], SHORT), after(seconds=3))
    assert await in_order(runs, pool, long, after(seconds=2))
    assert not await in_order(runs, pool, long, after(seconds=3))
    assert not await in_order(runs, pool, short, after(seconds=4))
    await runs.end(long, DONE, after(seconds=5))
    assert await in_order(runs, pool, short, after(seconds=4))


async def test_reads_are_not_in_order_while_one_of_their_records_is_being_read_alone(
    runs: Runs, connection_id: ConnectionId, pool: Database, database: asyncpg.Connection
) -> None:
    lease = await lease_of(runs, asks(connection_id))

    async def is_read_alone(external_id: str, kind: str = "appointment") -> None:
        await database.execute("DELETE FROM record_reads")
        await database.execute(
            "INSERT INTO record_reads (connection_id, kind, external_id, sequence, leased_until)"
            " VALUES ($1, $2, $3, 1, $4)",
            *(connection_id, kind, external_id, after(minutes=5)),
        )

    await is_read_alone("a2")
    assert not await in_order(runs, pool, lease, NOW)
    await database.execute("UPDATE record_reads SET leased_until = '-infinity'")  # that read has ended
    assert await in_order(runs, pool, lease, NOW)
    await is_read_alone("a3")
    assert await in_order(runs, pool, lease, NOW)
    await is_read_alone("a2", "patient")
    assert await in_order(runs, pool, lease, NOW)


async def test_every_count_is_written_under_its_own_name(
    runs: Runs, connection_id: ConnectionId, database: asyncpg.Connection
) -> None:
    ended = await runs.end(await lease_of(runs, asks(connection_id)), RunEnd(RunStatus.COMPLETED, COUNTS), NOW)
    row = await row_of(database, ended)
    assert (
        row["patients_processed"], row["patients_failed"], row["appointments_new"], row["appointments_updated"],
        row["appointments_unchanged"], row["appointments_errors"],
    ) == astuple(COUNTS)  # fmt: skip
