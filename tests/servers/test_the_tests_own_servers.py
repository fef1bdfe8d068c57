"""The tests' own servers do what the tests rely on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest

from servers.eventually import eventually
from servers.proxy import TcpProxy
from servers.rabbitmq import RabbitServer

MakeProxy = Callable[[str], Awaitable[TcpProxy]]


async def test_a_database_has_all_migrations_and_nothing_of_another_test(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, timeout=10)
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations") > 0
    assert await connection.fetchval("SELECT count(*) FROM events") == 0
    await connection.execute("CREATE TABLE mine (id int)")
    await connection.close(timeout=10)


async def test_two_databases_are_apart(database_url: str, empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url, timeout=10)
    tables = await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
    await connection.close(timeout=10)
    assert tables == 0


async def test_the_proxy_forwards_a_socket_and_adds_its_delay(tcp_proxy: MakeProxy, database_url: str) -> None:
    proxy = await tcp_proxy(database_url)
    connection = await asyncpg.connect(proxy.url, timeout=10)
    proxy.delay_s = 0.05
    began = asyncio.get_running_loop().time()
    assert await connection.fetchval("SELECT repeat('x', 1000000)") == "x" * 1_000_000
    assert asyncio.get_running_loop().time() - began >= 0.1
    await connection.close(timeout=10)


async def test_the_proxy_cuts_and_refuses_and_takes_connections_again(tcp_proxy: MakeProxy, database_url: str) -> None:
    proxy = await tcp_proxy(database_url)
    connection = await asyncpg.connect(proxy.url, timeout=10)
    await proxy.refuse()
    assert await connection.fetchval("SELECT 1") == 1
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(proxy.url, timeout=10)

    proxy.cut()
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    await eventually(lambda: proxy.connections == 0)

    await proxy.accept()
    again = await asyncpg.connect(proxy.url, timeout=10)
    assert await again.fetchval("SELECT 1") == 1
    await again.close(timeout=10)


@pytest.mark.parametrize("turns", range(6))
async def test_the_proxy_leaves_nothing_open_of_those_who_come_while_it_begins_to_refuse(
    tcp_proxy: MakeProxy, database_url: str, turns: int
) -> None:
    proxy = await tcp_proxy(database_url)
    parts = urlsplit(proxy.url)
    assert parts.port is not None
    with contextlib.ExitStack() as stack:
        # The kernel lets them in at once; how far the proxy has got with them depends on the event loop's turns.
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", parts.port), timeout=10))
        for _ in range(turns):
            await asyncio.sleep(0)
        await proxy.refuse()
        proxy.cut()
        await eventually(lambda: proxy.connections == 0)
    gc.collect()  # tells of what nobody closed, as a warning that fails the test


async def test_held_answers_leave_the_outcome_unknown_but_the_row_written(
    tcp_proxy: MakeProxy, database_url: str, database: asyncpg.Connection
) -> None:
    await database.execute("CREATE TABLE mine (id int)")
    proxy = await tcp_proxy(database_url)
    connection = await asyncpg.connect(proxy.url, timeout=10)
    proxy.hold_answers()
    with pytest.raises(TimeoutError):
        await connection.execute("INSERT INTO mine VALUES (1)", timeout=0.2)
    assert await database.fetchval("SELECT count(*) FROM mine") == 1
    connection.terminate()


async def test_a_held_link_is_half_open_until_it_is_resumed(tcp_proxy: MakeProxy, database_url: str) -> None:
    proxy = await tcp_proxy(database_url)
    connection = await asyncpg.connect(proxy.url, timeout=10)
    proxy.hold()
    answer = asyncio.create_task(connection.fetchval("SELECT 1"))
    done, _ = await asyncio.wait([answer], timeout=0.1)
    assert not done
    proxy.resume()
    async with asyncio.timeout(10):
        assert await answer == 1
    await connection.close(timeout=10)


async def test_held_requests_do_not_arrive_while_the_server_is_still_heard(
    tcp_proxy: MakeProxy, database_url: str, database: asyncpg.Connection
) -> None:
    proxy = await tcp_proxy(database_url)
    connection = await asyncpg.connect(proxy.url, timeout=10)
    heard = asyncio.Event()
    await connection.add_listener("mine", lambda *_: heard.set())
    proxy.hold_requests()
    await database.execute("NOTIFY mine")
    async with asyncio.timeout(10):
        await heard.wait()
    with pytest.raises(TimeoutError):
        await connection.execute("CREATE TABLE mine (id int)", timeout=0.2)
    assert await database.fetchval("SELECT to_regclass('mine')") is None
    connection.terminate()


async def test_virtual_hosts_are_apart(amqp_url: str, rabbitmq_server: RabbitServer) -> None:
    connection = await aio_pika.connect(amqp_url, timeout=10)
    await (await connection.channel()).declare_queue("mine")
    other = await aio_pika.connect(rabbitmq_server.fresh_vhost_url(), timeout=10)
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await (await other.channel()).declare_queue("mine", passive=True)
    await connection.close()
    await other.close()


async def test_the_proxy_passes_amqp_to_the_same_virtual_host(tcp_proxy: MakeProxy, amqp_url: str) -> None:
    proxy = await tcp_proxy(amqp_url)
    direct = await aio_pika.connect(amqp_url, timeout=10)
    await (await direct.channel()).declare_queue("mine")
    through = await aio_pika.connect(proxy.url, timeout=10)
    await (await through.channel()).declare_queue("mine", passive=True)
    await direct.close()
    await through.close()


async def test_a_rabbitmq_keeps_durable_queues_through_stop_and_kill_but_not_through_a_wipe(
    rabbitmq_factory: Callable[[], Awaitable[RabbitServer]],
) -> None:
    server = await rabbitmq_factory()
    url = server.fresh_vhost_url()

    async def declare(*, passive: bool) -> None:
        connection = await aio_pika.connect(url, timeout=10)
        try:
            await (await connection.channel()).declare_queue("mine", durable=True, passive=passive)
        finally:
            await connection.close()

    await declare(passive=False)
    await server.restart()
    await declare(passive=True)
    pid = server.pid
    await server.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await server.start()
    await declare(passive=True)
    await server.wipe()
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await declare(passive=True)


async def test_eventually_returns_the_first_true_answer(tmp_path: Path) -> None:
    answers = iter([0, 0, 7])
    assert await eventually(lambda: next(answers)) == 7


async def test_eventually_says_what_it_last_saw() -> None:
    async def never() -> int:
        return 0

    with pytest.raises(AssertionError, match="the last value was 0"):
        await eventually(never, deadline_s=0.05)


async def test_eventually_tries_again_after_a_failed_assertion_only() -> None:
    seen: list[int] = []

    def third_time() -> bool:
        seen.append(1)
        assert len(seen) == 3
        return True

    assert await eventually(third_time)

    def broken() -> bool:
        raise LookupError

    with pytest.raises(LookupError):
        await eventually(broken)
