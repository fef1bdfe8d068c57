"""The whole path over RabbitMQ: events published and applied at once, by one publisher and one worker each.

Every contender ends in the same rows, by the same mapping and the same write function, in the same schema; ours writes
many events' records in one transaction, the peers one job's.
"""

from __future__ import annotations

from bench.contest import (
    CPU_SECONDS,
    EVENTS_PER_S,
    LOST,
    MEMORY_MB,
    Contender,
    Contest,
    Measure,
    Need,
    at_least,
)
from bench.peers.installation import PEERS_PYTHON, install_python_peers

_NEEDS = frozenset({Need.DATABASE, Need.BROKER})
_OURS, _OURS_STORING = "eventsync", "eventsync, storing"


def _ours(name: str, storing: str) -> Contender:
    return Contender(
        name=name,
        module="bench.contenders.peer_eventsync",
        arguments=("--storing", storing),
        needs=_NEEDS,
        is_front=True,
    )


def _peer(name: str, module: str) -> Contender:
    return Contender(
        name=name,
        command=(PEERS_PYTHON, "-m", "bench.contenders.peer_job_queue"),
        arguments=("--peer", module),
        needs=_NEEDS,
        install=install_python_peers,
        timeout_s=3600.0,
    )


CONTEST = Contest(
    name="whole_path",
    about=(
        "events published and applied at once by one publisher and one worker, full mapping; our events are stored"
        " beforehand, as the peers' are nowhere yet, or (storing) within the clock"
    ),
    ours=(_OURS, _OURS_STORING),
    contenders=(
        _ours(_OURS, "beforehand"),
        _ours(_OURS_STORING, "within"),
        _peer("PgQueuer", "pgqueuer"),
        _peer("FastStream", "faststream"),
        _peer("taskiq-aio-pika", "taskiq"),
        _peer("Procrastinate", "procrastinate"),
    ),
    targets=(
        at_least(1.5, EVENTS_PER_S, _OURS, against="PgQueuer"),
        at_least(3, EVENTS_PER_S, _OURS, against="FastStream"),
        at_least(3, EVENTS_PER_S, _OURS, against="taskiq-aio-pika"),
        at_least(10, EVENTS_PER_S, _OURS, against="Procrastinate"),
    ),
    events=20_000,
    measures=(EVENTS_PER_S, CPU_SECONDS, MEMORY_MB, LOST, Measure("worker_memory_mb", "worker MB")),
)
