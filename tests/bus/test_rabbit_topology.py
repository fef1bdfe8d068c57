"""What RabbitMQ refuses or holds already when the bus starts, and what becomes of queues that vanish or die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit, urlunsplit

import aiormq
import pytest

from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.topology import DEAD_LETTER_EXCHANGE, EVENTS_EXCHANGE, QUEUES, RoutingKey, changed
from eventsync.bus.wire import Message, QueueName, encode
from eventsync.domain.errors import Misconfigured, Transient
from servers.ports import free_ports
from servers.rabbitmq import RabbitServer

pytestmark = pytest.mark.rabbitmq

DEADLINE_S = 30.0
WORK = [Message(RoutingKey.APPLY_FRESH, b"work")]


@pytest.fixture
async def bus(amqp_url: str) -> AsyncIterator[RabbitBus]:
    bus = RabbitBus(amqp_url, confirm_timeout_s=1.0, connect_timeout_s=2.0)
    yield bus
    await bus.stop()


@pytest.fixture
async def other(amqp_url: str) -> AsyncIterator[aiormq.Connection]:
    """The connection of somebody else: an operator, another team."""
    async with aiormq.connect(amqp_url) as connection:
        yield connection


def with_netloc(amqp_url: str, change: Callable[[str], str]) -> str:
    parts = urlsplit(amqp_url)
    return urlunsplit(parts._replace(netloc=change(parts.netloc)))


async def delete(other: aiormq.Connection, *queues: str) -> None:
    channel = await other.channel()
    for queue in queues:
        await channel.queue_delete(queue)


async def received_once(bus: RabbitBus, queue: QueueName) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        subscription = await bus.subscribe(queue, prefetch=1)
        (delivery,) = await subscription.next_batch(1)
        await subscription.acknowledge([delivery])
    return delivery.body


async def received_in_the_end(bus: RabbitBus, queue: QueueName) -> bytes:
    """Receive as a stage does: a link that was lost is restored, and what was published is still there."""
    async with asyncio.timeout(30):
        while True:
            try:
                assert await bus.start() is False
                return await received_once(bus, queue)
            except Transient:
                continue


async def test_wrong_credentials_are_named_without_showing_them(amqp_url: str) -> None:
    bus = RabbitBus(with_netloc(amqp_url, lambda place: "tests:not-the-secret@" + place.rpartition("@")[2]))
    with pytest.raises(Misconfigured, match="refused the credentials") as caught:
        await bus.start()
    assert "not-the-secret" not in str(caught.value)
    assert not bus.connected
    await bus.stop()


async def test_a_virtual_host_that_is_missing_is_named_as_such(amqp_url: str) -> None:
    bus = RabbitBus(amqp_url + "-of-nobody")
    with pytest.raises(Misconfigured, match="virtual host"):
        await bus.start()
    await bus.stop()


async def test_a_broker_that_is_away_is_transient(amqp_url: str) -> None:
    (port,) = free_ports(1)
    bus = RabbitBus(with_netloc(amqp_url, lambda _: f"tests:not-the-secret@127.0.0.1:{port}"))
    with pytest.raises(Transient, match=f"127.0.0.1:{port}") as caught:
        await bus.start()
    assert "not-the-secret" not in str(caught.value)
    await bus.stop()


async def test_tls_towards_a_port_without_tls_is_misconfigured(amqp_url: str) -> None:
    bus = RabbitBus(amqp_url.replace("amqp://", "amqps://"))
    with pytest.raises(Misconfigured, match="TLS"):
        await bus.start()
    await bus.stop()


@pytest.mark.parametrize(
    "url", ["", "amqp://", "localhost:5672", "http://tests:secret@host/", "amqp://tests:secret@host:port"]
)
def test_what_is_no_amqp_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(Misconfigured, match="amqp://user:password@host") as caught:
        RabbitBus(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_queue_of_another_shape_is_named_with_what_to_do(bus: RabbitBus, other: aiormq.Connection) -> None:
    channel = await other.channel()
    await channel.queue_declare(QueueName.APPLY_BULK, durable=True)  # a classic queue
    with pytest.raises(Misconfigured, match=r"eventsync\.apply\.bulk.*delete_queue eventsync\.apply\.bulk"):
        await bus.start()
    assert not bus.connected
    await delete(other, QueueName.APPLY_BULK)
    assert await bus.start() is True
    await bus.publish(WORK)


async def test_a_queue_created_before_a_start_failed_is_still_answered_for(
    bus: RabbitBus, other: aiormq.Connection
) -> None:
    channel = await other.channel()
    await channel.queue_declare(QueueName.REFETCH, durable=True)  # a classic queue, the last to be declared
    with pytest.raises(Misconfigured):
        await bus.start()
    await delete(other, QueueName.REFETCH)
    channel = await other.channel()
    (refetch,) = (shape for shape in QUEUES if shape.name == QueueName.REFETCH)
    await channel.queue_declare(QueueName.REFETCH, durable=True, arguments=dict(refetch.arguments))
    assert await bus.start() is True


@pytest.mark.parametrize("exchange", [EVENTS_EXCHANGE, DEAD_LETTER_EXCHANGE])
async def test_an_exchange_of_another_kind_is_named_with_what_to_do(
    bus: RabbitBus, other: aiormq.Connection, exchange: str
) -> None:
    channel = await other.channel()
    await channel.exchange_declare(exchange, exchange_type="direct")
    with pytest.raises(Misconfigured, match=f"{exchange}.*delete it"):
        await bus.start()


async def test_a_second_process_finds_everything_there(bus: RabbitBus, amqp_url: str) -> None:
    assert await bus.start() is True
    await bus.publish(WORK)
    second = RabbitBus(amqp_url)
    assert await second.start() is False
    assert await received_once(second, QueueName.APPLY_FRESH) == b"work"
    await second.stop()


async def test_starting_again_leaves_open_subscriptions_alone(bus: RabbitBus) -> None:
    await bus.start()
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=1)
    assert not any(await asyncio.gather(bus.start(), bus.start()))
    await bus.publish(WORK)
    async with asyncio.timeout(DEADLINE_S):
        assert len(await subscription.next_batch(1)) == 1


async def test_publishing_into_a_deleted_queue_is_told_and_start_declares_it_again(
    bus: RabbitBus, other: aiormq.Connection
) -> None:
    await bus.start()
    await delete(other, QueueName.APPLY_FRESH)
    with pytest.raises(Transient, match=r"work\.apply\.fresh.*start\(\)"):
        await bus.publish(WORK)
    connected = bus.connected
    assert not connected
    assert await bus.start() is True
    await bus.publish(WORK)
    assert await received_once(bus, QueueName.APPLY_FRESH) == b"work"


async def test_a_consumer_whose_queue_is_deleted_is_told_at_once(bus: RabbitBus, other: aiormq.Connection) -> None:
    await bus.start()
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=1)
    waiting = asyncio.create_task(subscription.next_batch(1))
    await delete(other, QueueName.APPLY_FRESH)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Transient, match=r"start\(\)"):
            await waiting
    with pytest.raises(Transient):
        await bus.subscribe(QueueName.APPLY_FRESH, prefetch=1)
    with pytest.raises(Transient):
        await bus.depth(QueueName.APPLY_FRESH)
    assert not bus.connected
    assert await bus.start() is True
    await bus.subscribe(QueueName.APPLY_FRESH, prefetch=1)


async def test_a_deleted_exchange_is_declared_and_bound_again(bus: RabbitBus, other: aiormq.Connection) -> None:
    await bus.start()
    channel = await other.channel()
    await channel.exchange_delete(EVENTS_EXCHANGE)
    with pytest.raises(Transient):
        await bus.publish(WORK)
    assert await bus.start() is False
    await bus.publish(WORK)
    assert await received_once(bus, QueueName.APPLY_FRESH) == b"work"


async def test_another_teams_queue_receives_news_and_nothing_else(bus: RabbitBus, other: aiormq.Connection) -> None:
    await bus.start()
    channel = await other.channel()
    declared = await channel.queue_declare("team.news", durable=True)
    await channel.queue_bind("team.news", EVENTS_EXCHANGE, "*.changed")
    body = encode({"type": "appointment.changed", "version": 3})
    await bus.publish([*WORK, Message(changed("appointment"), body, must_route=False)])
    news = await channel.basic_get("team.news", no_ack=True)
    assert (news.body, news.routing_key) == (body, "appointment.changed")
    assert news.header.properties.content_type == "application/json"
    assert news.header.properties.delivery_mode == 2
    declared = await channel.queue_declare("team.news", passive=True)
    assert declared.message_count == 0


async def evaluate(server: RabbitServer, expression: str) -> None:
    """Run an Erlang expression inside the broker."""
    command = [str(server._programs / "rabbitmqctl"), "eval", expression]
    process = await asyncio.create_subprocess_exec(
        *command, env=server._environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def process_of(queue: QueueName, amqp_url: str) -> str:
    """Name the Erlang process of a quorum queue, as RabbitMQ does."""
    return f"'{urlsplit(amqp_url).path[1:]}_{queue}'"


async def test_publishing_into_a_queue_whose_process_ended_makes_start_replace_it(
    bus: RabbitBus, rabbitmq_server: RabbitServer, amqp_url: str
) -> None:
    await bus.start()
    name = process_of(QueueName.APPLY_FRESH, amqp_url)
    await evaluate(rabbitmq_server, f"ra:stop_server(quorum_queues, {{{name}, node()}}).")
    with pytest.raises(Transient, match=r"refused 1 of 1 messages.*work\.apply\.fresh"):
        await bus.publish(WORK)
    assert await bus.start() is True
    await bus.publish(WORK)
    assert await received_once(bus, QueueName.APPLY_FRESH) == b"work"


async def test_consuming_from_a_queue_whose_process_ended_makes_start_replace_it(
    bus: RabbitBus, rabbitmq_server: RabbitServer, amqp_url: str
) -> None:
    await bus.start()
    name = process_of(QueueName.REFETCH, amqp_url)
    await evaluate(rabbitmq_server, f"ra:stop_server(quorum_queues, {{{name}, node()}}).")
    with pytest.raises(Transient):
        await bus.subscribe(QueueName.REFETCH, prefetch=1)
    assert await bus.start() is True
    await bus.publish([Message(RoutingKey.REFETCH, b"look again")])
    assert await received_once(bus, QueueName.REFETCH) == b"look again"


async def test_queues_that_answer_nothing_are_replaced_by_start(
    bus: RabbitBus, rabbitmq_server: RabbitServer, amqp_url: str
) -> None:
    """As a queue without a leader: declaring it succeeds, publishing and consuming hang."""
    await bus.start()
    for queue in (QueueName.APPLY_FRESH, QueueName.REFETCH):
        await evaluate(rabbitmq_server, f"sys:suspend(whereis({process_of(queue, amqp_url)})).")
    with pytest.raises(Transient, match="no answer"):
        await bus.publish(WORK)
    with pytest.raises(Transient, match="no answer"):
        await bus.subscribe(QueueName.REFETCH, prefetch=1)
    assert await bus.start() is True
    await bus.publish([*WORK, Message(RoutingKey.REFETCH, b"look again")])
    # The broker may still close the link over the consumer that the dead queue never answered.
    assert await received_in_the_end(bus, QueueName.APPLY_FRESH) == b"work"
    assert await received_in_the_end(bus, QueueName.REFETCH) == b"look again"


async def test_several_queues_that_answer_nothing_take_no_longer_than_one(
    bus: RabbitBus, rabbitmq_server: RabbitServer, amqp_url: str
) -> None:
    work = {
        QueueName.APPLY_FRESH: RoutingKey.APPLY_FRESH,
        QueueName.APPLY_BULK: RoutingKey.APPLY_BULK,
        QueueName.REFETCH: RoutingKey.REFETCH,
    }

    async def seconds_to_replace(*queues: QueueName) -> float:
        for queue in queues:
            await evaluate(rabbitmq_server, f"sys:suspend(whereis({process_of(queue, amqp_url)})).")
        with pytest.raises(Transient, match="no answer"):
            await bus.publish([Message(work[queue], b"work") for queue in queues])
        assert not bus.connected  # health tells of a queue that does not answer
        began = time.monotonic()
        assert await bus.start() is True
        return time.monotonic() - began

    await bus.start()
    one_s = await seconds_to_replace(QueueName.APPLY_BULK)
    three_s = await seconds_to_replace(*work)
    assert bus.connected
    assert three_s < 2 * one_s
    print(f"replaced one dead queue in {one_s:.1f} s, three in {three_s:.1f} s")  # noqa: T201  # shown by `pytest -rP`


async def test_a_suspicion_that_proves_wrong_costs_no_message(
    bus: RabbitBus, rabbitmq_server: RabbitServer, amqp_url: str
) -> None:
    await bus.start()
    await bus.publish([Message(RoutingKey.APPLY_FRESH, b"1")])
    name = process_of(QueueName.APPLY_FRESH, amqp_url)
    await evaluate(rabbitmq_server, f"sys:suspend(whereis({name})).")
    with pytest.raises(Transient):
        await bus.publish([Message(RoutingKey.APPLY_FRESH, b"2")])
    await evaluate(rabbitmq_server, f"sys:resume(whereis({name})).")
    assert await bus.start() is False
    assert await received_once(bus, QueueName.APPLY_FRESH) == b"1"
