"""The bus over RabbitMQ: what carries ids between processes, from relays to consumers and to other teams' queues.

It never reconnects by itself: a call that fails raises Transient, and whoever made it calls `start` again, which
replaces only what is broken. Publishing and consuming have connections of their own, so that a broker which
blocks publishers (memory, disk) still delivers and takes acknowledgements.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

import aiormq
from pamqp.commands import Basic

from eventsync.bus.rabbit_link import BrokerSilent, Link, broker_call, check_url, describe, open_link
from eventsync.bus.rabbit_subscription import RabbitSubscription
from eventsync.bus.rabbit_topology import Declarer
from eventsync.bus.topology import EVENTS_EXCHANGE, QUEUE_BY_ROUTING_KEY
from eventsync.bus.wire import Message, QueueName
from eventsync.domain.errors import Transient

_PERSISTENT = 2  # AMQP 0-9-1's delivery mode: kept on disk


class RabbitBus:
    """A bus over one RabbitMQ virtual host.

    `confirm_timeout_s` bounds one `publish` (a batch of some hundreds), `connect_timeout_s` each other exchange with
    the broker. The driver gives a silent link up after 3 * (`heartbeat_s` + 1) seconds, looking every half
    heartbeat: with 5 s a half-open link is found within 20 s.
    """

    def __init__(
        self, url: str, *, confirm_timeout_s: float = 5.0, connect_timeout_s: float = 5.0, heartbeat_s: int = 5
    ) -> None:
        check_url(url)
        self._url = url
        self._confirm_timeout_s = confirm_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._heartbeat_s = heartbeat_s
        self._changing = asyncio.Lock()  # held by start and stop
        self._publisher: tuple[Link, aiormq.Channel] | None = None
        self._consumer: Link | None = None
        self._subscriptions: set[RabbitSubscription] = set()
        self._suspects: set[QueueName] = set()  # queues that did not answer; start() looks whether they are dead
        self._routes_known = False  # False from a returned message until start() has declared again
        self._created = False  # kept until a start() succeeds, so that no failure half-way hides it
        self._message_ids = count(1)

    async def start(self) -> bool:
        """Connect what is not connected and declare the topology; several callers may do so at once.

        True when a queue was created, or a dead one replaced. Raises Transient, Misconfigured.
        """
        async with self._changing:
            publishing = await self._renew_publisher()
            await self._renew_consumer()
            declarer = Declarer(publishing, self._open_probe_link, self._connect_timeout_s)
            await self._replace_dead(declarer)
            self._created |= bool(await declarer.missing())
            await declarer.declare_all()
            self._routes_known = True
            created, self._created = self._created, False
            return created

    async def publish(self, messages: Sequence[Message]) -> None:
        """Write all, then wait once for all confirms; safe to call from several tasks. Raises Transient."""
        if self._publisher is None:
            raise Transient("not connected to RabbitMQ: call start() first")
        link, channel = self._publisher
        calls = [asyncio.create_task(self._publish_one(channel, message)) for message in messages]
        try:
            async with broker_call(f"publishing {len(messages)} messages", self._confirm_timeout_s, channel.connection):
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
        except BrokerSilent:
            link.distrusted = True
            unanswered = [message for message, call in zip(messages, calls, strict=True) if call.cancelled()]
            self._suspect(unanswered)
            raise
        self._raise_first_failure(messages, outcomes)

    async def subscribe(self, queue: QueueName, prefetch: int) -> RabbitSubscription:
        """Open a stream of `queue` on a channel of its own. Raises Transient."""
        link = self._consumer
        if link is None:
            raise Transient("not connected to RabbitMQ: call start() first")
        channel = await link.channel(confirms=False, timeout_s=self._connect_timeout_s)
        subscription = RabbitSubscription(channel, queue, timeout_s=self._connect_timeout_s)
        try:
            await subscription.consume(prefetch)
        except BaseException as error:  # cancelled or failed: a consumer that nobody knows would keep messages
            self._learn_from(error, queue)
            await subscription.close()
            raise
        self._subscriptions = {known for known in self._subscriptions if not known.ended} | {subscription}
        return subscription

    async def depth(self, queue: QueueName) -> int:
        """Count the messages ready in `queue` (a queue without a leader counts as empty). Raises Transient."""
        if self._publisher is None:
            raise Transient("not connected to RabbitMQ: call start() first")
        link, _ = self._publisher
        channel = await link.channel(confirms=False, timeout_s=self._connect_timeout_s)
        async with broker_call(f"counting the messages of {queue}", self._connect_timeout_s, channel.connection):
            declared = await channel.queue_declare(queue, passive=True)
            await channel.close()
        return declared.message_count or 0

    async def stop(self) -> None:
        """Close both connections; what was not acknowledged goes back to its queues."""
        async with self._changing:
            await self._drop_consumer()
            await self._drop_publisher()

    @property
    def connected(self) -> bool:
        """Whether both connections are open and every queue of ours was there and answered when last looked at."""
        return (
            self._routes_known
            and not self._suspects
            and self._publisher is not None
            and self._publisher[0].usable
            and not self._publisher[1].is_closed
            and self._consumer is not None
            and self._consumer.usable
        )

    async def _replace_dead(self, declarer: Declarer) -> None:
        """Delete the suspects that are dead, all at once: each takes seconds until it is known to be."""
        suspects = tuple(self._suspects)
        looks = [declarer.delete_if_dead(queue) for queue in suspects]
        deleted = await asyncio.gather(*looks, return_exceptions=True)
        for queue, answer in zip(suspects, deleted, strict=True):
            if not isinstance(answer, BaseException):
                self._created |= answer
                self._suspects.discard(queue)
        for answer in deleted:
            if isinstance(answer, BaseException):
                raise answer

    async def _publish_one(self, channel: aiormq.Channel, message: Message) -> None:
        await channel.basic_publish(
            message.body,
            exchange=EVENTS_EXCHANGE,
            routing_key=message.routing_key,
            mandatory=message.must_route,
            properties=Basic.Properties(
                content_type="application/json",
                delivery_mode=_PERSISTENT,
                message_id=str(next(self._message_ids)),  # the driver finds a returned message by it
            ),
            wait=False,  # for the socket; the confirm is awaited all the same
        )

    def _raise_first_failure(self, messages: Sequence[Message], outcomes: Sequence[BaseException | None]) -> None:
        failed = [
            (message, outcome)
            for message, outcome in zip(messages, outcomes, strict=True)
            if isinstance(outcome, BaseException)
        ]
        if not failed:
            return
        for message, outcome in failed:
            if isinstance(outcome, aiormq.PublishError):
                self._routes_known = False
                raise Transient(
                    f"RabbitMQ has no queue for the routing key {message.routing_key} any more: call start() again"
                ) from outcome
        refused = [message for message, outcome in failed if isinstance(outcome, aiormq.DeliveryError)]
        self._suspect(refused)
        message, outcome = failed[0]
        verb = "refused" if refused else "did not confirm"
        raise Transient(
            f"RabbitMQ {verb} {len(failed)} of {len(messages)} messages, the first of them "
            f"for {message.routing_key}: {describe(outcome)}"
        ) from outcome

    def _suspect(self, messages: Sequence[Message]) -> None:
        keys = {message.routing_key for message in messages}
        self._suspects |= {QUEUE_BY_ROUTING_KEY[key] for key in keys if key in QUEUE_BY_ROUTING_KEY}

    def _learn_from(self, error: BaseException, queue: QueueName) -> None:
        """Note for the next start() what a failed subscribing says about `queue`."""
        if isinstance(error, BrokerSilent) or isinstance(error.__cause__, aiormq.ConnectionInternalError):
            self._suspects.add(queue)
        elif isinstance(error.__cause__, aiormq.ChannelNotFoundEntity):
            self._routes_known = False

    async def _renew_publisher(self) -> Link:
        if self._publisher is not None and self._publisher[0].usable and not self._publisher[1].is_closed:
            return self._publisher[0]
        await self._drop_publisher()
        link = await self._open("publishing")
        try:
            channel = await link.channel(confirms=True, timeout_s=self._connect_timeout_s)
        except BaseException:  # whatever ended it, the connection must not stay open
            await link.close()
            raise
        self._publisher = (link, channel)
        return link

    async def _renew_consumer(self) -> None:
        if self._consumer is None or not self._consumer.usable:
            await self._drop_consumer()
            self._consumer = await self._open("consuming")

    async def _drop_publisher(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher[0].close()

    async def _drop_consumer(self) -> None:
        link, self._consumer = self._consumer, None
        subscriptions, self._subscriptions = self._subscriptions, set()
        for subscription in subscriptions:
            subscription.end("the connection is being closed")
        if link is not None:
            await link.close()

    async def _open(self, name: str) -> Link:
        return await open_link(self._url, name=name, heartbeat_s=self._heartbeat_s, timeout_s=self._connect_timeout_s)

    async def _open_probe_link(self) -> Link:
        return await self._open("probing")
