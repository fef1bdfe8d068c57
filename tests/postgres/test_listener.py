"""The listener: proves that it hears, notices when it does not, and wakes everyone after every gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from eventsync.postgres.listener import Channel, Listener, Signal
from eventsync.telemetry import Metrics
from servers.eventually import eventually
from servers.proxy import TcpProxy

MakeProxy = Callable[[str], Awaitable[TcpProxy]]


@asynccontextmanager
async def running(listener: Listener) -> AsyncIterator[None]:
    task = asyncio.create_task(listener.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def rings(signal: Signal) -> bool:
    return await signal.wait(10.0)


async def test_a_notification_rings_the_waiters_of_its_channel_only(
    database_url: str, database: asyncpg.Connection
) -> None:
    listener = Listener(database_url, metrics := Metrics())
    queue, other, configuration = (
        listener.signal(channel) for channel in (Channel.QUEUE, Channel.QUEUE, Channel.CONFIGURATION)
    )
    async with running(listener):
        await eventually(lambda: listener.is_proven)
        for signal in (queue, other, configuration):
            assert await signal.wait(0.0)  # once after connecting: LISTEN first, then everyone scans
        await database.execute("NOTIFY eventsync_queue")
        assert await rings(queue)
        assert await rings(other)
        assert not await configuration.wait(0.0)
    assert metrics.registry.get_sample_value("eventsync_notifications_total", {"channel": "eventsync_queue"}) == 1


async def test_a_ring_that_came_while_nobody_waited_is_remembered_once() -> None:
    signal = Signal()
    signal.ring()
    signal.ring()
    assert await signal.wait(0.0)
    assert not await signal.wait(0.0)


async def test_everyone_polls_each_second_until_listen_is_proven_and_rarely_after(database_url: str) -> None:
    listener = Listener(database_url, metrics := Metrics())
    assert (listener.is_proven, listener.poll_interval_s) == (False, 1.0)
    assert listener.reason
    async with running(listener):
        await eventually(lambda: listener.is_proven)
        assert (listener.poll_interval_s, listener.reason) == (15.0, "")
        assert metrics.registry.get_sample_value("eventsync_listener_proven") == 1


async def test_a_lost_connection_is_noticed_and_the_next_one_rings_everybody(
    tcp_proxy: MakeProxy, database_url: str
) -> None:
    proxy = await tcp_proxy(database_url)
    listener = Listener(proxy.url, metrics := Metrics())
    signals = [listener.signal(channel) for channel in Channel]
    async with running(listener):
        await eventually(lambda: listener.is_proven)
        await proxy.refuse()
        proxy.cut()
        await eventually(lambda: not listener.is_proven)
        assert listener.reason
        assert listener.poll_interval_s == 1.0
        assert metrics.registry.get_sample_value("eventsync_listener_proven") == 0
        for signal in signals:
            assert await rings(signal)
            await signal.wait(0.0)
        await proxy.accept()
        await eventually(lambda: listener.is_proven)
        for signal in signals:
            assert await rings(signal)


async def test_a_connection_that_the_server_ends_is_replaced_at_once(
    database_url: str, database: asyncpg.Connection
) -> None:
    listener = Listener(database_url, Metrics(), probe_interval_s=3600.0)
    signal = listener.signal(Channel.QUEUE)
    async with running(listener):
        await eventually(lambda: listener.is_proven)
        await signal.wait(0.0)
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert await rings(signal)
        await eventually(lambda: listener.is_proven, deadline_s=3.0)


async def test_a_deaf_connection_is_given_up_by_the_probe(tcp_proxy: MakeProxy, database_url: str) -> None:
    proxy = await tcp_proxy(database_url)
    listener = Listener(proxy.url, Metrics(), probe_interval_s=0.05, probe_timeout_s=0.3)
    async with running(listener):
        await eventually(lambda: listener.is_proven)
        proxy.hold()  # half-open: nothing comes, and nobody says so
        await eventually(lambda: not listener.is_proven)
        assert "EVENTSYNC_LISTEN_DATABASE_URL" in listener.reason
        proxy.resume()
        await eventually(lambda: listener.is_proven)


async def test_behind_something_that_swallows_notifications_it_is_never_proven(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As behind a transaction pooler, LISTEN succeeds and nothing is ever heard: here another channel is notified.
    monkeypatch.setattr(asyncpg.Connection, "add_listener", _listen_elsewhere)
    listener = Listener(database_url, Metrics(), probe_timeout_s=0.2)
    async with running(listener):
        await eventually(lambda: "hears nothing" in listener.reason)
        assert not listener.is_proven


async def _listen_elsewhere(connection: asyncpg.Connection, channel: str, _: object) -> None:
    await connection.execute("LISTEN elsewhere")
    assert channel
