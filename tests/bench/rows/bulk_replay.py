"""A bulk replay beside fresh webhooks: it must not delay them much."""

from __future__ import annotations

from bench.contenders.bulk_replay import COUNTED, REPLAY_SECONDS
from bench.contest import CPU_SECONDS, LOST, P50_MS, P99_MS, Contender, Contest, Need, at_most

_REPLAYS = 20_000
_ALONE, _BESIDE = "in-process bus", "in-process bus, replay"
_RABBITMQ_ALONE, _RABBITMQ_BESIDE = "RabbitMQ", "RabbitMQ, replay"


def _contender(name: str, bus: str, replays: int) -> Contender:
    return Contender(
        name,
        "bench.contenders.bulk_replay",
        arguments=("--bus", bus, "--replays", str(replays)),
        needs=frozenset({Need.DATABASE, Need.BROKER} if bus == "rabbitmq" else {Need.DATABASE}),
        is_front=True,
    )


CONTEST = Contest(
    name="bulk_replay",
    about=f"due webhook to committed row at 100 a second, alone and while {_REPLAYS:,} earlier events are replayed",
    ours=(_ALONE, _BESIDE, _RABBITMQ_ALONE, _RABBITMQ_BESIDE),
    contenders=(
        _contender(_ALONE, "memory", 0),
        _contender(_BESIDE, "memory", _REPLAYS),
        _contender(_RABBITMQ_ALONE, "rabbitmq", 0),
        _contender(_RABBITMQ_BESIDE, "rabbitmq", _REPLAYS),
    ),
    targets=(
        at_most(2, P99_MS, _BESIDE, against=_ALONE),
        at_most(2, P99_MS, _RABBITMQ_BESIDE, against=_RABBITMQ_ALONE),
    ),
    events=3_000,
    measures=(P50_MS, P99_MS, COUNTED, REPLAY_SECONDS, CPU_SECONDS, LOST),
)
