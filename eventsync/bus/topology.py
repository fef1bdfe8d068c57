"""The wire's places as data: which exchanges and queues exist, and which routing key leads into which of our queues.

Other teams bind queues of their own to `EVENTS_EXCHANGE` with `*.changed` (or `appointment.changed`, …).
Both buses read this table; only `rabbit_topology` turns it into declarations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from eventsync.bus.wire import QueueName

EVENTS_EXCHANGE = "eventsync.events"
DEAD_LETTER_EXCHANGE = "eventsync.dead"

DELIVERY_LIMIT = 20
"""How often a message may come back unacknowledged before it goes to the dead letters (RabbitMQ 4's default)."""

_NEVER = 1_000_000_000
"""A limit that is never met: RabbitMQ 4 would otherwise drop a dead letter whose consumer failed 20 times."""


class RoutingKey(StrEnum):
    """Where a message of our own is to go; each leads into exactly one queue."""

    APPLY_FRESH = "work.apply.fresh"
    APPLY_BULK = "work.apply.bulk"
    REFETCH = "work.refetch"
    DELIVER = "work.deliver"


@dataclass(frozen=True, slots=True)
class QueueShape:
    """A durable queue: its name, the exchange and key that fill it, and RabbitMQ's arguments for it.

    Only arguments that RabbitMQ 3.10 knows are used; older and newer brokers then hold the same queue.
    """

    name: QueueName
    exchange: str
    routing_key: str
    arguments: Mapping[str, str | int]


def changed(kind: str) -> str:
    """Name the routing key of news about records of `kind`, e.g. `appointment.changed`."""
    return f"{kind}.changed"


def _work_queue(name: QueueName, routing_key: RoutingKey) -> QueueShape:
    return QueueShape(
        name=name,
        exchange=EVENTS_EXCHANGE,
        routing_key=routing_key,
        arguments=MappingProxyType(
            {
                "x-queue-type": "quorum",
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",  # at-least-once dead-lettering demands it
            }
        ),
    )


_WAKE_UPS = QueueShape(
    name=QueueName.DELIVER,
    exchange=EVENTS_EXCHANGE,
    routing_key=RoutingKey.DELIVER,
    # One wake-up wakes for all that is due: while no deliverer runs, no more than one need wait for it.
    arguments=MappingProxyType({"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT, "x-max-length": 1}),
)

WORK_QUEUES: tuple[QueueShape, ...] = (
    _work_queue(QueueName.APPLY_FRESH, RoutingKey.APPLY_FRESH),
    _work_queue(QueueName.APPLY_BULK, RoutingKey.APPLY_BULK),
    _work_queue(QueueName.REFETCH, RoutingKey.REFETCH),
    _WAKE_UPS,
)

DEAD_LETTER_QUEUE = QueueShape(
    name=QueueName.DEAD_LETTERS,
    exchange=DEAD_LETTER_EXCHANGE,
    routing_key="",  # the exchange is a fanout: whatever dies comes here
    arguments=MappingProxyType({"x-queue-type": "quorum", "x-delivery-limit": _NEVER}),
)

QUEUES: tuple[QueueShape, ...] = (DEAD_LETTER_QUEUE, *WORK_QUEUES)
"""In the order of declaring: dead letters first, so that a message can never die into nothing."""

QUEUE_BY_ROUTING_KEY: Mapping[str, QueueName] = MappingProxyType(
    {queue.routing_key: queue.name for queue in WORK_QUEUES}
)
