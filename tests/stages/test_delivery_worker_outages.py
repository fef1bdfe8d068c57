"""The outbound queue's worker while its account, PostgreSQL or the broker is away: it tells so once, and goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.bus.memory import MemoryBus
from eventsync.bus.rabbit import RabbitBus
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Misconfigured
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import OutboundQueue
from eventsync.stages.deliver import RegistryAccount
from eventsync.stages.wake import WakeRelay
from servers.eventually import eventually
from servers.proxy import TcpProxy
from stages.delivery_site import NEVER_S, DeliverySite, is_over, worker_of
from stages.spine import RunningClock, Spine


@pytest.fixture
def site(pool: Database, database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> DeliverySite:
    """A queue worked off by the machine's clock."""
    return DeliverySite(pool, database, connection_ids[0], clock=RunningClock())


async def test_an_account_that_cannot_be_opened_is_told_once_and_tried_again(spine: Spine, site: DeliverySite) -> None:
    refusals = 0

    async def open_registry() -> RegistryAccount | None:
        nonlocal refusals
        refusals += 1
        if refusals <= 3:
            raise Misconfigured("enter the key as Colectiva shows it (api_key)")
        return RegistryAccount(site.connection_id, site.scripted)

    item_id = await site.put()
    worker = worker_of(site, spine)
    worker._deliverer._open_registry = open_registry
    with capture_logs() as logs:
        async with spine.running(worker, spine.listener):
            await eventually(lambda: worker.trouble)
            await eventually(lambda: is_over(site, item_id))
            await eventually(lambda: not worker.trouble)
    assert [entry["log_level"] for entry in logs if entry["event"] == "outbound_waits"] == ["error"]
    assert [entry["event"] for entry in logs].count("worker_failed") == 0


async def test_it_goes_on_by_itself_once_postgresql_is_back(
    site: DeliverySite,
    keyring: Keyring,
    connection_ids: list[ConnectionId],
    tcp_proxy: Callable[[str], Awaitable[TcpProxy]],
) -> None:
    proxy = await tcp_proxy(site.pool.url)
    pool = Database(proxy.url)
    await pool.open()
    spine = Spine(pool, keyring, MemoryBus(), connection_ids)
    worker = worker_of(site, spine, OutboundQueue(pool), poll_s=0.2)
    with capture_logs() as logs:
        async with spine.running(worker):
            await eventually(lambda: not worker._is_deaf)
            await proxy.refuse()
            proxy.cut()
            item_id = await site.put()
            await eventually(lambda: worker.trouble)
            await proxy.accept()
            await eventually(lambda: is_over(site, item_id))
    assert "worker_failed" not in [entry["event"] for entry in logs]
    await pool.close()


@pytest.mark.rabbitmq
async def test_deliveries_go_on_while_the_broker_is_away_and_wake_ups_are_heard_again(
    site: DeliverySite,
    pool: Database,
    keyring: Keyring,
    connection_ids: list[ConnectionId],
    amqp_url: str,
    tcp_proxy: Callable[[str], Awaitable[TcpProxy]],
) -> None:
    proxy = await tcp_proxy(amqp_url)
    bus = RabbitBus(proxy.url)
    spine = Spine(pool, keyring, bus, connection_ids)
    worker = worker_of(site, spine, poll_s=NEVER_S)
    with capture_logs() as logs:
        async with spine.running(WakeRelay(spine.link, spine.listener), worker, spine.listener):
            await eventually(lambda: not worker._is_deaf)
            await proxy.refuse()
            proxy.cut()
            await eventually(lambda: worker._is_deaf)
            item_id = await site.put(1)
            await eventually(lambda: is_over(site, item_id))
            await proxy.accept()
            await eventually(lambda: not worker._is_deaf, deadline_s=20.0)
            item_id = await site.put(2)
            await eventually(lambda: is_over(site, item_id))
    assert [entry["event"] for entry in logs].count("outbound_wake_ups_lost") <= 3
    await bus.stop()
