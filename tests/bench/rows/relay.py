"""The relay: from pending rows to confirmed and marked."""

from __future__ import annotations

from bench.contest import EVENTS_PER_S, Contender, Contest, Need, at_least


def _relay(name: str, publish: str) -> Contender:
    needs = frozenset({Need.DATABASE, Need.BROKER})
    return Contender(name, "bench.contenders.relay", arguments=("--publish", publish), needs=needs)


CONTEST = Contest(
    name="relay",
    about="claim, publish, confirm, mark; RabbitMQ with quorum queues, ids only",
    ours=("eventsync",),
    contenders=(
        _relay("eventsync", "eventsync"),
        _relay("aio-pika, one at a time", "one-by-one"),
        _relay("aio-pika, gather", "gather"),
    ),
    targets=(at_least(5, EVENTS_PER_S, "eventsync", against="aio-pika, one at a time"),),
    events=10_000,
)
