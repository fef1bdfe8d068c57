"""The virtual host that a benchmark may use: one that holds nothing of eventsync's, before and after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventsync.bus.rabbit_link import BrokerSilent, Link, broker_call, open_link
from eventsync.bus.rabbit_topology import Declarer
from eventsync.bus.topology import DEAD_LETTER_EXCHANGE, EVENTS_EXCHANGE, QUEUES
from eventsync.domain.errors import Misconfigured, Transient

_TIMEOUT_S = 10.0
_DELETING_TIMEOUT_S = 20.0
_HEARTBEAT_S = 30
_EXCHANGES = (EVENTS_EXCHANGE, DEAD_LETTER_EXCHANGE)


@asynccontextmanager
async def borrowed_vhost(url: str) -> AsyncIterator[None]:
    """Look that nobody's queues are there; whatever the block declares is deleted after it.

    Raises Misconfigured where queues or exchanges of eventsync's are there already, Transient without an answer.
    """
    await require_unused(url)
    try:
        yield
    finally:
        await delete_ours(url)


async def require_unused(url: str) -> None:
    """Refuse a virtual host that holds queues or exchanges of eventsync's: they may be production's."""
    async with _link(url) as link:
        missing = set(await Declarer(link, lambda: _open(url), _TIMEOUT_S).missing())
        found = [shape.name.value for shape in QUEUES if shape.name not in missing]
        found += [name for name in _EXCHANGES if await _exchange_exists(link, name)]
    if found:
        raise Misconfigured(
            f"the virtual host of --amqp-url already holds {', '.join(found)}, perhaps of an eventsync at work, so the "
            "benchmark leaves it alone: give it one of its own (rabbitmqctl add_vhost bench; rabbitmqctl "
            "set_permissions -p bench USER '.*' '.*' '.*'); if a benchmark that was killed left these, delete that "
            "virtual host first (rabbitmqctl delete_vhost bench)"
        )


async def delete_ours(url: str) -> None:
    """Delete eventsync's queues and exchanges; what is not there is no matter. Raises Transient."""
    async with _link(url) as link:
        channel = await link.channel(confirms=False, timeout_s=_TIMEOUT_S)
        async with broker_call("deleting the benchmark's queues", _DELETING_TIMEOUT_S):
            for shape in QUEUES:
                await channel.queue_delete(shape.name)
            for name in _EXCHANGES:
                await channel.exchange_delete(name)
            await channel.close()


@asynccontextmanager
async def _link(url: str) -> AsyncIterator[Link]:
    link = await _open(url)
    try:
        yield link
    finally:
        await link.close()


async def _open(url: str) -> Link:
    return await open_link(url, name="bench", heartbeat_s=_HEARTBEAT_S, timeout_s=_TIMEOUT_S)


async def _exchange_exists(link: Link, name: str) -> bool:
    channel = await link.channel(confirms=False, timeout_s=_TIMEOUT_S)
    try:
        async with broker_call(f"looking for the exchange {name}", _TIMEOUT_S):
            await channel.exchange_declare(name, passive=True)
            await channel.close()
    except BrokerSilent:
        raise
    except Transient:  # RabbitMQ closes the channel over an exchange that is not there
        return False
    return True
