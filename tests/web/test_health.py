"""What the probes say of a process and of each of its parts, also while PostgreSQL is away or hangs."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from eventsync.crypto import Keyring
from eventsync.domain.errors import Misconfigured
from eventsync.postgres.database import Database
from eventsync.settings import Settings
from eventsync.supervisor import Supervisor
from eventsync.telemetry import Metrics
from eventsync.web.health import Health, Part
from eventsync.web.server import WebServer
from eventsync.wiring import Role
from eventsync.wiring.process import Process, ProcessOptions, open_process
from eventsync.wiring.readiness import database_part, door_part, spool_part, workers_part
from servers.eventually import eventually
from servers.proxy import TcpProxy
from web.webhook_door import Limits, Practice, open_door

METRICS = (
    "eventsync_events_received_total",
    "eventsync_requests_refused_total",
    "eventsync_ingress_seconds",
    "eventsync_webhook_to_row_seconds",
    "eventsync_events_finished_total",
    "eventsync_events_parked_total",
    "eventsync_queue_events",
    "eventsync_queue_oldest_seconds",
    "eventsync_spool_events",
    "eventsync_spool_bytes",
    "eventsync_spool_oldest_seconds",
    "eventsync_notifications_total",
    "eventsync_relay_wakeups_total",
    "eventsync_listener_proven",
    "eventsync_budget_left",
    "eventsync_worker_restarts_total",
    "eventsync_outbound_items",
    "eventsync_outbound_oldest_seconds",
    "eventsync_outbound_attempts_total",
    "eventsync_outbound_delivery_seconds",
    "eventsync_outbound_paused",
)


class Failing:
    name = "failing"

    async def run(self) -> None:
        raise Misconfigured("set what is missing")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        yield session


@pytest.fixture
async def proxy(tcp_proxy: Callable[[str], Awaitable[TcpProxy]], database_url: str) -> TcpProxy:
    return await tcp_proxy(database_url)


@pytest.fixture
async def ingress(proxy: TcpProxy, keyring: Keyring, tmp_path: Path) -> AsyncIterator[Process]:
    """The role `ingress` as the command line runs it, with a port of its own for probes."""
    options = ProcessOptions(
        settings=Settings(data_dir=tmp_path),
        roles=frozenset({Role.INGRESS}),
        database_url=proxy.url,
        keyring=keyring,
        port=0,
        health_port=0,
    )
    async with open_process(options) as process, process.running():
        yield process


async def asked(http: aiohttp.ClientSession, address: str) -> tuple[int, dict[str, str]]:
    """Ask for readiness: the status, and the reasons of those parts that are not ready."""
    async with http.get(f"{address}/readyz") as answer:
        body: dict[str, Any] = await answer.json()
    assert body["ready"] == (answer.status == 200)
    parts = body["parts"].items()
    return answer.status, {name: part["reason"] for name, part in parts if not part["ready"]}


async def all_ready(http: aiohttp.ClientSession, process: Process) -> bool:
    return all([await asked(http, server.address) == (200, {}) for server in process.servers])


async def test_every_part_is_ready_on_both_ports_and_alive(ingress: Process, http: aiohttp.ClientSession) -> None:
    await eventually(lambda: all_ready(http, ingress))
    for server in ingress.servers:
        async with http.get(f"{server.address}/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "alive"})


async def test_ingress_stays_ready_while_postgresql_is_away_and_says_so(
    ingress: Process, http: aiohttp.ClientSession, proxy: TcpProxy
) -> None:
    await eventually(lambda: all_ready(http, ingress))
    await proxy.refuse()
    proxy.cut()
    status, reasons = await asked(http, ingress.servers[0].address)
    assert status == 200
    assert "PostgreSQL is away" in reasons["postgres"]
    assert "spool" not in reasons
    await proxy.accept()
    await eventually(lambda: all_ready(http, ingress))


async def test_metrics_name_what_is_measured_and_survive_without_postgresql(
    ingress: Process, http: aiohttp.ClientSession, proxy: TcpProxy
) -> None:
    for fails in (False, True):
        if fails:
            await proxy.refuse()
            proxy.cut()
        async with http.get(f"{ingress.servers[0].address}/metrics") as answer:
            assert answer.status == 200
            text = await answer.text()
        for name in METRICS:
            assert re.search(rf"^# TYPE {name.removesuffix('_total')}(_total)? ", text, re.MULTILINE), name


async def probing(
    parts: list[Part], refresh: Callable[[], Awaitable[None]] | None = None, timeout_s: float = 0.2
) -> WebServer:
    async def nothing() -> None:
        return

    app = web.Application()
    Health(lambda: parts, Metrics(), refresh or nothing, check_timeout_s=timeout_s).add_routes(app)
    server = WebServer("health", app, "127.0.0.1", 0)
    await server.open()
    return server


async def test_each_part_that_is_not_ready_gives_its_own_reason(http: aiohttp.ClientSession) -> None:
    async def ready() -> str:
        return ""

    async def unready() -> str:
        return "the disk is full"

    async def misconfigured() -> str:
        raise Misconfigured("set EVENTSYNC_AMQP_URL")

    async def broken() -> str:
        raise LookupError("Test Client 12")

    async def silent() -> str:
        await asyncio.Event().wait()
        return ""

    blocking = [Part("a", ready), Part("b", unready), Part("c", misconfigured), Part("d", broken), Part("e", silent)]
    server = await probing(blocking)
    assert await asked(http, server.address) == (
        503,
        {
            "b": "the disk is full",
            "c": "set EVENTSYNC_AMQP_URL",
            "d": "internal error (LookupError)",
            "e": "no answer within 0.2 s",
        },
    )
    await server.close()
    server = await probing([Part("a", ready), Part("b", unready, blocks=False)])
    assert await asked(http, server.address) == (200, {"b": "the disk is full"})
    await server.close()


async def test_a_failed_worker_is_named_with_its_reason(http: aiohttp.ClientSession) -> None:
    supervisor = Supervisor([Failing()], Metrics())
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    server = await probing([workers_part(supervisor, blocks=True)])
    await eventually(lambda: is_named(http, server))
    stop.set()
    await running
    assert await asked(http, server.address) == (503, {"workers": "failing: stopped"})
    await server.close()


async def is_named(http: aiohttp.ClientSession, server: WebServer) -> bool:
    return await asked(http, server.address) == (503, {"workers": "failing: set what is missing"})


async def test_many_probes_ask_a_part_that_hangs_only_once(http: aiohttp.ClientSession) -> None:
    begun = 0
    goes_on = asyncio.Event()

    async def slow() -> str:
        nonlocal begun
        begun += 1
        await goes_on.wait()
        return ""

    server = await probing([Part("slow", slow)], timeout_s=5.0)
    probes = [asyncio.create_task(asked(http, server.address)) for _ in range(10)]
    await eventually(lambda: begun == 1)
    await asyncio.wait(probes, timeout=0.1)
    goes_on.set()
    assert {status for status, _ in await asyncio.gather(*probes)} == {200}
    assert begun == 1
    await server.close()


async def test_probes_are_answered_in_time_while_postgresql_hangs(
    http: aiohttp.ClientSession, proxy: TcpProxy, keyring: Keyring
) -> None:
    database = Database(proxy.url)
    await database.open()
    server = await probing([database_part(database, blocks=True)], database.ping)
    await eventually(lambda: is_ready(http, server))
    proxy.hold()
    began = time.monotonic()
    assert await asked(http, server.address) == (503, {"postgres": "no answer within 0.2 s"})
    async with http.get(f"{server.address}/metrics") as answer:
        assert answer.status == 200
    assert time.monotonic() - began < 2.0
    proxy.cut()
    proxy.resume()
    await eventually(lambda: is_ready(http, server))
    await server.close()
    await database.close()


async def is_ready(http: aiohttp.ClientSession, server: WebServer) -> bool:
    return (await asked(http, server.address))[0] == 200


async def test_the_door_is_unready_only_when_neither_postgresql_nor_its_spool_can_take_a_webhook(
    http: aiohttp.ClientSession,
    proxy: TcpProxy,
    keyring: Keyring,
    tmp_path: Path,
    pool: Database,
    database: asyncpg.Connection,
) -> None:
    connection = await Practice(pool, database, keyring).connect()
    small = Limits(insert_timeout_s=0.4, spool_bytes=512 * 1024)
    async with open_door(proxy.url, keyring, tmp_path, small) as door:
        await eventually(lambda: door.book.is_current)
        parts = [
            database_part(door.database, blocks=False),
            spool_part(door.spool),
            door_part(door.database, door.spool),
        ]
        server = await probing(parts, timeout_s=2.0)
        await proxy.refuse()
        proxy.cut()
        assert (await asked(http, server.address))[0] == 200
        body = b'{"Note":"' + b"x" * 20_000 + b'"}'
        while (await door.post(connection.webhook_token, body)).status == 200:
            pass
        status, reasons = await asked(http, server.address)
        assert (status, set(reasons)) == (503, {"postgres", "spool", "door"})
        await proxy.accept()
        await eventually(lambda: is_ready(http, server))
        await server.close()


async def test_an_applications_own_way_with_errors_goes_before_the_servers(http: aiohttp.ClientSession) -> None:
    @web.middleware
    async def as_teapot(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except LookupError:
            return web.Response(status=418)

    async def fail(_request: web.Request) -> web.Response:
        raise LookupError

    app = web.Application(middlewares=[as_teapot])
    app.router.add_get("/", fail)
    server = WebServer("web", app, "127.0.0.1", 0)
    await server.open()
    async with http.get(server.address) as answer:
        assert answer.status == 418
    await server.close()
