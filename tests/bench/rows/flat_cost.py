"""Cost stays flat: the whole path where much has gathered, against an empty database."""

from __future__ import annotations

from bench.contenders.flat_cost import POSTGRES_CPU_SECONDS
from bench.contenders.flat_cost_states import begin_with
from bench.contest import CPU_SECONDS, EVENTS_PER_S, LOST, MEMORY_MB, Contender, Contest, at_least

_EMPTY, _HISTORY, _PARKED, _BACKLOG = "empty", "10 million old events", "100,000 parked", "backlog of 1 million"


def _contender(name: str, state: str = "", *, arrivals: str = "no") -> Contender:
    return Contender(
        name,
        "bench.contenders.flat_cost",
        arguments=("--arrivals", arrivals),
        prepare=begin_with(state) if state else None,
        is_front=True,
    )


CONTEST = Contest(
    name="flat_cost",
    about="stored to committed row in one process where much has gathered; the backlog's first events, fresh ones come",
    ours=(_EMPTY, _HISTORY, _PARKED, _BACKLOG),
    contenders=(
        _contender(_EMPTY),
        _contender(_HISTORY, "history"),
        _contender(_PARKED, "parked"),
        _contender(_BACKLOG, "backlog", arrivals="yes"),
    ),
    targets=tuple(at_least(0.8, EVENTS_PER_S, state, against=_EMPTY) for state in (_HISTORY, _PARKED, _BACKLOG)),
    events=20_000,
    measures=(EVENTS_PER_S, CPU_SECONDS, POSTGRES_CPU_SECONDS, MEMORY_MB, LOST),
)
