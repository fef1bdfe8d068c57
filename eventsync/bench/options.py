"""What a benchmark is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class BusKind(StrEnum):
    """How events travel from relay to consumer."""

    MEMORY = "memory"  # within one process that has all roles
    RABBITMQ = "rabbitmq"  # between three: ingress | relay | consumer, worker, scheduler


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How much is sent, and how.

    `rate_per_s` of None sends as fast as answers come. `warm_up` events go before, unmeasured. `temp_dir` is where the
    throwaway PostgreSQL lives for the while; None is the system's folder for temporary files.
    """

    buses: tuple[BusKind, ...] = (BusKind.MEMORY,)
    amqp_url: str | None = field(default=None, repr=False)
    events: int = 10_000
    connections: int = 64
    rate_per_s: float | None = None
    warm_up: int = 500
    rounds: int = 1
    temp_dir: Path | None = None
