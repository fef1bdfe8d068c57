"""How latencies are told: by their percentiles, in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latencies:
    """Percentiles in milliseconds, each one that was measured (nearest rank); 0 where nothing was."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


def latencies_of(milliseconds: Iterable[float]) -> Latencies:
    """Find the percentiles of what was measured."""
    ordered = sorted(milliseconds)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0

    return Latencies(at(0.50), at(0.95), at(0.99))
