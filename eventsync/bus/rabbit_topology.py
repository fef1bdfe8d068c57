"""Makes RabbitMQ hold the exchanges and queues of `topology`, and replaces queues that have died.

Postgres holds everything, so a queue that no longer answers is deleted and declared anew instead of repaired.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiormq
from aiormq.abc import DeliveredMessage

from eventsync.bus.rabbit_link import BrokerSilent, Link, broker_call
from eventsync.bus.topology import DEAD_LETTER_EXCHANGE, EVENTS_EXCHANGE, QUEUES, QueueShape
from eventsync.bus.wire import QueueName
from eventsync.domain.errors import Misconfigured, Transient

_DELETING_TIMEOUT_S = 20.0  # RabbitMQ itself gives a leaderless queue 5 s before it forces the deletion
_PROBE_PRIORITY = -1000  # a probing consumer comes after every real one


@dataclass(frozen=True, slots=True)
class Declarer:
    """Declares over one link; `open_probe_link` gives it another to spend, as a dead queue can cost the connection."""

    link: Link
    open_probe_link: Callable[[], Awaitable[Link]]
    timeout_s: float

    async def missing(self) -> list[QueueName]:
        """Look which of our queues are not there. Raises Transient."""
        return [shape.name for shape in QUEUES if not await self._exists(shape.name)]

    async def declare_all(self) -> None:
        """Declare every exchange and queue; what is there already stays. Raises Transient, Misconfigured."""
        channel = await self.link.channel(confirms=False, timeout_s=self.timeout_s)
        await self._declare_exchange(channel, DEAD_LETTER_EXCHANGE, "fanout")
        await self._declare_exchange(channel, EVENTS_EXCHANGE, "topic")
        for shape in QUEUES:
            await self._declare_queue(channel, shape)
        async with broker_call("closing a channel", self.timeout_s, channel.connection):
            await channel.close()

    async def delete_if_dead(self, queue: QueueName) -> bool:
        """Delete a suspected queue if nothing can be consumed from it; True when it was deleted. Raises Transient."""
        if await self._serves(queue):
            return False
        channel = await self.link.channel(confirms=False, timeout_s=self.timeout_s)
        async with broker_call(f"deleting the dead queue {queue}", _DELETING_TIMEOUT_S, channel.connection):
            await channel.queue_delete(queue)
            await channel.close()
        return True

    async def _serves(self, queue: QueueName) -> bool:
        """Try to consume: declaring succeeds even on a dead queue. At most one message is taken, and goes back."""
        link = await self.open_probe_link()
        try:
            channel = await link.channel(confirms=False, timeout_s=self.timeout_s)
            async with broker_call(f"probing the queue {queue}", self.timeout_s, channel.connection):
                await channel.basic_qos(prefetch_count=1)
                await channel.basic_consume(queue, _ignore, arguments={"x-priority": _PROBE_PRIORITY})
        except BrokerSilent:
            link.distrusted = True
            return False
        except Transient as error:
            # A queue whose process is gone makes RabbitMQ close the connection with 541; a missing queue is no
            # concern here, declaring finds it.
            return not isinstance(error.__cause__, aiormq.ConnectionInternalError)
        else:
            return True
        finally:
            await link.close()

    async def _exists(self, queue: QueueName) -> bool:
        channel = await self.link.channel(confirms=False, timeout_s=self.timeout_s)
        async with broker_call(f"looking for the queue {queue}", self.timeout_s, channel.connection):
            try:
                await channel.queue_declare(queue, passive=True)
            except aiormq.ChannelNotFoundEntity:  # which has closed the channel
                return False
            await channel.close()
        return True

    async def _declare_exchange(self, channel: aiormq.Channel, name: str, kind: str) -> None:
        async with broker_call(f"declaring the exchange {name}", self.timeout_s, channel.connection):
            try:
                await channel.exchange_declare(name, exchange_type=kind, durable=True)
            except aiormq.ChannelPreconditionFailed as error:
                raise Misconfigured(
                    f"RabbitMQ holds an exchange {name} of another kind than a durable {kind}: delete it there "
                    "and start again (it holds no messages, but other teams must bind their queues again)"
                ) from error
            except aiormq.ChannelAccessRefused as error:
                raise _no_permission(name) from error

    async def _declare_queue(self, channel: aiormq.Channel, shape: QueueShape) -> None:
        async with broker_call(f"declaring the queue {shape.name}", self.timeout_s, channel.connection):
            try:
                await channel.queue_declare(shape.name, durable=True, arguments=dict(shape.arguments))
                await channel.queue_bind(shape.name, shape.exchange, shape.routing_key)
            except (aiormq.ChannelPreconditionFailed, aiormq.ChannelLockedResource) as error:
                raise Misconfigured(
                    f"RabbitMQ holds a queue {shape.name} of another shape than this release declares: delete it there "
                    f"(rabbitmqctl delete_queue {shape.name}) and start again; nothing is lost, since PostgreSQL holds "
                    "every event and what was in the queue is published anew"
                ) from error
            except aiormq.ChannelAccessRefused as error:
                raise _no_permission(shape.name) from error


def _no_permission(name: str) -> Misconfigured:
    return Misconfigured(
        f"RabbitMQ does not let this user declare or bind {name}: give it configure, write and read permissions on "
        "names that begin with eventsync. (rabbitmqctl set_permissions)"
    )


async def _ignore(_: DeliveredMessage) -> None:
    """Leave a probe's message unacknowledged: closing the link puts it back."""
