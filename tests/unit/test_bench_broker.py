"""The benchmark's virtual host: one that holds anything of eventsync's is refused, and afterwards it is as before."""

from __future__ import annotations

import pytest

from eventsync.bench.benchmark import run_benchmark
from eventsync.bench.broker import borrowed_vhost, require_unused
from eventsync.bench.options import BenchOptions, BusKind
from eventsync.bus.rabbit import RabbitBus
from eventsync.domain.errors import Misconfigured


async def declare_queues(amqp_url: str) -> None:
    bus = RabbitBus(amqp_url)
    await bus.start()
    await bus.stop()


class Silent:
    """Watches and says nothing."""

    def begin(self, doing: str, total: int) -> None: ...

    def progress(self, done: int) -> None: ...


async def test_a_virtual_host_with_eventsyncs_queues_is_refused_and_left_as_it_is(amqp_url: str) -> None:
    await declare_queues(amqp_url)
    options = BenchOptions(buses=(BusKind.RABBITMQ,), amqp_url=amqp_url)
    for _ in range(2):
        with pytest.raises(Misconfigured, match="rabbitmqctl add_vhost"):
            await run_benchmark(options, Silent())


async def test_what_the_benchmark_declared_is_gone_afterwards_also_when_it_failed(amqp_url: str) -> None:
    async def fail_with_queues() -> None:
        async with borrowed_vhost(amqp_url):
            await declare_queues(amqp_url)
            raise ConnectionError("in the middle")

    with pytest.raises(ConnectionError):
        await fail_with_queues()
    await require_unused(amqp_url)
