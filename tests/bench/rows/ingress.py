"""The door: from POST to the durable 200."""

from __future__ import annotations

from bench.contest import (
    CPU_US_PER_EVENT,
    EVENTS_PER_S,
    MEMORY_MB,
    P50_MS,
    P99_MS,
    Contender,
    Contest,
    at_least,
    at_most,
)


def _door(name: str, door: str) -> Contender:
    return Contender(name, "bench.contenders.ingress", arguments=("--door", door), is_front=True)


CONTEST = Contest(
    name="ingress",
    about="POST to durable 200; 64 connections, appointments of 1.5 kB, sealed, with NOTIFY",
    ours=("eventsync",),
    contenders=(
        _door("eventsync", "eventsync"),
        _door("bare aiohttp", "bare"),
        _door("one INSERT a request", "insert"),
    ),
    targets=(
        at_least(0.50, EVENTS_PER_S, "eventsync", against="bare aiohttp"),
        at_least(3.5, EVENTS_PER_S, "eventsync", against="one INSERT a request"),
        at_most(0.25, P99_MS, "eventsync", against="one INSERT a request"),
    ),
    events=30_000,
    measures=(EVENTS_PER_S, P50_MS, P99_MS, CPU_US_PER_EVENT, MEMORY_MB),
)
