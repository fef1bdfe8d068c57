"""Colectiva, PostgreSQL or RabbitMQ is away for a while: registrations wait, go on by themselves, and are sent once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import asyncpg
import pytest

from e2e.connected_colectiva import connect_colectiva
from e2e.eventsync_process import EventsyncProcess
from e2e.moving_again import MOVES_AGAIN_WITHIN_S, RecordProperty, tell
from e2e.probes import says_that_all_is_well, says_that_it_lacks
from e2e.whole_process import process_of, running
from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.sandbox import RunningSandbox, SandboxOptions, ScriptedCall, serve
from eventsync.sandbox.colectiva.vendor import ColectivaVendor
from servers.eventually import eventually
from servers.proxy import TcpProxy
from servers.rabbitmq import RabbitServer
from stages.plenura_at_work import PlenuraAtWork, registered

_COLECTIVA = SandboxOptions(vendor="colectiva")
_AWAY_FOR_S = 30.0 if os.environ.get("EVENTSYNC_PROVE") else 5.0
_PAUSE_S = 0.1  # between two things that people do
_DELIVERED_WITHOUT_BUS_WITHIN_S = 3.0  # it is looked every second then
_SETTLED_WITHIN_S = 90.0  # what was cut off on its way is tried again after at most 45 s

MakeProxy = Callable[[str], Awaitable[TcpProxy]]
ConnectRegistry = Callable[..., Awaitable[ColectivaVendor]]
MakeRabbit = Callable[[], Awaitable[RabbitServer]]


@pytest.fixture
async def plenura(database_url: str) -> AsyncIterator[PlenuraAtWork]:
    """People at work over connections that no outage touches."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=3) as people:
        yield PlenuraAtWork(people, Random(7))


@pytest.fixture
def connect_registry(pool: Database, keyring: Keyring) -> ConnectRegistry:
    """Connects a pretend Colectiva to this database."""
    return partial(connect_colectiva, pool, keyring)


@pytest.mark.timeout(300)
async def test_while_colectiva_is_away_registrations_wait_and_then_arrive_once_each(
    database_url: str,
    plenura: PlenuraAtWork,
    connect_registry: ConnectRegistry,
    amqp_url: str,
    tcp_proxy: MakeProxy,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    async with serve(_COLECTIVA) as sandbox, two_processes(tmp_path, database_url, amqp_url) as processes:
        proxy = await tcp_proxy(sandbox.base_url)
        colectiva = await connect_registry(sandbox, base_url=proxy.url)
        async with at_work(plenura):
            await arrival_s(plenura, colectiva)
            await proxy.refuse()
            proxy.cut()
            await asyncio.sleep(_AWAY_FOR_S)
            await proxy.accept()
            tell(record_property, "Colectiva away", await arrival_s(plenura, colectiva, within_s=90.0))
        await all_arrived_once(plenura, colectiva)
        assert [await process.stop() for process in processes] == [0, 0]


@pytest.mark.timeout(300)
async def test_while_postgres_is_away_an_attempt_that_colectiva_took_is_held_and_not_repeated(
    database_url: str,
    plenura: PlenuraAtWork,
    connect_registry: ConnectRegistry,
    amqp_url: str,
    tcp_proxy: MakeProxy,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    proxy = await tcp_proxy(database_url)
    async with serve(_COLECTIVA) as sandbox, two_processes(tmp_path, proxy.url, amqp_url) as processes:
        colectiva = await connect_registry(sandbox)
        async with at_work(plenura):
            await arrival_s(plenura, colectiva)
            await away_during_a_post(proxy, sandbox)
            await asyncio.sleep(_AWAY_FOR_S)
            await proxy.accept()
            tell(record_property, "PostgreSQL away", await arrival_s(plenura, colectiva))
        await all_arrived_once(plenura, colectiva)
        assert [await process.stop() for process in processes] == [0, 0]


@pytest.mark.timeout(300)
async def test_while_rabbitmq_is_away_registrations_arrive_by_polling(
    database_url: str,
    plenura: PlenuraAtWork,
    connect_registry: ConnectRegistry,
    rabbitmq_factory: MakeRabbit,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    rabbit = await rabbitmq_factory()
    url = rabbit.fresh_vhost_url()
    async with serve(_COLECTIVA) as sandbox, two_processes(tmp_path, database_url, url) as processes:
        colectiva = await connect_registry(sandbox)
        async with at_work(plenura):
            await arrival_s(plenura, colectiva)
            await rabbit.stop()
            for process in processes:
                await says_that_it_lacks(process.base_url, "bus")
            until_s, waits_s = time.monotonic() + _AWAY_FOR_S, []
            while time.monotonic() < until_s:
                waits_s.append(await arrival_s(plenura, colectiva, within_s=_DELIVERED_WITHOUT_BUS_WITHIN_S))
            tell(record_property, "an insert while RabbitMQ is away, at most", max(waits_s))
            await rabbit.start()
            for process in processes:
                await says_that_all_is_well(process.base_url)
            tell(record_property, "RabbitMQ away", await arrival_s(plenura, colectiva))
        await all_arrived_once(plenura, colectiva)
        assert [await process.stop() for process in processes] == [0, 0]


@asynccontextmanager
async def two_processes(folder: Path, database_url: str, amqp_url: str) -> AsyncIterator[list[EventsyncProcess]]:
    relay = process_of(folder / "relay", database_url, "relay", amqp_url=amqp_url)
    worker = process_of(folder / "worker", database_url, "worker", amqp_url=amqp_url)
    async with running(relay), running(worker):
        yield [relay, worker]


@asynccontextmanager
async def at_work(plenura: PlenuraAtWork) -> AsyncIterator[None]:
    """Let people change organizations around the block."""
    stop = asyncio.Event()

    async def go_on() -> None:
        while not stop.is_set():
            await plenura.do_one_thing()
            await asyncio.sleep(_PAUSE_S)

    await plenura.begin(10)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on())
        try:
            yield
        finally:
            stop.set()


async def arrival_s(
    plenura: PlenuraAtWork, colectiva: ColectivaVendor, *, within_s: float = MOVES_AGAIN_WITHIN_S
) -> float:
    """Add a practice, and tell how long it took until Colectiva had it."""
    began_s = time.monotonic()
    org_id = await plenura.add_practice()
    await eventually(lambda: org_id in colectiva.organizations, within_s)
    return time.monotonic() - began_s


async def away_during_a_post(proxy: TcpProxy, sandbox: RunningSandbox) -> None:
    """Take PostgreSQL away while Colectiva makes its answer to the next POST."""
    is_away = asyncio.Event()

    async def take_away() -> None:
        await proxy.refuse()
        proxy.cut()
        is_away.set()

    sandbox.sandbox.script.add(ScriptedCall(route="/ecosystem-orgs", method="POST", before=take_away))
    async with asyncio.timeout(MOVES_AGAIN_WITHIN_S):
        await is_away.wait()


async def all_arrived_once(plenura: PlenuraAtWork, colectiva: ColectivaVendor) -> None:
    """Wait until Colectiva has every organization's last state; nothing that it took was sent again, nothing failed."""

    async def all_ended_well() -> bool:
        return not await plenura.items_without_success()

    await eventually(all_ended_well, _SETTLED_WITHIN_S)
    assert registered(colectiva) == await plenura.states()
    assert colectiva.posts.needless() == []
    assert not any(post.is_overlapping for post in colectiva.posts)
