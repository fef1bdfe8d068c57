"""What every bus must do: one suite over the in-process bus and RabbitMQ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from eventsync.bus.memory import MemoryBus
from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.topology import DELIVERY_LIMIT, RoutingKey, changed
from eventsync.bus.wire import Bus, Delivery, Message, QueueName, Subscription
from eventsync.domain.errors import Transient

DEADLINE_S = 20.0
SILENCE_S = 0.3  # how long nothing must come, where nothing may come


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def made(request: pytest.FixtureRequest) -> Bus:
    return MemoryBus() if request.param == "memory" else RabbitBus(request.getfixturevalue("amqp_url"))


@pytest.fixture
async def unstarted(made: Bus) -> AsyncIterator[Bus]:
    yield made
    await made.stop()


@pytest.fixture
async def bus(unstarted: Bus) -> Bus:
    await unstarted.start()
    return unstarted


def work(*numbers: int, key: str = RoutingKey.APPLY_FRESH) -> list[Message]:
    return [Message(key, b"%d" % number) for number in numbers]


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [int(delivery.body) for delivery in deliveries]


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    """Take exactly `count` deliveries, in as many batches as it needs."""
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < count:
            taken += await subscription.next_batch(count - len(taken))
    return taken


async def expect_nothing(subscription: Subscription) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE_S):
            await subscription.next_batch(1)


async def test_only_the_first_start_answers_that_queues_were_created(unstarted: Bus) -> None:
    before = unstarted.connected
    created = await unstarted.start()
    after = unstarted.connected
    assert (before, created, after) == (False, True, True)
    assert await unstarted.start() is False


async def test_what_is_published_arrives_unchanged(bus: Bus) -> None:
    body = b'{"v":1,"type":"event.apply","event_id":"5f0c5c7e-0000-4000-8000-000000000001"}'
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    await bus.publish([Message(RoutingKey.APPLY_FRESH, body)])
    (delivery,) = await take(subscription, 1)
    assert delivery.body == body
    assert not delivery.redelivered


@pytest.mark.parametrize(
    ("key", "queue"),
    [
        (RoutingKey.APPLY_FRESH, QueueName.APPLY_FRESH),
        (RoutingKey.APPLY_BULK, QueueName.APPLY_BULK),
        (RoutingKey.REFETCH, QueueName.REFETCH),
    ],
)
async def test_each_routing_key_leads_into_its_own_queue_only(bus: Bus, key: str, queue: QueueName) -> None:
    await bus.publish(work(1, key=key))
    assert numbers(await take(await bus.subscribe(queue, prefetch=10), 1)) == [1]
    for other in set(QueueName) - {queue}:
        assert await bus.depth(other) == 0


async def test_a_batch_does_not_linger_for_more(bus: Bus) -> None:
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=100)
    await bus.publish(work(1))
    async with asyncio.timeout(DEADLINE_S):
        assert numbers(await subscription.next_batch(100)) == [1]


async def test_a_batch_waits_for_the_first_message(bus: Bus) -> None:
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=100)
    waiting = asyncio.create_task(subscription.next_batch(100))
    await bus.publish(work(7))
    async with asyncio.timeout(DEADLINE_S):
        assert numbers(await waiting) == [7]


async def test_a_batch_is_never_larger_than_asked_for(bus: Bus) -> None:
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=100)
    await bus.publish(work(*range(50)))
    taken: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < 50:
            batch = await subscription.next_batch(7)
            assert 1 <= len(batch) <= 7
            taken += numbers(batch)
    assert taken == list(range(50))


async def test_no_more_than_the_prefetch_is_unacknowledged(bus: Bus) -> None:
    await bus.publish(work(*range(10)))
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=4)
    first = await take(subscription, 4)
    await expect_nothing(subscription)
    await subscription.acknowledge(first[:3])
    assert numbers(await take(subscription, 3)) == [4, 5, 6]
    await expect_nothing(subscription)


async def test_tags_ascend_in_the_order_of_publishing(bus: Bus) -> None:
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=100)
    await bus.publish(work(*range(100)))
    taken = await take(subscription, 100)
    assert numbers(taken) == list(range(100))
    assert [delivery.tag for delivery in taken] == sorted({delivery.tag for delivery in taken})


async def test_what_is_acknowledged_never_comes_again(bus: Bus) -> None:
    await bus.publish(work(1, 2, 3))
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    await subscription.acknowledge(await take(subscription, 3))
    await subscription.close()
    await bus.publish(work(4))
    (delivery,) = await take(await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10), 1)
    assert numbers([delivery]) == [4]
    assert not delivery.redelivered


async def test_closing_gives_the_unacknowledged_back_in_order_and_marked(bus: Bus) -> None:
    await bus.publish(work(*range(6)))
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=4)
    await take(subscription, 4)
    await subscription.close()
    again = await take(await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10), 6)
    assert numbers(again) == list(range(6))
    assert [delivery.redelivered for delivery in again] == [True] * 4 + [False] * 2


async def test_deliveries_may_be_acknowledged_in_any_order(bus: Bus) -> None:
    await bus.publish(work(*range(8)))
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=8)
    taken = await take(subscription, 8)
    await subscription.acknowledge([taken[5], taken[0], taken[1], taken[3]])
    await subscription.acknowledge([taken[2]])
    await subscription.close()
    again = await take(await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10), 3)
    assert numbers(again) == [4, 6, 7]


async def test_acknowledging_twice_does_no_harm(bus: Bus) -> None:
    await bus.publish(work(1, 2))
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=1)
    (first,) = await take(subscription, 1)
    await subscription.acknowledge([first])
    await subscription.acknowledge([first])
    await subscription.acknowledge([])
    assert numbers(await take(subscription, 1)) == [2]


async def test_competing_consumers_share_a_queue(bus: Bus) -> None:
    one = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=5)
    two = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=5)
    await bus.publish(work(*range(10)))
    taken = numbers(await take(one, 5) + await take(two, 5))
    assert sorted(taken) == list(range(10))


async def test_a_second_consumer_gets_what_the_first_gave_back(bus: Bus) -> None:
    one = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=5)
    await bus.publish(work(*range(5)))
    await take(one, 5)
    two = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=5)
    waiting = asyncio.create_task(take(two, 5))
    await one.close()
    assert numbers(await waiting) == list(range(5))


async def test_several_tasks_publish_while_others_consume(bus: Bus) -> None:
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=20)
    received: list[int] = []

    async def consume() -> None:
        while len(received) < 400:
            batch = await subscription.next_batch(10)
            received.extend(numbers(batch))
            await subscription.acknowledge(batch)

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(consume())
        for start in range(0, 400, 50):
            tasks.create_task(bus.publish(work(*range(start, start + 50))))
    assert sorted(received) == list(range(400))


async def test_two_thousand_messages_arrive_once_each_and_in_order(bus: Bus) -> None:
    subscription = await bus.subscribe(QueueName.APPLY_BULK, prefetch=300)
    received: list[int] = []

    async def consume() -> None:
        while len(received) < 2000:
            batch = await subscription.next_batch(100)
            received.extend(numbers(batch))
            await subscription.acknowledge(batch)

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(consume())
        for start in range(0, 2000, 500):
            await bus.publish(work(*range(start, start + 500), key=RoutingKey.APPLY_BULK))
    assert received == list(range(2000))
    assert await bus.depth(QueueName.APPLY_BULK) == 0


async def test_depth_counts_what_nobody_has_taken(bus: Bus) -> None:
    assert await bus.depth(QueueName.REFETCH) == 0
    await bus.publish(work(*range(5), key=RoutingKey.REFETCH))
    assert await bus.depth(QueueName.REFETCH) == 5
    subscription = await bus.subscribe(QueueName.REFETCH, prefetch=2)
    await take(subscription, 2)
    assert await bus.depth(QueueName.REFETCH) == 3


async def test_publishing_nothing_is_no_error(bus: Bus) -> None:
    await bus.publish([])


async def test_our_own_work_that_no_queue_takes_is_an_error(bus: Bus) -> None:
    with pytest.raises(Transient, match=r"work\.of\.no\.release"):
        await bus.publish([*work(1), Message("work.of.no.release", b"2")])


async def test_news_that_no_queue_takes_is_none(bus: Bus) -> None:
    await bus.publish([Message(changed("appointment"), b"{}", must_route=False)])
    assert bus.connected


async def test_a_message_that_comes_back_too_often_becomes_a_dead_letter(bus: Bus) -> None:
    await bus.publish(work(1))
    for _ in range(DELIVERY_LIMIT + 1):
        subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=1)
        await take(subscription, 1)
        await subscription.close()
    letters = await bus.subscribe(QueueName.DEAD_LETTERS, prefetch=10)
    (letter,) = await take(letters, 1)
    assert letter.body == b"1"
    assert not letter.redelivered
    assert await bus.depth(QueueName.APPLY_FRESH) == 0
    await letters.acknowledge([letter])


async def test_a_dead_letter_never_dies(bus: Bus) -> None:
    await bus.publish(work(1))
    for queue in [QueueName.APPLY_FRESH, QueueName.DEAD_LETTERS]:
        for _ in range(DELIVERY_LIMIT + 1):
            subscription = await bus.subscribe(queue, prefetch=1)
            await take(subscription, 1)
            await subscription.close()
    letters = await bus.subscribe(QueueName.DEAD_LETTERS, prefetch=10)
    assert numbers(await take(letters, 1)) == [1]


async def test_whoever_waits_on_a_closed_subscription_is_told(bus: Bus) -> None:
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    waiting = asyncio.create_task(subscription.next_batch(10))
    await asyncio.sleep(0)  # lets it begin to wait
    await subscription.close()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Transient):
            await waiting
        with pytest.raises(Transient):
            await subscription.acknowledge([Delivery(1, b"1")])
        await subscription.close()


async def test_what_was_begun_has_begun_before_the_end_of_the_stream_is_told(bus: Bus) -> None:
    await bus.publish(work(1))
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    taken = await take(subscription, 1)
    await bus.stop()
    begun = asyncio.Event()

    async def begin() -> None:
        begun.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(begin())
        with pytest.raises(Transient):
            await subscription.acknowledge(taken)
        assert begun.is_set()


async def test_a_cancelled_wait_takes_no_message_with_it(bus: Bus) -> None:
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    await expect_nothing(subscription)
    await bus.publish(work(1))
    assert numbers(await take(subscription, 1)) == [1]


async def test_stopping_ends_every_wait_and_may_be_repeated(bus: Bus) -> None:
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    waiting = asyncio.create_task(subscription.next_batch(10))
    await asyncio.sleep(0)  # lets it begin to wait
    await bus.stop()
    await bus.stop()
    assert not bus.connected
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Transient):
            await waiting


async def test_a_bus_that_is_not_started_says_so_and_stops_quietly(unstarted: Bus) -> None:
    await unstarted.stop()
    assert not unstarted.connected
    with pytest.raises(Transient, match=r"start\(\)"):
        await unstarted.publish(work(1))
    with pytest.raises(Transient, match=r"start\(\)"):
        await unstarted.subscribe(QueueName.APPLY_FRESH, prefetch=1)
    with pytest.raises(Transient, match=r"start\(\)"):
        await unstarted.depth(QueueName.APPLY_FRESH)


async def test_a_stopped_bus_can_be_started_again(bus: Bus) -> None:
    await bus.stop()
    await bus.start()
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, prefetch=10)
    await bus.publish(work(1))
    assert numbers(await take(subscription, 1)) == [1]
