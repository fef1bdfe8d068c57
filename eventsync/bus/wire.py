"""What travels on the wire and what every bus can do: the contract that the RabbitMQ and the in-process bus share.

The envelope is JSON, versioned, and holds ids only, never a patient's data:

* work for our own consumers: `{"v": 1, "type": "event.apply" | "event.refetch", "event_ids": ["<uuid>", ...]}`
* a wake-up for a deliverer, whose work stands in PostgreSQL: `{"v": 1, "type": "outbound.due"}`
* news for other teams: `{"v": 1, "type": "appointment.changed", "connection_id": "<uuid>", "record_id": "<uuid>",
  "external_id": "<vendor's id>", "version": <int>, "deleted": <bool>, "event_id": "<uuid>"}`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import orjson

from eventsync.domain.errors import Rejected

ENVELOPE_VERSION = 1
MAX_BODY_BYTES = 4096


class QueueName(StrEnum):
    """Our own queues, each a work class and lane of its own."""

    APPLY_FRESH = "eventsync.apply"
    APPLY_BULK = "eventsync.apply.bulk"
    REFETCH = "eventsync.refetch"
    DELIVER = "eventsync.deliver"
    DEAD_LETTERS = "eventsync.dead-letters"


@dataclass(frozen=True, slots=True)
class Message:
    """One message to publish: `routing_key` chooses the queues, `body` is the envelope.

    `must_route` is set for our own work: such a message that reaches no queue is an error, whereas news that
    no other team has bound a queue for is not.
    """

    routing_key: str
    body: bytes
    must_route: bool = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message received; `tag` is its place on the subscription, ascending, and good for acknowledging only there.

    `redelivered` tells that an earlier consumer had it and did not acknowledge it.
    """

    tag: int
    body: bytes
    redelivered: bool = False


class Subscription(Protocol):
    """One consumer's open stream of deliveries."""

    async def next_batch(self, at_most: int) -> Sequence[Delivery]:
        """Wait for a delivery, then take what has arrived, `at_most` of them, without lingering for more.

        Raises Transient when the connection to the broker is lost: subscribe again; what was not acknowledged
        comes again.
        """

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the bus that these are done. Raises Transient when the connection is lost (they come again).

        It is raised after other tasks had a turn: a caller that has just begun a task for these deliveries may then
        cancel that task and find it begun, so that it can end in order.
        """

    async def close(self) -> None:
        """Stop receiving; what was not acknowledged goes back to its queue, in order."""


class Bus(Protocol):
    """A way to publish with confirms and to subscribe to our queues."""

    async def start(self) -> bool:
        """Connect and declare the topology; safe to call again after the connection was lost.

        Answers True where a queue of ours had to be created, so that whatever was published before may be gone.
        Raises Transient while the broker cannot be reached, Misconfigured when it refuses credentials or holds
        queues of another shape (the message says which, and what to do).
        """

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish all, and return when the broker has confirmed every one of them (safe in its queues).

        Raises Transient when any was not confirmed in time; any of them may have arrived nevertheless.
        """

    async def subscribe(self, queue: QueueName, prefetch: int) -> Subscription:
        """Open a stream of `queue` with at most `prefetch` unacknowledged deliveries. Raises Transient."""

    async def depth(self, queue: QueueName) -> int:
        """Count the messages ready in `queue`. Raises Transient."""

    async def stop(self) -> None:
        """Close everything; never raises for a broker that is already gone."""

    @property
    def connected(self) -> bool:
        """Whether publishing can be expected to work now; health shows it."""


def encode(envelope: Mapping[str, str | int | bool | Sequence[str]]) -> bytes:
    """Write an envelope with its version."""
    return orjson.dumps({"v": ENVELOPE_VERSION, **envelope})


def decode(body: bytes) -> dict[str, Any]:
    """Read an envelope. Raises Rejected for anything that no release of ours has ever written."""
    try:
        envelope = orjson.loads(body) if len(body) <= MAX_BODY_BYTES else None
    except orjson.JSONDecodeError:
        envelope = None
    if not isinstance(envelope, dict) or envelope.get("v") != ENVELOPE_VERSION:
        raise Rejected("unknown_envelope", "the message is not an eventsync envelope of a known version")
    return envelope
