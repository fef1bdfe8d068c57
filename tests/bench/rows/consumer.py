"""The consumer: from messages to committed rows and acknowledgements."""

from __future__ import annotations

from bench.contest import CPU_US_PER_EVENT, EVENTS_PER_S, LOST, MEMORY_MB, Contender, Contest, Need, at_least

_NEEDS = frozenset({Need.DATABASE, Need.BROKER})


def _consumer(name: str, consume: str) -> Contender:
    return Contender(name, "bench.contenders.consumer", arguments=("--consume", consume), needs=_NEEDS)


CONTEST = Contest(
    name="consumer",
    about="message to committed row to acknowledgement, full mapping; RabbitMQ with quorum queues",
    ours=("eventsync",),
    contenders=(
        _consumer("eventsync", "eventsync"),
        _consumer("receive only", "receive"),
        _consumer("receive only, aio-pika", "receive-aio-pika"),
        _consumer("one upsert a message", "upsert"),
    ),
    targets=(
        at_least(0.65, EVENTS_PER_S, "eventsync", against="receive only"),
        at_least(3, EVENTS_PER_S, "eventsync", against="one upsert a message"),
    ),
    events=10_000,
    measures=(EVENTS_PER_S, CPU_US_PER_EVENT, MEMORY_MB, LOST),
)
