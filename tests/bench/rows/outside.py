"""The whole path seen from outside: signed POSTs over 64 connections, until their rows are visible.

All processes, the load generator and the servers share the machine. The upserts in the request write the appointment
alone (plain), or all that ours writes (whole); Celery's task writes what plain does; the sync engine its one row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench.contest import (
    CPU_SECONDS,
    EVENTS_PER_S,
    LOST,
    MEMORY_MB,
    P50_MS,
    P99_MS,
    Contender,
    Contest,
    Need,
    at_least,
)
from bench.peers.installation import install_node_peers, install_python_peers

_IN_PROCESS, _OVER_RABBITMQ = "eventsync, in-process bus", "eventsync, RabbitMQ"
_UPSERT, _WHOLE_WRITE = "upsert in the request", "our write in the request"
_STRIPE, _CELERY = "stripe-sync-engine", "FastAPI + Celery"


def _contender(
    name: str, system: str, *, broker: bool = False, install: Callable[[], Awaitable[None]] | None = None
) -> Contender:
    return Contender(
        name=name,
        module="bench.contenders.outside_system",
        arguments=("--system", system),
        needs=frozenset({Need.DATABASE, Need.BROKER}) if broker else frozenset({Need.DATABASE}),
        install=install,
        is_front=True,
        timeout_s=900.0,
    )


CONTEST = Contest(
    name="outside",
    about="signed POST to visible row, 64 connections, all processes and the load generator on this machine",
    ours=(_IN_PROCESS, _OVER_RABBITMQ),
    contenders=(
        _contender(_IN_PROCESS, "in_process"),
        _contender(_OVER_RABBITMQ, "over_rabbitmq", broker=True),
        _contender(_UPSERT, "upsert_plain"),
        _contender(_WHOLE_WRITE, "upsert_whole"),
        _contender(_STRIPE, "stripe", install=install_node_peers),
        _contender(_CELERY, "celery", broker=True, install=install_python_peers),
    ),
    targets=(
        at_least(1.2, EVENTS_PER_S, _IN_PROCESS, against=_UPSERT),
        at_least(0.9, EVENTS_PER_S, _OVER_RABBITMQ, against=_UPSERT),
        at_least(1.3, EVENTS_PER_S, _IN_PROCESS, against=_STRIPE),
        at_least(1.3, EVENTS_PER_S, _OVER_RABBITMQ, against=_STRIPE),
        at_least(4, EVENTS_PER_S, _IN_PROCESS, against=_CELERY),
        at_least(4, EVENTS_PER_S, _OVER_RABBITMQ, against=_CELERY),
    ),
    events=20_000,
    measures=(EVENTS_PER_S, P50_MS, P99_MS, CPU_SECONDS, MEMORY_MB, LOST),
)
