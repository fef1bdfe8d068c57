"""The memory of each of our processes: it does not grow with the events, and is not much over what its imports take."""

from __future__ import annotations

from bench.contenders.memory import ROLES
from bench.contest import CPU_SECONDS, EVENTS_PER_S, LOST, MEMORY_MB, Contender, Contest, Measure, Need, at_most

_NAME = "eventsync"
_IMPORTS = tuple(Measure(f"{role}_imports_mb", f"{role}: imports MB", 1) for role in ROLES)
_MEMORY = tuple(Measure(f"{role}_mb", f"{role} MB", 1) for role in ROLES)
_GROWTH = tuple(Measure(f"{role}_growth_mb", f"{role}: growth MB", 1) for role in ROLES)
_OVER_IMPORTS = tuple(Measure(f"{role}_over_imports_mb", f"{role}: MB over its imports", 1) for role in ROLES)

CONTEST = Contest(
    name="memory",
    about="each role as its own process over RabbitMQ: resident memory after all events, and after a twentieth of them",
    ours=(_NAME,),
    contenders=(
        Contender(
            _NAME,
            "bench.contenders.memory",
            needs=frozenset({Need.DATABASE, Need.BROKER}),
            is_front=True,
            timeout_s=3600.0,
        ),
    ),
    targets=(
        *(at_most(5, measure, _NAME) for measure in _GROWTH),
        *(at_most(30, measure, _NAME) for measure in _OVER_IMPORTS),
    ),
    events=1_000_000,
    measures=(MEMORY_MB, EVENTS_PER_S, CPU_SECONDS, LOST, *_MEMORY, *_IMPORTS),
)
