"""RabbitMQ killed, cut off or silent while the bus publishes and consumes over it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.topology import RoutingKey
from eventsync.bus.wire import Message, QueueName
from eventsync.domain.errors import Transient
from servers.eventually import eventually
from servers.proxy import TcpProxy
from servers.rabbitmq import RabbitServer

pytestmark = pytest.mark.rabbitmq

DEADLINE_S = 30.0
SHORT_HEARTBEAT_S = 1  # a silent link is then given up after 6 to 7 s
WORK = [Message(RoutingKey.APPLY_FRESH, b"work")]


@pytest.fixture
async def broker(rabbitmq_factory: Callable[[], Awaitable[RabbitServer]]) -> RabbitServer:
    """A RabbitMQ to be killed."""
    return await rabbitmq_factory()


@pytest.fixture
async def proxy(tcp_proxy: Callable[[str], Awaitable[TcpProxy]], amqp_url: str) -> TcpProxy:
    return await tcp_proxy(amqp_url)


@pytest.fixture
async def proxied(proxy: TcpProxy) -> AsyncIterator[RabbitBus]:
    """A bus whose links can be cut; it learns fast that a link is silent."""
    bus = RabbitBus(proxy.url, confirm_timeout_s=1.0, connect_timeout_s=1.0, heartbeat_s=SHORT_HEARTBEAT_S)
    await bus.start()
    yield bus
    proxy.resume()
    await bus.stop()


async def started(bus: RabbitBus) -> bool:
    """Call start() until it succeeds, as the stages do; answer as it did."""

    async def attempt() -> list[bool]:
        try:
            return [await bus.start()]
        except Transient:
            return []

    (created,) = await eventually(attempt, DEADLINE_S)
    return created


async def works(bus: RabbitBus) -> bool:
    """Tell whether a message goes through; start() again where it does not, as the stages do."""
    try:
        await bus.publish([Message(RoutingKey.REFETCH, b"probe")])
        subscription = await bus.subscribe(QueueName.REFETCH, prefetch=10)
        await subscription.acknowledge(await subscription.next_batch(10))
        await subscription.close()
    except Transient:
        await started(bus)
        return False
    return True


async def expect_transient(waiting: asyncio.Task[object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Transient):
            await waiting


async def publish_for_ever(bus: RabbitBus, begun: asyncio.Event) -> None:
    while True:
        await bus.publish(WORK * 50)
        begun.set()


async def test_a_killed_broker_fails_every_call_and_all_goes_on_after_its_restart(broker: RabbitServer) -> None:
    bus = RabbitBus(broker.url)
    await bus.start()
    subscription = await bus.subscribe(QueueName.APPLY_BULK, prefetch=10)
    waiting = asyncio.create_task(subscription.next_batch(10))
    begun = asyncio.Event()
    publishing = asyncio.create_task(publish_for_ever(bus, begun))
    await begun.wait()

    await broker.kill()
    await expect_transient(waiting)
    await expect_transient(publishing)
    with pytest.raises(Transient):
        await bus.subscribe(QueueName.APPLY_FRESH, prefetch=1)
    with pytest.raises(Transient):
        await bus.depth(QueueName.APPLY_FRESH)
    with pytest.raises(Transient):
        await bus.start()
    assert not bus.connected
    await subscription.close()

    await broker.start()
    await started(bus)
    assert await eventually(lambda: works(bus), DEADLINE_S)
    await bus.stop()


async def test_messages_survive_an_orderly_restart_of_the_broker(broker: RabbitServer) -> None:
    bus = RabbitBus(broker.url)
    await bus.start()
    await bus.publish([Message(RoutingKey.APPLY_FRESH, b"%d" % number) for number in range(100)])
    await broker.restart()
    with pytest.raises(Transient):
        await bus.publish(WORK)
    assert await started(bus) is False
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=200)
    bodies: list[bytes] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(bodies) < 100:
            bodies += [delivery.body for delivery in await subscription.next_batch(100)]
    assert bodies == [b"%d" % number for number in range(100)]
    await bus.stop()


async def test_stopping_without_a_broker_is_quiet(proxied: RabbitBus, proxy: TcpProxy) -> None:
    subscription = await proxied.subscribe(QueueName.APPLY_FRESH, prefetch=1)
    await proxy.refuse()
    proxy.cut()
    await proxied.stop()
    await subscription.close()
    await proxied.stop()


async def test_stopping_over_a_silent_link_is_quiet_and_bounded(proxied: RabbitBus, proxy: TcpProxy) -> None:
    subscription = await proxied.subscribe(QueueName.APPLY_FRESH, prefetch=1)
    waiting = asyncio.create_task(subscription.next_batch(1))
    proxy.hold()
    async with asyncio.timeout(DEADLINE_S):
        await proxied.stop()
        await subscription.close()
    await expect_transient(waiting)


async def test_a_cut_link_is_told_at_once_and_the_unacknowledged_come_again(
    proxied: RabbitBus, proxy: TcpProxy
) -> None:
    await proxied.publish(WORK)
    subscription = await proxied.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    async with asyncio.timeout(DEADLINE_S):
        taken = await subscription.next_batch(10)
    waiting = asyncio.create_task(subscription.next_batch(10))
    proxy.cut()
    await expect_transient(waiting)
    with pytest.raises(Transient):
        await subscription.acknowledge(taken)
    with pytest.raises(Transient):
        await proxied.publish(WORK)

    assert await proxied.start() is False
    again = await proxied.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    async with asyncio.timeout(DEADLINE_S):
        (delivery,) = await again.next_batch(10)
    assert delivery.redelivered


async def test_a_silent_link_ends_a_waiting_consumer_by_its_heartbeat(proxied: RabbitBus, proxy: TcpProxy) -> None:
    subscription = await proxied.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    waiting = asyncio.create_task(subscription.next_batch(10))
    proxy.hold()
    await expect_transient(waiting)
    assert not proxied.connected
    with pytest.raises(Transient):
        await proxied.start()
    proxy.resume()
    await started(proxied)
    assert await eventually(lambda: works(proxied), DEADLINE_S)


async def test_a_cut_link_ends_also_a_publish_that_the_driver_has_not_written_yet(proxy: TcpProxy) -> None:
    bus = RabbitBus(proxy.url, confirm_timeout_s=DEADLINE_S)
    await bus.start()
    assert bus._publisher is not None
    link, channel = bus._publisher
    beside = await link.channel(confirms=False, timeout_s=1.0)
    proxy.hold()
    flood = asyncio.create_task(bus.publish([Message(RoutingKey.APPLY_FRESH, bytes(100_000))] * 200))
    await eventually(lambda: channel.delivery_tag == 200)
    # The driver's writer waits until this has left, so that the frames after it fill the driver's queue.
    last_written = asyncio.create_task(beside.basic_publish(b"", routing_key=QueueName.APPLY_FRESH, wait=True))
    stuck = asyncio.create_task(bus.publish(WORK * 50))
    await eventually(channel.write_queue.full)
    proxy.cut()
    cut_at = time.monotonic()
    await expect_transient(stuck)
    await expect_transient(flood)
    assert time.monotonic() - cut_at < 5.0
    assert not bus._suspects  # the link was at fault, and no queue
    await asyncio.wait({last_written})
    assert last_written.exception() is not None
    proxy.resume()
    await started(bus)
    await bus.stop()


async def test_publishing_over_a_silent_link_ends_by_its_own_deadline(proxied: RabbitBus, proxy: TcpProxy) -> None:
    proxy.hold()
    with pytest.raises(Transient, match="no answer"):
        await proxied.publish(WORK)
    assert not proxied.connected
    proxy.resume()
    await started(proxied)
    assert await eventually(lambda: works(proxied), DEADLINE_S)


async def test_a_publish_whose_confirm_is_lost_raises_though_it_may_have_arrived(
    proxied: RabbitBus, proxy: TcpProxy, amqp_url: str
) -> None:
    witness = RabbitBus(amqp_url)
    await witness.start()
    proxy.hold_answers()
    with pytest.raises(Transient):
        await proxied.publish(WORK)
    assert await eventually(lambda: witness.depth(QueueName.APPLY_FRESH), DEADLINE_S) == 1
    await witness.stop()


async def test_cancelling_a_publish_is_a_cancellation_and_no_fault(proxied: RabbitBus, proxy: TcpProxy) -> None:
    proxy.hold()
    publishing = asyncio.create_task(proxied.publish(WORK))
    await asyncio.sleep(0)  # lets it begin to wait
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


async def test_a_heartbeat_that_dies_under_calls_is_a_fault_and_no_cancellation(proxy: TcpProxy) -> None:
    patient = RabbitBus(
        proxy.url, confirm_timeout_s=DEADLINE_S, connect_timeout_s=DEADLINE_S, heartbeat_s=SHORT_HEARTBEAT_S
    )
    await patient.start()
    proxy.hold()
    async with asyncio.timeout(DEADLINE_S):
        outcomes = await asyncio.gather(
            patient.publish(WORK),
            patient.depth(QueueName.APPLY_FRESH),
            patient.subscribe(QueueName.APPLY_FRESH, 1),
            return_exceptions=True,
        )
    # Not BrokerSilent: the calls' own deadlines had not passed.
    assert [type(outcome) for outcome in outcomes] == [Transient] * 3
    await patient.stop()


async def test_a_slow_link_is_slow_but_works(proxy: TcpProxy) -> None:
    proxy.delay_s = 0.05
    bus = RabbitBus(proxy.url)
    await bus.start()
    assert await works(bus)
    await bus.stop()
