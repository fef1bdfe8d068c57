"""Runs while PostgreSQL is away: gone on with within their lease, stopped beyond it, ended once it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import Run, RunStatus
from eventsync.postgres.database import Database
from eventsync.postgres.runs import Runs
from servers.eventually import eventually
from servers.proxy import TcpProxy
from stages.run_desk import COUNTS, Desk, within_deadline
from stages.spine import NOW

MakeProxy = Callable[[str], Awaitable[TcpProxy]]


@asynccontextmanager
async def a_desk_behind(proxy: TcpProxy, connection_ids: list[ConnectionId]) -> AsyncIterator[Desk]:
    """A desk that reaches PostgreSQL through a proxy."""
    pool = Database(proxy.url)
    await pool.open()
    yield Desk(pool, connection_ids, proxy.url)
    await pool.close()


async def pull_the_plug(proxy: TcpProxy) -> None:
    await proxy.refuse()
    proxy.cut()


async def test_a_run_that_is_over_while_postgres_is_away_is_ended_once_it_is_back_and_not_done_again(
    tcp_proxy: MakeProxy, database_url: str, connection_ids: list[ConnectionId], pool: Database
) -> None:
    proxy = await tcp_proxy(database_url)
    async with a_desk_behind(proxy, connection_ids) as desk:
        desk.carrier.gate.clear()
        asked = await desk.ask()
        with capture_logs() as logs:
            async with desk.running(desk.worker()):
                await within_deadline(desk.carrier.begun)
                await pull_the_plug(proxy)
                desk.carrier.gate.set()
                await eventually(lambda: [entry for entry in logs if entry["event"] == "holding_on"])
                desk.clock.advance(120)  # longer than the lease
                await proxy.accept()
                ended = await desk.ended(asked)
    assert (ended.status, ended.counts, ended.attempts) == (RunStatus.COMPLETED, COUNTS, 1)
    assert len(desk.carrier.leases) == 1
    assert [entry["status"] for entry in logs if entry["event"] == "run_ended"] == ["completed"]


async def test_a_run_goes_on_through_an_outage_that_is_shorter_than_its_lease(
    tcp_proxy: MakeProxy, database_url: str, connection_ids: list[ConnectionId]
) -> None:
    proxy = await tcp_proxy(database_url)
    async with a_desk_behind(proxy, connection_ids) as desk:
        desk.carrier.gate.clear()
        asked = await desk.ask()
        with capture_logs() as logs:
            async with desk.running(desk.worker(lease_s=60.0, heartbeat_s=0.05)):
                await within_deadline(desk.carrier.begun)
                await pull_the_plug(proxy)
                await eventually(lambda: [entry for entry in logs if entry["event"] == "heartbeat_not_written"])
                await proxy.accept()
                desk.carrier.gate.set()
                assert (await desk.ended(asked)).status is RunStatus.COMPLETED
    assert not desk.carrier.stopped.is_set()
    assert desk.metrics.registry.get_sample_value("eventsync_worker_restarts_total", {"worker": "worker:sync"}) is None


async def test_a_run_whose_lease_ends_while_postgres_is_away_stops_and_is_gone_on_with_once_it_is_back(
    tcp_proxy: MakeProxy, database_url: str, connection_ids: list[ConnectionId]
) -> None:
    proxy = await tcp_proxy(database_url)
    async with a_desk_behind(proxy, connection_ids) as desk:
        desk.carrier.gate.clear()
        asked = await desk.ask()
        async with desk.running(desk.worker(lease_s=0.5, heartbeat_s=0.1)):
            await within_deadline(desk.carrier.begun)
            await pull_the_plug(proxy)
            await within_deadline(desk.carrier.stopped)
            desk.carrier.gate.set()
            await proxy.accept()
            ended = await desk.ended(asked)
    assert (ended.status, ended.counts) == (RunStatus.COMPLETED, COUNTS + COUNTS)
    assert len(desk.carrier.leases) == 2


class NotedRescues(Runs):
    """A store that tells when it has looked for dead workers' runs."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.rescued = asyncio.Event()

    async def rescue(self, now: datetime) -> list[Run]:
        rescued = await super().rescue(now)
        self.rescued.set()
        return rescued


async def let_it_hang(proxy: TcpProxy) -> None:
    proxy.hold()


@pytest.mark.parametrize("fail", [pull_the_plug, let_it_hang])
async def test_a_worker_that_is_stopped_while_postgres_is_away_stops_in_time_and_the_lease_runs_out(
    tcp_proxy: MakeProxy,
    database_url: str,
    connection_ids: list[ConnectionId],
    pool: Database,
    fail: Callable[[TcpProxy], Awaitable[None]],
) -> None:
    proxy = await tcp_proxy(database_url)
    async with a_desk_behind(proxy, connection_ids) as desk:
        desk.carrier.gate.clear()
        asked = await desk.ask()
        desk.runs = runs = NotedRescues(desk.pool)
        working = asyncio.create_task(desk.worker(at_once=1).run())
        await within_deadline(desk.carrier.begun)
        await within_deadline(runs.rescued)  # nothing else is on its way to PostgreSQL
        await fail(proxy)
        working.cancel()
        await asyncio.wait({working}, timeout=15)  # of the 25 s that a process may take to stop
        assert working.cancelled()
        proxy.resume()
    (requeued,) = await Runs(pool).rescue(NOW + timedelta(seconds=61))
    assert requeued == replace(requeued, id=asked.id, status=RunStatus.STARTING, counts=COUNTS)
