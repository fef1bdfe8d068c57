"""From webhook to visible row, over RabbitMQ, at two rates."""

from __future__ import annotations

from bench.contest import CPU_US_PER_EVENT, LOST, P50_MS, P99_MS, Contender, Contest, Measure, Need, at_most

_NEEDS = frozenset({Need.DATABASE, Need.BROKER})


def _at(name: str, rate_per_s: int) -> Contender:
    return Contender(
        name, "bench.contenders.latency", arguments=("--rate", str(rate_per_s)), needs=_NEEDS, is_front=True
    )


CONTEST = Contest(
    name="latency",
    about="due webhook to committed row over RabbitMQ: ingress, relay, consumer; 10 s of load for 1,000 events",
    ours=("100/s", "1,000/s"),
    contenders=(_at("100/s", 100), _at("1,000/s", 1000)),
    targets=(
        at_most(6, P50_MS, "100/s"),
        at_most(15, P99_MS, "100/s"),
        at_most(60, P99_MS, "1,000/s"),
    ),
    events=1_000,
    measures=(
        P50_MS,
        P99_MS,
        Measure("p99_received_ms", "p99 ms from receipt", 1),
        Measure("p99_post_ms", "p99 ms to the 200", 1),
        CPU_US_PER_EVENT,
        LOST,
    ),
)
